"""The class of all actors: checks a payload when it is sent and again when it is processed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import Any, NamedTuple, TypeVar

import dramatiq
from dramatiq import Message
from dramatiq.middleware import Middleware

from ..brokers import get_broker
from ..config import (
    EventSettings,
    PartialSettings,
    Settings,
    SheetsSettings,
    WorkerSettings,
    get_settings,
)
from ..core.errors import InvalidJob, PartsFailed
from ..core.retry import RetryPolicy
from ..core.throttle import Throttle
from ..middleware.delivery import ARGS, BATCH, Delivery
from ..state import once
from .calls import idempotency_key, messages_in, weight, wire
from .job_checks import JobChecks
from .model import Job
from .origins import current_delivery, origins_of
from .payload_secrets import (
    ENCRYPTED,
    PayloadKeyMissing,
    decrypted_batch,
    decrypted_call,
    encrypted_call,
    encrypted_message,
    secrets_of,
)
from .progress import Progress, joined
from .spelling import refuse_misspelled, warn_of_misspelled

P = TypeVar("P")
ProgressOf = Callable[[Job[Any]], Progress | None]

#: The actors of this package, in import order.
_actors: list[JobActor] = []
_declaring = RLock()
#: The attributes that a Dramatiq actor gets when it is declared.
_DECLARED_ATTRIBUTES = {"broker", "fn", "logger", "options", "priority", "queue_name"}


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

    Send a job with ``actor.send(payload={…}, metadata={…})`` or ``actor.send({…})``. An invalid
    payload raises :class:`~formrelay.core.errors.InvalidJob`, and nothing is enqueued. The
    message contains the checked payload, with defaults such as the id and time of an event.

    The actor is declared on the process's broker at its first use or when a worker starts.
    Importing it reads no configuration.

    Args:
        name: name of the actor.
        declaration: returns the function, its middleware and the options of the actor.
        job_type: name of the job for publishers in other languages; None without one.
        worker: returns the actor's section of the settings.
        schema: type of the payload.
        to_wire: see :func:`job_actor`.
        takes_many: whether the function gets a list of jobs.
        progress: see :func:`job_actor`.
    """

    #: Its payloads are checked models, written as JSON; brokers need not check their types again.
    sends_plain_json = True
    #: The default disclosure of its exceptions is type and places.
    is_of_formrelay = True

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
        progress: ProgressOf | None = None,
    ) -> None:
        # declare() calls Dramatiq's constructor, which needs the broker.
        self.actor_name = name
        self._declaration = declaration
        self.job_type = job_type
        self.worker = worker
        self._checks = JobChecks(name, schema)
        self.schema = self._checks.schema
        #: Where payloads have secrets.
        self.secrets = secrets_of(schema)
        self.to_wire = to_wire
        self.takes_many = takes_many
        self.progress = progress
        # Set when the broker knows the actor, which is after the attributes are set.
        self._is_declared = False

    def declare(self) -> None:
        """Declare the actor on this process's broker; only the first call does anything.

        Raises:
            ConfigError: the configuration is wrong, or names no broker.
        """
        if self._is_declared:
            return
        with _declaring:
            if "broker" in self.__dict__:  # declared by another thread, or an outer call does it
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
                for name in _DECLARED_ATTRIBUTES:  # the next use tries again
                    self.__dict__.pop(name, None)
                raise
            if middleware is not None:
                broker.add_middleware(middleware)
            self._is_declared = True

    def __getattr__(self, name: str) -> Any:
        if name not in _DECLARED_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self.declare()
        return self.__dict__[name]

    def __repr__(self) -> str:
        return f"JobActor({self.actor_name!r})"

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Message[None]:
        self.declare()
        payload, metadata = self._checks.check(args, kwargs or {})
        refuse_misspelled(self.actor_name, payload, metadata)
        if self.to_wire is not None:
            sent = self.to_wire(payload, args[0] if args else (kwargs or {}).get("payload"))
        else:
            sent = wire(payload)
        call = {"payload": sent, "metadata": metadata.wire()}
        call = encrypted_call(self.actor_name, self.secrets, call)
        return super().message_with_options(kwargs=call, **options)

    def message_of(
        self,
        payload: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        encrypted: str | None = None,
        **options: Any,
    ) -> Message[None]:
        """Make a message from a payload that formrelay wrote itself, without checking it.

        Args:
            encrypted: its secrets, if they are encrypted already.
        """
        self.declare()
        call = {"payload": payload, "metadata": dict(metadata or {})}
        if encrypted is None:
            call = encrypted_call(self.actor_name, self.secrets, call)
        else:
            call[ENCRYPTED] = encrypted
        return super().message_with_options(kwargs=call, **options)

    def encrypted(self, message: Message[Any]) -> Message[Any]:
        """Encrypt the secrets of a message of this actor that another program has made."""
        return encrypted_message(message, self.secrets)

    def progress_of(self, message: Message[Any]) -> Progress | None:
        """Return how far a job has come; None if no attempt has begun, or it has no parts.

        Raises:
            InvalidJob: the message does not fit the schema.
            BrokerError: the shared store failed.
        """
        if self.progress is None:
            return None
        return joined([self.progress(job) for job in self.jobs_of(message)])

    def jobs_of(self, message: Message[Any]) -> list[Job[Any]]:
        """Return the jobs in a message: several in a frozen batch.

        Raises:
            InvalidJob: the message does not fit the schema, or cannot be decrypted here.
        """
        try:
            return [
                Job(
                    *self._checks.check(part.args, decrypted_call(self.actor_name, part.kwargs)),
                    part.message_id,
                    part.message_timestamp,
                )
                for part in messages_in(message)
            ]
        except PayloadKeyMissing as error:
            raise InvalidJob(str(error)) from None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Process a job (``payload``, ``metadata``) or a ``batch`` of jobs.

        Accepts any arguments, since foreign publishers may send any: wrong arguments raise
        InvalidJob instead of TypeError.

        Returns:
            In the event loop, the coroutine of an ``async`` actor; otherwise None.

        Raises:
            InvalidJob: the job does not fit its schema.
            PartsFailed: some jobs of the batch failed.
        """
        if self.takes_many and BATCH in kwargs:
            self._run_batch(kwargs[BATCH])
            return None
        delivery = current_delivery()
        job = self._job(args, kwargs, delivery)
        if delivery is not None:
            delivery.fields = job.fields
        if self.takes_many:
            self._run_many([job])
            return None
        return super().__call__(job)

    def _run_batch(self, batch: Sequence[dict[str, Any]]) -> None:
        jobs, failures = self._jobs_of(batch)
        for job in jobs.values():
            warn_of_misspelled(self.actor_name, job.payload, job.metadata)
        places = list(jobs)  # the index in the batch of each valid job
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
        """The valid jobs of a batch and the errors of the invalid jobs, by index."""
        origins = origins_of(batch)
        batch, failures = decrypted_batch(self.actor_name, batch)
        jobs = self._checks.check_together(batch, origins)
        if len(jobs) == len(batch):
            return jobs, {}
        for index, kwargs in enumerate(batch):
            if index in jobs or index in failures:
                continue
            try:
                named = {name: value for name, value in kwargs.items() if name != ARGS}
                payload, metadata = self._checks.check(kwargs.get(ARGS, ()), named)
                jobs[index] = Job(payload, metadata, *origins[index])
            except InvalidJob as error:
                failures[index] = error  # the other jobs are processed
        return dict(sorted(jobs.items())), failures

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
        payload, metadata = self._checks.check(args, decrypted_call(self.actor_name, kwargs))
        warn_of_misspelled(self.actor_name, payload, metadata)
        if delivery is None:
            return Job(payload, metadata)
        sent_at = delivery.message.message_timestamp
        again = delivery.is_redelivered
        return Job(payload, metadata, delivery.message_id, sent_at, delivery.attempt, again)


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
    progress: ProgressOf | None = None,
) -> Callable[[Callable[..., Any]], JobActor]:
    """Make an actor of a job type.

    The arguments that are functions of the settings are called when the actor is declared.

    Args:
        job_type: the name of the job for publishers in other languages, ``webhook.send``; None
            for a job that only formrelay itself sends.
        schema: the type of the payload, any type that pydantic validates.
        worker: returns the section of the settings: queue, retry policy, batch size and wait.
        batches: whether the function gets a list of jobs. If a payload is a list, each of its
            items counts towards the batch size.
        options: returns further actor options, for example ``in_flight`` of an ``async`` function.
        to_wire: makes the payload that is sent from the checked payload and the original. It
            sets values that must be the same at every attempt, and raises InvalidJob for payloads
            that the schema cannot refuse. Default: the checked models as JSON.
        throttle: the circuit breaker of the sink; pauses consumption of the queue.
        policy: returns the retry policy; default: the policy of the section.
        middleware: makes a middleware that the broker needs for this actor; added after the
            actor is declared.
        progress: reads from the shared store how far a job has come, for ``formrelay jobs show``;
            runs in the process of the command. None if no attempt has begun. It may raise
            BrokerError.
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
                assert isinstance(section, EventSettings | PartialSettings | SheetsSettings)
                found |= {"batch_size": section.batch_size, "batch_wait": section.batch_wait}
                found["batch_weight"] = weight
            found |= options(settings)
            if not batches and "in_flight" not in found:
                found["idempotency"] = once(idempotency_key)
            return _Declaration(function, middleware() if middleware else None, found)

        actor = JobActor(
            function.__name__,
            declaration,
            job_type=job_type,
            worker=worker,
            schema=schema,
            to_wire=to_wire,
            takes_many=batches,
            progress=progress,
        )
        actor.__doc__ = function.__doc__
        _actors.append(actor)
        return actor

    return decorate
