"""An app that keeps its actors in tasks.py, as many projects with Dramatiq do."""
