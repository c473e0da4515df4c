"""Chat completions: answers with their evidence, turns with the caller's tools, streams, and what is refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

URL = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "count", "description": "Count.",
        "parameters": {"type": "object", "properties": {"concept": {"type": "string"}}, "required": ["concept"]},
    },
}  # fmt: skip


def chunks(response) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def content(told: list[dict]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in told if chunk["choices"])


def test_an_answer_comes_with_its_evidence(serve, asked):
    told = serve().post(URL, json=asked()).json()
    choice = told["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "There are 2 nuclei."}
    assert (choice["finish_reason"], told["object"], told["model"]) == ("stop", "chat.completion", "scripted")
    own = told["slidekick"]
    assert own["short"] == "2"
    assert own["steps"][0]["result"] == {"found": True, "count": 2}
    assert own["claims"][0]["evidence"] == ["e1", "e2"]
    assert own["notice"].startswith("Research use only")


def test_a_slide_of_an_opened_folder_is_asked_about_by_name(serve, asked):
    client = serve()
    parts = [{"type": "text", "text": "How many nuclei are there?"}]
    slide = {"type": "slide", "slide": {"name": "slides/a b.png", "region": [100, 50, 64, 32], "mpp": 0.5}}
    told = client.post(URL, json=asked() | {"messages": [{"role": "user", "content": [slide, *parts]}]}).json()
    mask = next(one["rle"] for one in told["slidekick"]["evidence"] if one["rle"])
    assert mask["size"] == [32, 64]
    slide["slide"]["name"] = "slides/../secret.png"
    refused = client.post(URL, json=asked() | {"messages": [{"role": "user", "content": [slide, *parts]}]})
    assert refused.status_code == 400
    assert "no such file in the opened folders" in refused.json()["error"]["message"]


def test_a_conversation_goes_on_with_the_picture_of_before(serve, asked):
    first = asked()["messages"][0]
    talk = [first, {"role": "assistant", "content": "There are 2 nuclei."}, {"role": "user", "content": "Which organ?"}]
    told = serve().post(URL, json=asked() | {"messages": talk}).json()
    assert told["choices"][0]["message"]["content"] == "The picture shows colon."


def test_what_is_streamed_was_checked_and_steps_come_before(serve, asked, speaker):
    told = chunks(serve(speaker(number=9)).post(URL, json=asked(stream=True, stream_options={"include_usage": True})))
    steps = [chunk["slidekick"]["event"] for chunk in told if "event" in chunk.get("slidekick", {})]
    assert steps == ["tool_start", "tool_end"]
    assert content(told) == "There are 2 nuclei.", "the model said 9"
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-2]["slidekick"]["text"] == "There are 2 nuclei."
    assert told[-1]["choices"] == []
    assert set(told[-1]["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_with_tools_of_the_caller_the_model_speaks_by_itself(serve, asked):
    client = serve()
    choice = client.post(URL, json=asked(tools=[TOOL])).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("count", {"concept": "nucleus"})
    talk = asked()["messages"] + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"found": true, "count": 2}'},
    ]
    said = client.post(URL, json=asked(tools=[TOOL]) | {"messages": talk}).json()
    assert said["choices"][0]["message"]["content"] == "There are 2 nuclei."
    streamed = chunks(client.post(URL, json=asked(tools=[TOOL], stream=True)))
    delta = next(c["choices"][0]["delta"] for c in streamed if "tool_calls" in c["choices"][0]["delta"])
    assert delta["tool_calls"][0]["function"]["name"] == "count"
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"
    words = chunks(client.post(URL, json=asked("Which organ?", tools=[TOOL], stream=True)))
    assert content(words) == "The picture shows colon."
    assert sum(bool(content([chunk])) for chunk in words) > 3, "word by word"


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"model": "gpt-4"}, 404, "model 'gpt-4' is not served; there are scripted"),
        ({"n": 2}, 400, "n is not offered"),
        ({"stop": ["x"]}, 400, "stop is not offered"),
        ({"top_logprobs": 3, "logprobs": True}, 400, "top_logprobs is not offered"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not offered"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": "How many nuclei?"}]}, 400, "there is no picture"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "end with a question"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "names no tools"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400, "at most 16000"),
        ({"messages": "x"}, 400, "messages: Input should be a valid list"),
        ({"tools": [{"type": "function", "function": {"name": "no name!"}}]}, 400, "tools.0.function.name"),
        ({"tools": [TOOL] * 17}, 400, "at most 16"),
    ],
)
def test_what_is_not_offered_is_told_in_openais_shape(serve, asked, changes, status, told):
    refused = serve().post(URL, json=asked() | changes)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert told in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]


def test_a_question_that_is_none_or_of_two_pictures_is_refused(serve, asked):
    client = serve()
    assert "empty" in client.post(URL, json=asked("?!")).json()["error"]["message"]
    two = asked()
    two["messages"][0]["content"].append(two["messages"][0]["content"][0])
    assert "one at a time" in client.post(URL, json=two).json()["error"]["message"]
    assert "takes 1 in one prompt" in client.post(URL, json=two | {"tools": [TOOL]}).json()["error"]["message"]


def test_answers_go_to_who_asked(serve, asked):
    """Forty callers at once, half of whom ask something else."""
    client = serve()
    words = ["How many nuclei are there?", "Which organ?"] * 20
    with ThreadPoolExecutor(40) as pool:
        told = list(pool.map(lambda one: client.post(URL, json=asked(one)).json(), words))
    said = [one["choices"][0]["message"]["content"] for one in told]
    assert said == ["There are 2 nuclei.", "The picture shows colon."] * 20


def test_who_waits_too_long_or_stands_in_a_full_line_is_told(serve, asked, speaker):
    slow = serve(speaker(pause=0.2), timeout_s=0.1)
    late = slow.post(URL, json=asked())
    assert (late.status_code, late.json()["error"]["type"]) == (504, "timeout_error")
    full = serve(speaker(pause=0.05), waiting=1)
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: full.post(URL, json=asked()), range(8)))
    refused = [one for one in told if one.status_code == 429]
    assert refused
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert {one.status_code for one in told} == {200, 429}


class Broken:
    """An engine that fails."""

    name, history = "scripted", 0

    def turn(self, messages, image, tools, *, calls=True):
        raise RuntimeError("a secret of the inside")
        yield


def test_what_breaks_inside_tells_nothing_of_the_inside(serve, asked):
    client = serve(Broken())
    told = client.post(URL, json=asked())
    assert told.status_code == 500
    assert "secret" not in told.text
    streamed = client.post(URL, json=asked(stream=True))
    assert "secret" not in streamed.text
    assert "the server failed at this" in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
