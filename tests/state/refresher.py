"""Asks for the access token of a connection for some seconds, at least once; prints each.

``python refresher.py REDIS_URL KEY TOKEN_URL CONNECTION SECONDS SECONDS_OF_LOCK``
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from formrelay.sinks.oauth import OAuthClient, Provider
from formrelay.state import StateRedis, make_idempotency_store
from formrelay.state.key_ring import KeyRing
from formrelay.state.redis.connection import connect_redis
from formrelay.state.redis.tokens import RedisTokenStore
from formrelay.state.tokens import Tokens

if __name__ == "__main__":
    url, key, token_url, connection, seconds, lock = sys.argv[1:]
    state = StateRedis(connect_redis(url, timeout=timedelta(seconds=5)), "here")
    tokens = Tokens(
        RedisTokenStore(state),
        make_idempotency_store(state),
        KeyRing(lambda: key),
        lock=timedelta(seconds=float(lock)),
    )
    client = OAuthClient(Provider("google", token_url), "client", lambda: "hunter2")
    ends = time.monotonic() + float(seconds)
    while True:
        print(tokens.access_token(connection, client.refresh), flush=True)
        if time.monotonic() >= ends:
            break
        time.sleep(0.01)
