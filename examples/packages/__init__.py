"""Packages for Dramatiq with formrelay's brokers (docs/packages.md)."""
