"""Imports each module named on standard input in a process of its own.

Prints a line of JSON for each module whose import reads the configuration, makes a broker, starts
a thread, or fails. Third-party libraries are loaded once, before the first fork. The lowest layers
are loaded once before the forks for the modules above them, which they cannot import
(`lint-imports` checks it).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading

import dramatiq.broker

_LOWEST_LAYERS = ("formrelay.core", "formrelay.config")


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
    """Import each module in a fork of this process; print the side effects."""
    gc.freeze()
    for module in modules:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            continue
        gc.disable()
        effects = effects_of(module)
        if effects:
            print(json.dumps([module, effects]), flush=True)
        os._exit(0)


def main() -> None:
    modules = sys.stdin.read().split()
    load_libraries(modules)
    lowest = [module for module in modules if module.startswith(_LOWEST_LAYERS)]
    print_effects(lowest)
    for module in lowest:
        importlib.import_module(module)
    print_effects([module for module in modules if module not in lowest])


if __name__ == "__main__":
    main()
