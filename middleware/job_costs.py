"""What the jobs of an actor typically cost: how long they take, and whether they compute."""

from __future__ import annotations

import math

#: Jobs that typically take less are short, in seconds.
_SHORT_SECONDS = 0.0005
#: A job is slow if the process computes nothing for this number of seconds while it runs.
_SLOW_SECONDS = 0.008
#: Number of jobs after a slow job for which the jobs of an actor do not count as short.
_WARY_JOBS = 256
#: Share by which the estimate of a median rises or falls with each job.
_STEP = 1 / 8


class JobCosts:
    """Typical wall-clock and CPU time of the jobs of an actor, in seconds.

    These are estimates of medians. The mean would also contain jobs that waited for the
    interpreter. While many threads compete for it, short jobs would then count as long, so that
    all threads would go on to compete.
    """

    __slots__ = ("cpu", "took", "wary")

    def __init__(self) -> None:
        self.took = self.cpu = 2 * _SHORT_SECONDS  # not short until it is known
        #: For how many jobs more the actor does not count as short.
        self.wary = 0

    def add(self, took: float, cpu: float, idle: float, count: int) -> None:
        """Add ``count`` jobs.

        Args:
            took: seconds a job, of its thread.
            cpu: seconds a job, of its thread's CPU time.
            idle: seconds during all these jobs in which the process did not compute.
        """
        # The median says nothing about an actor of which some jobs wait for long. They would keep
        # the jobs behind them waiting.
        self.wary = _WARY_JOBS if idle > _SLOW_SECONDS else max(0, self.wary - count)
        self.took *= 1 + math.copysign(_STEP, took - self.took)
        self.cpu *= 1 + math.copysign(_STEP, cpu - self.cpu)

    @property
    def is_short(self) -> bool:
        """Whether the next job is expected to be short."""
        return self.took < _SHORT_SECONDS and not self.wary

    def threads(self, running: int) -> int:
        """Number of threads that keep the interpreter busy with short jobs.

        Args:
            running: number of threads that run them now, and wait for each other.
        """
        blocked = self.took - self.cpu * (running + 1) / 2
        return 1 + max(0, int(blocked / max(self.cpu, 1e-6)))
