"""Servers that close the connection (421) in the middle of an e-mail."""

from __future__ import annotations

import pytest

from formrelay.sinks.smtp.pool import Pool
from tests.sinks.smtp.accounts import ANN, BEN, CAT, MESSAGE, SENDER, account
from tests.sinks.smtp.scripted import Scripted, scripted, then_close

OFFERS = (b"250-here\r\n250-PIPELINING\r\n250 SIZE\r\n", b"250-here\r\n250 SIZE\r\n")


@pytest.mark.parametrize("offer", OFFERS, ids=["pipelined", "step by step"])
def test_a_server_that_closes_unasked_at_an_email_is_not_taken_for_unavailable(
    offer: bytes,
) -> None:
    closing = then_close(b"250 2.1.0 ok\r\n421 4.7.0 closing\r\n")
    with scripted(Scripted(always={"EHLO": offer, "MAIL": closing})) as server:
        pool = Pool(account(server.port))
        (reply,) = pool.send(SENDER, [ANN], MESSAGE)
        pool.close()
    assert (reply.code, reply.kind, reply.is_throttled) == (421, "deferred", True)
    assert len(server.talks) == 2


@pytest.mark.parametrize("offer", OFFERS, ids=["pipelined", "step by step"])
def test_a_server_that_closes_after_refusals_is_not_asked_for_these_again(offer: bytes) -> None:
    no = b"550 5.1.1 no such user\r\n"
    last = then_close(no + b"421 4.7.0 too many errors\r\n")
    with scripted(Scripted({"RCPT": [no, last]}, {"EHLO": offer})) as server:
        pool = Pool(account(server.port))
        replies = pool.send(SENDER, [ANN, BEN, CAT], MESSAGE)
        pool.close()
    assert [reply.kind for reply in replies] == ["refused", "refused", "accepted"]
    assert replies[0].is_address_bad
    assert [recipients for recipients, _ in server.messages] == [[CAT]]


def test_nobody_is_refused_because_of_a_sender_that_is_deferred() -> None:
    script = {
        "MAIL": [b"451 4.3.0 later\r\n"],
        "RCPT": [b"503 5.5.1 out of order\r\n"],
        "DATA": [then_close(b"421 4.3.0 closing\r\n")],
    }
    with scripted(Scripted(script, {"EHLO": OFFERS[0]})) as server:
        pool = Pool(account(server.port))
        (reply,) = pool.send(SENDER, [ANN], MESSAGE)  # over a second connection
        pool.close()
    assert reply.kind == "accepted"
