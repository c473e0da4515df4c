"""The chat page: layout, what happens on which click, how it is served. Imports Gradio; `chat.py` does not.

Upload a picture, or name one under an opened folder; answers stream in, tool steps stand as bubbles of their own, and
what was found is drawn over the picture. The page fetches nothing from elsewhere, sends nothing away, and shows text
of users and models as plain text. Measuring and answering are the copilot's.
"""

from __future__ import annotations

import argparse
import html
from pathlib import Path

import gradio as gr

from slidekick.apps.loading import tell
from slidekick.apps.options import region as parse_region
from slidekick.apps.session import Session
from slidekick.copilot.answer import MAX_QUESTION, RESEARCH_USE
from slidekick.data.errors import InputError, SlidekickError

MAX_UPLOAD = "200mb"  # a field of view or a small slide; whole slides are read from the opened folder
KEEP_S = 3600  # uploads are deleted an hour after they came
SUFFIXES = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".svs", ".ndpi", ".scn", ".bif"]
EXAMPLES = (
    "What does this picture show?",
    "How many nuclei are there?",
    "Where is the gland?",
    "Is there a glomerulus?",
)
SAMPLE_NAMES = {"he": "H&E sample", "ihc": "IHC sample"}
CSS = """
.gradio-container { max-width: 1280px !important; width: 100% !important; margin: 0 auto !important; }
#notice { border-left: 4px solid #b8860b; padding: .3rem .8rem; font-weight: 600; }
#legend { min-height: 1.6rem; font-size: .92rem; }
#legend .swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .4rem;
  border: 1px solid rgba(0, 0, 0, .35); vertical-align: -.05rem; }
#legend .entry { margin-right: 1.1rem; white-space: nowrap; }
#legend .absent { opacity: .65; }
#credit { font-size: .85rem; opacity: .75; }
"""


def launch(
    page, *, host: str = "127.0.0.1", port: int | None = None, browser: bool = False, block: bool = False
) -> str:
    """Serve the page; returns its address. Never shared beyond `host`; files outside the uploads are not served."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(primary_hue="fuchsia", neutral_hue="slate", font=fonts, font_mono=mono)
    _, address, _ = page.queue(default_concurrency_limit=4).launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        share=False,
        quiet=True,
        theme=theme,
        css=CSS,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        prevent_thread_lock=True,
    )
    tell(f"chat page: {address}  (Ctrl+C ends it)")
    if block:
        page.block_thread()
    return address


def build_page(copilot, folder: Path | None = None):
    """The page as `gr.Blocks`, not yet served. folder: the only place outside uploads that it reads from."""
    with gr.Blocks(title="Slidekick", analytics_enabled=False, delete_cache=(600, KEEP_S), fill_width=True) as page:
        session = gr.State(lambda: Session(copilot, folder), time_to_live=KEEP_S)
        gr.Markdown("# Slidekick\nAsk about tissue. What is measured shows its evidence.")
        gr.HTML(f"<div id='notice'>{html.escape(RESEARCH_USE)}</div>", elem_id="notice-line")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5):
                chat = _chat_panel()
                with gr.Row():
                    question = gr.Textbox(
                        placeholder="How many nuclei are there?",
                        label="Question",
                        max_length=MAX_QUESTION,
                        submit_btn="Ask",
                        stop_btn=False,
                        elem_id="question",
                        scale=8,
                    )
                with gr.Row():
                    stop = gr.Button("Stop", size="sm", elem_id="stop")
                    clear = gr.Button("New conversation", size="sm", elem_id="clear")
            with gr.Column(scale=4):
                views = _picture_panel(folder)
        _wire(session, chat, question, stop, clear, views)
    return page


def _chat_panel():
    return gr.Chatbot(
        label="Conversation",
        height=560,
        buttons=["copy_all"],
        layout="bubble",
        render_markdown=False,  # text of users and models is text: no links, no pictures from elsewhere
        latex_delimiters=[],
        feedback_options=None,
        examples=[{"text": text} for text in EXAMPLES],
        placeholder="Upload a picture or take a sample, then ask.",
        elem_id="chat",
    )


def _picture_panel(folder: Path | None) -> dict:
    views = {"upload": gr.File(label="Picture", file_types=SUFFIXES, type="filepath", height=140, elem_id="upload")}
    with gr.Row():
        for name, label in SAMPLE_NAMES.items():
            views[f"sample {name}"] = gr.Button(label, size="sm", elem_id=f"sample-{name}")
    views["picture"] = gr.ImageSlider(
        label="As given | what was found",
        interactive=False,
        slider_position=8,
        max_height=460,
        elem_id="picture",
    )
    views["legend"] = gr.HTML("", elem_id="legend")
    views["credit"] = gr.Markdown("", elem_id="credit", sanitize_html=True)
    with gr.Accordion("Scale and region", open=folder is not None):
        with gr.Row():
            views["mpp"] = gr.Number(label="µm per pixel", value=None, minimum=0, info="empty: as the file says")
            views["region"] = gr.Textbox(label="Region", placeholder="x,y,w,h", info="empty: all of it", max_length=60)
        views["path"] = gr.Textbox(
            label="Path under the opened folder", visible=folder is not None, max_length=400, elem_id="path"
        )
        views["open"] = gr.Button("Open", size="sm", visible=folder is not None, elem_id="open")
    return views


def _wire(session, chat, question, stop, clear, views: dict) -> None:
    """What happens on which click. All events are private, and check what they are given all the same."""
    shown = [views["picture"], views["legend"], chat, views["credit"]]
    options = [session, views["region"], views["mpp"]]
    quiet = {"api_visibility": "private"}
    views["upload"].upload(_open_upload, [views["upload"], *options], shown, **quiet)
    views["open"].click(_open_path, [views["path"], *options], shown, **quiet)
    views["path"].submit(_open_path, [views["path"], *options], shown, **quiet)
    for name in SAMPLE_NAMES:
        views[f"sample {name}"].click(_sample_opener(name), [session], shown, **quiet)
    answer = {"inputs": [question, session], "outputs": [chat, question, views["picture"], views["legend"]]}
    limits = {"concurrency_limit": 1, "concurrency_id": "copilot", "show_progress": "hidden", **quiet}
    asked = question.submit(_answer, **answer, **limits)
    picked = chat.example_select(_take_example, None, question, **quiet).then(_answer, **answer, **limits)
    stop.click(_bubbles, session, chat, cancels=[asked, picked], **quiet)
    clear.click(_clear, session, chat, **quiet)
    chat.clear(_clear, session, chat, **quiet)


def _open_upload(path: str | None, session: Session, region: str, mpp: float | None):
    if path is None:
        raise _told(InputError("nothing was uploaded; choose a picture"))
    return _opened(session, lambda: session.open_picture(path, _region(region), _scale(mpp)))


def _open_path(name: str, session: Session, region: str, mpp: float | None):
    return _opened(session, lambda: session.open_in_folder(str(name or ""), _region(region), _scale(mpp)))


def _sample_opener(name: str):
    def open_sample(session: Session):
        from slidekick.data.samples import SAMPLES, sample

        return _opened(session, lambda: session.open_picture(sample(name)), SAMPLES[name].credit)

    return open_sample


def _opened(session: Session, open_it, credit: str = "") -> tuple:
    try:
        open_it()
    except SlidekickError as error:
        raise _told(error) from error
    return session.pictures(), _legend_html(session), _bubbles(session), credit


def _answer(question: str, session: Session):
    """Streams: conversation, the question box emptied, and the picture whenever something new was found."""
    drawn = len(session.findings)
    try:
        for _ in session.ask(question):
            fresh = len(session.findings) > drawn
            drawn = len(session.findings)
            pictures = session.pictures() if fresh else gr.skip()
            yield _bubbles(session), "", pictures, _legend_html(session) if fresh else gr.skip()
    except SlidekickError as error:
        raise _told(error) from error


def _take_example(event: gr.SelectData):
    return event.value["text"]


def _clear(session: Session) -> list:
    session.clear()
    return _bubbles(session)


def _bubbles(session: Session) -> list[dict]:
    """The messages as the chatbot takes them: it renders HTML even with Markdown off, so all text is escaped."""
    bubbles = []
    for message in session.messages:
        bubble = {**message, "content": html.escape(message["content"], quote=False)}
        if "metadata" in message:
            title = html.escape(message["metadata"]["title"], quote=False)
            bubble["metadata"] = {**message["metadata"], "title": title}
        bubbles.append(bubble)
    return bubbles


def _legend_html(session: Session) -> str:
    entries = []
    for text, colour in session.legend():
        swatch = f"<span class='swatch' style='background: rgb{colour}'></span>" if colour else ""
        entries.append(f"<span class='entry{'' if colour else ' absent'}'>{swatch}{html.escape(text)}</span>")
    return "".join(entries)


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    if not (text or "").strip():
        return None
    try:
        return parse_region(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from None


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
