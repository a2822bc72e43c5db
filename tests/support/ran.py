"""A run that tested no broker at all must not look like one that tested them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

KIND_OF_FIXTURE = {
    "redis_url": "redis",
    "redis_server": "redis",
    "rabbitmq_url": "rabbitmq",
    "rabbitmq_url_of_module": "rabbitmq",
    "rabbitmq_server": "rabbitmq",
    "clickhouse_url": "clickhouse",
    "clickhouse_http_url": "clickhouse",
    "clickhouse_database": "clickhouse",
    "clickhouse_server": "clickhouse",
    "clickhouse_cluster": "clickhouse",
}
KINDS = sorted(set(KIND_OF_FIXTURE.values()))

# These prove that the servers come up, not that formrelay works with them.
_OF_THE_TOOLS = ("tests/scripts/", "tests/packaging/")


class RanCheck:
    """Marks tests by the server fixtures they ask for, and counts what passed.

    A test that gets its server another way (`request.getfixturevalue` in a contract
    suite) carries the mark itself: `pytest.param("redis", marks=pytest.mark.redis)`.
    When `required`, a whole run in which no test of some kind passed is a failure; a
    run that was asked for a part of the suite is not looked at.
    """

    def __init__(self, config: pytest.Config, *, required: bool) -> None:
        self._required = required and is_whole_suite(config)
        self._kinds: dict[str, set[str]] = {}
        self._begun: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)  # before `-m` selects by the marks
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Set the marks."""
        for item in items:
            for kind in kinds_of(getattr(item, "fixturenames", ())):
                item.add_marker(kind)
            if not item.nodeid.startswith(_OF_THE_TOOLS):
                self._kinds[item.nodeid] = {kind for kind in KINDS if item.get_closest_marker(kind)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        if report.when == "setup":
            self._begun.update(self._kinds.get(report.nodeid, ()))
        if report.when == "call" and report.passed:
            self._passed.update(self._kinds.get(report.nodeid, ()))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would have passed without having tested a kind."""
        if self._missing() and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say so."""
        for kind in self._missing():
            terminalreporter.write_line(
                f"expected at least one test marked {kind} to pass, got none: was the server there,"
                " were the tests collected?",
                red=True,
            )

    def _missing(self) -> list[str]:
        if not self._required:
            return []
        # Of a run that is shared, another process may have had all tests of a kind.
        left_to_others = set().union(*self._kinds.values()) - self._begun.keys()
        return [kind for kind in KINDS if not self._passed[kind] and kind not in left_to_others]


def kinds_of(fixtures: Iterable[str]) -> set[str]:
    """The kinds of server that these fixtures stand for."""
    return {KIND_OF_FIXTURE[name] for name in fixtures if name in KIND_OF_FIXTURE}


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether nothing on the command line asked for less than all of `testpaths`."""
    narrowing = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "collectonly")
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not any(
        getattr(config.option, name, None) for name in narrowing
    )
