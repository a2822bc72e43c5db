"""``partial.save``: saves the newest waiting revision of each partial in the Django API."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from pydantic import (
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ..config import get_settings
from ..core.errors import (
    DeferReason,
    NotNow,
    PartsFailed,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkUnavailable,
    SinkUnready,
)
from .events import record_events
from .fanout import Outgoing, WebhookEndpoint, fan_out, webhook_of
from .job import job_actor
from .model import Answers, ApiId, Job, JobModel, Name, When
from .resources import api, api_throttle


class Partial(JobModel):
    """A partly filled-in form."""

    partial_id: ApiId
    form_id: Name
    session_id: Name
    revision: int = Field(ge=0, lt=2**63, description="Grows with each autosave.")
    answers: Answers
    updated_at: When = Field(description="ISO 8601 with an offset, from 1971 to 2104.")
    webhook: WebhookEndpoint | None = Field(
        None, description="Gets a webhook for each kept revision."
    )


def newest(jobs: Sequence[Job[Partial]]) -> dict[str, list[int]]:
    """The indexes of the jobs by partial id, the newest revision last."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, job in enumerate(jobs):
        places[job.payload.partial_id].append(place)
    for its in places.values():
        its.sort(key=lambda place: jobs[place].payload.revision)
    return places


#: The UUID namespace of the ids of these events.
_NAMESPACE = UUID("0f6f3b52-7f0e-4a55-8d8b-1f6a4c3e9d27")


def partial_event(partial: Partial) -> dict[str, Any]:
    """The event ``partial_saved`` of a revision; a repetition has the same id."""
    return {
        "eventId": str(uuid5(_NAMESPACE, f"{partial.partial_id}/{partial.revision}")),
        "type": "partial_saved",
        "formId": partial.form_id,
        "sessionId": partial.session_id,
        "occurredAt": partial.wire()["updatedAt"],
        "properties": {
            "partialId": partial.partial_id,
            "revision": partial.revision,
            "answered": len(partial.answers),
        },
    }


#: How long untried partials are deferred, because the API failed for other partials.
_DEFER = timedelta(seconds=1)


@job_actor(
    "partial.save",
    schema=Partial,
    worker=lambda settings: settings.partials,
    batches=True,
    throttle=api_throttle,
)
def save_partial(jobs: list[Job[Partial]]) -> None:
    """Save the newest revision of each partial; older revisions are done with it.

    The API ignores a revision that is older than the one it has.
    """
    failures: dict[int, BaseException] = {}
    kept: list[list[int]] = []
    broken_off = 0
    groups = deque(newest(jobs).values())
    while groups:
        places = groups.popleft()
        partial = jobs[places[-1]].payload
        data = partial.wire()
        data.pop("webhook", None)  # contains a secret, which the API must not get
        try:
            if api().save_partial(partial.partial_id, data):
                kept.append(places)
        except SinkPermanent as error:
            failures[places[-1]] = error
            if older := places[:-1]:  # the API may accept an older revision
                groups.appendleft(older)
        except SinkError as error:
            failures |= dict.fromkeys(places, error)
            broken_off += error.code is None
            if isinstance(error, SinkUnavailable | SinkBusy | SinkUnready) or broken_off > 2:
                # The other partials would fail too, each after a time-out.
                if not kept:
                    raise
                later = NotNow(
                    "the API is unavailable", after=_DEFER, reason=DeferReason.SINK_UNAVAILABLE
                )
                failures |= dict.fromkeys((place for its in groups for place in its), later)
                break
    fan_out(job for places in kept for job in _follow_up(jobs[places[-1]]))
    if failures:
        raise PartsFailed(failures)


def _follow_up(job: Job[Partial]) -> Iterator[Outgoing]:
    """The event of a revision that was kept, and its webhook if the partial names an endpoint."""
    partial, cause = job.payload, job.message_id
    if get_settings().clickhouse.url is not None:
        yield Outgoing(record_events, partial_event(partial), {}, cause)
    if partial.webhook is not None:
        data = partial.wire()
        del data["webhook"]
        body = {"type": "partial.saved", "timestamp": data["updatedAt"], "data": data}
        subject = f"{partial.partial_id}\n{partial.revision}"
        webhook = webhook_of("par", subject, partial.webhook, body, {"formId": partial.form_id})
        yield webhook._replace(caused_by=cause)
