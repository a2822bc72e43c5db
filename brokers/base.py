"""Base class of the brokers: checks and encodes messages, and calls the middleware.

A subclass implements ``_put``, ``consume``, ``ping``, ``drop_waiting``, ``close`` and an
:class:`.inspection.Inspector`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from threading import Lock, RLock
from typing import Any, TypeVar
from weakref import WeakSet

import dramatiq
from dramatiq import Message
from dramatiq.middleware import Middleware

from ..core.clock import SYSTEM_CLOCK, Clock, to_millis
from ..core.errors import FormrelayError
from ..core.server_info import ServerInfo
from ..core.throttle import Throttle
from ..middleware.causes import cause_of
from ..middleware.delivery import CAUSED_BY, DUE
from ..middleware.disclosures import OPTION as LOG_EXCEPTIONS
from ..middleware.disclosures import make_disclosure
from ..middleware.idempotency import remember
from ..middleware.tracing import Sending, begin_sending, trace_to_send
from ..state import (
    IdempotencyStore,
    make_history,
    make_idempotency_store,
    make_worker_reports,
)
from ..state.history import History
from ..state.worker_reports import WorkerReports
from .contract import Batching, BrokerOptions, QueueConsumer
from .envelope import Envelope, encode
from .errors import BrokerRefused, BrokerUnavailable, MessageTooLarge
from .exact_json import check_encoder, check_exact
from .follow_ups import keep
from .inspection import DeadFilter, Entry
from .joining import JoiningBroker
from .options import (
    OF_BATCHES,
    OF_RESULTS,
    check_actor,
    check_message,
    due_of,
    priority_of,
)
from .signals import SignallingBroker

logger = logging.getLogger("formrelay.brokers")

#: Maximum number and bytes of the messages that ``enqueue_many`` writes in one round trip. Larger
#: chunks would use more memory and block Redis.
CHUNK = 500
CHUNK_BYTES = 1024 * 1024
_NO_SPAN = nullcontext()
_Consumer = TypeVar("_Consumer", bound=QueueConsumer)


class RelayBroker(SignallingBroker, JoiningBroker):
    """The base of the Redis and RabbitMQ brokers.

    Attributes:
        messaging_system: the kind of server, as OpenTelemetry names it.
    """

    messaging_system = "redis"

    def __init__(
        self,
        options: BrokerOptions,
        *,
        middleware: Iterable[Middleware] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(middleware, clock=clock)
        self.options = options
        self.makes_spans = options.makes_spans
        self.clock = clock
        self.queues = set()
        #: The names of the ``async`` actors.
        self.async_actors: set[str] = set()
        self.state = None
        self._state_lock = Lock()
        self._idempotency_store: IdempotencyStore | None = None
        self._history: History | None = None
        self._worker_reports: WorkerReports | None = None
        self.job_types = {}
        self.actor_finders = []
        #: The consumers of this process, to tell them of actors that are declared later.
        self.consumers: WeakSet[QueueConsumer] = WeakSet()
        self._registering = RLock()

    @property
    def actor_options(self) -> set[str]:
        """Names of the actor options, including the options of formrelay's brokers.

        ``batch_size`` and ``batch_wait`` (a timedelta) make the actor run in batches;
        ``batch_weight`` is the weight of one message in a batch (default 1), ``batch_key`` the key
        that all messages of a batch share, ``batch_bytes`` its maximum size; ``job_type`` names the
        job for publishers of plain jobs; ``in_flight`` is the maximum number of messages of an
        ``async`` actor that run at a time. Runs of more than a second count against
        ``in_flight_total`` instead, if it is set.
        """
        ours = {"batch_size", "batch_wait", *OF_BATCHES, "in_flight", "in_flight_total"}
        # The last ones are known so that check_actor() can say why it refuses them.
        return self._actor_options | ours | {"job_type"} | OF_RESULTS | {"broker_priority"}

    @actor_options.setter
    def actor_options(self, names: set[str]) -> None:
        self._actor_options = names

    def idempotency_store(self) -> IdempotencyStore:
        """Return the store of idempotency keys, made at the first call."""
        with self._state_lock:
            if self._idempotency_store is None:
                self._idempotency_store = make_idempotency_store(self.state)
            return self._idempotency_store

    def history(self) -> History:
        """Return the history of queues, made at the first call.

        Without a shared store (:attr:`state` is None) it is that of this process alone.
        """
        with self._state_lock:
            if self._history is None:
                self._history = self._make_history()
            return self._history

    def _make_history(self) -> History:
        return make_history(self.state)

    def worker_reports(self) -> WorkerReports:
        with self._state_lock:
            if self._worker_reports is None:
                self._worker_reports = make_worker_reports(self.state)
            return self._worker_reports

    def get_declared_queues(self) -> set[str]:
        return set(self.queues)

    # -- send ------------------------------------------------------------------

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue in this process. Connects to no server."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            # Without the signal after_declare_delay_queue, on which Dramatiq's worker would keep
            # delayed messages in memory. Here the server keeps them.
            self.emit_after("declare_queue", queue_name)

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Declare an actor.

        Raises:
            ConfigError: an option is wrong, or two options exclude each other.
            InvalidPolicy: the options make no retry policy.
        """
        check_actor(actor, self)
        actor.options[LOG_EXCEPTIONS] = make_disclosure(actor, self.options.log_exceptions)
        self.outcomes.declare(actor)
        remember(actor)
        if "in_flight" in actor.options:
            self.async_actors.add(actor.actor_name)
            # Before middleware may wrap it again, expecting a function that ends with the job.
            actor.fn = self.async_runner.wrap(actor.fn)
        # Before the queue is declared: a running worker then consumes it, by the actor's options.
        self.actors[actor.actor_name] = actor
        try:
            super().declare_actor(actor)
        except BaseException:
            del self.actors[actor.actor_name]
            raise
        if "in_flight" in actor.options:
            self.async_runner.set_limit(actor.queue_name)
        self._tell_consumers(actor)
        if "job_type" in actor.options:
            self.job_types[actor.options["job_type"]] = actor.actor_name

    def _register(self, consumer: _Consumer) -> _Consumer:
        """Register a complete consumer, so that it hears of actors declared later; return it."""
        with self._registering:
            self.consumers.add(consumer)
            consumer.note_actors()  # an actor may have been declared while the consumer was made
            for name in self.batching(consumer.queue_name):
                self._warn_if_single(consumer, name)
        return consumer

    def _tell_consumers(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Tell running consumers of an actor that was declared after its worker started."""
        queue = actor.queue_name
        with self._registering:
            for consumer in [each for each in self.consumers if each.queue_name == queue]:
                consumer.note_actors()
                if "batch_size" in actor.options:
                    self._warn_if_single(consumer, actor.actor_name)

    def _warn_if_single(self, consumer: QueueConsumer, name: str) -> None:
        """Log that a consumer delivers the messages of the batch actor ``name`` one by one."""
        if not (consumer.collects_batches or consumer.is_closing):
            logger.warning(
                "a batch actor was declared after its worker had started: its messages run in "
                "batches of one until the worker is started again",
                extra={"actor": name, "queue": consumer.queue_name},
            )

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Write a message to its queue; it is stored durably when this returns.

        Args:
            delay: milliseconds, as in stock Dramatiq. A message with the option ``eta`` (unix
                milliseconds) is scheduled for that time.

        Raises:
            InvalidJob: an argument is not JSON, the delay is too long, or the priority is not 0
                to 9.
            BrokerUnavailable, BrokerRefused: the broker may or may not have the message.
            MessageTooLarge: the message is larger than ``max_message_bytes``.
        """
        self.emit_before("enqueue", message, delay)
        sending = begin_sending(self, message, is_one=True)
        with _NO_SPAN if sending is None else sending:
            envelope = self._envelope(message, delay, sending)
            try:
                self._put([envelope])
            except (BrokerUnavailable, BrokerRefused):
                if not keep(envelope):
                    raise
        self.emit_after("enqueue", message, delay)
        return message

    def put_again(self, envelope: Envelope) -> None:
        self._put([envelope], is_repetition=True)

    def check(self, message: Message[Any]) -> None:
        """Check a message as :meth:`enqueue` does, without sending it.

        Raises:
            InvalidJob, MessageTooLarge: as :meth:`enqueue`.
        """
        self._envelope(message, None)

    def enqueue_many(self, messages: Iterable[Message[Any]]) -> int:
        """Write many messages to their queues, in order; return their number.

        Accepts a generator of any length: memory holds one chunk of at most 500 messages or 1 MB.
        An error has the attribute ``accepted``: the number of messages, from the first on, that
        are enqueued. The next chunk may be enqueued too. On Redis, that is the whole chunk after
        BrokerUnavailable, and nothing after other errors. On RabbitMQ, it is any of its messages.

        Raises:
            as :meth:`enqueue`.
        """
        with ExitStack() as span:
            return self._enqueue_many(messages, span)

    def _enqueue_many(self, messages: Iterable[Message[Any]], span: ExitStack) -> int:
        count = 0
        try:
            for chunk in self._chunks(messages, span):
                self._put(chunk)
                for envelope in chunk:
                    self.emit_after("enqueue", envelope.message, None)
                count += len(chunk)
        except FormrelayError as error:
            error.accepted += count
            if error.accepted:
                text = f"the first {error.accepted} messages of the call are enqueued"
                error.reword(f"{error}; {text}")
            raise
        return count

    def _chunks(
        self, messages: Iterable[Message[Any]], span: ExitStack
    ) -> Iterator[list[Envelope]]:
        """Yield the envelopes in chunks; begin a span of the call with the first message."""
        chunk: list[Envelope] = []
        size, sending, is_first = 0, None, True
        for message in messages:
            self.emit_before("enqueue", message, None)
            if is_first:
                is_first, sending = False, begin_sending(self, message, is_one=False)
                if sending is not None:
                    span.enter_context(sending)
            if sending is not None:
                sending.count += 1
            envelope = self._envelope(message, None, sending)
            if chunk and (len(chunk) == CHUNK or size + len(envelope.body) > CHUNK_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append(envelope)
            size += len(envelope.body)
        if chunk:
            yield chunk

    def _envelope(
        self, message: Message[Any], delay: int | None, sending: Sending | None = None
    ) -> Envelope:
        check_encoder()
        actor = self.actors.get(message.actor_name)
        message = self.encrypted(message)
        check_message(message, self)
        due = due_of(message, delay, to_millis(self.clock.time()))
        cause = cause_of(message)
        options: dict[str, Any] = {} if cause is None else {CAUSED_BY: cause}
        if due is not None:
            options[DUE] = due
        trace = (trace_to_send if sending is None else sending.trace_to_send)(message)
        if trace is not None:
            options |= trace.as_options()
        body = encode(message, options or None)
        if not getattr(actor, "sends_plain_json", False):
            check_exact(message)
        limit = self.options.max_message_bytes
        if len(body) > limit:
            raise MessageTooLarge(
                f"expected a message of at most {limit} bytes for {message.actor_name!r}, got "
                f"{len(body)}: send a reference to the data instead, or raise MAX_MESSAGE_BYTES"
            )
        return Envelope(message, body, due, priority_of(message))

    def encrypted(self, message: Message[Any]) -> Message[Any]:
        """Encrypt the secrets of a message, if its actor knows some and they are not encrypted."""
        encrypt = getattr(self.actors.get(message.actor_name), "encrypted", None)
        return message if encrypt is None else encrypt(message)

    @abstractmethod
    def _put(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        """Write all messages durably before returning.

        Args:
            is_repetition: whether the messages may have been written before; Redis then writes no
                message twice.
        """

    # -- operations --------------------------------------------------------------

    @abstractmethod
    def ping(self, queues: Collection[str] | None = None) -> None:
        """Check the connection, and the rights to send, fetch and settle on queues.

        Args:
            queues: the queues to check; None: every declared queue; empty: only the connection.

        Raises:
            BrokerUnavailable, BrokerRefused: the error says what to do.
        """

    def weaknesses(self) -> list[str]:
        """List settings of the server that weaken formrelay's promises, each with what to do."""
        return []

    def server_info(self) -> ServerInfo | None:
        """Ask the server for its product, version and time; None for a broker without a server.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        return None

    def try_access(self) -> list[str]:
        """Check rights to send, fetch and settle that :meth:`ping` does not check.

        Returns:
            Missing rights that weaken formrelay's promises.

        Raises:
            BrokerUnavailable, BrokerRefused: the error says what to do.
        """
        return []

    def dead_letters(self, queue: str, *, limit: int = 100) -> Iterator[Entry]:
        """Yield the dead letters of a queue, the oldest first."""
        return self.inspector.dead_letters(DeadFilter(queue), limit=limit)

    def replay(self, queue: str, id: str) -> bool:
        """Put a dead letter back on its queue; False if no dead letter has that id."""
        return self.inspector.replay([id], queue=queue) == 1

    def delete_dead(self, queue: str, id: str) -> bool:
        """Delete a dead letter; False if no dead letter has that id."""
        return self.inspector.delete_dead([id], queue=queue) == 1

    def flush(self, queue_name: str) -> None:
        self.drop_waiting(queue_name)

    def flush_all(self) -> None:
        """Delete the waiting and scheduled messages of every declared queue; keep dead letters."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def batching(self, queue_name: str) -> dict[str, Batching]:
        """Return the batch sizes of the batch actors on a queue, by actor name."""
        return {
            name: Batching(
                actor.options["batch_size"],
                actor.options["batch_wait"],
                actor.options.get("batch_weight"),
                actor.options.get("batch_key"),
                actor.options.get("batch_bytes"),
            )
            for name, actor in list(self.actors.items())
            if actor.queue_name == queue_name and "batch_size" in actor.options
        }

    def throttles(self, queue_name: str) -> list[Throttle]:
        """Return the throttles of the sinks of the actors on a queue."""
        actors = [each for each in list(self.actors.values()) if each.queue_name == queue_name]
        throttles = (actor.options.get("throttle") for actor in actors)
        return list(dict.fromkeys(throttle for throttle in throttles if throttle is not None))
