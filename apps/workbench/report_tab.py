"""The tab with the draft report: what is known beforehand, the words with their marks, editing, and files to take away.

Imports Gradio; only the page imports this.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

import gradio as gr

from slidekick.apps.workbench import drafts
from slidekick.apps.workbench.session import Session
from slidekick.copilot.reports.edits import MAX_TEXT
from slidekick.copilot.reports.forms import DETAILS, FORMS, MAX_DETAIL

FORM_NAMES = {"general": "General", "biopsy": "Biopsy", "synoptic": "Synoptic", "cytology": "Cytology"}
TAKEN = {
    "report.html": "HTML",
    "report.docx": "Word",
    "report.md": "Markdown",
    "report.json": "JSON",
    "report.fhir.json": "FHIR",
    "items.jsonl": "Edits as training items",
}
SHOWN = ("words", "text", "files", "editor")  # what follows the session


def report_tab() -> dict:
    """The tab's parts, by name."""
    with gr.Row():
        choices = [(FORM_NAMES[name], name) for name in FORMS]
        form = gr.Dropdown(choices, value="general", label="Form", elem_id="form", scale=2)
        go = gr.Button("Draft the report", variant="primary", elem_id="draft", scale=2)
        stop = gr.Button("Stop", size="sm", elem_id="stop-draft", scale=1)
    with gr.Accordion("What you know beforehand", open=False, elem_id="details"):
        details = {
            name: gr.Textbox(label=name.capitalize(), max_length=MAX_DETAIL, elem_id=f"detail-{name}")
            for name in DETAILS
        }
    parts = {"form": form, "draft": go, "stop draft": stop, **details}
    parts["words"] = gr.HTML("", elem_id="report")
    parts["editor"] = gr.Accordion("Edit the words", open=False, visible=False, elem_id="editor")
    with parts["editor"]:
        parts["text"] = gr.Textbox(
            label="Markdown; evidence stands in brackets", lines=14, max_lines=40, max_length=MAX_TEXT, elem_id="words"
        )
        parts["save"] = gr.Button("Save the words", elem_id="save")
    parts["files"] = gr.HTML("", elem_id="report-files")
    return parts


def draft_of(session: Session) -> drafts.Draft | None:
    """The draft on the slide that is looked at; another one whenever its words are others."""
    return session.sheet.draft if session.sheets else None


def seen(session: Session, words: bool = True) -> tuple:
    """What the tab shows of a session, for `SHOWN`. words: fill the editor too."""
    draft = draft_of(session)
    if draft is None:
        return "", "", "", gr.Accordion(visible=False)
    text = draft.report.text if words else gr.skip()
    return drafts.words_html(session.sheet, session.current), text, links(session), gr.Accordion(visible=True)


def links(session: Session) -> str:
    """Links to the report's files."""
    base = f"view/{session.name}/{session.current}/report"
    told = " · ".join(f'<a href="{base}/{name}" download="{name}">{label}</a>' for name, label in TAKEN.items())
    return f"Take away: {told}"


def draft(session: Session, form: str, organ: str, specimen: str, clinical: str) -> Iterator[str]:
    """Draft; says what is being asked, as HTML."""
    details = dict(zip(DETAILS, (organ, specimen, clinical), strict=True))
    for told in drafts.draft(session, form if form in FORMS else "", details):
        yield f"<p class='report-note' role='status'>Drafting: {html.escape(told)}</p>"
