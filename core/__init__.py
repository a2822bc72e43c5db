"""Pure parts: errors, outcomes, retry policies, failure records, clock, signing.

Imports nothing of formrelay's outside this folder, does no I/O and reads no
environment, so that everything here is tested as plain arithmetic.
"""
