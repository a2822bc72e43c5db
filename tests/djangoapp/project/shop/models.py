"""The table that jobs and views of the project write to."""

from django.db import models


class Note(models.Model):
    """A record of a job or a request.

    Attributes:
        was_fresh: the job started without an open database connection.
    """

    text = models.CharField(max_length=100)
    was_fresh = models.BooleanField(default=True)
