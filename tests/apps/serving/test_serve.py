"""`slidekick serve` before it serves: what can go wrong is told in one line."""

import socket
import sys

import pytest

from slidekick.apps.cli import main


@pytest.fixture(autouse=True)
def _loaded(copilot, monkeypatch):
    monkeypatch.setattr("slidekick.apps.serve.load_copilot", lambda *_, **__: copilot)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--folder", "/no/such/folder"], "/no/such/folder: not a folder"),
        (["--host", "0.0.0.0"], "lets others in; give --keys FILE, or --no-keys"),
        (["--keys", "/no/such/keys"], "/no/such/keys: cannot be read"),
        (["--rate", "0"], "--rate 0: give 1 or more"),
        (["--timeout", "nan"], "--timeout nan: give 1 or more"),
        (["--port", "99999"], "127.0.0.1, port 99999: cannot be served at"),
    ],
)
def test_what_cannot_be_served_is_told(capsys, arguments, told):
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"127.0.0.1, port {port}: cannot be served at" in capsys.readouterr().err


def test_without_its_packages_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "slidekick.apps.serving.running", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "uvicorn is not installed; pip install 'slidekick[serve]'" in capsys.readouterr().err


def test_a_server_with_names_answers_to_its_own_address_too():
    from slidekick.apps.serving.running import hosts_of

    assert hosts_of("192.168.1.5", ("lab",)) == ("127.0.0.1", "localhost", "[::1]", "192.168.1.5", "lab")
    assert hosts_of("fd00::5", ("lab",))[3] == "[fd00::5]"
    assert hosts_of("localhost") == ("127.0.0.1", "localhost", "[::1]")
    assert hosts_of("0.0.0.0") == ("*",)
