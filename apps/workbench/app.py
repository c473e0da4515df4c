"""The page on the server: Gradio's application and the viewer's routes beside those of `slidekick serve`."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from slidekick.apps.serving.app import build
from slidekick.apps.serving.server import Server
from slidekick.apps.workbench import viewer
from slidekick.apps.workbench.page import HEAD, build_page
from slidekick.apps.workbench.session import Sessions
from slidekick.apps.workbench.store import Store

MAX_UPLOAD = 200_000_000  # bytes: a field of view or a small slide; whole slides are read from opened folders
# Gradio's own scripts are inline and compile templates; nothing is loaded from elsewhere, nor sent there.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# Gradio's own greys are too faint for small text (WCAG 1.4.3 asks for a contrast of 4.5).
READABLE = {
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_300",
}


def build_workbench(server: Server, store: Store) -> FastAPI:
    """The application: the page at "/", slides under "/view", and everything that `slidekick serve` answers."""
    app = build(server)
    app.state.policy = POLICY
    app.state.sessions = Sessions(server, store)
    app.include_router(viewer.router)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(primary_hue="fuchsia", neutral_hue="slate", font=fonts, font_mono=mono).set(**READABLE)
    page = build_page(app.state.sessions).queue(default_concurrency_limit=8)
    page.has_launched = True  # only then Gradio holds events to files that were uploaded
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        head=HEAD,
        theme=theme,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
    )
