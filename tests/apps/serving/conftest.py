"""A server over the scripted copilot, asked in the same process."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from talking import DrawnSegmentor, KeywordEngine

from slidekick.apps.serving.app import build
from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.guard import Keys
from slidekick.apps.serving.server import Server, Settings
from slidekick.copilot.copilot import Copilot


def uri_of(width: int = 40, height: int = 30, kind: str = "png") -> str:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def question_of(words: str = "How many nuclei are there?", **more) -> dict:
    """A request's JSON: one question about one picture."""
    parts = [{"type": "image_url", "image_url": {"url": uri_of()}}, {"type": "text", "text": words}]
    return {"model": "scripted", "messages": [{"role": "user", "content": parts}], **more}


@pytest.fixture
def opened(tmp_path) -> Path:
    """A folder with one picture of 300 x 200 px."""
    folder = tmp_path / "slides"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a b.png")
    return folder


@pytest.fixture
def serve(opened):
    """server(engine=..., keys=..., **settings) -> a client of it; all are ended with the test."""
    begun = []

    def start(engine=None, keys=None, **settings) -> TestClient:
        copilot = Copilot(engine or KeywordEngine(), DrawnSegmentor())
        server = Server(copilot, Folders([opened]), Keys(keys or {}), Settings(**settings))
        client = TestClient(build(server), raise_server_exceptions=False)
        client.server = server
        client.__enter__()
        begun.append(client)
        return client

    yield start
    for client in begun:
        client.__exit__(None, None, None)


@pytest.fixture
def data_uri():
    return uri_of


@pytest.fixture
def asked():
    return question_of


@pytest.fixture
def speaker():
    """The scripted engine's class."""
    return KeywordEngine


@pytest.fixture
def copilot() -> Copilot:
    return Copilot(KeywordEngine(), DrawnSegmentor())
