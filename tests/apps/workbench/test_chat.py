"""`slidekick chat` before the page is up: what can go wrong is told in one line."""

import socket
import sys

import pytest

from slidekick.apps.cli import main


@pytest.fixture(autouse=True)
def _loaded(copilot, monkeypatch, tmp_path):
    monkeypatch.setattr("slidekick.apps.chat.load_copilot", lambda *_, **__: copilot)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["chat", "--folder", str(tmp_path / "missing"), "--no-browser"]) == 2
    assert "missing: not a folder" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    for name in ("app", "page"):
        monkeypatch.delitem(sys.modules, f"slidekick.apps.workbench.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["chat", "--no-browser"]) == 2
    assert "gradio is not installed; pip install 'slidekick[chat]'" in capsys.readouterr().err


def test_a_place_for_sessions_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["chat", "--no-browser", "--sessions", str(tmp_path / "file" / "x")]) == 2
    assert "give another --sessions" in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["chat", "--no-browser", "--port", str(port)]) == 2
    assert f"port {port}: cannot be served at" in capsys.readouterr().err
