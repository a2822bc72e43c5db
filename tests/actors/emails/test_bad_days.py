"""E-mails on a bad day: servers that close, stores that fail at any step, e-mails that change.

Nobody is left out, and nobody gets an e-mail twice, unless nobody can know whether it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from formrelay.actors.emails import deliver, effects
from formrelay.actors.emails.resources import email_resources
from formrelay.actors.emails.schema import EmailJob
from formrelay.actors.model import Job, Metadata
from formrelay.actors.resources import smtp_throttle
from formrelay.config import EmailSettings
from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.errors import SinkPermanent
from formrelay.middleware.delivery import REDELIVERED
from formrelay.state.suppressions import Suppression, SuppressionReason
from tests.actors.emails.conftest import Mailing, MailServer
from tests.middleware.lines import Lines
from tests.sinks.smtp.scripted import USUAL, Scripted, scripted, then_close
from tests.support.waiting import wait_until

ANN, BEN, CAT, DAN = (
    "ann@one.example",
    "ben@two.example",
    "cat@three.example",
    "dan@four.example",
)
CLOSING = then_close(b"421 4.3.2 closing\r\n")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a minute, for the server or the store, take a moment."""
    moment = timedelta(seconds=0.05)
    for module, name in ((deliver, "BUSY_FOR"), (effects, "BUSY_FOR"), (deliver, "_STORE_AWAY")):
        monkeypatch.setattr(module, name, moment)


@pytest.fixture
def script(mailing: Mailing) -> Iterator[Scripted]:
    """A scripted server instead of the usual server."""
    with scripted(Scripted()) as found:
        mailing.server.port = found.port
        mailing.use()
        yield found


def outcomes(lines: Lines) -> list[tuple[str, int]]:
    return [(line["outcome"], line["attempt"]) for line in lines.attempts()]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "dot"])
def test_a_server_that_closes_the_transaction_uses_no_attempt(
    mailing: Mailing, script: Scripted, lines: Lines, soon: None, step: str
) -> None:
    script.answers[step] = [CLOSING] * 4  # of two attempts with two connections each
    assert mailing.outcome(to=[ANN, BEN]) == []
    assert outcomes(lines) == [("defer", 1), ("defer", 1), ("done", 1)]
    assert [recipients for recipients, _ in script.messages] == [[ANN, BEN]]


def test_a_server_that_closes_at_the_greeting_uses_no_attempt(
    mailing: Mailing, script: Scripted, lines: Lines, short_pauses: None
) -> None:
    script.answers["banner"] = [CLOSING] * 2
    assert mailing.outcome() == []
    assert outcomes(lines) == [("defer", 1), ("done", 1)]


def test_the_queue_waits_for_a_server_that_closes(
    mailing: Mailing, script: Scripted, lines: Lines
) -> None:
    script.always["MAIL"] = CLOSING
    for number in range(5):
        mailing.send(subject=f"Hello {number}")
    mailing.site.start("emails")
    wait_until(lambda: ("defer", 1) in outcomes(lines))
    mailing.site.stop()
    assert smtp_throttle.open_for() > timedelta(seconds=1)
    assert {attempt for _, attempt in outcomes(lines)} == {1}


def test_an_email_that_a_server_always_closes_at_uses_attempts_in_the_end(
    mailing: Mailing, script: Scripted, lines: Lines, soon: None
) -> None:
    script.answers["dot"] = [CLOSING] * 2 * deliver._MAX_CLOSED
    assert mailing.outcome() == []
    deferred = [("defer", 1)] * (deliver._MAX_CLOSED - 1)
    assert outcomes(lines) == [*deferred, ("retry", 1), ("done", 2)]


def test_a_known_refusal_of_the_whole_email_is_no_unknown_outcome(
    mailing: Mailing, script: Scripted, short_pauses: None
) -> None:
    mailing.use(unknown_outcome="dead")
    script.answers["dot"] = [CLOSING]
    script.answers["banner"] = [USUAL["banner"], CLOSING]  # no second connection
    assert mailing.outcome() == []
    assert [recipients for recipients, _ in script.messages] == [[ANN]]


def test_a_batch_of_recipients_ends_with_an_outcome_for_each(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    email_resources().suppressions.add([Suppression(DAN, SuppressionReason.MANUAL)])
    server.answers[BEN] = ["451 4.7.1 greylisted", "451 4.2.0 later"]
    server.answers[CAT] = ["451 4.3.0 later", "550 5.1.1 no such user"]
    assert mailing.outcome(to=[ANN, BEN, CAT, DAN]) == []
    assert server.recipients == [[ANN], [BEN]]
    assert server.accepted[0][2] == server.accepted[1][2]
    last = lines.attempts()[-1]
    counts = {name: last[name] for name in ("accepted", "deferred", "refused", "suppressed")}
    assert counts == {"accepted": 2, "deferred": 0, "refused": 1, "suppressed": 1}


# -- the shared store fails -------------------------------------------------------------------

STEPS = ("begin", "find", "take", "sending", "settle", "end")


class Failing:
    """A store that fails once in one of its methods.

    Args:
        is_done: whether the store had executed the call: only its answer was lost.
    """

    def __init__(self, store: Any, method: str, *, is_done: bool) -> None:
        self._store, self._method, self._is_done = store, method, is_done

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name == "begin":  # a claim that nobody ends would last 30 s
            found = partial(found, lock=timedelta(seconds=2))
        return self._failing(found) if name == self._method else found

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*args: Any, **options: Any) -> Any:
            self._method = ""
            if self._is_done:
                call(*args, **options)
            raise BrokerUnavailable("the store is away")

        return fail


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("method", STEPS)
def test_a_store_that_fails_at_any_step_repeats_and_loses_nothing(
    mailing: Mailing, server: MailServer, lines: Lines, soon: None, method: str, is_done: bool
) -> None:
    mailing.use(unknown_outcome="dead")  # an unknown outcome would be a dead letter
    resources = email_resources()
    stores = {name: getattr(resources, name) for name in ("journal", "suppressions", "limits")}
    failing = {name: Failing(store, method, is_done=is_done) for name, store in stores.items()}
    email_resources.made[:] = [replace(resources, **failing)]
    server.answers[BEN] = ["451 4.7.1 greylisted"]
    assert mailing.outcome(to=[ANN, BEN]) == []
    assert sorted(one for each in server.recipients for one in each) == [ANN, BEN]
    # The failure uses no attempt.
    assert [each for each in outcomes(lines) if each[0] != "defer"][-1] in [
        ("done", 1),
        ("done", 2),
    ]


# -- the e-mail changes between attempts ------------------------------------------------------


@pytest.fixture
def template(mailing: Mailing, tmp_path: Path) -> Path:
    found = tmp_path / "own.html"
    found.write_text("<p>first</p>")
    mailing.use(templates_folder=tmp_path, attachments_folder=tmp_path)
    return found


def change(mailing: Mailing, path: Path, text: str | None) -> None:
    """Change or remove a file, as a deploy does: the worker starts again."""
    path.unlink() if text is None else path.write_text(text)
    mailing.use(templates_folder=path.parent, attachments_folder=path.parent)


def test_a_mended_template_reaches_those_that_were_deferred(
    mailing: Mailing, server: MailServer, template: Path, lines: Lines
) -> None:
    server.answers[BEN] = ["451 4.7.1 later"] * 4
    (letter,) = mailing.outcome(to=[ANN, BEN], template="own", data={})
    change(mailing, template, "<p>second</p>")
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [BEN]]
    assert [b"second" in content for _, _, content in server.accepted] == [False, True]
    assert any("an e-mail has changed" in text for text in lines.texts)


def test_a_removed_template_is_a_dead_letter_that_can_be_replayed(
    mailing: Mailing, server: MailServer, template: Path
) -> None:
    server.answers[BEN] = ["451 4.7.1 later"] * 4
    (letter,) = mailing.outcome(to=[ANN, BEN], template="own", data={})
    change(mailing, template, None)
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    (letter,) = mailing.site.dead("emails")
    assert "expected one of the templates" in letter.failure.message
    template.write_text("<p>first</p>")
    change(mailing, template, "<p>first</p>")
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [BEN]]
    assert server.accepted[0][2] == server.accepted[1][2]


@pytest.mark.parametrize("changed", ["template", "attachment"])
def test_nobody_gets_two_different_emails_after_an_unknown_outcome(
    mailing: Mailing, server: MailServer, template: Path, changed: str
) -> None:
    path = template if changed == "template" else template.with_name("a.txt")
    path.write_text("first")
    server.at_dot = [None]
    server.on_dot = lambda: path.write_text("second")
    attachments = [{"filename": "a.txt", "path": "a.txt"}] if changed == "attachment" else []
    (letter,) = mailing.outcome(template="own", data={}, attachments=attachments)
    assert len(server.accepted) == 1
    assert "it has changed since" in letter.failure.message
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert len(server.accepted) == 2
    assert mailing.site.dead("emails") == []


def test_a_changed_email_is_withheld_at_every_later_attempt(
    mailing: Mailing, server: MailServer, template: Path
) -> None:
    server.answers[BEN] = ["451 4.7.1 later"] * 3
    server.at_dot = [None]
    server.on_dot = lambda: template.write_text("second")
    (letter,) = mailing.outcome(to=[ANN, BEN], template="own", data={})
    assert server.recipients == [[ANN], [BEN]]
    assert "1 of 2 recipients accepted" in letter.failure.message
    assert "1 may have it, and it has changed since" in letter.failure.message


# -- replays ------------------------------------------------------------------------------------


def test_a_replay_asks_again_for_a_recipient_that_was_refused(
    mailing: Mailing, server: MailServer
) -> None:
    server.answers[BEN] = ["550 5.7.1 relaying denied"]
    server.answers[CAT] = ["451 4.7.1 later"]
    (letter,) = mailing.outcome(to=[ANN, BEN, CAT])
    assert server.recipients == [[ANN], [CAT]]  # a retry does not ask for the refused one
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [CAT], [BEN]]
    assert mailing.site.dead("emails") == []


def test_a_replay_sends_again_after_a_worker_was_killed_long_before(
    mailing: Mailing, server: MailServer
) -> None:
    server.at_dot = [None, None]
    server.answers[BEN] = ["550 5.7.1 relaying denied"]
    message = mailing.site.actors.send_email.message(mailing.payload(to=[ANN, BEN]))
    # Its worker was killed, and then it had to wait.
    mailing.site.broker.enqueue(message.copy(options={REDELIVERED: True}))
    mailing.work_off()
    (letter,) = mailing.site.dead("emails")
    assert server.recipients == [[ANN], [ANN]]
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN], [ANN], [ANN, BEN]]
    assert mailing.site.dead("emails") == []


def test_replays_count_against_the_limits(
    mailing: Mailing, server: MailServer, lines: Lines
) -> None:
    mailing.use(limit_per_day=10)  # one at once
    server.answers[ANN] = ["550 5.7.1 relaying denied"]
    (letter,) = mailing.outcome()
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.site.start("emails")
    wait_until(lambda: len(lines.attempts()) >= 2)
    mailing.site.stop()
    assert outcomes(lines)[:2] == [("dead", 1), ("defer", 1)]
    assert server.accepted == []


def test_a_worker_that_dies_before_the_dead_letter_is_stored_is_no_replay(
    mailing: Mailing, server: MailServer
) -> None:
    server.at_dot = [None, None]
    (letter,) = mailing.outcome()  # the journal says by now: given up
    payload = EmailJob.model_validate(letter.message.kwargs["payload"])
    again = Job(payload, Metadata(), letter.message.message_id, 0, 2, True)
    with pytest.raises(SinkPermanent, match="may have it"):
        deliver.deliver(again)
    assert len(server.accepted) == 2


# -- loops and long waits ---------------------------------------------------------------------


def test_an_autoresponse_never_goes_to_its_own_sender(mailing: Mailing, server: MailServer) -> None:
    mailing.use(allowed_from=("help@sender.example",))
    own = ["Forms <Forms@Sender.example>", "help@sender.example"]
    assert mailing.outcome(kind="autoresponse", to=[*own, ANN]) == []
    assert server.recipients == [[ANN]]


def test_a_deferred_recipient_is_tried_for_more_than_a_day(
    mailing: Mailing, server: MailServer, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = EmailSettings().policy().but(jitter=0)
    monkeypatch.setitem(mailing.site.actors.send_email.options, "policy", policy)
    server.answers[ANN] = ["451 4.7.1 greylisted"] * 9
    broker: Any = mailing.site.broker
    scheduled = broker.keys.scheduled("emails")
    mailing.send()
    waits = []
    for number in range(1, 9):
        mailing.site.start("emails")
        wait_until(lambda number=number: len(lines.attempts()) == number)
        mailing.site.stop()
        ((id, due),) = broker.client.zrange(scheduled, 0, -1, withscores=True)
        seconds, micros = broker.client.time()
        waits.append((due / 1000 - seconds - micros / 1e6) / 60)
        broker.client.zadd(scheduled, {id: seconds * 1000})  # the time has passed
    assert [5 * round(wait / 5) for wait in waits] == [5, 15, 30, 60, 120, 240, 480, 960]
    mailing.work_off()
    (letter,) = mailing.site.dead("emails")
    assert letter.failure.attempt == 9
    assert mailing.site.broker.replay("emails", letter.id)
    mailing.work_off()
    assert server.recipients == [[ANN]]
