"""Errors, outcomes, retry policies, failure records, clock, signing, redaction.

Modules here import no other folder of formrelay, do no I/O and read no environment. So their
tests need neither servers nor settings.
"""
