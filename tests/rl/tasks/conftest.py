"""Rows of every family over the small data folder, and what a model that does all right would do about them."""

import re

import pytest

from slidekick.grounding.export import from_rle
from slidekick.rl.instructions.material import gather
from slidekick.rl.tasks import TASKS, Rollout, Row, ToolStep, rl_rows

FOUND = re.compile(
    r"(?:Yes: )?.* (?:was|were) found, (?:in the (?P<at>.*?)|(?P<all>throughout) the \w+), covering (?P<area>\S+) of"
)
COVERS = re.compile(r".* covers? (?P<area>\S+) of")
MEASURED = re.compile(r"(?P<n>\d+) .* (?:was|were) measured, covering (?P<area>\S+) of")


@pytest.fixture(scope="session")
def material(rich):
    return gather(rich)


@pytest.fixture(scope="session")
def rows(material) -> list[Row]:
    """Some of every family."""
    return rl_rows(material, dict.fromkeys(TASKS, 1.0), 180, 4)


@pytest.fixture(scope="session")
def of(rows):
    """Rows of one family."""
    return lambda name: [row for row in rows if row.task == name]


@pytest.fixture(scope="session")
def perfect():
    """A row -> the rollout that calls the right tool, gets the true result and says the taught answer."""
    return _perfect


def _perfect(row: Row) -> Rollout:
    truth, step = row.truth, None
    if row.task == "segmentation":
        step = _segment(truth)
    elif row.task == "counting":
        step = ToolStep("count", {"concept": truth["word"]}, _found(count=truth["count"]))
    elif row.task == "slide_vqa":
        step = _looked(truth)
    elif row.task == "report" and truth["measured"]:
        step = _measure(truth)
    return Rollout(truth["answer"], (step,) if step else ())


def _found(**values) -> dict:
    kept = {key: value for key, value in values.items() if value}
    return {"found": True, **kept} if kept else {"found": False}


def _segment(truth: dict) -> ToolStep:
    words = {"concept": truth["word"]}
    if truth["mask"] is None:
        nearest = re.search(r"nearest known: (.*)\.$", truth["answer"])[1]
        return ToolStep("segment", words, {"found": False, "known": False, "nearest": nearest})
    if not (told := FOUND.match(truth["answer"])):
        return ToolStep("segment", words, {"found": False})
    result = _found(area=told["area"], where=told["at"] or told["all"])
    return ToolStep("segment", words, result, from_rle(truth["mask"]))


def _looked(truth: dict) -> ToolStep:
    told = FOUND.match(truth["answer"]) or COVERS.match(truth["answer"])
    if not told:
        return ToolStep("segment", {"concept": truth["concept"]}, {"found": False, "of": "tissue"})
    result = _found(area=told["area"], **{key: told[key] for key in ("at",) if key in told.groupdict()})
    return ToolStep("segment", {"concept": truth["concept"]}, result, from_rle(truth["cells"]))


def _measure(truth: dict) -> ToolStep:
    last = re.split(r"\. (?=[A-Z0-9])", truth["answer"])[-1]
    if told := MEASURED.match(last) or COVERS.match(last):
        result = _found(area=told["area"], count=int(told.groupdict().get("n") or 0))
        size = re.search(r"diameter of (\S+ um)", last)
        result |= {"diameter": size[1]} if size else {}
    else:
        result = {"found": False}
    return ToolStep("measure", {"concept": truth["word"]}, result)
