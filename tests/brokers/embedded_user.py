"""A process that uses an embedded broker until its standard input is closed.

``python embedded_user.py FOLDER NAME`` writes its name to the server and prints the server's
process id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import redis

from formrelay.brokers.embedded import ensure_running

if __name__ == "__main__":
    _, folder, name = sys.argv
    client = redis.Redis.from_url(ensure_running(Path(folder)))
    client.rpush("seen", name)
    print(client.info("server")["process_id"], flush=True)
    sys.stdin.read()
