"""Counts of durations in bins that are the same in every version and every process.

Counts with the same bins can be added: of threads, processes, machines and minutes.
"""

from __future__ import annotations

#: Upper ends of the bins in seconds: 1 ms to 1.5 h, each 1.6 times the end before. One more bin has
#: the longer durations. Never change them: stored counts are in the order of the bins.
BIN_ENDS = tuple(round(0.001 * 1.6**number, 6) for number in range(34))
#: Number of bins, including the bin of longer durations.
BIN_COUNT = len(BIN_ENDS) + 1
