"""Fails a run of the whole suite in which no test of some kind of server passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

KIND_OF_FIXTURE = {
    "redis_url": "redis",
    "redis_url_of_module": "redis",
    "redis_server": "redis",
    "rabbitmq_url": "rabbitmq",
    "rabbitmq_url_of_module": "rabbitmq",
    "clickhouse_url": "clickhouse",
    "clickhouse_http_url": "clickhouse",
    "clickhouse_database": "clickhouse",
    "clickhouse_server": "clickhouse",
    "clickhouse_cluster": "clickhouse",
}
KINDS = sorted(set(KIND_OF_FIXTURE.values()))

# These tests show that the servers start, not that formrelay works with them.
_OF_THE_TOOLS = ("tests/scripts/", "tests/packaging/")


class RanCheck:
    """Marks tests by the server fixtures they ask for, and counts the tests that passed.

    A test that gets its server in another way (`request.getfixturevalue` in a contract suite) sets
    the mark itself: `pytest.param("redis", marks=pytest.mark.redis)`.

    Args:
        required: fail a run of the whole suite in which no test of some kind passed.
    """

    def __init__(self, config: pytest.Config, *, required: bool) -> None:
        self._required = required and is_whole_suite(config)
        self._plugins = config.pluginmanager
        self._kinds: dict[str, set[str]] = {}
        self._begun: Counter[str] = Counter()
        self._passed: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)  # before `-m` selects by the marks
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the tests."""
        for item in items:
            for kind in kinds_of(getattr(item, "fixturenames", ())):
                item.add_marker(kind)
            if not item.nodeid.startswith(_OF_THE_TOOLS):
                self._kinds[item.nodeid] = {kind for kind in KINDS if item.get_closest_marker(kind)}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count started and passed tests by kind."""
        if report.when == "setup":
            self._begun.update(self._kinds.get(report.nodeid, ()))
        if report.when == "call" and report.passed:
            self._passed.update(self._kinds.get(report.nodeid, ()))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that passed without a test of some kind."""
        if self._missing() and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the kinds without a passed test."""
        for kind in self._missing():
            terminalreporter.write_line(
                f"expected at least one test marked {kind} to pass, got none: is the server"
                " running, were the tests collected?",
                red=True,
            )

    def _missing(self) -> list[str]:
        if not self._required:
            return []
        # In a shared run, another process may have run all tests of a kind.
        share = self._plugins.get_plugin("share")
        left_to_others = share.left_to_others() - self._begun.keys() if share else ()
        return [kind for kind in KINDS if not self._passed[kind] and kind not in left_to_others]


def kinds_of(fixtures: Iterable[str]) -> set[str]:
    """The kinds of server that fixtures provide."""
    return {KIND_OF_FIXTURE[name] for name in fixtures if name in KIND_OF_FIXTURE}


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether the command line selects all of `testpaths`."""
    narrowing = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "collectonly")
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not any(
        getattr(config.option, name, None) for name in narrowing
    )
