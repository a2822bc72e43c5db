"""Jobs are sent when the transaction commits, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.djangoapp.host import Host


def test_a_commit_sends_and_a_rollback_does_not(host: Host) -> None:
    assert host.call("enqueueing.commit_and_rollback") == [0, 1, 1, [[1]], 0]


def test_without_a_transaction_and_with_on_commit_false_it_is_sent_at_once(host: Host) -> None:
    assert host.call("enqueueing.at_once") == [2, 2, [[1], [2]]]


def test_the_jobs_of_a_transaction_are_sent_in_one_call_in_order(host: Host) -> None:
    assert host.call("enqueueing.in_one_call") == [[[1, 2, 3, 4]], 4, [1, 2, 3, 4]]


def test_jobs_of_a_savepoint_that_is_rolled_back_are_not_sent(host: Host) -> None:
    assert host.call("enqueueing.savepoints") == [[1, 4, 6, 7], [10, 14], 6]


def test_on_commit_callbacks_keep_their_place_between_the_jobs(host: Host) -> None:
    assert host.call("enqueueing.callback_between") == [[1], "other", [2]]


def test_an_invalid_job_raises_inside_the_transaction(host: Host) -> None:
    found = host.call("enqueueing.bad_jobs")
    names, text, rest = found[:6], found[6], found[7:]
    assert names == ["InvalidJob", "MessageTooLarge", *["InvalidJob"] * 4]
    assert "save_submission" in text
    assert "'no_such_actor'" in text
    assert rest == [0, 0, []]


def test_enqueue_accepts_actors_of_formrelay_and_of_the_project_and_names(host: Host) -> None:
    found = host.call("enqueueing.actors_and_names")
    names = ["save_submission", "save_submission", "write_note", "write_note"]
    assert found == [names, "f", 2, 2, True]


def test_a_name_is_enough_before_the_actor_was_imported(host: Host) -> None:
    assert host.call("project.write_note_first") == 1


def test_a_plain_actor_imported_first_uses_formrelays_broker(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}})
    assert host.call("project.plain_actor_is_on_our_broker") is True


def test_the_delay_of_a_job_counts_from_the_call(host: Host) -> None:
    found = host.call("enqueueing.delayed")
    due, waits, calls, scheduled = found
    assert 3500 < due <= 3600
    assert (waits, calls) == (1, [[1, 2]])
    assert scheduled in (1, None)  # RabbitMQ cannot count them by queue


@pytest.mark.parametrize(
    "url", [{"REDIS_URL": "redis://:secret@127.0.0.1:1/0"},
            {"RABBITMQ_URL": "amqp://user:secret@127.0.0.1:1/"}]
)  # fmt: skip
def test_an_unavailable_broker_after_the_commit_raises_in_the_caller(
    tmp_path: Path, url: dict[str, str]
) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": url}).migrate()
    one, two, count, outside = host.call("enqueueing.broker_is_away")
    assert "the transaction is committed, but its job was not sent (save_submission " in one
    assert "committed, but not all of its 2 jobs were sent" in two
    assert count == 2
    assert "committed" not in outside
    for text in (one, two, outside):
        assert "127.0.0.1:1" in text
        assert "secret" not in text


def test_capture_on_commit_callbacks_works(host: Host) -> None:
    assert host.call("enqueueing.captured") == [True, [], 4]


def test_with_atomic_requests_a_view_that_fails_sends_nothing(host: Host) -> None:
    assert host.call("enqueueing.atomic_requests") == [[201, 1, 1], [500, 1, 1], [500, 1, 1]]


def test_many_jobs_in_a_transaction_are_fast(host: Host) -> None:
    assert host.call("enqueueing.many") == [1, True, 600]


def test_async_views_send_with_aenqueue_and_enqueue_says_so(host: Host) -> None:
    sent, invalid, blocked, rolled_back = host.call("async_views.visit")
    assert (len(sent[0]), sent[1]) == (36, 1)
    assert invalid == ["InvalidJob", 1]
    assert blocked[0].count("await aenqueue(…)") == 2
    assert blocked[1] == 1
    assert rolled_back == ["rolled back", 1]
