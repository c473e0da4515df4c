"""A room's public names, loaded when they are first used (PEP 562), so that importing the room costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module


def exports(room: str, home: dict[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a package. room: its `__name__`; home: public name -> module in the room."""

    def load(name: str):
        if name in home:
            return getattr(import_module(f"{room}.{home[name]}"), name)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted([*vars(sys.modules[room]), *home])

    return load, names
