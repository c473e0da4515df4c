"""The generalist: model, tools, evidence, answers.

Names are loaded on first use, so that importing the room costs nothing.
"""

from slidekick.data.lazy import exports

_HOME = {
    "Answer": "answer",
    "Claim": "answer",
    "Copilot": "copilot",
    "Event": "copilot",
    "Evidence": "answer",
    "Field": "extra_tools",
    "Measured": "extra_tools",
    "Report": "reports.report",
    "Step": "answer",
    "Tool": "extra_tools",
    "draft_report": "reports.report",
    "find_masks": "copilot",
}
__all__ = list(_HOME)
__getattr__, __dir__ = exports(__name__, _HOME)
