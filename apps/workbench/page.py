"""The page: layout, and what happens on which click. Imports Gradio; `chat.py` does not.

A slide in deep zoom beside the conversation about it. What is drawn on the slide comes back through a hidden text box
(`Events.said`); what the viewer is to show goes out in a hidden element (`viewer.state_html`). The page fetches nothing
from elsewhere, sends nothing away, and shows words of users and models as words.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator

import gradio as gr

from slidekick.apps.workbench import drafts, report_tab
from slidekick.apps.workbench.session import Session, Sessions
from slidekick.apps.workbench.viewer import ASSETS, state_html
from slidekick.copilot.answer import MAX_QUESTION, RESEARCH_USE
from slidekick.copilot.reports.forms import DETAILS
from slidekick.data.errors import InputError, SlidekickError
from slidekick.data.readers import OF_SEVERAL_FILES, SUFFIXES
from slidekick.data.samples import SAMPLES

KEEP_S = 3600  # Gradio's own copies of uploads are deleted an hour after they came; sessions hold theirs
UPLOADED = [suffix for suffix in SUFFIXES if suffix not in OF_SEVERAL_FILES]
EXAMPLES = (
    "What does this picture show?",
    "How many nuclei are there?",
    "Where is the gland?",
    "Is there a glomerulus?",
)
SAMPLE_NAMES = {"he": "H&E sample", "ihc": "IHC sample"}
HEAD = (
    '<link rel="stylesheet" href="workbench/leaflet.css"><link rel="stylesheet" href="workbench/viewer.css">'
    '<script src="workbench/leaflet.js"></script><script src="workbench/shapes.js"></script>'
    '<script src="workbench/viewer.js"></script><script src="workbench/mends.js"></script>'
)
SHOWN = ("chat", "state", "sheets", "region", "correct", "opener", *report_tab.SHOWN)  # what follows the session
QUIET = {"api_visibility": "private"}


def build_page(sessions: Sessions) -> gr.Blocks:
    """The page as `gr.Blocks`, not yet served."""
    kind = {"analytics_enabled": False, "delete_cache": (600, KEEP_S), "fill_width": True}
    with gr.Blocks(title="Slidekick", **kind) as page:
        name = gr.BrowserState("", storage_key="slidekick-session", secret=sessions.store.secret)
        gr.HTML(f"<h1>Slidekick</h1><div id='notice'>{html.escape(RESEARCH_USE)}</div>", elem_id="notice-line")
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=340):
                views = _slide_panel(sessions)
            with gr.Column(scale=5, min_width=340), gr.Tabs(elem_id="tabs"):
                with gr.Tab("Conversation"):
                    views |= _chat_panel()
                with gr.Tab("Report"):
                    views |= report_tab.report_tab()
        _wire(page, sessions, name, views)
    return page


def _slide_panel(sessions: Sessions) -> dict:
    views = {"sheets": gr.Radio([], label="Slides of this case", elem_id="sheets", visible=False)}
    views["opener"] = gr.Accordion("Open a slide or picture", open=True, elem_id="open")
    with views["opener"]:
        views["upload"] = gr.File(label="Upload", file_types=UPLOADED, type="filepath", height=120, elem_id="upload")
        with gr.Row():
            for sample, label in SAMPLE_NAMES.items():
                views[f"sample {sample}"] = gr.Button(label, size="sm", elem_id=f"sample-{sample}")
        opened = bool(sessions.server.folders.opened)
        views["file"] = gr.Dropdown([], label="In the opened folders", visible=opened, elem_id="file", filterable=True)
        views["mpp"] = gr.Number(label="µm per pixel", value=None, minimum=0, info="0: as the file says")
        views["credit"] = gr.Markdown("", elem_id="credit", sanitize_html=True)
    gr.HTML((ASSETS / "panel.html").read_text(encoding="utf-8"), elem_id="viewer-panel")
    views["state"] = gr.HTML("", elem_id="viewer-state", visible="hidden")
    views["said"] = gr.Textbox("", elem_id="viewer-said", visible="hidden")
    views["tell"] = gr.Button("tell", elem_id="viewer-tell", visible="hidden")
    with gr.Row():
        views["region"] = gr.Textbox(
            label="Region", placeholder="x,y,width,height", info="empty: all of it", max_length=60, elem_id="region"
        )
        views["correct"] = gr.Dropdown([], label="Correct", info="which mask + and − change", elem_id="correct")
        views["undo"] = gr.Button("Take the last click back", size="sm", elem_id="undo")
    with gr.Accordion("QuPath", open=False, elem_id="qupath"):
        gr.Markdown("Export what is drawn, edit it in QuPath, and bring it back: numbers and report follow the shapes.")
        with gr.Row():
            views["export shapes"] = gr.Button("Export the shapes (GeoJSON)", size="sm", elem_id="export-shapes")
            kinds = [".geojson", ".json"]
            views["shapes"] = gr.UploadButton("Bring edited shapes back", file_types=kinds, size="sm", elem_id="shapes")
    return views


def _chat_panel() -> dict:
    chat = gr.Chatbot(
        label="Conversation",
        height=620,
        buttons=["copy_all"],
        layout="bubble",
        sanitize_html=True,
        latex_delimiters=[],
        feedback_options=None,
        examples=[{"text": text} for text in EXAMPLES],
        placeholder="Open a slide or take a sample, then ask.",
        elem_id="chat",
    )
    question = gr.Textbox(
        placeholder="such as: How many nuclei are there?",
        label="Question",
        max_length=MAX_QUESTION,
        submit_btn="Ask",
        stop_btn=False,
        elem_id="question",
    )
    with gr.Row():
        stop = gr.Button("Stop", size="sm", elem_id="stop")
        clear = gr.Button("New conversation", size="sm", elem_id="clear")
        fresh = gr.Button("New case", size="sm", elem_id="fresh")
        export = gr.Button("Export the history", size="sm", elem_id="export")
    return {"chat": chat, "question": question, "stop": stop, "clear": clear, "fresh": fresh, "export": export}


class Events:
    """What happens on which click. Each event is given the caller's session by name, and checks what it is given: the
    page keeps events private, yet HTTP reaches them."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def seen(self, session: Session, correcting: str | None = None, words: bool = True) -> tuple:
        """What all of the page shows of a session, for `SHOWN`. correcting: the mask that clicks change. words: whether
        the report's editor is filled anew; else what was typed and not saved stays."""
        names = [f"{number + 1}  {sheet.name}" for number, sheet in enumerate(session.sheets)]
        area = session.sheet.area if session.sheets else None
        layers = session.sheet.layers.by_concept if session.sheets else {}
        chosen = correcting if correcting in layers else next(iter(layers), None)
        return (
            session.messages,
            state_html(session, chosen),
            gr.Radio(names, value=names[session.current] if names else None, visible=len(names) > 1),
            "" if area is None else ",".join(map(str, area.box)),
            gr.Dropdown(list(layers), value=chosen),
            gr.Accordion(open=not session.sheets),
            *report_tab.seen(session, words),
        )

    def session(self, kept: object) -> Session:
        """The session of a name, or the error that the page shows."""
        if not kept:
            raise _told(InputError("the page is still loading; try again in a moment"))
        try:
            return self.sessions.get(kept)
        except InputError as error:
            raise _told(error) from error

    def doing(self, work: Callable[..., None]) -> Callable[..., tuple]:
        """An event that changes the session by `work(session, *values)` and shows it anew."""

        def event(kept: str, *values):
            session = self.session(kept)
            before = report_tab.draft_of(session)
            try:
                work(session, *values)
            except SlidekickError as error:
                raise _told(error) from error
            return self.seen(session, words=report_tab.draft_of(session) is not before)

        event.__name__ = work.__name__
        return event

    def begin(self, kept: str) -> tuple:
        """The page is loaded: the session that the browser remembers, or a new one."""
        try:
            session = self.sessions.get(kept) if kept else self.sessions.begin()
        except SlidekickError:
            session = self.sessions.begin()
        files = gr.Dropdown(self.sessions.server.folders.files(), value=None)
        return (session.name, files, *self.seen(session))

    def fresh(self) -> tuple:
        """A new session."""
        session = self.sessions.begin()
        return (session.name, *self.seen(session))

    def answer(self, question: str, kept: str) -> Iterator[tuple]:
        """Streams conversation and slide, and empties the question's box."""
        session, drawn = self.session(kept), -1
        try:
            for _ in session.ask(question):
                version = session.sheet.layers.version
                yield session.messages, state_html(session) if version != drawn else gr.skip(), "", gr.skip()
                drawn = version
            yield session.messages, state_html(session), "", self.seen(session)[SHOWN.index("correct")]
        except SlidekickError as error:
            raise _told(error) from error

    def stopped(self, kept: str) -> list[dict]:
        """The conversation after a stop."""
        return self.session(kept).messages

    def said(self, kept: str, told: str, concept: str | None) -> tuple:
        """What was drawn or clicked on the slide. concept: the mask that clicks change."""
        session = self.session(kept)
        before = report_tab.draft_of(session)
        try:
            _act(session, told, concept)
        except SlidekickError as error:
            raise _told(error) from error
        return self.seen(session, concept, words=report_tab.draft_of(session) is not before)

    def draft(self, kept: str, *known) -> Iterator[tuple]:
        """Draft a report; streams what is being asked, then shows it all."""
        session = self.session(kept)
        place = SHOWN.index("words")
        try:
            for told in report_tab.draft(session, *known):
                yield tuple(told if one == place else gr.skip() for one in range(len(SHOWN)))
        except SlidekickError as error:
            raise _told(error) from error
        yield self.seen(session)

    def correcting(self, kept: str, concept: str | None) -> tuple:
        """Another mask is chosen."""
        return self.seen(self.session(kept), concept, words=False)


def _wire(page: gr.Blocks, sessions: Sessions, name, views: dict) -> None:
    """Connect buttons and events."""
    events, outputs = Events(sessions), [views[one] for one in SHOWN]
    page.load(events.begin, name, [name, views["file"], *outputs], **QUIET)
    views["fresh"].click(events.fresh, None, [name, *outputs], **QUIET)
    changes = [
        (views["upload"].upload, _open_upload, ["upload", "mpp"]),
        (views["file"].input, _open_file, ["file", "mpp"]),
        (views["sheets"].input, _choose, ["sheets"]),
        (views["region"].submit, _region, ["region"]),
        (views["undo"].click, _undo, ["correct"]),
        (views["shapes"].upload, drafts.take_shapes, ["shapes"]),
        (views["save"].click, drafts.rewrite, ["text"]),
        *((views[f"sample {one}"].click, _sample_opener(one), ["mpp"]) for one in SAMPLE_NAMES),
    ]
    for listen, work, values in changes:
        listen(events.doing(work), [name, *(views[value] for value in values)], outputs, **QUIET)
    for one in SAMPLE_NAMES:
        credit = SAMPLES[one].credit
        views[f"sample {one}"].click(lambda credit=credit: credit, None, views["credit"], **QUIET)
    hidden = {"show_progress": "hidden", **QUIET}
    # Each stroke and click counts, also those made while one is at work.
    views["tell"].click(
        events.said, [name, views["said"], views["correct"]], outputs, trigger_mode="multiple", **hidden
    )
    views["correct"].input(events.correcting, [name, views["correct"]], outputs, **hidden)
    question = views["question"]
    spoken = {"inputs": [question, name], "outputs": [views[one] for one in ("chat", "state", "question", "correct")]}
    asked = question.submit(events.answer, **spoken, concurrency_limit=16, **hidden)
    taken = views["chat"].example_select(_take_example, None, question, **QUIET)
    picked = taken.then(events.answer, **spoken, concurrency_limit=16, **hidden)
    for clear in (views["clear"].click, views["chat"].clear):
        clear(events.doing(_clear), [name], outputs, cancels=[asked, picked], **QUIET)
    views["stop"].click(events.stopped, name, views["chat"], cancels=[asked, picked], **QUIET)
    views["export"].click(None, js="() => window.slidekick.export()")
    views["export shapes"].click(None, js="() => window.slidekick.exportShapes()")
    known = [name, *(views[one] for one in ("form", *DETAILS))]
    begun = views["draft"].click(events.draft, known, outputs, concurrency_limit=16, **hidden)
    views["stop draft"].click(events.stopped, name, views["chat"], cancels=[begun], **QUIET)


def _open_upload(session: Session, path: str | None, mpp: float | None) -> None:
    if path is None:
        raise InputError("nothing was uploaded; choose a picture")
    session.upload(path, _scale(mpp))


def _open_file(session: Session, name: str | None, mpp: float | None) -> None:
    session.open(f"folder:{name}", _scale(mpp))


def _sample_opener(sample: str):
    def _open_sample(session: Session, mpp: float | None) -> None:
        session.open(f"sample:{sample}", _scale(mpp))

    return _open_sample


def _choose(session: Session, told: str | None) -> None:
    number = str(told or "").partition(" ")[0]
    session.choose(int(number) - 1 if number.isdecimal() else -1)


def _region(session: Session, text: str | None) -> None:
    parts = (text or "").replace(" ", "").split(",")
    session.region({"box": parts if any(parts) else None})


def _undo(session: Session, concept: str | None) -> None:
    if not concept:
        raise InputError("nothing was found that could be corrected; ask first")
    session.undo(concept)


def _clear(session: Session) -> None:
    session.clear()


def _act(session: Session, told: str, concept: str | None) -> None:
    """What was drawn or clicked on the slide."""
    try:
        message = json.loads(told)
        kind = message["kind"]
        if kind == "point":
            x, y, inside = int(message["x"]), int(message["y"]), bool(message["inside"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise InputError("the viewer said nothing that can be read; load the page anew") from error
    if kind == "region":
        session.region(message)
    elif kind == "mark":
        session.fly_to(str(message.get("id")))
    elif kind == "point":
        if not concept:
            raise InputError("which mask? Ask first, then choose one under Correct")
        session.correct(concept, x, y, inside)


def _take_example(event: gr.SelectData):
    return event.value["text"]


def _scale(value: float | None) -> float | None:
    """The scale given; 0 and an empty box both mean: as the file says."""
    if value is None or value == 0:
        return None
    if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
        raise InputError(f"{value!r} is no scale; give µm per pixel above 0, such as 0.5")
    return float(value)


def _told(error: SlidekickError):
    """The error as the page shows it: escaped, since the page would render HTML in it."""
    return gr.Error(html.escape(str(error)), title="Cannot do that", print_exception=False)
