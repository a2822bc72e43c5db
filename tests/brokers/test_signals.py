"""Hooks that act by an option are called only for attempts with that option."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import AgeLimit, Callbacks, Middleware, ShutdownNotifications

from formrelay.brokers import BrokerOptions, signals
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.djangoapp.task_backend.lifecycle import TaskLifecycle
from formrelay.middleware.delivery import Delivery

HOOKS = ("before_process_message", "after_process_message")
OPTIONS = [(kind, name) for kind, names in signals._BY_OPTION.items() for name in names]
IDS = [f"{kind.__name__}-{name}" for kind, name in OPTIONS]


class Spy:
    """Calls both hooks for a delivery, and notes the middleware that is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.called: list[type[Middleware]] = []
        for kind in signals._BY_OPTION:
            for hook in HOOKS:
                if hook in vars(kind):
                    monkeypatch.setattr(kind, hook, self._noting(kind))
        # Not a MemoryBroker, which has an AgeLimit of its own. It connects to no server.
        self.broker = RedisBroker("redis://127.0.0.1:1/0", options=BrokerOptions())
        self.actor = dramatiq.actor(print, broker=self.broker, actor_name="print")

    def _noting(self, kind: type[Middleware]) -> Any:
        return lambda *_args, **_kwargs: self.called.append(kind)

    def attempt(self, **options: Any) -> list[type[Middleware]]:
        """The middleware of which a hook is called."""
        self.called.clear()
        delivery = Delivery(dramatiq.Message("default", "print", (), {}, options), b"tag")

        def call_hooks() -> None:
            self.broker.emit_before("process_message", delivery)
            self.broker.emit_after("process_message", delivery, result=None)

        copy_context().run(call_hooks)  # they note in the context which job runs
        return self.called

    @property
    def may_send(self) -> bool:
        """Whether a hook after an attempt without options may send messages."""
        delivery = Delivery(dramatiq.Message("default", "print", (), {}, {}), b"tag")
        return self.broker._listeners("after_process_message", (delivery,)).may_send


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def test_without_options_none_of_these_hooks_is_called(spy: Spy) -> None:
    assert spy.attempt(traceparent="00-1-1-00") == []


@pytest.mark.parametrize(("kind", "option"), OPTIONS, ids=IDS)
def test_an_option_of_a_message_calls_the_hooks(
    spy: Spy, kind: type[Middleware], option: str
) -> None:
    expected = sum(hook in vars(kind) for hook in HOOKS)
    assert spy.attempt(**{option: "set"}) == [kind] * expected
    assert spy.attempt() == []


@pytest.mark.parametrize(("kind", "option"), OPTIONS, ids=IDS)
def test_an_option_of_an_actor_calls_the_hooks_whenever_it_is_set(
    spy: Spy, kind: type[Middleware], option: str
) -> None:
    assert spy.attempt() == []
    spy.actor.options[option] = "set"
    assert kind in spy.attempt()
    spy.actor.options[option] = None
    assert spy.attempt() == []


@pytest.mark.parametrize(
    ("kind", "option"), [(AgeLimit, "max_age"), (ShutdownNotifications, "notify_shutdown")]
)
def test_a_value_of_a_middleware_calls_its_hooks_whenever_it_is_set(
    spy: Spy, kind: type[Middleware], option: str
) -> None:
    assert spy.attempt() == []
    (middleware,) = [each for each in spy.broker.middleware if isinstance(each, kind)]
    setattr(middleware, option, 1)
    assert set(spy.attempt()) == {kind}


def test_an_option_that_is_set_during_an_attempt_counts(spy: Spy) -> None:
    class Setting(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            message.options["on_success"] = "print"

    spy.broker.add_middleware(Setting())
    assert Callbacks in spy.attempt()


def test_an_option_that_is_set_after_the_attempt_counts(spy: Spy) -> None:
    class Setting(Middleware):
        def after_process_message(self, _broker: Any, message: Any, **_: Any) -> None:
            message.options["on_success"] = "print"

    spy.broker.add_middleware(Setting())
    assert Callbacks in spy.attempt()


def test_a_hook_that_may_run_code_of_a_program_may_send(spy: Spy) -> None:
    assert not spy.may_send
    spy.broker.add_middleware(TaskLifecycle())
    assert spy.may_send


def test_a_hook_after_an_attempt_ends_what_the_hook_before_it_began(spy: Spy) -> None:
    class Removing(Middleware):
        def before_process_message(self, _broker: Any, message: Any) -> None:
            del message.options["notify_shutdown"]

    spy.broker.add_middleware(Removing())
    assert spy.attempt(notify_shutdown=True).count(ShutdownNotifications) == 2


def test_a_subclass_is_called_always(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    class Mine(Callbacks):
        def after_process_message(self, *_args: Any, **_kwargs: Any) -> None:
            called.append("mine")

    spy = Spy(monkeypatch)
    spy.broker.add_middleware(Mine())
    spy.attempt()
    assert called == ["mine"]
