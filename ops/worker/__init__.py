"""Starts and runs worker processes.

``formrelay worker`` checks the configuration (:mod:`.boot`), prints what is connected
(:mod:`.banner`) and becomes Dramatiq's command line (:mod:`.dramatiq_command`). Each worker process
that it starts imports ``formrelay.worker``, which calls :func:`.boot.boot`: logs and printed text
(:mod:`.process_output`), signals (:mod:`.signals`), the broker with its actors, and middleware for
the process (:mod:`.late_middleware`, :mod:`.systemd`).
"""
