"""The outside systems: ClickHouse, the Django API, webhooks by safe egress.

They know nothing of queues. Addresses, time-outs and functions that read rotating secrets are
arguments, never read from the environment. Every failure is raised as an error of
:mod:`formrelay.core.errors`.
"""
