"""Putting questions to a model: in batches where it can, each answer kept as it comes, so that a break costs little.

What was answered is keyed by a hash of the picture's bytes, its change, the words put, the options, the model and what
runs it, and whole answers by what checks them too. It is appended to a journal line by line; a question whose key is
there is not asked again. Answers are kept as they were said: how they are read is decided later.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slidekick.copilot.answer import Answer
from slidekick.copilot.confidence import FILE as CONFIDENCE
from slidekick.copilot.copilot import REPLACED, Copilot, find_masks
from slidekick.copilot.evidence import check_text
from slidekick.copilot.grammar import opens_call
from slidekick.copilot.mini import SIGHT, weights_hash
from slidekick.copilot.tools import Toolbox
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError, OutputError
from slidekick.data.files import files_hash
from slidekick.data.slide import Region, Roi, read_roi
from slidekick.rl.evaluation.changes import BLANK, CHANGES, NONE, blank
from slidekick.rl.evaluation.questions import Question, to_grid

BATCH = 64  # questions between two writes of the journal; those of them with prompts of one shape are written at once
KEPT = 4  # how a journal keeps an answer; raise it when more is kept, so that older ones are asked again
LEAST_PX = 10  # smaller pieces of a mask are specks, as in the segmentor's own instances


@dataclass(frozen=True)
class Ask:
    """One thing to put to a model.

    words: as a user would type them. picture: see `Question`; change: a name in `changes.CHANGES`. options: texts to
    weigh as whole turns where the model can. tools: whether a call is carried out; else it is the answer, and no label.
    masks: whether what the calls drew is kept with them. whole: whether the copilot answers, with all its checks, and
    not the model alone.
    """

    words: str
    picture: Path | bytes | None
    change: str = NONE
    options: tuple[str, ...] = ()
    tools: bool = False
    mpp: float | None = None
    masks: bool = False
    whole: bool = False

    def key(self, model: str, tools: str = "", checks: str = "") -> str:
        """Names this question to this model with these tools and checks, whatever item it came from."""
        shown = BLANK if self.picture is None or self.change == BLANK else digest(self.picture)
        parts = [KEPT, model, shown, self.change, self.words, self.options, tools if self.tools else None, self.mpp]
        parts += ["masks"] * self.masks + ["whole", checks] * self.whole
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()

    def roi(self) -> Roi:
        """The picture as the model is shown it."""
        if self.picture is None or self.change == BLANK:
            pixels, source = blank(), "blank"
        elif isinstance(self.picture, bytes):
            pixels, source = _decoded(self.picture), "picture"
        else:
            pixels, source = read_roi(self.picture).pixels, self.picture.name
        pixels = CHANGES[self.change](pixels)
        height, width = pixels.shape[:2]
        return Roi(pixels, None if self.mpp is None else (self.mpp, self.mpp), Region(0, 0, width, height), source)


def ask_of(question: Question, change: str = NONE, words: str | None = None) -> Ask:
    """A question as it is put; for classification its labels are weighed and no tool is run."""
    labelled = question.family == "classify"
    options = question.options if labelled else ()
    masks, whole = question.family == "tasks", question.family == "honesty"
    return Ask(words or question.words(), question.picture, change, options, not labelled, question.mpp, masks, whole)


@lru_cache(maxsize=10_000)
def digest(picture: Path | bytes) -> str:
    """sha256 of a picture's bytes."""
    return hashlib.sha256(picture if isinstance(picture, bytes) else picture.read_bytes()).hexdigest()


def _decoded(data: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"a picture of {len(data)} bytes cannot be read; give PNG or JPEG") from error


class Journal:
    """Answers by key, on disk where a file is given. A line that a break cut short is dropped when it is opened."""

    def __init__(self, file: Path | None = None) -> None:
        self.file, self.answers = file, {}
        if file is None or not file.is_file():
            return
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(file, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                self.answers[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file}:{number}: no answer of an earlier run; remove the file to begin anew"
                ) from error

    def add(self, rows: Sequence[dict]) -> None:
        """Keep answers; they are on the disk when this returns."""
        self.answers |= {row["key"]: row for row in rows}
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as stream:
                stream.write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.file}: cannot write ({error.strerror}); free space or give another --out"
            ) from error


class Asker:
    """Puts questions to a copilot's model and keeps what it says."""

    def __init__(self, copilot: Copilot, journal: Journal | None = None) -> None:
        self.copilot, self.journal = copilot, journal or Journal()
        self._box: tuple[tuple, Toolbox] | None = None  # of the last picture, for the next question about it

    @cached_property
    def model(self) -> str:
        """The model's name with what tells its weights or its server."""
        engine = self.copilot.engine
        return "@".join(filter(None, (engine.name, self.copilot.weights or getattr(engine, "base", ""))))

    @cached_property
    def tools(self) -> str:
        """What tells the segmentor's weights; "" where it has none."""
        folder = getattr(self.copilot.segmentor, "weights", None)
        return weights_hash(Path(folder)) if folder else ""

    @cached_property
    def checks(self) -> str:
        """What tells the files that a whole answer is checked by, beside the weights; "" where the model has none."""
        home = getattr(self.copilot, "home", None)
        files = [home / name for name in (SIGHT, CONFIDENCE)] if home else []
        return files_hash(file for file in files if file.is_file()) if home else ""

    def ask(self, asks: Sequence[Ask], title: str) -> list[dict]:
        """What is said to each: {"own_words", "probability", "complete", "tool", "logits", ...}.

        own_words: what the model wrote; likelihood: probability of that whole turn, None where tools were called and
        their results answered.
        calls: [{"tool", "argument", "result"}] in their order, and "rle" where masks are kept; empty too where a call
        was not carried out.
        replaced: whether what was measured stands in for the model's words.
        logits: log-probability of each option as the whole turn, likeness: its cosine with the picture; None where the
        engine cannot tell. boxes: of what
        tools found, on the grid of 0–999, None where none was looked for. supported: share of its sentences.
        """
        runs = f"{self.model}@{type(self.copilot.engine).__name__}"  # two engines round differently
        keys = [one.key(runs, self.tools, self.checks) for one in asks]
        fresh = {key: one for key, one in zip(keys, asks, strict=True) if key not in self.journal.answers}
        waiting = list(fresh.items())
        with tqdm(total=len(waiting), desc=title, mininterval=5, disable=not waiting) as bar:
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                said = self._said([one for _, one in batch])
                self.journal.add([{"key": key, **row} for (key, _), row in zip(batch, said, strict=True)])
                bar.update(len(batch))
        return [self.journal.answers[key] for key in keys]

    def _said(self, asks: Sequence[Ask]) -> list[dict]:
        rois = [one.roi() for one in asks]
        weighed = [self._weighed(one, roi) for one, roi in zip(asks, rois, strict=True)]
        alike = [self._alike(one, roi) for one, roi in zip(asks, rois, strict=True)]
        rows: list[dict | None] = [_likely(one, logits) for one, logits in zip(asks, weighed, strict=True)]
        for i, one in enumerate(asks):
            if one.whole:
                rows[i] = _answered(one, rois[i], self._answers([(one, rois[i])], [None])[0])
        open_ = [i for i, row in enumerate(rows) if row is None]
        turns = dict(zip(open_, self._turns([(asks[i], rois[i]) for i in open_]), strict=True))
        calling = [i for i, turn in turns.items() if turn is None or (asks[i].tools and opens_call(turn.text))]
        answers = self._answers([(asks[i], rois[i]) for i in calling], [turns[i] for i in calling])
        for i, answer in zip(calling, answers, strict=True):
            rows[i] = _answered(asks[i], rois[i], answer)
        for i, turn in turns.items():
            if rows[i] is None:
                called = bool(opens_call(turn.text))
                rows[i] = _row(turn.text, turn.probability, complete=turn.complete, tool=called)
                rows[i]["likelihood"] = round(turn.likelihood, 6)
                rows[i]["supported"] = _supported(check_text(turn.text, (), ())[0]) if asks[i].tools else None
        return [row | {"logits": one, "likeness": two} for row, one, two in zip(rows, weighed, alike, strict=True)]

    def _weighed(self, ask: Ask, roi: Roi) -> list[float] | None:
        """Log-probability of each option as the whole turn; None where there is none or the model cannot tell."""
        if not ask.options or not hasattr(self.copilot.engine, "options"):
            return None
        logits = self.copilot.engine.options(_messages(ask.words), roi.pixels, self.copilot.schemas, ask.options)
        return [round(float(one), 5) for one in logits]

    def _alike(self, ask: Ask, roi: Roi) -> list[float] | None:
        """How alike the picture and each option are; None where there is none or the model cannot tell."""
        if not ask.options or not hasattr(self.copilot.engine, "likeness"):
            return None
        return [round(float(one), 5) for one in self.copilot.engine.likeness(roi.pixels, ask.options)]

    def _turns(self, asked: Sequence[tuple[Ask, Roi]]) -> list:
        if not asked or not hasattr(self.copilot.engine, "turns"):
            return [None] * len(asked)
        prompts = [(_messages(ask.words), roi.pixels) for ask, roi in asked]
        return self.copilot.engine.turns(prompts, self.copilot.schemas)

    def _answers(self, asked: Sequence[tuple[Ask, Roi]], firsts: Sequence[Turn | None]) -> list[Answer]:
        """The copilot's whole answers, tools and all. firsts: first turns, None where the engine writes one by one."""
        boxes = [self._toolbox(ask, roi) for ask, roi in asked]
        if not asked or None in firsts:
            return [self.copilot.ask(roi, ask.words, box=box) for (ask, roi), box in zip(asked, boxes, strict=True)]
        return self.copilot.ask_many([(box, ask.words) for (ask, _), box in zip(asked, boxes, strict=True)], firsts)

    def _toolbox(self, ask: Ask, roi: Roi) -> Toolbox:
        """The tools over the question's picture, and what they found in it, kept until another picture comes."""
        shown = (None if ask.picture is None else digest(ask.picture), ask.change, ask.mpp)
        if self._box is None or self._box[0] != shown:
            self._box = shown, self.copilot.toolbox(roi)
            if not ask.whole and (ask.picture is None or ask.change == BLANK):
                self._box[1].unread = ""  # what a model says without a picture is what is asked for
        return self._box[1]


def _answered(ask: Ask, roi: Roi, answer: Answer) -> dict:
    row = _row(answer.text, answer.confidence, tool=bool(answer.steps), boxes=_found_boxes(answer, roi))
    replaced = any(warning.startswith(REPLACED) for warning in answer.warnings)
    calls = [
        {"tool": step.name, "argument": step.arguments.get("concept"), "result": step.result} for step in answer.steps
    ]
    if ask.masks:
        drawn = {item.step: item.rle for item in answer.evidence if item.rle is not None}
        calls = [call | {"rle": drawn.get(step.id)} for call, step in zip(calls, answer.steps, strict=True)]
    return row | {"calls": calls, "replaced": replaced, "supported": _supported(answer.claims)}


def _supported(claims: Sequence) -> float | None:
    """Share of the sentences that trace to evidence or are readings of the picture; None where nothing was said."""
    return float(np.mean([claim.supported for claim in claims])) if claims else None


def _messages(words: str) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]


def _likely(ask: Ask, logits: list[float] | None) -> dict | None:
    """The row of an option of more than one half: greedy decoding would write it, so it need not be written."""
    if logits is None or (sure := float(np.exp(max(logits)))) <= 0.5:
        return None
    return _row(ask.options[int(np.argmax(logits))], sure) | {"likelihood": round(sure, 6)}


def _row(words: str, probability: float, *, complete: bool = True, tool: bool = False, boxes=None) -> dict:
    shown = {"own_words": words, "probability": round(float(probability), 5), "complete": complete}
    shown |= {"tool": tool, "likelihood": None, "calls": [], "replaced": False}
    return shown | {"boxes": boxes, "supported": None}


def _found_boxes(answer, roi: Roi) -> list[list[int]] | None:
    """Boxes around the pieces of the masks that the answer rests on; None where no known concept was looked for."""
    from scipy import ndimage

    looked = [step.result for step in answer.steps if "found" in step.result and step.result.get("known") is not False]
    if not looked:
        return None
    height, width = roi.pixels.shape[:2]
    size, boxes = np.array([width, height] * 2), []
    for mask in find_masks(answer).values():
        pieces, _ = ndimage.label(mask)
        areas = np.bincount(pieces.ravel())
        for number, (rows, columns) in enumerate(ndimage.find_objects(pieces), 1):
            if areas[number] >= LEAST_PX:
                corners = np.array([columns.start, rows.start, columns.stop, rows.stop])
                boxes.append((areas[number], to_grid(corners / size)))
    return [box for _, box in sorted(boxes, key=lambda one: -one[0])]
