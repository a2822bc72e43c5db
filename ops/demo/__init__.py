"""The demo: real survey answers through real workers, and every number checked.

``command.py`` is the door, ``run.py`` the way from top to bottom; ``api.py`` and
``receiver.py`` are programs of their own, which ``processes.py`` starts.
"""
