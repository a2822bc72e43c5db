"""Whether workers and queues work: which worker does not, and why.

:mod:`.worker_states` decides it, from what the broker, the store and this machine know.
:mod:`.check` is ``formrelay health``, :mod:`.summary` the JSON of ``/api/v1/workers/health``, and
:mod:`.pages` the probes on the port of the workers.
"""
