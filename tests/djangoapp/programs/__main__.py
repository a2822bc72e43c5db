"""``python -m tests.djangoapp.programs MODULE FUNCTION ARGUMENTS``: a function, in the project.

Its arguments are a list in JSON, and what it returns is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import django

if __name__ == "__main__":
    _, module, function, arguments = sys.argv
    django.setup()
    program = import_module(f"tests.djangoapp.programs.{module}")
    print("\n" + json.dumps(getattr(program, function)(*json.loads(arguments))))
