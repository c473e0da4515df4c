"""A model behind a server: what is sent, what comes back, and what goes wrong, against a small server of our own."""

import base64
import io
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from slide_files import tissue_like

from slidekick.copilot.copilot import Copilot
from slidekick.copilot.endpoint import EndpointEngine, is_endpoint
from slidekick.copilot.messages import user_message
from slidekick.copilot.pictures import MOST_PICTURES, Pictures, PicturesRefused
from slidekick.copilot.tools import tool_schemas
from slidekick.data.errors import InputError, SourceError

pytest.importorskip("openai", reason="the endpoint extra is not installed: NO SERVER WAS ASKED")
IMAGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


class Server(ThreadingHTTPServer):
    """Answers with the replies it is given, in turn, and keeps what was asked of it."""

    def __init__(self, *replies: dict) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.asked, self.keys = list(replies), [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1#path-model"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        reply = self.server.replies[min(len(self.server.asked), len(self.server.replies)) - 1]
        if callable(reply):
            reply = reply(body)
        payload = json.dumps(reply).encode()
        self.send_response(reply.get("status", 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


def says(text=None, call=None, finish="stop", logprobs=None):
    message = {"role": "assistant", "content": text}
    if call:
        message["tool_calls"] = [{"id": "x", "type": "function", "function": {"name": call[0], "arguments": call[1]}}]
    told = {"content": [{"token": "a", "logprob": p, "bytes": None, "top_logprobs": []} for p in logprobs or []]}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": told if logprobs else None}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "path-model", "choices": [choice]}


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers = []

    def make(*replies):
        servers.append(Server(*replies))
        return servers[-1]

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def question(text="What is this?"):
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def test_the_picture_and_the_question_arrive_as_they_are(serve):
    server = serve(says("colon", logprobs=[np.log(0.5), 0.0]))
    *pieces, turn = EndpointEngine(server.address).turn(question(), IMAGE, tool_schemas())
    assert ("".join(pieces), turn.text, turn.complete) == ("colon", "colon", True)
    assert turn.probability == pytest.approx(0.75)
    (asked,) = server.asked
    picture, text = asked["messages"][0]["content"]
    pixels = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert np.array_equal(np.asarray(pixels), IMAGE)
    assert text["text"] == "What is this?"
    assert asked["model"] == "path-model"
    assert asked["temperature"] == 0
    assert {tool["function"]["name"] for tool in asked["tools"]} == {"segment", "count", "measure"}


def test_calls_can_be_forbidden_and_a_cut_turn_says_so(serve):
    server = serve(says("a long ans", finish="length"))
    *_, turn = EndpointEngine(server.address).turn(question(), IMAGE, tool_schemas(), calls=False)
    assert not turn.complete
    assert turn.probability == 0.0, "the server told none"
    assert server.asked[0]["tool_choice"] == "none"


def test_a_copilot_over_a_server_counts_with_its_tools(serve, segmentor, roi):
    server = serve(says(call=("count", '{"concept": "nuclei"}')), says("There are 3 nuclei."))
    tissue = replace(roi, pixels=tissue_like(120, 100))  # of a blank picture nothing is asked
    answer = Copilot.from_pretrained(server.address, segmentor).ask(tissue, "How many nuclei are there?")
    assert answer.text == "There are 3 nuclei."
    assert [claim.supported for claim in answer.claims] == [True]
    call, result = server.asked[1]["messages"][1:]
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"concept": "nuclei"}
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    assert json.loads(result["content"])["count"] == 3


def test_a_call_that_does_not_parse_is_text(serve, segmentor, roi):
    server = serve(says(call=("count", '{"concept": ')))
    answer = Copilot.from_pretrained(server.address, segmentor).ask(roi, "How many nuclei are there?")
    assert answer.steps == ()


def test_several_questions_come_back_in_order(serve):
    server = serve(lambda body: says(body["messages"][0]["content"][1]["text"]))
    turns = EndpointEngine(server.address).turns([(question(f"q{i}"), IMAGE) for i in range(12)], ())
    assert [turn.text for turn in turns] == [f"q{i}" for i in range(12)]


def test_the_key_is_sent_and_never_shown(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = serve({"status": 401, "error": {"message": "bad key sk-secret"}})
    with pytest.raises(SourceError, match="401") as told:
        list(EndpointEngine(server.address).turn(question(), IMAGE, ()))
    assert server.keys == ["Bearer sk-secret"]
    assert "secret" not in str(told.value)


def test_a_server_that_is_not_there_is_told_in_one_line(monkeypatch):
    engine = EndpointEngine("http://127.0.0.1:9/v1#m")
    engine._client.max_retries = 0
    with pytest.raises(SourceError, match="check the address"):
        list(engine.turn(question(), IMAGE, ()))


def test_an_address_needs_a_model():
    with pytest.raises(InputError, match="#model"):
        EndpointEngine("http://127.0.0.1/v1")
    assert is_endpoint("https://host/v1#m")
    assert not is_endpoint("mini")


def several():
    """A slide as two pictures, and the question about it."""
    pictures = Pictures((IMAGE, IMAGE[::-1]), ("Picture 1: the whole.", "Picture 2: a place."), ((0, 0, 5, 5),))
    return pictures, [user_message("What is this?", with_image=True, captions=pictures.captions)]


def test_several_pictures_arrive_in_their_order_each_behind_its_line(serve):
    server = serve(says("colon"))
    pictures, asked = several()
    list(EndpointEngine(server.address).turn(asked, pictures, ()))
    parts = server.asked[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    assert [part["text"] for part in parts[::2]] == [
        "Picture 1: the whole.\n",
        "\nPicture 2: a place.\n",
        "\nWhat is this?",
    ]
    for part, pixels in zip(parts[1::2], pictures.pixels, strict=True):
        sent = Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        assert np.array_equal(np.asarray(sent), pixels)


def test_a_server_that_takes_one_picture_is_known_from_then_on(serve):
    server = serve({"status": 400, "error": {"message": "At most 1 image(s) may be provided"}})
    engine = EndpointEngine(server.address)
    assert engine.pictures == MOST_PICTURES
    pictures, asked = several()
    with pytest.raises(PicturesRefused, match="400"):
        list(engine.turn(asked, pictures, ()))
    assert engine.pictures == 1
    with pytest.raises(SourceError) as told:  # one picture refused is no matter of their number
        list(engine.turn(question(), IMAGE, ()))
    assert not isinstance(told.value, PicturesRefused)
