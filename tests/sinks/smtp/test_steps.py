"""Every step of SMTP × everything that can go wrong there, against a scripted stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from formrelay.core.errors import (
    InvalidJob,
    SinkError,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.sinks.smtp.pool import Pool
from formrelay.sinks.smtp.replies import UnknownOutcome
from tests.sinks.smtp.accounts import ANN, BEN, CAT, MESSAGE, SENDER, account, timeouts
from tests.sinks.smtp.scripted import (
    USUAL,
    Scripted,
    close,
    drip,
    endless_line,
    endless_lines,
    scripted,
    stall,
    then_close,
)

FAULTS: dict[str, Any] = {
    "421": then_close(b"421 4.3.2 closing\r\n"),
    "4xx": b"451-4.3.0 later\r\n451 4.3.0 please\r\n",
    "5xx": b"554 5.7.1 no\r\n",
    "close": close,
    "stall": stall,
    "drip": drip,
    "garbage": b"\x16\x03\x01 HTTP/1.1 400 Bad Request\r\n",
    "endless line": endless_line,
    "endless lines": endless_lines,
    "wrong code": b"334 what?\r\n",
}
OPENING = ("banner", "EHLO")
SENDING = ("MAIL", "RCPT", "DATA", "dot")
WITH_PIPELINING = b"250-here\r\n250-PIPELINING\r\n250 SIZE\r\n"
WITHOUT = b"250-here\r\n250 SIZE\r\n"


def outcome(pool: Pool, *recipients: str, **options: Any) -> Any:
    """The replies' kinds, or the class of the error."""
    try:
        replies = pool.send(SENDER, recipients or (ANN,), MESSAGE, **options)
    except SinkError as error:
        return "error with an address" if "ann" in str(error).lower() else type(error)
    return [reply.kind for reply in replies]


def expected(step: str, fault: str) -> Any:
    if fault == "421":
        return ["accepted"]  # over a second connection
    if step in OPENING:
        is_final = step == "EHLO" and fault == "5xx"
        return SinkUnready if is_final else SinkUnavailable
    if fault == "4xx":
        return ["deferred"]
    if fault == "5xx":
        return ["refused"]
    return UnknownOutcome if step == "dot" else SinkTransient


@pytest.mark.parametrize("offer", [WITH_PIPELINING, WITHOUT], ids=["pipelined", "step by step"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", [*OPENING, *SENDING])
def test_the_class_of_the_result_is_right_and_the_next_message_succeeds(
    step: str, fault: str, offer: bytes
) -> None:
    dots: list[str] = []
    server = Scripted({step: [FAULTS[fault]]}, {"EHLO": offer})
    with scripted(server):
        pool = Pool(account(server.port, timeouts=timeouts(0.4)))
        found = outcome(pool, before_dot=lambda _: dots.append("dot"))
        assert found == expected(step, fault)
        was_sent = step == "dot" or found == ["accepted"]
        assert bool(dots) == was_sent
        assert len(server.messages) == (found == ["accepted"])
        assert outcome(pool) == ["accepted"]
        pool.close()
    assert len(server.messages) == 1 + (found == ["accepted"])
    assert server.most_open <= 2  # the server may notice late that one was closed


@pytest.mark.parametrize("step", [*OPENING, *SENDING])
def test_a_server_that_always_answers_421_gets_two_connections(step: str) -> None:
    server = Scripted(always={step: then_close(b"421 4.7.0 too many connections\r\n")})
    with scripted(server):
        pool = Pool(account(server.port))
        if step in OPENING:
            with pytest.raises(SinkUnavailable, match=r"421 4\.7\.0 too many") as caught:
                pool.send(SENDER, [ANN], MESSAGE)
            assert caught.value.code == 421
            assert len(server.talks) == 2
        else:
            (reply,) = pool.send(SENDER, [ANN], MESSAGE)
            assert (reply.code, reply.kind, reply.is_throttled) == (421, "deferred", True)
            assert len(server.talks) == 2
        pool.close()


@pytest.mark.parametrize("offer", [WITH_PIPELINING, WITHOUT], ids=["pipelined", "step by step"])
def test_each_recipient_gets_a_reply_of_its_own(offer: bytes) -> None:
    refused = b"550 5.1.1 <Ben.Moss@there.example>: user ben.moss unknown\r\n"
    rcpts = [b"250 ok\r\n", refused, b"450 4.2.0 greylisted\r\n"]
    server = Scripted({"RCPT": list(rcpts)}, {"EHLO": offer})
    with scripted(server):
        pool = Pool(account(server.port))
        ann, ben, cat = pool.send(SENDER, [ANN, BEN, CAT], MESSAGE)
        pool.close()
    assert (ann.kind, ben.kind, cat.kind) == ("accepted", "refused", "deferred")
    assert ann.step == "dot"
    assert ben.is_address_bad
    assert ben.text == "<[…]>: user […] unknown"
    assert cat.status == "4.2.0"
    assert [recipients for recipients, _ in server.messages] == [[ANN]]
    assert "RSET" in server.commands


def test_rset_follows_every_refusal_and_the_connection_is_kept() -> None:
    no = b"550 5.7.1 no\r\n"
    for step in SENDING:
        server = Scripted({step: [no]}, {"EHLO": WITHOUT})
        with scripted(server):
            pool = Pool(account(server.port))
            assert outcome(pool) == ["refused"]
            assert server.commands[-1] == "RSET"
            assert outcome(pool) == ["accepted"]
            assert len(server.talks) == 1
            pool.close()


def test_a_failing_rset_costs_the_connection_and_not_the_result() -> None:
    for fault in (close, b"421 bye\r\n", b"500 what\r\n"):
        server = Scripted({"RCPT": [b"550 5.1.1 unknown\r\n"], "RSET": [fault]})
        with scripted(server):
            pool = Pool(account(server.port))
            assert outcome(pool) == ["refused"]
            assert outcome(pool) == ["accepted"]
            assert len(server.talks) == 2
            pool.close()


@pytest.mark.parametrize("offer", [WITH_PIPELINING, WITHOUT], ids=["pipelined", "step by step"])
def test_no_message_is_sent_when_all_recipients_are_refused(offer: bytes) -> None:
    server = Scripted(
        {"RCPT": [b"550 5.1.1 no\r\n", b"451 4.3.0 no\r\n"], "DATA": [b"503 5.5.1 none\r\n"]},
        {"EHLO": offer},
    )
    dots: list[int] = []
    with scripted(server):
        pool = Pool(account(server.port))
        found = outcome(pool, ANN, BEN, before_dot=lambda _: dots.append(1))
        pool.close()
    assert found == ["refused", "deferred"]
    assert not dots
    assert "." not in server.commands
    assert ("DATA" in server.commands) == (offer == WITH_PIPELINING)


def test_a_354_to_a_pipelined_data_without_recipients_is_ended_with_a_lone_dot() -> None:
    dots: list[int] = []
    server = Scripted(
        {"RCPT": [b"550 5.1.1 no\r\n"], "DATA": [b"354 go\r\n"], "dot": [b"554 5.5.1 none\r\n"]}
    )
    with scripted(server):
        pool = Pool(account(server.port))
        (reply,) = pool.send(SENDER, [ANN], MESSAGE, before_dot=lambda _: dots.append(1))
        assert (reply.code, reply.is_address_bad) == (550, True)
        assert not dots
        assert server.commands[-2:] == [".", "RSET"]
        assert outcome(pool) == ["accepted"]
        assert len(server.talks) == 1
        pool.close()
    ((recipients, data),) = server.messages
    assert (recipients, data) == ([ANN], MESSAGE)


@pytest.mark.parametrize("offer", [WITH_PIPELINING, WITHOUT], ids=["pipelined", "step by step"])
def test_a_reply_that_comes_before_its_command_is_never_taken_for_the_answer(offer: bytes) -> None:
    # Without the check, "250 queued" would stand for the dot, although 554 is the answer.
    early = b"354 go\r\n250 2.0.0 queued\r\n"
    server = Scripted({"DATA": [early], "dot": [b"554 5.7.1 spam\r\n"]}, {"EHLO": offer})
    dots: list[int] = []
    with scripted(server):
        pool = Pool(account(server.port))
        assert outcome(pool, before_dot=lambda _: dots.append(1)) is SinkTransient
        pool.close()
    assert not dots


def test_before_dot_is_called_after_the_message_and_before_its_end() -> None:
    seen: list[bool] = []
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port))
        assert outcome(pool, before_dot=lambda _: seen.append("." in server.commands)) == [
            "accepted"
        ]
        assert seen == [False]
        pool.close()


def test_nothing_is_delivered_if_before_dot_fails() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port))

        def fail(_: Sequence[str]) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            pool.send(SENDER, [ANN], MESSAGE, before_dot=fail)
        assert outcome(pool) == ["accepted"]
        pool.close()
    assert len(server.messages) == 1


def test_dots_at_the_beginning_of_lines_arrive_as_they_were() -> None:
    server = Scripted()
    message = b".a\r\n\r\n.\r\n..b\r\n.c"
    with scripted(server):
        pool = Pool(account(server.port))
        pool.send(SENDER, [ANN], message)
        pool.close()
    # The stand-in keeps the doubled dots.
    assert server.messages[0][1] == b"..a\r\n\r\n..\r\n...b\r\n..c\r\n"


@pytest.mark.parametrize(
    ("sender", "recipient", "message"),
    [
        (SENDER, "ann@there.example>\r\nRCPT TO:<x@y.example", MESSAGE),
        (SENDER, "ann@there.example> NOTIFY=NEVER", MESSAGE),
        ("a b@here.example", ANN, MESSAGE),
        (SENDER, "ann", MESSAGE),
        (SENDER, "", MESSAGE),
        (SENDER, ANN, b"a: b\r\n\r\nx\n.\nMAIL FROM:<x@y.example>\r\n"),
        (SENDER, ANN, b"a: b\r\n\r\nx\r.\r\n"),
        (SENDER, ANN, b"a: b\r\n\r\nx\0\r\n"),
    ],
)
def test_what_could_be_taken_for_a_command_is_refused(
    sender: str, recipient: str, message: bytes
) -> None:
    with pytest.raises(InvalidJob) as caught:
        Pool(account(1)).send(sender, [recipient], message)
    assert "ann" not in str(caught.value)


def test_recipients_over_the_servers_limit_get_transactions_of_their_own() -> None:
    offer = b"250-here\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=2 MAILMAX=3\r\n"
    recipients = [f"person{number}@there.example" for number in range(9)]
    server = Scripted(always={"EHLO": offer})
    with scripted(server):
        pool = Pool(account(server.port))
        assert outcome(pool, *recipients) == ["accepted"] * 9
        pool.close()
    assert [len(found) for found, _ in server.messages] == [2, 2, 2, 2, 1]
    assert len(server.talks) == 2  # MAILMAX: three transactions a connection


def test_domains_over_the_servers_limit_get_transactions_of_their_own() -> None:
    server = Scripted(always={"EHLO": b"250-here\r\n250 LIMITS RCPTDOMAINMAX=1\r\n"})
    with scripted(server):
        pool = Pool(account(server.port))
        assert outcome(pool, ANN, CAT, BEN) == ["accepted"] * 3
        pool.close()
    assert [found for found, _ in server.messages] == [[ANN, BEN], [CAT]]


def test_too_many_recipients_are_sent_to_at_once_in_the_next_transaction() -> None:
    too_many = b"452 4.5.3 too many recipients\r\n"
    server = Scripted({"RCPT": [None, too_many, too_many, None, too_many]})
    with scripted(server):
        pool = Pool(account(server.port))
        assert outcome(pool, ANN, BEN, CAT) == ["accepted"] * 3
        pool.close()
    assert [found for found, _ in server.messages] == [[ANN], [BEN], [CAT]]


def test_when_some_have_it_a_lost_connection_defers_the_others() -> None:
    server = Scripted({"MAIL": [None, close]}, {"EHLO": b"250-here\r\n250 LIMITS RCPTMAX=1\r\n"})
    with scripted(server):
        pool = Pool(account(server.port))
        ann, ben = pool.send(SENDER, [ANN, BEN], MESSAGE)
        pool.close()
    assert (ann.kind, ben.kind, ben.step) == ("accepted", "deferred", "lost")
    assert not ben.is_throttled


def test_an_unknown_outcome_says_what_is_known() -> None:
    server = Scripted({"dot": [None, close]}, {"EHLO": b"250-here\r\n250 LIMITS RCPTMAX=1\r\n"})
    with scripted(server):
        pool = Pool(account(server.port))
        with pytest.raises(UnknownOutcome, match="may have been accepted") as caught:
            pool.send(SENDER, [ANN, BEN], MESSAGE)
        pool.close()
    ann, ben = caught.value.replies
    assert ann.kind == "accepted"
    assert ben is None


def test_the_announced_size_is_checked_before_anything_is_sent() -> None:
    server = Scripted(always={"EHLO": b"250-here\r\n250 SIZE 20\r\n"})
    with scripted(server):
        pool = Pool(account(server.port))
        (reply,) = pool.send(SENDER, [ANN], MESSAGE)
        assert (reply.code, reply.status, reply.step) == (552, "5.3.4", "check")
        assert not [each for each in server.commands if each.startswith("MAIL")]
        pool.close()


def test_parameters_are_sent_where_they_are_offered() -> None:
    offer = b"250-here\r\n250-SIZE 1000\r\n250-DSN\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
    server = Scripted(always={"EHLO": offer})
    message = MESSAGE + "é\r\n".encode()
    with scripted(server):
        pool = Pool(account(server.port))
        pool.send(SENDER, ["jörg+x@there.example"], message, smtputf8=True, envid="job=1")
        pool.send("", [ANN], MESSAGE, envid="job=2")
        pool.close()
    found = [each for each in server.commands if each.startswith(("MAIL", "RCPT"))]
    assert found == [
        f"MAIL FROM:<{SENDER}> SIZE={len(message)} BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=job+3D1",
        r"RCPT TO:<jörg+x@there.example> NOTIFY=FAILURE,DELAY"
        r" ORCPT=utf-8;j\x{F6}rg\x{2B}x@there.example",
        f"MAIL FROM:<> SIZE={len(MESSAGE)}",
        f"RCPT TO:<{ANN}>",
    ]


def test_without_smtputf8_only_addresses_that_need_it_are_refused() -> None:
    server = Scripted()
    with scripted(server):
        pool = Pool(account(server.port))
        joerg, ann = pool.send(SENDER, ["jörg@there.example", ANN], MESSAGE, smtputf8=True)
        assert (joerg.code, joerg.status, joerg.is_address_bad) == (553, "5.6.7", False)
        assert ann.kind == "accepted"
        assert outcome(pool, "jörg@there.example") == ["refused"]
        pool.close()
    assert [found for found, _ in server.messages] == [[ANN]]


def test_helo_serves_a_server_without_ehlo() -> None:
    server = Scripted(always={"EHLO": b"502 5.5.1 what?\r\n"})
    with scripted(server):
        pool = Pool(account(server.port, client_name="forms.here.example"))
        assert outcome(pool) == ["accepted"]
        pool.close()
    assert server.commands[:2] == ["EHLO forms.here.example", "HELO forms.here.example"]


def test_a_lost_answer_leaves_only_those_unknown_whom_the_server_had_taken() -> None:
    replies = [USUAL["RCPT"], b"451 4.7.1 later\r\n", b"550 5.1.1 no such user\r\n"]
    with scripted(Scripted({"RCPT": list(replies), "dot": [close]})) as server:
        pool = Pool(account(server.port))
        with pytest.raises(UnknownOutcome) as raised:
            pool.send(SENDER, [ANN, BEN, CAT], MESSAGE)
        pool.close()
    first, *others = raised.value.replies
    assert first is None
    assert [each.code for each in others if each] == [451, 550]


def test_a_lost_answer_leaves_nobody_unknown_whose_transaction_had_not_begun() -> None:
    ehlo = b"250-here\r\n250 LIMITS RCPTMAX=1\r\n"
    script = Scripted({"dot": [USUAL["dot"], close]}, {"EHLO": ehlo})
    with scripted(script) as server:
        pool = Pool(account(server.port))
        with pytest.raises(UnknownOutcome) as raised:
            pool.send(SENDER, [ANN, BEN, CAT], MESSAGE)
        pool.close()
    kinds = [None if each is None else each.kind for each in raised.value.replies]
    assert kinds == ["accepted", None, "deferred"]
