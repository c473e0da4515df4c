"""`slidekick chat` before the page is up: what can go wrong is told in one line."""

import socket
import sys

import pytest

from slidekick.apps.cli import main


@pytest.fixture(autouse=True)
def _loaded(copilot, monkeypatch):
    monkeypatch.setattr("slidekick.apps.chat.load_copilot", lambda *_: copilot)


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["chat", "--folder", str(tmp_path / "missing"), "--no-browser"]) == 2
    assert "missing: no such folder" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "slidekick.apps.page", None)
    assert main(["chat", "--no-browser"]) == 2
    assert "slidekick[chat]" in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["chat", "--no-browser", "--port", str(port)]) == 2
    assert f"port {port}: not free" in capsys.readouterr().err
