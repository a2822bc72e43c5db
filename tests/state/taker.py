"""Takes from a limit as often as it can until a time; prints how often, and the times.

``python taker.py URL KEY NUMBER SECONDS_PER SECONDS_LONG``
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from formrelay.state import StateRedis, make_rate_limits
from formrelay.state.rate_limits import Limit
from formrelay.state.redis.connection import connect_redis

if __name__ == "__main__":
    url, key, number, per, lasts = sys.argv[1:]
    client = connect_redis(url, timeout=timedelta(seconds=5))
    limits = make_rate_limits(StateRedis(client, "here"))
    limit = Limit.at_most(int(number), timedelta(seconds=float(per)))
    ends = time.monotonic() + float(lasts)
    while time.monotonic() < ends:
        before = client.time()
        if limits.take([(key, limit)]) is None:
            # The script ran between these two times of the server.
            after = client.time()
            print(*(seconds * 1_000_000 + micros for seconds, micros in (before, after)))
