"""The demo's API: the project of ``examples/django_site``, under a WSGI server.

``python -m formrelay.ops.demo.site`` is told what it needs on standard input, see :mod:`.server`:
``{"fd": listening socket, "token": bearer token, "database": path of an SQLite file}``.
"""

from __future__ import annotations

import importlib
import secrets
import socket
import sys
from importlib.util import find_spec
from typing import Any

from .server import configuration

_THREADS = 8


def application(told: dict[str, Any]) -> Any:
    """The WSGI application, its database made and up to date."""
    spec = find_spec("formrelay.examples.django_site")
    assert spec is not None
    assert spec.submodule_search_locations
    # Its modules are top-level ones, as in any Django project.
    sys.path.insert(0, spec.submodule_search_locations[0])
    from django.conf import settings
    from django.core.management import call_command

    project = importlib.import_module("formsite.settings")
    values = {name: getattr(project, name) for name in dir(project) if name.isupper()}
    values |= {
        "API_TOKEN": told["token"],
        "SECRET_KEY": secrets.token_hex(32),
        "DATABASES": {"default": project.from_url(f"sqlite:///{told['database']}")},
    }
    settings.configure(**values)
    found = importlib.import_module("formsite.wsgi").application
    call_command("migrate", verbosity=0)
    return found


def main() -> None:
    """Serve until the parent ends."""
    from waitress import create_server

    told = configuration()
    listening = socket.socket(fileno=told["fd"])
    create_server(application(told), sockets=[listening], threads=_THREADS).run()


if __name__ == "__main__":
    main()
