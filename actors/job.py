"""The actor of a job: checks the payload when it is sent, and again when it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import Any, NamedTuple, TypeVar

import dramatiq
from dramatiq import Message
from dramatiq.middleware import CurrentMessage, Middleware
from pydantic import TypeAdapter, ValidationError

from ..brokers import get_broker
from ..config import EventSettings, PartialSettings, Settings, WorkerSettings, get_settings
from ..core.errors import InvalidJob, PartsFailed
from ..core.retry import RetryPolicy
from ..core.throttle import Throttle
from ..middleware.delivery import ARGS, BATCH, Batch, Delivery
from ..state import once
from .model import Job, JobModel, Metadata, invalid

P = TypeVar("P")

_METADATA = TypeAdapter(Metadata)
_METADATA_OF_MANY = TypeAdapter(list[Metadata])
_NO_METADATA = Metadata()
_NOTHING_SAID: tuple[Any, ...] = ({}, _NO_METADATA.wire())
_PARTS = ("payload", "metadata")
_NAMES = frozenset(_PARTS)


#: The actors of this package, in the order of their import.
_actors: list[JobActor] = []
_declaring = RLock()
#: The attributes that a Dramatiq actor gets when it is declared.
_OF_THE_DECLARATION = {"broker", "fn", "logger", "options", "priority", "queue_name"}


def imported_actors() -> list[JobActor]:
    """Return every imported actor, declared or not."""
    return list(_actors)


def declare_actors() -> None:
    """Declare every imported actor and its queue on this process's broker.

    Raises:
        ConfigError: the configuration is wrong, or names no broker.
    """
    for actor in _actors:
        actor.declare()


class JobActor(dramatiq.Actor[..., None]):
    """A Dramatiq actor of one job type.

    Send a job with ``actor.send(payload={…}, metadata={…})`` or ``actor.send({…})``. A wrong
    payload raises :class:`~formrelay.core.errors.InvalidJob`, and nothing is enqueued. The
    message holds the checked payload, so that defaults (the id and time of an event) are set
    when it is sent.

    The actor is declared on the process's broker at its first use or when a worker starts.
    Importing it reads no configuration.

    Args:
        declaration: gives the function and the options to declare it with.
        job_type: name of the job for publishers in other languages, if it has one.
        worker: returns the actor's section of the settings.
    """

    def __init__(
        self,
        name: str,
        declaration: Callable[[], _Declaration],
        *,
        job_type: str | None,
        worker: Callable[[Settings], WorkerSettings],
        schema: Any,
        to_wire: Callable[[Any, Any], Any] | None,
        takes_many: bool,
    ) -> None:
        # declare() calls Dramatiq's constructor, which needs the broker.
        self.actor_name = name
        self._declaration = declaration
        self.job_type = job_type
        self.worker = worker
        self.schema: TypeAdapter[Any] = TypeAdapter(schema)
        self.schema_of_many: TypeAdapter[list[Any]] = TypeAdapter(list[schema])
        self.to_wire = to_wire
        self.takes_many = takes_many
        # Not before the broker knows the actor, which is after the attributes are set.
        self._is_declared = False

    def declare(self) -> None:
        """Declare the actor on this process's broker; only the first call does anything.

        Raises:
            ConfigError: the configuration is wrong, or names no broker.
        """
        if self._is_declared:
            return
        with _declaring:
            if "broker" in self.__dict__:  # by another thread meanwhile, or by this one just now
                return
            function, middleware, options = self._declaration()
            complete = super().__init__

            def make(fn: Callable[..., Any], **attributes: Any) -> JobActor:
                complete(fn, **attributes)
                return self

            broker = get_broker()
            declare = dramatiq.actor(
                actor_class=make, actor_name=self.actor_name, broker=broker, **options
            )
            try:
                declare(function)
            except BaseException:
                for name in _OF_THE_DECLARATION:  # the next use tries again, and fails as clearly
                    self.__dict__.pop(name, None)
                raise
            if middleware is not None:
                broker.add_middleware(middleware)
            self._is_declared = True

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_THE_DECLARATION:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self.declare()
        return self.__dict__[name]

    def __repr__(self) -> str:
        return f"JobActor({self.actor_name!r})"

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Message[None]:
        self.declare()
        payload, metadata = self._checked(args, kwargs or {})
        if self.to_wire is not None:
            sent = self.to_wire(payload, args[0] if args else (kwargs or {}).get("payload"))
        else:
            sent = _wire(payload)
        call = {"payload": sent, "metadata": metadata.wire()}
        return super().message_with_options(kwargs=call, **options)

    def message_of(self, payload: Any, metadata: Mapping[str, Any] | None = None) -> Message[None]:
        """A message of what formrelay itself has made, as it stands on the wire; not checked."""
        self.declare()
        call = {"payload": payload, "metadata": dict(metadata or {})}
        return super().message_with_options(kwargs=call)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the actor on one job (``payload``, ``metadata``), or on a ``batch`` of them.

        Takes whatever a foreign publisher may have put into a message, so that
        what is wrong in it is an InvalidJob and not a TypeError of the call.

        Returns:
            In the event loop, the coroutine of an ``async`` actor; otherwise None.

        Raises:
            InvalidJob: the job does not fit its schema.
            PartsFailed: some jobs of the batch failed.
        """
        if self.takes_many and BATCH in kwargs:
            self._run_batch(kwargs[BATCH])
            return None
        delivery = _current_delivery()
        job = self._job(args, kwargs, delivery)
        if delivery is not None:
            delivery.fields = job.fields
        if self.takes_many:
            self._run_many([job])
            return None
        return super().__call__(job)

    def _run_batch(self, batch: Sequence[dict[str, Any]]) -> None:
        jobs, failures = self._jobs_of(batch)
        places = list(jobs)  # of each good job, its index in the batch
        if jobs:
            try:
                super().__call__(list(jobs.values()))
            except PartsFailed as failed:
                failures |= {places[index]: error for index, error in failed.failures.items()}
        if failures:
            raise PartsFailed(failures)

    def _jobs_of(
        self, batch: Sequence[dict[str, Any]]
    ) -> tuple[dict[int, Job[Any]], dict[int, BaseException]]:
        """The good jobs of a batch and the errors of the bad ones, each by its index."""
        origins = _origins_of(batch)
        jobs = self._checked_together(batch, origins)
        if len(jobs) == len(batch):
            return jobs, {}
        failures: dict[int, BaseException] = {}
        for index, kwargs in enumerate(batch):
            if index in jobs:
                continue
            try:
                named = {name: value for name, value in kwargs.items() if name != ARGS}
                jobs[index] = Job(*self._checked(kwargs.get(ARGS, ()), named), *origins[index])
            except InvalidJob as error:
                failures[index] = error  # one bad job does not touch its neighbours
        return dict(sorted(jobs.items())), failures

    def _checked_together(
        self, batch: Sequence[dict[str, Any]], origins: Sequence[tuple[str, int]]
    ) -> dict[int, Job[Any]]:
        """The jobs that are as our own publisher writes them, by index; a call of pydantic's each.

        None of them where one is bad: which one that is takes a call for each.
        """
        plain: Sequence[int] = range(len(batch))
        if not all(kwargs.keys() <= _NAMES for kwargs in batch):
            plain = [index for index in plain if batch[index].keys() <= _NAMES]
        try:
            payloads = self.schema_of_many.validate_python(
                [batch[index].get("payload") for index in plain]
            )
            metadata = _metadata_of([batch[index].get("metadata") or {} for index in plain])
        except ValidationError:
            return {}
        return {
            index: Job(payload, about, *origins[index])
            for index, payload, about in zip(plain, payloads, metadata, strict=True)
        }

    def _run_many(self, jobs: list[Job[Any]]) -> None:
        try:
            super().__call__(jobs)
        except PartsFailed as failed:
            raise failed.failures[0] from None

    def _job(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        delivery: Delivery | None = None,
    ) -> Job[Any]:
        payload, metadata = self._checked(args, kwargs)
        if delivery is None:
            return Job(payload, metadata)
        sent_at = delivery.message.message_timestamp
        return Job(payload, metadata, delivery.message_id, sent_at, delivery.attempt)

    def _checked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        given = dict(zip(_PARTS, args, strict=False))
        unknown = ", ".join(sorted(kwargs.keys() - set(_PARTS)))
        if unknown:
            raise InvalidJob(
                f"{self.actor_name}: expected 'payload' and 'metadata', got {unknown} as well"
            )
        if len(args) > len(_PARTS) or given.keys() & kwargs.keys():
            raise InvalidJob(
                f"{self.actor_name}: expected 'payload' and 'metadata', each once, "
                f"got {len(args)} arguments without a name and {len(kwargs)} with one"
            )
        given |= kwargs
        part = "payload"
        try:
            checked = self.schema.validate_python(given.get("payload"))
            part = "metadata"
            metadata = given.get("metadata")
            return checked, _METADATA.validate_python({} if metadata is None else metadata)
        except ValidationError as error:
            wrong = invalid(self.actor_name, part, error)
        # Outside the except: the pydantic error holds the values, and must not travel along.
        raise wrong


class _Declaration(NamedTuple):
    function: Callable[..., Any]
    middleware: Middleware | None
    options: dict[str, Any]


def job_actor(
    job_type: str | None,
    *,
    schema: Any,
    worker: Callable[[Settings], WorkerSettings],
    batches: bool = False,
    options: Callable[[Settings], dict[str, Any]] = lambda _: {},
    to_wire: Callable[[Any, Any], Any] | None = None,
    throttle: Throttle | None = None,
    policy: Callable[[WorkerSettings], RetryPolicy] = lambda section: section.policy(),
    middleware: Callable[[], Middleware] | None = None,
) -> Callable[[Callable[..., Any]], JobActor]:
    """Make an actor of a job type. Its functions of the settings are called at its declaration.

    Args:
        job_type: the name of the job for publishers in other languages, ``webhook.send``; None
            for a job that only formrelay itself sends.
        schema: the type of the payload, any type that pydantic validates.
        worker: returns the section of the settings: queue, retry policy, batch size and wait.
        batches: the function gets a list of jobs; a job whose payload is a list counts as its
            items.
        options: returns further actor options, for example ``in_flight`` of an ``async`` function.
        to_wire: converts the checked payload (with the original) to the payload that is sent. It
            sets values that must be the same at every attempt, and raises InvalidJob for payloads
            that the schema cannot refuse. Models need none.
        throttle: of the sink; consumption of the queue is paused while it holds.
        policy: returns the retry policy; default: the policy of the section.
        middleware: makes a middleware that the broker needs for this actor; added after the
            actor is declared.
    """

    def decorate(function: Callable[..., Any]) -> JobActor:
        def declaration() -> _Declaration:
            settings = get_settings()
            section = worker(settings)
            found: dict[str, Any] = {"queue_name": section.queue, "policy": policy(section)}
            if job_type is not None:
                found["job_type"] = job_type
            if throttle is not None:
                found["throttle"] = throttle
            if batches:
                assert isinstance(section, EventSettings | PartialSettings)
                found |= {"batch_size": section.batch_size, "batch_wait": section.batch_wait}
                found["batch_weight"] = _weight
            found |= options(settings)
            if not batches and "in_flight" not in found:
                found["idempotency"] = once(_idempotency_key)
            return _Declaration(function, middleware() if middleware else None, found)

        actor = JobActor(
            function.__name__,
            declaration,
            job_type=job_type,
            worker=worker,
            schema=schema,
            to_wire=to_wire,
            takes_many=batches,
        )
        actor.__doc__ = function.__doc__
        _actors.append(actor)
        return actor

    return decorate


def _wire(payload: Any) -> Any:
    if isinstance(payload, list):
        return [_wire(one) for one in payload]
    assert isinstance(payload, JobModel)
    return payload.wire()


def _idempotency_key(_payload: Any = None, metadata: Any = None, **_others: Any) -> str | None:
    """As the publisher wrote it; where it is no text, the actor says what is wrong."""
    if not isinstance(metadata, dict):
        return None
    key = metadata.get("idempotencyKey", metadata.get("idempotency_key"))
    return key if isinstance(key, str) else None


def _metadata_of(given: Sequence[Any]) -> Sequence[Metadata]:
    if all(one in _NOTHING_SAID for one in given):  # as of nearly all events
        return [_NO_METADATA] * len(given)
    return _METADATA_OF_MANY.validate_python(given)


def _weight(kwargs: Mapping[str, Any]) -> int:
    payload = kwargs.get("payload")
    return len(payload) if isinstance(payload, list) else 1


def _origins_of(batch: Sequence[Any]) -> Sequence[tuple[str, int]]:
    """The ids of a batch's messages and when they were sent; nothing of a direct call."""
    delivery = _current_delivery()
    if isinstance(delivery, Batch) and len(delivery.parts) == len(batch):
        return [(part.message_id, part.message.message_timestamp) for part in delivery.parts]
    return [("", 0)] * len(batch)


def _current_delivery() -> Delivery | None:
    message = CurrentMessage.get_current_message()
    return message if isinstance(message, Delivery) else None
