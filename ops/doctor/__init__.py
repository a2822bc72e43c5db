"""The checks of ``formrelay doctor``; each yields findings, which say what to do.

:mod:`formrelay.ops.cli.doctor` has the list of all checks, and runs them.
"""
