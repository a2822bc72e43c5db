"""A program whose two threads have connections to the API at ``argv[1]``, and that forks."""

from __future__ import annotations

import os
import sys
import threading
from datetime import timedelta

from formrelay.sinks.api import Api

PAYLOAD = {"submissionId": "sub-1", "formId": "f", "answers": {}}


def main(url: str) -> None:
    """Send with each thread before the fork and after the end of the forked child."""
    api = Api(url, lambda: "t0ken", timedelta(seconds=1), timedelta(seconds=5))
    asked, go_on = threading.Barrier(3), threading.Event()

    def work() -> None:
        api.save_submission(PAYLOAD)
        asked.wait()
        go_on.wait()
        api.save_submission(PAYLOAD)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    asked.wait()
    if os.fork() == 0:
        # Python clears the thread-locals of the parent's threads here, and at the end of the child.
        sys.exit(0)
    assert os.wait()[1] == 0
    go_on.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
