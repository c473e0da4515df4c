"""The generalist: model, tools, evidence, answers.

Names are loaded on first use, so that importing the room costs nothing.
"""

from importlib import import_module

_HOME = {
    "Answer": "answer",
    "Claim": "answer",
    "Copilot": "copilot",
    "Event": "copilot",
    "Evidence": "answer",
    "Report": "report",
    "Step": "answer",
    "draft_report": "report",
    "find_masks": "copilot",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
