"""A run with a process, which prints its process ids and folder and waits to be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.support.servers.run import Run

if __name__ == "__main__":
    run = Run()
    server = subprocess.Popen(["sleep", "600"], env=run.env(), start_new_session=True)
    pids = [os.getpid(), run._guard.pid, server.pid]
    print(json.dumps({"pids": pids, "folder": str(run.folder)}), flush=True)
    sys.stdin.read()
