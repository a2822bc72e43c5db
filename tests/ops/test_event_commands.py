"""``formrelay events stats``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from formrelay.sinks.clickhouse import migrate
from tests.ops.form_events import FIELDS, FORM, Expected, Happened, insert, make, quantile
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.support.command import run

NOW = datetime.now(UTC)
EVENTS = make(NOW)
#: The command needs no broker; no server listens there.
NO_BROKER = {"REDIS_URL": "redis://127.0.0.1:1"}
AWAY = {**NO_BROKER, "CLICKHOUSE_URL": "clickhouse://127.0.0.1:1"}
LATER = NOW - timedelta(hours=1)
#: A form with its own event names, and with control characters in texts.
QUIZ = [
    *(Happened("quiz_seen", LATER, f"q{n}", form="quiz") for n in range(4)),
    *(Happened("quiz_begun", LATER, f"q{n}", form="quiz") for n in range(2)),
    *(Happened("quiz_resumed", LATER, f"q{n}", form="quiz") for n in range(2, 3)),
    Happened("answer", LATER, "q1", form="quiz", properties={"question": "\x1b[31m[bold]\nred"}),
    Happened("quiz_done", LATER, "q0", form="quiz"),
]
LONG = "What would you say if somebody asked you "
#: A form in which every session answers the first field and leaves after one of fifteen others.
WIDE = [
    Happened(
        "field_answered",
        LATER + timedelta(seconds=step),
        f"w{n}",
        form="wide",
        properties={"field": name},
    )
    for n in range(15)
    for step, name in enumerate(("first", f"{LONG}{n}"))
]


@dataclass(frozen=True)
class Command:
    """Runs ``formrelay events stats`` with a ClickHouse that has the events."""

    folder: Path
    env: dict[str, str]

    def __call__(self, *arguments: str, status: int = 0, **env: str) -> Any:
        command = ("events", "stats", *arguments)
        done = run(*command, cwd=self.folder, env={**self.env, **env})
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def drawn(self, *arguments: str, columns: int = 80) -> list[str]:
        """Lines of the output on a terminal, without colours."""
        text = self(*arguments, FORCE_COLOR="1", COLUMNS=str(columns)).stdout
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def _command(folder: Path, url: str, database: str) -> Command:
    patience = timedelta(seconds=20)
    client = open_clickhouse(url, database, timeout=patience, connect_timeout=patience)
    migrate.apply(client)
    insert(client, [*EVENTS, *QUIZ, *WIDE])
    client.close()  # an embedded ClickHouse allows only one process
    env = {**NO_BROKER, "CLICKHOUSE_URL": url, "CLICKHOUSE_DATABASE": database}
    return Command(folder, env)


@pytest.fixture
def stats(tmp_path: Path, clickhouse_url: str, clickhouse_database: str) -> Command:
    return _command(tmp_path, clickhouse_url, clickhouse_database)


@pytest.fixture
def newer(tmp_path: Path) -> Command:
    return _command(tmp_path, f"chdb://{tmp_path}/data", "newer")


@pytest.mark.parametrize("engine", ["stats", "newer"])
def test_every_figure_equals_the_independent_count(
    engine: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(engine).json(FORM)
    ours = Expected(EVENTS, NOW)
    steps = found["steps"]
    assert found["form"] == FORM
    assert [one["step"] for one in steps] == ["viewed", "started", "completed"]
    assert [one["sessions"] for one in steps] == ours.funnel()
    assert [one["outside"] for one in steps] == ours.outside()
    viewed, started, completed = ours.funnel()
    assert [one["share_of_first"] for one in steps] == [
        1.0,
        round(started / viewed, 4),
        round(completed / viewed, 4),
    ]
    assert steps[0]["share_of_previous"] is None
    assert steps[2]["share_of_previous"] == round(completed / started, 4)
    left = ours.left().values()
    silent = [its for its in left if all(one.type != "field_answered" for one in its)]
    drop_off = found["drop_off"]
    assert (drop_off["not_completed"], drop_off["answered_nothing"]) == (len(left), len(silent))
    counted = {(one["field"], one["left"], one["answered"]) for one in drop_off["fields"]}
    assert counted == set(ours.fields())
    assert [one["left"] for one in drop_off["fields"]] == [left for _, left, _ in ours.fields()]
    assert [(one["from"], one["sessions"]) for one in found["time_to_complete"]] == [
        ("viewed", completed),
        ("started", completed),
    ]
    for step, one in enumerate(found["time_to_complete"]):
        assert one["median_s"] == quantile(ours.seconds(step), 0.5)
        assert one["p90_s"] == quantile(ours.seconds(step), 0.9)


def test_since_omits_earlier_events(stats: Command) -> None:
    since = NOW - timedelta(days=3)
    recent = Expected([one for one in EVENTS if one.at >= since], NOW)
    for text in ("3d", "72h", since.isoformat()):
        found = stats.json(FORM, "--since", text)
        assert [one["sessions"] for one in found["steps"]] == recent.funnel()
    everything = Expected(EVENTS, NOW)
    assert recent.funnel() != everything.funnel()
    assert stats.json(FORM, "--since", "9999999w")["steps"][0]["sessions"] == (
        everything.funnel()[0] + 6  # from forty days ago
    )


def test_event_names_and_fields_can_be_those_of_the_form(stats: Command) -> None:
    mine = ("--steps", "quiz_seen, quiz_begun|quiz_resumed ,quiz_done")
    found = stats.json("quiz", *mine, "--answered", "answer", "--field", "question")
    assert [(one["step"], one["types"], one["sessions"]) for one in found["steps"]] == [
        ("quiz_seen", ["quiz_seen"], 4),
        ("quiz_begun|quiz_resumed", ["quiz_begun", "quiz_resumed"], 3),
        ("quiz_done", ["quiz_done"], 1),
    ]
    (left,) = found["drop_off"]["fields"]
    assert (left["field"], left["left"]) == ("\x1b[31m[bold]\nred", 1)
    assert found["drop_off"]["not_completed"] == 3


def test_a_session_that_answers_a_field_counts_as_started(stats: Command) -> None:
    (_, started, _) = stats.json("quiz", "--answered", "answer")["steps"]
    assert started["types"] == ["form_started", "answer"]
    assert started["outside"] == 1


def test_bars_are_no_wider_than_the_terminal(stats: Command) -> None:
    ours = Expected(EVENTS, NOW)
    for columns in (80, 120):
        lines = stats.drawn(FORM, columns=columns)
        assert max(map(len, lines)) <= columns
        text = "\n".join(lines)
        assert lines[0].startswith(f"{FORM}  since ")
        bars = {}
        for name, count in zip(("viewed", "started", "completed"), ours.funnel(), strict=True):
            found = re.search(rf"^ {name} +([█▏▎▍▌▋▊▉]+) +{count} +([\d.]+)%", text, re.M)
            assert found is not None, text
            bars[name] = (len(found[1]), float(found[2]))
        assert bars["viewed"][1] == 100.0
        for length, percent in bars.values():
            assert abs(length - bars["viewed"][0] * percent / 100) <= 1
        assert "Not counted:" in text
        assert "…" not in text  # wide enough for everything
        for name, left, _ in ours.fields():
            assert (name or "(no name)") in text or not left
        assert "Time until completed" in text


def test_long_names_are_cut_and_many_fields_are_summarized(stats: Command) -> None:
    lines = stats.drawn("wide")
    assert max(map(len, lines)) <= 80
    drawn = [line for line in lines if line.startswith(" What would you say ")]
    assert len(drawn) == 12
    for line in drawn:
        assert re.fullmatch(
            r" What would you say .*…   █{14,}      1          1        100\.0%", line
        )
    assert not [line for line in lines if line.startswith(" first")]  # no session left there
    assert " and 3 sessions after 3 other fields: see --json" in lines
    assert len(stats.json("wide")["drop_off"]["fields"]) == 16


def test_control_characters_in_names_of_fields_are_escaped(stats: Command) -> None:
    arguments = ("quiz", "--steps", "quiz_seen,quiz_done", "--answered", "answer")
    raw = stats(*arguments, "--field", "question", FORCE_COLOR="1", COLUMNS="80").stdout
    assert "\x1b[31m[" not in raw
    assert r"\x1b[31m[bold]\nred" in raw
    assert "\x1b" not in stats(*arguments, "--field", "question").stdout


def test_a_pipe_gets_a_line_for_each_row_and_notes_on_standard_error(stats: Command) -> None:
    done = stats(FORM)
    ours = Expected(EVENTS, NOW)
    steps, fields, durations = done.stdout.split("\n\n")
    header, *rows = (line.split() for line in steps.splitlines())
    assert " ".join(header) == "step sessions % of first % of previous outside"
    assert [(row[0], int(row[1]), int(row[-1])) for row in rows] == [
        (name, count, outside)
        for name, count, outside in zip(
            ("viewed", "started", "completed"), ours.funnel(), ours.outside(), strict=True
        )
    ]
    assert len(fields.splitlines()) == 1 + len(FIELDS) + 1  # the field without a name
    assert len(durations.splitlines()) == 3
    assert "█" not in done.stdout
    assert "Not counted" in done.stderr
    assert "Not counted" not in done.stdout


def test_the_error_for_an_unknown_form_lists_the_forms(stats: Command) -> None:
    done = stats("sign-up", status=1)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("formrelay: expected a form with events, got 'sign-up'; ")
    assert "signup, " in line
    assert "quiz" in line


def test_a_form_with_other_event_names_lists_them(stats: Command) -> None:
    done = stats("quiz")
    assert "No events of types form_viewed, form_started or field_answered, form_submitted." in (
        done.stderr
    )
    assert "quiz_seen (4), " in done.stderr
    assert [one["sessions"] for one in stats.json("quiz")["steps"]] == [0, 0, 0]


def test_a_form_without_recent_events_shows_the_time_of_its_last(stats: Command) -> None:
    done = stats("forgotten")
    last = f"{NOW - timedelta(days=40):%Y-%m-%d}"
    assert f"No events in this period; the last event was at {last}" in done.stderr
    assert "–" in done.stdout  # no percentage of zero


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--since", "soon"],
            "expected a time like 2026-01-31T09:30, or an age like 2h or 3d, got 'soon'",
        ),
        (
            ["--steps", "form_viewed"],
            "expected 2 to 20 different event types .* got 1 event type in",
        ),
        (["--steps", "a,,b"], "got an empty event type in 'a,,b'"),
        (["--steps", "a,b|"], "got an empty event type in 'a,b|'"),
        (["--steps", "a,b|a"], "got a duplicate event type in 'a,b|a'"),
        (["--steps", ",".join("abcdefghijklmnopqrstu")], "got 21 event types in"),
        ([FORM], "unexpected extra argument"),
    ],
)
def test_wrong_use_says_what_was_expected(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    command = Command(tmp_path, AWAY)
    error = command(FORM, *arguments, status=2).stderr
    said = " ".join(error.replace("│", " ").split())
    assert re.search(expected.replace("|", r"\|"), said), said


def test_an_unavailable_clickhouse_is_an_error(tmp_path: Path) -> None:
    command = Command(tmp_path, AWAY)
    done = command(FORM, "--json", status=1)
    assert "formrelay: expected to connect to ClickHouse, could not" in done.stderr
    assert done.stdout == ""


def test_the_error_for_missing_tables_says_what_to_run(
    tmp_path: Path, clickhouse_url: str, clickhouse_database: str
) -> None:
    env = {"CLICKHOUSE_URL": clickhouse_url, "CLICKHOUSE_DATABASE": clickhouse_database}
    assert (
        "run formrelay migrate"
        in Command(tmp_path, {"BROKER": "embedded", **env})(FORM, status=1).stderr
    )


def test_help_lists_events_and_stats(tmp_path: Path) -> None:
    text = run("--help", cwd=tmp_path, env={}).stdout
    assert re.search(r"│ events +Show analytics of a form\. +│", text)
    assert "stats" in run("events", "--help", cwd=tmp_path, env={}).stdout
