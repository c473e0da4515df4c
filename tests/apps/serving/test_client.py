"""The official client against the server over a real connection, and the server as the copilot's own generalist."""

import json
import time

import pytest

from slidekick.apps.serving.app import build
from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.guard import Keys
from slidekick.apps.serving.running import serving
from slidekick.apps.serving.server import Server, Settings
from slidekick.copilot.copilot import Copilot
from slidekick.data.slide import read_roi

openai = pytest.importorskip("openai", reason="the endpoint extra is not installed: NO CLIENT WAS TRIED")
KEY = "k" * 16


@pytest.fixture
def address(copilot, opened):
    """http://…/v1 of a server with one key, over the scripted copilot."""
    server = Server(copilot, Folders([opened]), Keys({"lab": KEY}), Settings())
    with serving(build(server)) as place:
        yield f"{place}v1"


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)


def test_the_official_client_is_answered(client, asked):
    assert [one.id for one in client.models.list()] == ["scripted"]
    told = client.chat.completions.create(**asked(), logprobs=True, temperature=0.2, max_tokens=300)
    assert told.choices[0].message.content == "There are 2 nuclei."
    assert told.model_extra["slidekick"]["evidence"][0]["concept"] == "nucleus"
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens


def test_the_official_client_reads_a_stream(client, asked):
    stream = client.chat.completions.create(**asked(), stream=True, stream_options={"include_usage": True})
    told = list(stream)
    said = "".join(one.choices[0].delta.content or "" for one in told if one.choices)
    assert said == "There are 2 nuclei."
    assert told[-1].usage is not None
    steps = [
        one.model_extra["slidekick"]["step"]["name"] for one in told if "event" in one.model_extra.get("slidekick", {})
    ]
    assert steps == ["count", "count"]


def test_the_official_client_runs_tools_of_its_own(client, asked):
    schema = {"type": "object", "properties": {"concept": {"type": "string"}}, "required": ["concept"]}
    tools = [{"type": "function", "function": {"name": "count", "parameters": schema}}]
    request = asked()
    told = client.chat.completions.create(**request, tools=tools)
    message = told.choices[0].message
    assert told.choices[0].finish_reason == "tool_calls"
    assert json.loads(message.tool_calls[0].function.arguments) == {"concept": "nucleus"}
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"found": true, "count": 2}'}
    request["messages"] += [message.model_dump(exclude_none=True), result]
    assert client.chat.completions.create(**request, tools=tools).choices[0].message.content == "There are 2 nuclei."


def test_the_official_client_is_told_what_is_wrong(client, address, asked):
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(**(asked() | {"model": "gpt-4"}))
    with pytest.raises(openai.BadRequestError, match="n is not offered"):
        client.chat.completions.create(**asked(), n=2)
    with pytest.raises(openai.AuthenticationError, match="no valid API key"):
        openai.OpenAI(base_url=address, api_key="x" * 20, max_retries=0).models.list()


def test_a_client_that_leaves_frees_the_model(client, asked, copilot):
    copilot.engine.pause = 0.05
    stream = client.chat.completions.create(**asked("Which organ?"), stream=True)
    next(iter(stream))
    stream.close()
    begun = time.monotonic()
    told = client.chat.completions.create(**asked())
    assert told.choices[0].message.content == "There are 2 nuclei."
    assert time.monotonic() - begun < 5


def test_the_server_is_the_copilots_generalist(address, opened, copilot, monkeypatch):
    """Endpoint to endpoint: the model is asked over HTTP, tools run and evidence is checked here."""
    from slidekick.copilot.endpoint import EndpointEngine

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    far = Copilot(EndpointEngine(f"{address}#scripted"), copilot.segmentor)
    answer = far.ask(read_roi(opened / "a b.png"), "How many nuclei are there?")
    assert (answer.text, answer.short) == ("There are 2 nuclei.", "2")
    assert answer.claims[0].supported
    assert answer.evidence[0].concept == "nucleus"
    near = copilot.ask(read_roi(opened / "a b.png"), "How many nuclei are there?")
    assert (answer.claims, answer.steps[0].result) == (near.claims, near.steps[0].result)
