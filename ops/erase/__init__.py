"""Erases a person from queues, dead letters and the shared store (docs/privacy.md)."""
