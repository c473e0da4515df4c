"""Reports as pages: one HTML file each, no scripts, nothing fetched, pictures inside; for screen and paper."""

from __future__ import annotations

import base64
from pathlib import Path

from slidekick.copilot.reports.report import LIMITS, Report, quantity
from slidekick.copilot.reports.words import as_html
from slidekick.data.pages import page_environment

_TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """A report as a page."""
    return page("report.html.jinja", report=report)


def page(template: str, **values) -> str:
    """A page of the templates here, which writes quantities and a report's words, and shows PNG files."""
    from markupsafe import Markup

    environment = page_environment(_TEMPLATES)
    environment.filters |= {
        "quantity": quantity,
        "data_uri": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "words": lambda report, level, prefix: Markup(as_html(report.text, report.drafted, level, prefix)),
    }
    environment.globals["limits"] = LIMITS
    return environment.get_template(template).render(**values)
