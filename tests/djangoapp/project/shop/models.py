"""What the project's own jobs and views write."""

from django.db import models


class Note(models.Model):
    """Something that was done.

    Attributes:
        was_fresh: whether its job began without an old database connection.
    """

    text = models.CharField(max_length=100)
    was_fresh = models.BooleanField(default=True)
