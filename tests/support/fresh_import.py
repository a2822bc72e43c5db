"""Imports the modules named on standard input one after the other, in several orders.

Prints a line of JSON for each module whose import reads the configuration, makes a broker, starts
a thread, or fails. Each order has a process of its own, a fork of this one, in which third-party
libraries are loaded. So many modules are imported before anything else of formrelay; that none
imports another in a circle is checked by `lint-imports`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading

import dramatiq.broker

#: Number of orders: by name, by name backwards, and by name from other modules on.
ORDERS = 6


def effects_of(module: str) -> list[str]:
    """Import a module; returns its side effects."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return [f"fails: {type(error).__name__}: {error}"]
    found = []
    settings = sys.modules.get("formrelay.config.settings")
    if settings is not None and settings._current is not None:
        found.append("reads the configuration")
    factory = sys.modules.get("formrelay.brokers.factory")
    if factory is not None and factory._broker is not None:
        found.append("makes a broker")
    if dramatiq.broker.global_broker is not None:
        found.append("sets Dramatiq's broker")
    if threading.active_count() > 1:
        found.append("starts a thread")
    return found


def load_libraries(modules: list[str]) -> None:
    """Import all modules, then remove formrelay's from `sys.modules`."""
    for module in modules:
        importlib.import_module(module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "formrelay"]:
        del sys.modules[name]


def print_effects(modules: list[str]) -> None:
    """Import modules in a fork of this process; print the side effects of each."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    gc.disable()
    for module in modules:
        if effects := effects_of(module):
            print(json.dumps([module, effects]), flush=True)
            break  # whatever follows would be reported too
    os._exit(0)


def main() -> None:
    modules = sys.stdin.read().split()
    load_libraries(modules)
    gc.freeze()
    print_effects(modules[::-1])
    for number in range(ORDERS - 1):
        first = number * len(modules) // (ORDERS - 1)
        print_effects(modules[first:] + modules[:first])


if __name__ == "__main__":
    main()
