"""Jobs leave when the transaction commits, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.djangoapp.host import Host


def test_a_commit_sends_and_a_rollback_does_not(host: Host) -> None:
    assert host.call("enqueueing.commit_and_rollback") == [0, 1, 1, [[1]], 0]


def test_without_a_transaction_and_with_on_commit_false_it_is_sent_at_once(host: Host) -> None:
    assert host.call("enqueueing.at_once") == [2, 2, [[1], [2]]]


def test_the_jobs_of_a_transaction_leave_in_one_call_in_their_order(host: Host) -> None:
    assert host.call("enqueueing.in_one_call") == [[[1, 2, 3, 4]], 4, [1, 2, 3, 4]]


def test_what_stands_in_a_savepoint_that_is_rolled_back_is_not_sent(host: Host) -> None:
    assert host.call("enqueueing.savepoints") == [[1, 4, 6, 7], [10, 14], 6]


def test_callbacks_of_others_keep_their_place_between_the_jobs(host: Host) -> None:
    assert host.call("enqueueing.callback_between") == [[1], "other", [2]]


def test_a_job_that_can_never_be_sent_raises_inside_the_transaction(host: Host) -> None:
    found = host.call("enqueueing.bad_jobs")
    names, text, rest = found[:6], found[6], found[7:]
    assert names == ["InvalidJob", "MessageTooLarge", *["InvalidJob"] * 4]
    assert "save_submission" in text
    assert "'no_such_actor'" in text
    assert rest == [0, 0, []]


def test_an_actor_is_ours_or_the_projects_by_itself_or_by_name(host: Host) -> None:
    found = host.call("enqueueing.actors_and_names")
    names = ["save_submission", "save_submission", "write_note", "write_note"]
    assert found == [names, "f", 2, 2, True]


def test_a_name_is_enough_where_nothing_has_been_imported(host: Host) -> None:
    assert host.call("project.write_note_first") == 1


def test_a_plain_actor_that_is_imported_first_stands_on_our_broker(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}})
    assert host.call("project.plain_actor_is_on_our_broker") is True


def test_a_delayed_job_is_scheduled_from_the_call_on(host: Host) -> None:
    found = host.call("enqueueing.delayed")
    due, waits, calls, scheduled = found
    assert 3500 < due <= 3600
    assert (waits, calls) == (1, [[1, 2]])
    assert scheduled in (1, None)  # RabbitMQ cannot count them by queue


@pytest.mark.parametrize(
    "url", [{"REDIS_URL": "redis://:secret@127.0.0.1:1/0"},
            {"RABBITMQ_URL": "amqp://user:secret@127.0.0.1:1/"}]
)  # fmt: skip
def test_a_broker_that_is_away_after_the_commit_is_told_to_the_caller(
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


def test_the_tests_of_a_project_can_catch_the_callbacks(host: Host) -> None:
    assert host.call("enqueueing.captured") == [True, [], 4]


def test_with_atomic_requests_a_view_that_fails_sends_nothing(host: Host) -> None:
    assert host.call("enqueueing.atomic_requests") == [[201, 1, 1], [500, 1, 1], [500, 1, 1]]


def test_many_jobs_of_one_transaction_are_linked_in_no_time(host: Host) -> None:
    assert host.call("enqueueing.many") == [1, True, 3000]
