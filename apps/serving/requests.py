"""What a client may send to the chat completions, read strictly, and turned into the messages of a chat template.

The shape is OpenAI's (https://platform.openai.com/docs/api-reference/chat), with one part of our own for slides in an
opened folder: {"type": "slide", "slide": {"name": "slides/a.svs", "region": [x, y, width, height], "mpp": 0.5}} where
region (level-0 pixels) and mpp (µm per pixel) may be left out. What would change an answer and is not offered is
refused, so that no one takes it for done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from slidekick.data.errors import InputError

MAX_MESSAGES, MAX_TEXT = 64, 16_000  # messages of a request, and characters of one part
MAX_TOOLS, MAX_SCHEMA = 16, 8_000  # tools of the client's own, and characters of them all as JSON
MAX_URL = 70_000_000  # characters of a picture in a data URI: some 50 MB of it

Text = Annotated[str, Field(max_length=MAX_TEXT)]


class ImageUrl(BaseModel):
    """A picture as a data URI; mpp, µm per pixel, is an addition of ours."""

    url: Annotated[str, Field(max_length=MAX_URL)]
    mpp: Annotated[float, Field(gt=0, le=1000)] | None = None


class SlidePart(BaseModel):
    """A slide or picture in an opened folder, or a region of it."""

    name: Annotated[str, Field(max_length=400)]
    region: tuple[int, int, int, int] | None = None
    mpp: Annotated[float, Field(gt=0, le=1000)] | None = None


class TextPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: Text


class ImagePart(BaseModel):
    """A picture in the message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class SlideParted(BaseModel):
    """A slide on the server."""

    type: Literal["slide"]
    slide: SlidePart


Part = Annotated[TextPart | ImagePart | SlideParted, Field(discriminator="type")]


class Function(BaseModel):
    """A call's name and its arguments as JSON."""

    name: Annotated[str, Field(max_length=64)]
    arguments: Text = "{}"


class Call(BaseModel):
    """A call that an assistant's turn made."""

    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=32)] | None = None
    tool_calls: Annotated[list[Call], Field(max_length=1)] | None = None

    @property
    def parts(self) -> list:
        """The content as parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content or []

    @property
    def text(self) -> str:
        """All words of it."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def pictures(self) -> list[ImageUrl | SlidePart]:
        """All pictures of it."""
        shown = (getattr(part, "image_url", None) or getattr(part, "slide", None) for part in self.parts)
        return [one for one in shown if one is not None]


class FunctionSchema(BaseModel):
    """What a client's own tool is called with."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    description: Text = ""
    parameters: dict = Field(default_factory=lambda: {"type": "object", "properties": {}})


class Tool(BaseModel):
    """A tool of the client's own."""

    type: Literal["function"]
    function: FunctionSchema


class StreamOptions(BaseModel):
    """include_usage: a last chunk that counts tokens."""

    include_usage: bool = False


class Completion(BaseModel):
    """A request for a chat completion. Sampling is greedy: temperature, top_p, seed and penalties are taken and have no
    effect."""

    model: Annotated[str, Field(max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    n: int = 1
    stop: str | list[str] | None = None
    response_format: dict | None = None

    def check(self) -> None:
        """Raises InputError for what is not offered, or cannot be answered."""
        refused = {
            "n": self.n != 1,
            "stop": bool(self.stop),
            "top_logprobs": bool(self.top_logprobs),
            "response_format": (self.response_format or {"type": "text"}).get("type") != "text",
        }
        if names := [name for name, given in refused.items() if given]:
            raise InputError(f"{names[0]} is not offered here; leave it out")
        if self.tools and len(json.dumps([tool.model_dump() for tool in self.tools])) > MAX_SCHEMA:
            raise InputError(f"tools: more than {MAX_SCHEMA} characters of JSON; give fewer or shorter ones")
        if self.messages[-1].role not in ("user", "tool"):
            raise InputError(f"the last message is the {self.messages[-1].role}'s; end with a question")

    @property
    def pictures(self) -> list[ImageUrl | SlidePart]:
        """All pictures of the conversation, in order."""
        return [one for message in self.messages for one in message.pictures]

    def exchanges(self) -> tuple[str, list[tuple[str, str]]]:
        """The question, and earlier questions with their answers. What a system message says is left out: the copilot
        says of itself what it is.

        Raises InputError where a turn of a tool is among them: tools are then the client's, and `tools` has to be
        given.
        """
        if any(message.role == "tool" or message.tool_calls for message in self.messages):
            raise InputError("messages hold results of tools, but the request names no tools; give them too")
        earlier, asked = [], ""
        for message in (one for one in self.messages[:-1] if one.role in ("user", "assistant")):
            if message.role == "user":
                asked = message.text
            elif asked:
                earlier.append((asked, message.text))
                asked = ""
        return self.messages[-1].text, earlier

    def schemas(self) -> tuple[dict, ...]:
        """The client's tools as a chat template takes them."""
        return tuple(tool.model_dump() for tool in self.tools or ())


def template_messages(messages: Sequence[Message]) -> list[dict]:
    """Messages as a chat template takes them; pictures as `{"type": "image"}` parts. Raises InputError for a call whose
    arguments are no JSON object."""
    told, called = [], ""
    for message in messages:
        if message.role == "tool":
            told.append({"role": "tool", "name": called, "content": message.text})
        elif message.tool_calls:
            function = message.tool_calls[0].function
            called = function.name
            call = {"type": "function", "function": {"name": called, "arguments": _arguments(function)}}
            told.append({"role": "assistant", "content": message.text, "tool_calls": [call]})
        else:
            role = "system" if message.role == "developer" else message.role
            told.append({"role": role, "content": [_part(part) for part in message.parts]})
    return told


def _part(part) -> dict:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _arguments(function: Function) -> dict:
    try:
        arguments = json.loads(function.arguments)
    except (ValueError, RecursionError) as error:
        raise InputError(f"arguments of the call of {function.name}: no JSON; give what was answered") from error
    if not isinstance(arguments, dict):
        raise InputError(f"arguments of the call of {function.name}: no JSON object; give what was answered")
    return arguments
