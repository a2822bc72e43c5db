"""The demo's API: the project in ``examples/django_site`` under a WSGI server.

``python -m formrelay.ops.demo.site`` reads its configuration from standard input, see
:mod:`.server`:
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


def application(config: dict[str, Any]) -> Any:
    """Return the WSGI application, with a migrated database."""
    spec = find_spec("formrelay.examples.django_site")
    assert spec is not None
    assert spec.submodule_search_locations
    # The project imports its apps as top-level modules.
    sys.path.insert(0, spec.submodule_search_locations[0])
    from django.conf import settings
    from django.core.management import call_command

    project = importlib.import_module("formsite.settings")
    values = {name: getattr(project, name) for name in dir(project) if name.isupper()}
    values |= {
        "API_TOKEN": config["token"],
        "SECRET_KEY": secrets.token_hex(32),
        "DATABASES": {"default": project.from_url(f"sqlite:///{config['database']}")},
    }
    settings.configure(**values)
    found = importlib.import_module("formsite.wsgi").application
    call_command("migrate", verbosity=0)
    return found


if __name__ == "__main__":
    from waitress import create_server

    config = configuration()
    listening = socket.socket(fileno=config["fd"])
    create_server(application(config), sockets=[listening], threads=_THREADS).run()
