"""The outside systems: ClickHouse, the Django API, webhooks by safe egress.

They know nothing of queues. What they are told (addresses, time-outs, where a
rotating secret is read) comes as arguments, never from the environment, and
everything that goes wrong leaves them as an error of :mod:`formrelay.core.errors`.
"""
