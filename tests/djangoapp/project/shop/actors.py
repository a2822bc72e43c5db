"""The project's own actor: plain Dramatiq, without formrelay."""

import dramatiq
from django.db import connection

from shop.models import Note


@dramatiq.actor(queue_name="notes")
def write_note(text: str) -> None:
    """Write a note."""
    was_fresh = connection.connection is None
    Note.objects.create(text=text, was_fresh=was_fresh)
