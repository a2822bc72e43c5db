"""Clients of the outside systems: ClickHouse, the Django API, webhook endpoints over HTTP.

They do not depend on queues or on the environment: addresses, time-outs and functions that read
rotating secrets are arguments. Every failure is raised as an error of
:mod:`formrelay.core.errors`.
"""
