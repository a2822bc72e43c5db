"""Imports the app without any configuration; connections are errors."""

from __future__ import annotations

import json
import socket
import sys


def refuse(*_: object) -> None:
    raise AssertionError("connects")


if __name__ == "__main__":
    socket.socket.connect = refuse  # type: ignore[assignment, method-assign]
    import django.conf

    import formrelay.djangoapp
    import formrelay.djangoapp.apps

    print(
        json.dumps(
            [
                "django.db.models" in sys.modules,
                "formrelay.actors" in sys.modules,
                django.conf.settings.configured,
            ]
        )
    )
