"""Calls a function in the project: ``python -m tests.djangoapp.programs MODULE FUNCTION JSON``.

JSON is the list of arguments; the result is printed as JSON.
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
