"""Tools that other packages bring, beside the built-in ones: what such a tool is, and how one is asked and checked.

A tool is registered under the entry points `slidekick.tools` (docs/extending.md). It gives numbers alone; what the
model is told, the sentence and the evidence all follow from them, so that they cannot disagree. Run by `tools.py`.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_type_hints

import numpy as np

from slidekick.copilot.answer import KINDS, UNITS
from slidekick.data.errors import InputError
from slidekick.data.ontology import plain
from slidekick.data.plugins import Gathered, Plugin, all_of, gather, texts, told
from slidekick.grounding.finding import PICTURE, REGION, Finding

GROUP = "slidekick.tools"
MAX_TEXT = 48  # characters of an argument, as of a concept, so that a call stays inside the engine's token budget
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORDS = re.compile(r"[^\W\d_][\w '-]{0,47}")  # of what is measured: to be said in a sentence
_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """What a tool looks at.

    pixels: uint8 (H, W, 3) RGB, not to be written to. mpp: (x, y) µm per pixel, None where unknown. within: bool
    (H, W), the part that is asked about: nothing else is to be measured. find: words -> the segmentor's `Finding`.
    """

    pixels: np.ndarray
    mpp: tuple[float, float] | None
    within: np.ndarray
    find: Callable[[str], Finding]


@dataclass(frozen=True)
class Measured:
    """One number of a tool's: "the `what` of `of` is `value` `unit`".

    what: the quantity, such as "mean optical density"; a word or a few in the singular. value: 0 or above, finite.
    unit: "" (a bare number), "%", "um", "um2", "1/mm2" or "px". of: what has it. mask: bool (H, W), where it was
    measured, None where that is nothing to draw.
    """

    what: str
    value: float
    unit: str = ""
    of: str = PICTURE
    mask: np.ndarray | None = None

    @property
    def name(self) -> str:
        """ "mean optical density of eosin"."""
        return f"{self.what} of {f'the {self.of}' if self.of in (PICTURE, REGION) else self.of}"


@dataclass(frozen=True)
class Tool:
    """What an entry point names; its name is the tool's.

    run: `run(field, **arguments)` gives one `Measured` or more, or raises InputError where there is nothing to measure.
    The docstring tells models what it does, with each argument under Args; arguments are typed str, int, float, bool or
    Literal. asked_by: phrases by which a question asks for it where the model can call only what it was taught, as
    mini; it is then run with its arguments' defaults, so each must have one.
    """

    run: Callable[..., Sequence[Measured]]
    asked_by: Sequence[str] = ()


@dataclass(frozen=True)
class ExtraTool:
    """A tool that was checked. schema: in transformers' form, for a chat template's `tools`."""

    plugin: Plugin
    schema: dict

    @property
    def name(self) -> str:
        """As models call it."""
        return self.plugin.name

    def phrase(self, question: str) -> str:
        """The declared phrase by which a question asks for it, "" where it does not. Whole words, as declared."""
        said = f" {plain(question)} "
        return next((phrase for phrase in self.plugin.made.asked_by if f" {plain(phrase)} " in said), "")

    def measure(self, field: Field, arguments: object) -> tuple[Measured, ...]:
        """Run it. Raises InputError for arguments that it does not take and where it cannot measure, PluginError where
        it fails or gives what is no measurement."""
        parameters = self.schema["function"]["parameters"]
        if complaint := _unfit(arguments, parameters["properties"], parameters.get("required", ())):
            raise InputError(f"{self.name}: {complaint}")
        try:
            measured = self.plugin.made.run(field, **arguments)
        except InputError:
            raise
        except Exception as error:  # a broken tool must not end the conversation; the log keeps the trace
            log.debug("%s failed", self.name, exc_info=True)
            raise self.plugin.wrong(f"{self.name} failed ({told(error)})") from error
        if not isinstance(measured, list | tuple) or not measured:
            raise self.plugin.wrong(f"{self.name} gave no list of Measured with one or more in it")
        for one in measured:
            if complaint := _no_measurement(one, field.pixels.shape[:2]):
                raise self.plugin.wrong(f"{self.name} gave {complaint}")
        if len({one.name.casefold() for one in measured}) != len(measured):
            raise self.plugin.wrong(f"{self.name} gave two numbers of one name")
        return tuple(measured)


def gather_tools(taken: Iterable[str], known: Mapping[str, str]) -> Gathered:
    """Tools by name, as `ExtraTool`, and an error for each that cannot be used.

    taken: names of the built-in tools. known: the segmentor's words and what they mean (`tools.known_words`).
    """
    taken = tuple(taken)
    return gather(GROUP, lambda plugin: _checked(plugin, taken, known))


def installed_tools(taken: Iterable[str], known: Mapping[str, str]) -> dict[str, ExtraTool]:
    """The same. Raises PluginError where one cannot be used."""
    return all_of(gather_tools(taken, known))


def _checked(plugin: Plugin, taken: tuple[str, ...], known: Mapping[str, str]) -> ExtraTool:
    tool, what = plugin.made, f"{plugin.name} is no tool"
    if not _NAME.fullmatch(plugin.name):
        raise plugin.wrong(f"{what}: the entry point's name must be lower-case letters, digits and _, 32 at most")
    if plugin.name in taken:
        raise plugin.wrong(f"{plugin.name} is the name of a tool of Slidekick's own")
    if not isinstance(tool, Tool) or not callable(tool.run):
        raise plugin.wrong(f"{what}: the entry point must name a slidekick.copilot.Tool over a function")
    if not texts(tool.asked_by) or not all(plain(phrase) for phrase in tool.asked_by):
        raise plugin.wrong(f"{what}: its asked_by is no tuple of phrases")
    for phrase in tool.asked_by:
        if (meant := known.get(plain(phrase))) is not None:
            raise plugin.wrong(f"{plugin.name} is asked by {phrase!r}, which is {meant} of the segmentor")
    schema = _schema(plugin)
    if tool.asked_by and (needed := schema["function"]["parameters"].get("required")):
        raise plugin.wrong(f"{what}: it is asked by phrases, so {needed[0]} needs a default")
    return ExtraTool(plugin, schema)


def _schema(plugin: Plugin) -> dict:
    """The tool's schema, out of its docstring and types as those of the built-in tools; all but the field."""
    from transformers.utils import get_json_schema

    run = plugin.made.run
    try:
        _, *arguments = inspect.signature(run).parameters.values()
        hints = get_type_hints(run)

        def bare() -> None: ...

        bare.__name__, bare.__doc__ = plugin.name, inspect.getdoc(run)
        bare.__annotations__ = {one.name: hints[one.name] for one in arguments}
        bare.__signature__ = inspect.Signature(
            [one.replace(kind=one.KEYWORD_ONLY, annotation=hints[one.name]) for one in arguments]
        )
        schema = get_json_schema(bare)
    except Exception as error:  # whatever is amiss with a stranger's function
        reason = told(error)
        raise plugin.wrong(
            f"{plugin.name} is no tool: its function needs a docstring, a field and typed arguments ({reason})"
        ) from error
    for name, one in schema["function"]["parameters"]["properties"].items():
        if one.get("type") not in _TYPES:
            raise plugin.wrong(f"{plugin.name} is no tool: {name} is no str, int, float, bool or Literal")
    return schema


def _unfit(arguments: object, properties: Mapping[str, dict], required: Sequence[str]) -> str:
    """What is wrong with a call's arguments, "" where nothing is."""
    if not isinstance(arguments, dict):
        return "arguments are an object"
    if extra := sorted(str(key) for key in arguments if key not in properties):
        return f"takes {', '.join(properties) or 'no argument'}, not {', '.join(extra)[:MAX_TEXT]}"
    if missing := [name for name in required if name not in arguments]:
        return f"needs {', '.join(missing)}"
    for name, value in arguments.items():
        kind, choices = properties[name]["type"], properties[name].get("enum")
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            return f"{name} is no {kind}"
        if choices and value not in choices:
            return f"{name} is one of {', '.join(map(str, choices))}"
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return f"{name} has {len(value)} characters; give at most {MAX_TEXT}"
    return ""


def _no_measurement(one: object, shape: tuple[int, int]) -> str:
    """What a tool gave in place of a measurement, "" where it is one."""
    if not isinstance(one, Measured):
        return f"{type(one).__name__} in place of Measured"
    if not all(isinstance(text, str) and _WORDS.fullmatch(text) for text in (one.what, one.of)):
        return f"{one.what!r:.60} of {one.of!r:.60}, which are no words to be said in a sentence"
    if plain(one.what) in map(plain, KINDS):
        return f"a {one.what}, which the built-in tools measure; what is found and counted is a specialist's"
    if isinstance(one.value, bool) or not isinstance(one.value, int | float | np.number):
        return f"{one.value!r:.60} as a number"
    if not 0 <= float(one.value) < math.inf:
        return f"{one.value} for the {one.name}; a number is 0 or above, and finite"
    if one.unit not in UNITS:
        return f"the unit {one.unit!r:.20}; there are {', '.join(repr(unit) for unit in UNITS)}"
    mask = one.mask
    if mask is not None and not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == shape):
        return f"a mask that is no bool array {shape}"
    return ""
