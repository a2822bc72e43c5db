"""Messages are shown without the values that their senders wrote."""

from __future__ import annotations

from formrelay.ops.masking import masked_message


def test_arguments_and_the_traceback_of_stock_dramatiq_are_masked() -> None:
    trace = 'File "mail.py", line 5, in send\nRuntimeError: no such user: ann@example.com'
    message = {
        "actor_name": "send",
        "args": ["ann@example.com", 17],
        "options": {"retries": 3, "traceback": trace, "pipe_target": {"args": ["secret"]}},
    }
    assert masked_message(message) == {
        "actor_name": "send",
        "args": ["••• 15 characters", "••• number"],
        "options": {
            "retries": 3,
            "traceback": f"••• {len(trace)} characters",
            "pipe_target": {"args": ["••• 6 characters"]},
        },
    }


def test_bytes_that_cannot_be_decoded_are_masked() -> None:
    for name in ("raw", "raw_text"):
        masked = masked_message({"actor_name": "x", "options": {name: "YW5uQGV4YW1wbGUuY29t"}})
        assert masked == {"actor_name": "x", "options": {name: "••• 20 characters"}}
