"""What jobs cost decides whether they are short, and how many threads they get."""

from __future__ import annotations

import pytest

from formrelay.middleware.job_costs import JobCosts


def test_an_actor_of_which_some_jobs_wait_for_long_is_not_short_for_a_while() -> None:
    costs = JobCosts()
    costs.took = costs.cpu = 1e-4
    assert costs.is_short
    costs.add(1e-4, 1e-4, idle=0.05, count=1)  # one job waited
    costs.add(1e-4, 1e-4, idle=0.0, count=200)
    assert not costs.is_short
    costs.add(1e-4, 1e-4, idle=0.0, count=200)
    assert costs.is_short


def test_waiting_for_the_interpreter_does_not_make_jobs_long() -> None:
    costs = JobCosts()
    for number in range(100):  # every tenth job waited for other threads of this process
        costs.add(5e-3 if number % 10 == 0 else 1e-4, 1e-4, idle=0.0, count=1)
    assert costs.is_short


@pytest.mark.parametrize(
    ("took", "cpu", "running", "threads"),
    [
        (1e-4, 1e-4, 1, 1),  # they compute
        (4e-4, 1e-4, 1, 4),  # three quarters of the time they wait for something
        (4e-4, 1e-4, 4, 2),  # and some of it for the interpreter
        (4e-4, 0.0, 1, 401),
    ],
)
def test_jobs_get_as_many_threads_as_keep_the_interpreter_busy(
    took: float, cpu: float, running: int, threads: int
) -> None:
    costs = JobCosts()
    costs.took, costs.cpu = took, cpu
    assert costs.threads(running) == threads
