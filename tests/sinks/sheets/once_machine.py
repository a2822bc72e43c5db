"""A state machine of workers that write, are killed, and whose calls arrive late or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from formrelay.sinks.sheets import Layouts, SheetsClient, SheetWriter, Written
from formrelay.state.claims import Claims
from tests.sinks.sheets.making import answers
from tests.support.google import Book, DirectTransport, Fate, Google

KEYS = [f"job-{number}" for number in range(7)]
FATES = ["now", "now", "lost", "dropped", "late", "failed", "failed_late"]
KILLS = ["never", "never", "before sending", "before settling"]

groups = st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)
fates = st.lists(st.sampled_from(FATES), max_size=3)


class Killed(BaseException):
    """The worker's process was killed."""


class MortalClaims:
    """A store of claims whose worker can be killed before it settles."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self.dies = False

    def claim(self, *args: Any) -> Any:
        return self._claims.claim(*args)

    def settle(self, *args: Any) -> None:
        if self.dies:
            raise Killed
        self._claims.settle(*args)


class Worker:
    """A worker: its own layouts, and the store that all workers share."""

    def __init__(self, google: Google, claims: Claims) -> None:
        self.transport = DirectTransport(google)
        self.claims = MortalClaims(claims)
        token = google.tokens.new_access("ann")
        client = SheetsClient(lambda _: token, self.transport)
        self.writer = SheetWriter(client, self.claims, Layouts())


class Once(RuleBasedStateMachine):
    """Every job's row is written once, whatever happens."""

    make_claims: Callable[[], Claims]

    @initialize(refuses=st.booleans())
    def start(self, refuses: bool) -> None:
        self.google = Google()
        self.book = self.google.books["book"] = Book("Answers")
        self.book.refuses_empty_deletes = refuses
        claims = type(self).make_claims()
        self.workers = [Worker(self.google, claims) for _ in range(2)]
        self.acknowledged: set[str] = set()

    @rule(
        number=st.integers(0, 1),
        keys=groups,
        fates=fates,
        kill=st.sampled_from(KILLS),
        other=st.none() | groups,
        other_fate=st.sampled_from(FATES),
    )
    def write(
        self,
        number: int,
        keys: list[str],
        fates: list[str],
        kill: str,
        other: list[str] | None,
        other_fate: str,
    ) -> None:
        """A worker gets any jobs, also jobs that are done or that another worker has.

        Args:
            fates: what happens to its first calls.
            kill: when it is killed.
            other: jobs that the other worker writes between the claim and the call.
            other_fate: what happens to the other worker's call.
        """
        worker = self.workers[number]

        def before_write() -> None:
            worker.transport.before_write = lambda: None
            if other:
                self._run(self.workers[1 - number], other, [other_fate])
            if kill == "before sending":
                raise Killed
            worker.claims.dies = kill == "before settling"
            self._foresee(fates)

        worker.transport.before_write = before_write
        self._run(worker, keys, [])

    @precondition(lambda self: self.google.late)
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        """A call that was delayed on its way arrives."""
        self.google.arrive(data.draw(st.integers(0, len(self.google.late) - 1)))

    @invariant()
    def no_row_is_twice(self) -> None:
        if hasattr(self, "book"):
            rows = self.rows()
            assert all(number == 1 for number in rows.values()), rows
            assert self.acknowledged <= rows.keys()

    def teardown(self) -> None:
        """All jobs are delivered again until they are done; then delayed calls arrive."""
        if not hasattr(self, "book"):
            return
        for _ in range(3):
            for key in KEYS:
                if key not in self.acknowledged:
                    self._run(self.workers[0], [key], [])
        assert self.acknowledged == set(KEYS)
        while self.google.late:
            self.google.arrive()
        assert self.rows() == dict.fromkeys(KEYS, 1)
        assert self.google.problems == []

    def rows(self) -> Counter[str]:
        header, *rows = self.book.tabs[0].values() or [[]]
        return Counter(row[header.index("key")] for row in rows)

    def _foresee(self, fates: list[str]) -> None:
        for kind in fates:
            if kind == "now":
                break
            self.google.fates.append(Fate(kind))

    def _run(self, worker: Worker, keys: list[str], fates: list[str]) -> None:
        self._foresee(fates)
        jobs = [answers(key, key=key) for key in keys]
        try:
            written: Written = worker.writer.write("book", jobs)
        except Killed:
            return
        finally:
            self.google.fates.clear()
            worker.claims.dies = False
            worker.transport.before_write = lambda: None
        self.acknowledged |= {
            key for index, key in enumerate(keys) if index not in written.failures
        }
