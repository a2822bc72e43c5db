"""An actor in tasks.py, imported by nothing but the discovery."""

import dramatiq
from shop.models import Note


@dramatiq.actor(queue_name="filed")
def file_note(text: str) -> None:
    """Write a note."""
    Note.objects.create(text=text)
