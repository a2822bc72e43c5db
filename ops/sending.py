"""Reads jobs from a command line or a file, and makes messages of them.

A job is written as its payload, or as ``{"type", "payload", "metadata"}`` (docs/jobs.md); a file
has one job, or one a line (NDJSON).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO

import dramatiq
import orjson
from dramatiq import Message

from ..actors.job import JobActor
from ..brokers import MessageTooLarge, RelayBroker
from ..core.errors import ConfigError, FormrelayError, InvalidJob
from .endpoints import near

#: The keys of a job that names its payload.
_SHAPE = {"type", "payload", "metadata"}
#: Maximum size of one chunk: number of jobs, and bytes of their lines.
_CHUNK, _CHUNK_BYTES = 500, 1_000_000
_BOM = b"\xef\xbb\xbf"

Actor = dramatiq.Actor[Any, Any]
#: Errors about one job; the other jobs are still sent.
BAD_JOB = (InvalidJob, MessageTooLarge)


@dataclass(frozen=True, slots=True)
class Target:
    """Where jobs are sent.

    Attributes:
        what: the target in words, for errors.
        only: the actor of jobs that name no type; None if they must name one.
        types: actor by job type and by actor name, as accepted in ``type``.
    """

    what: str
    only: Actor | None
    types: Mapping[str, Actor]

    def actor_of(self, kind: object) -> Actor:
        """Return the actor of a job by its ``type``, which is None if the job has none.

        Raises:
            InvalidJob: this target has no such type, or several and the job names none.
        """
        if kind is None and self.only is not None:
            return self.only
        found = self.types.get(kind) if isinstance(kind, str) else None
        if found is None:
            known = ", ".join(sorted(self.types))
            got = "none" if kind is None else "another type"
            raise InvalidJob(f"expected a type of {self.what} ({known}), got {got}")
        return found


def find_target(broker: RelayBroker, name: str) -> Target:
    """Find an actor, a job type or a queue by its name.

    Raises:
        ConfigError: there is none.
    """
    actors = {each: actor for each, actor in broker.actors.items() if not _is_internal(actor)}
    by_type = {kind: actors[each] for kind, each in broker.job_types.items() if each in actors}
    actor = actors.get(name) or by_type.get(name)
    if actor is not None:
        types = {each: found for each, found in {**actors, **by_type}.items() if found is actor}
        return Target(f"the actor {actor.actor_name}", actor, types)
    queues = {found.queue_name for found in actors.values()}
    if name.lstrip().startswith(("{", "[")):  # the payload, which may have secrets
        raise ConfigError(
            "expected the name of a queue or an actor first, got JSON: formrelay send QUEUE PAYLOAD"
        )
    if name not in queues:
        known = f"{', '.join(sorted(queues))}; job types: {', '.join(sorted(by_type))}"
        similar = near(name, {*queues, *by_type, *actors}, most=1)
        hint = f"did you mean {similar[0]!r}? Otherwise " if similar else ""
        raise ConfigError(
            f"expected a queue ({known}) or an actor ({', '.join(sorted(actors))}), got {name!r}: "
            f"{hint}name the module of an actor of your own with --import"
        )
    of_queue = {each: found for each, found in actors.items() if found.queue_name == name}
    types = {each: found for each, found in by_type.items() if found.queue_name == name}
    typed = {found.actor_name for found in types.values()}
    types |= {each: found for each, found in of_queue.items() if each not in typed}
    only = next(iter(of_queue.values())) if len(of_queue) == 1 else None
    return Target(f"the queue {name}", only, types)


def _is_internal(actor: Actor) -> bool:
    """Whether only formrelay itself sends jobs to an actor."""
    return isinstance(actor, JobActor) and actor.job_type is None


def parse(text: bytes | str, what: str = "payload") -> Any:
    """Parse JSON.

    Raises:
        InvalidJob: the text is not JSON. The message does not quote it.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InvalidJob(
            f"expected the {what} as JSON, got invalid JSON: {error.msg} "
            f"({line}column {error.colno})"
        ) from None


def make_message(
    target: Target, job: Any, metadata: Mapping[str, Any], delay: timedelta | None, now: float
) -> Message[Any]:
    """Make the message of a job; checks its payload.

    Args:
        job: the payload, or an object of ``type``, ``payload`` and ``metadata``.
        metadata: metadata for all jobs; a job's own take precedence.
        delay: time before the job may run.
        now: Unix seconds.

    Raises:
        InvalidJob: the payload does not fit the actor's schema.
    """
    kind, payload = None, job
    if _has_shape(target, job):
        own = job.get("metadata")
        if own is not None and not isinstance(own, dict):
            raise InvalidJob("expected metadata to be an object, got something else")
        kind, payload, metadata = job.get("type"), job["payload"], {**metadata, **(own or {})}
    actor = target.actor_of(kind)
    message: Message[Any]
    if isinstance(actor, JobActor):
        call = {"payload": payload, "metadata": dict(metadata)}
        message = actor.message_with_options(kwargs=call)
    else:
        # As enqueue() of the Django app does.
        message = actor.message_with_options(
            args=(payload,), kwargs={"metadata": dict(metadata)} if metadata else {}
        )
    if delay is None:
        return message
    eta = int((now + delay.total_seconds()) * 1000)
    return message.copy(options={**message.options, "eta": eta})


def _has_shape(target: Target, job: Any) -> bool:
    """Whether a job has the keys of ``_SHAPE``; otherwise it is the payload itself.

    The payload of a user's own actor may have the key ``payload`` too.
    """
    if not isinstance(job, dict) or "payload" not in job:
        return False
    if target.only is not None and not isinstance(target.only, JobActor):
        return "type" in job and job.keys() <= _SHAPE
    return job.keys() <= _SHAPE or "type" in job


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file.

    Attributes:
        number: from 1.
        text: the line; None if it is longer than the limit.
    """

    number: int
    text: bytes | None


def read_lines(file: BinaryIO, longest: int) -> Iterator[Line]:
    """Yield the lines of a file that are not empty, reading at most ``longest`` bytes at once."""
    number = 0
    while part := file.readline(longest + 1):
        number += 1
        text: bytes | None = part
        if len(part) > longest and not part.endswith(b"\n"):
            text = None
            while part and not part.endswith(b"\n"):
                part = file.readline(longest + 1)
        elif number == 1:
            text = part.removeprefix(_BOM)
        if text is None or text.strip():
            yield Line(number, text)


def split(file: BinaryIO, longest: int) -> bytes | Iterator[Line]:
    """Return the text of a file with one job, or the lines of a file with a job on each.

    A file of several lines is one job if its first line alone is not JSON, but the whole file is.

    Args:
        longest: maximum size of a job in bytes.
    """
    lines = read_lines(file, longest)
    seen: list[Line] = []
    size = 0
    for line in lines:
        seen.append(line)
        size += len(line.text or b"")
        if line.text is None or size > longest or (len(seen) == 2 and _is_json(seen[0])):
            return _chained(seen, lines)
    text = b"".join(line.text or b"" for line in seen)
    if len(seen) > 1 and not _is_json(Line(1, text)):
        return iter(seen)
    return text


def _is_json(line: Line) -> bool:
    try:
        orjson.loads(line.text or b"")
    except orjson.JSONDecodeError:
        return False
    return True


def _chained(seen: Iterable[Line], lines: Iterator[Line]) -> Iterator[Line]:
    yield from seen
    yield from lines


class Sender:
    """Sends the jobs of many lines in chunks, and goes on after an invalid line.

    Args:
        dry_run: only check the jobs.

    Attributes:
        sent: number of jobs that were sent; with ``dry_run``, that would be.
        invalid: number of lines that are no valid job.
        next_line: number of the first line whose job may not have been sent.
    """

    def __init__(
        self,
        broker: RelayBroker,
        target: Target,
        metadata: Mapping[str, Any],
        delay: timedelta | None,
        *,
        dry_run: bool,
    ) -> None:
        self._broker, self._target = broker, target
        self._metadata, self._delay, self._dry_run = metadata, delay, dry_run
        self.sent = self.invalid = 0
        self.next_line = 1

    def send(self, lines: Iterable[Line]) -> Iterator[tuple[int, str] | None]:
        """Send jobs. Yields number and error of each invalid line, and None after each chunk.

        Raises:
            BrokerError: the broker failed; the jobs before :attr:`next_line` were sent.
        """
        chunk: list[tuple[int, Message[Any]]] = []
        size = 0
        for line in lines:
            try:
                message = self._message(line)
                if self._dry_run:
                    self._broker.check(message)
            except BAD_JOB as error:
                yield self._bad(line.number, error)
                continue
            chunk.append((line.number, message))
            size += len(line.text or b"")
            if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES:
                yield from self._send(chunk)
                chunk, size = [], 0
                self.next_line = line.number + 1
                yield None
        yield from self._send(chunk)
        yield None

    def _message(self, line: Line) -> Message[Any]:
        if line.text is None:
            most = self._broker.options.max_message_bytes
            raise InvalidJob(f"expected a job of at most {most} bytes, got a longer line")
        job = parse(line.text.rstrip(), "job")
        now = self._broker.clock.time()
        return make_message(self._target, job, self._metadata, self._delay, now)

    def _send(self, chunk: list[tuple[int, Message[Any]]]) -> Iterator[tuple[int, str]]:
        if self._dry_run:
            self.sent += len(chunk)
            return
        try:
            self.sent += self._broker.enqueue_many(message for _, message in chunk)
            return
        except FormrelayError as error:
            accepted = error.accepted
            self.sent += accepted
            self.next_line = chunk[accepted][0]
            if not isinstance(error, BAD_JOB):
                raise
        for number, message in chunk[accepted:]:
            self.next_line = number
            try:
                self._broker.enqueue(message)
            except BAD_JOB as error:
                yield self._bad(number, error)
            else:
                self.sent += 1

    def _bad(self, number: int, error: FormrelayError) -> tuple[int, str]:
        self.invalid += 1
        return number, str(error)
