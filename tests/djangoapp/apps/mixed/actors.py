"""An actor on django-dramatiq's broker and an actor on formrelay's."""

import dramatiq
from shop.models import Note

from formrelay.brokers import get_broker


@dramatiq.actor
def theirs(text: str) -> None:
    pass


@dramatiq.actor(broker=get_broker(), queue_name="ours")
def ours(text: str) -> None:
    Note.objects.create(text=text)
