"""One visitor's session: the slides of a case, the conversation about them, and what was found, kept on disk.

Nothing in it is taken from the browser but what was drawn and typed. No page, no Gradio: messages are plain
dictionaries in Gradio's messages format.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np

from slidekick.apps.ask import call_text, claim_mark, gates_text, result_text, value_text
from slidekick.apps.serving.server import Server
from slidekick.apps.serving.work import ENDS, Busy, Job
from slidekick.apps.workbench import keeping
from slidekick.apps.workbench.keeping import Exchange
from slidekick.apps.workbench.marks import bubble, marked, plain
from slidekick.apps.workbench.sheets import UPLOADS, Area, Sheet
from slidekick.apps.workbench.store import Store
from slidekick.copilot.answer import Answer, check_question
from slidekick.copilot.draft import Event
from slidekick.copilot.together import Making
from slidekick.copilot.tools import Toolbox
from slidekick.data.errors import InputError
from slidekick.grounding.export import from_rle

MOST_SHEETS = 16  # slides of a case in one session
LONG_S = 1.0  # seconds of looking at a slide from which on it is told how long it took


@dataclass
class Session:
    """Starts without a slide. name: in the store. `ask` needs a slide that was opened."""

    server: Server
    store: Store
    name: str
    sheets: list[Sheet] = field(default_factory=list)
    current: int = 0
    exchanges: list[Exchange] = field(default_factory=list)
    messages: list[dict] = field(default_factory=list)
    fly: dict | None = None
    changes: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()

    @property
    def sheet(self) -> Sheet:
        """The slide that is looked at. Raises InputError where none is open."""
        if not self.sheets:
            raise InputError("there is no slide yet; upload one, choose one, or take a sample")
        return self.sheets[self.current]

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.store.folder(self.name)

    def file(self, sheet: Sheet) -> Path:
        """Where a slide lies. Raises InputError where it is not there any more."""
        return sheet.file(self.server.folders, self.place)

    def facts(self, sheet: Sheet) -> dict:
        """Size and scale of a slide."""
        return sheet.facts(self.server.shelf, self.file(sheet))

    # ---- slides

    def open(self, source: str, mpp: float | None = None) -> None:
        """Open a slide ("folder:NAME", "sample:NAME" or "upload:NAME") beside the others, and look at it.

        Raises InputError for what cannot be read; then nothing changes.
        """
        sheet = Sheet(source, mpp)
        self.facts(sheet)
        with self.lock:
            known = next((i for i, one in enumerate(self.sheets) if one.source == source), None)
            if known is not None:
                self.current = known
                self.sheets[known].state(mpp)
            elif len(self.sheets) == MOST_SHEETS:
                raise InputError(f"{MOST_SHEETS} slides are open; begin a new session")
            else:
                self.sheets.append(sheet)
                self.current = len(self.sheets) - 1
            self.keep()

    def upload(self, path: str | Path, mpp: float | None = None) -> None:
        """Take a file that was sent in; it is copied into the session's folder, beside others of its name. Raises
        InputError as `open`."""
        sent = Path(path)
        name = "".join(char for char in sent.name if char.isprintable() and char not in "/\\:") or "picture"
        folder = self.place / UPLOADS
        folder.mkdir(exist_ok=True, mode=0o700)
        with self.lock:  # a name that nothing has yet
            others = (f"{Path(name).stem} ({number}){Path(name).suffix}" for number in count(2))
            name = next(one for one in chain([name], others) if not (folder / one).exists())
            (folder / name).touch()
        try:
            shutil.copyfile(sent, folder / name)
            self.open(f"upload:{name}", mpp)
        except InputError:
            (folder / name).unlink()
            raise

    def choose(self, number: int) -> None:
        """Look at another slide."""
        if not 0 <= number < len(self.sheets):
            raise InputError("no such slide in this session; choose one that is open")
        self.current = number
        self.keep()

    def region(self, told: dict) -> None:
        """Ask about another part of the slide from now on; see `Area.drawn`."""
        known = self.facts(self.sheet)
        self.sheet.choose(Area.drawn(told, known["width"], known["height"]))
        self.keep()

    # ---- questions

    def ask(self, question: str) -> Iterator[None]:
        """Answer; after each step `messages` and the slide's layers have grown.

        Raises InputError for a bad question, and what the answer raises.
        """
        question, sheet, number = check_question(question), self.sheet, self.current
        messages, area = self.messages, sheet.area  # of now: both may be others before it is answered
        history = [one.answer for one in self.exchanges if one.sheet == number]
        messages.append({"role": "user", "content": plain(question)})
        step = text = None
        said = ""
        try:
            looking = bubble(
                "looking at the slide", ["a large one is surveyed once, which takes up to a minute"], "pending"
            )
            messages.append(looking)
            yield
            begun = time.perf_counter()
            box = self.toolbox(sheet, question)
            _looked(messages, looking, time.perf_counter() - begun)
            making = partial(self._answering, box, question, history)
            for event in self.heard(making):
                if event.kind == "tool_start":
                    step = bubble(call_text(event.step), ["measuring …"], "pending")
                    messages.append(step)
                elif event.kind == "tool_end":
                    sheet.layers.draw(event.findings, box)
                    step["content"] = plain(result_text(event.step.result))
                    step["metadata"] |= {"status": "done", "duration": event.step.seconds}
                elif event.kind == "text":
                    if text is None:
                        text = {"role": "assistant", "content": ""}
                        messages.append(text)
                    said += event.text
                    text["content"] = plain(said)
                elif event.kind == "answer" and messages is self.messages:  # else it was cleared meanwhile
                    self._end(event.answer, number, area, box, text)
                yield
        finally:
            for one in messages:
                if one.get("metadata", {}).get("status") == "pending":  # stopped by the visitor
                    one["content"], one["metadata"]["status"] = "stopped", "done"
            self.keep()

    def toolbox(self, sheet: Sheet, question: str = "") -> Toolbox:
        """The tools over what is looked at of a slide."""
        copilot, eyes = self.server.copilot, self.server.eyes
        return sheet.toolbox(copilot, eyes, self.file(sheet), self.facts(sheet), question)

    def _answering(self, box: Toolbox, question: str, history: list[Answer]) -> Making:
        copilot = self.server.copilot
        return copilot.answering(copilot.draft(box.roi, question, history, box=box))

    def heard(self, begin: Callable[[], Making]) -> Iterator[Event]:
        """Events of a making from the model's thread. Leaving early drops it."""
        heard: queue.Queue = queue.Queue()
        job = Job(begin, heard.put)
        try:
            self.server.worker.submit(job)
        except Busy as busy:
            raise InputError(str(busy)) from busy
        try:
            while True:
                told = heard.get()
                if isinstance(told, Exception):
                    raise told
                yield told
                if told.kind in ENDS:
                    return
        finally:
            job.left.set()

    def _end(self, answer: Answer, number: int, area: Area | None, box: Toolbox, text: dict | None) -> None:
        places = {item.id: placed(item.rle, box) for item in answer.evidence if item.rle is not None}
        self.exchanges.append(Exchange(answer, number, area, places))
        if text is None:
            text = {"role": "assistant", "content": ""}
            self.messages.append(text)
        # What was written gives way to what was measured, or to a likelier reading.
        text["content"] = marked(answer, len(self.exchanges) - 1) or "(no answer)"
        measured = [claim for claim in answer.claims if claim.kind == "measured"]
        backed = sum(claim.supported for claim in measured)
        title = f"Evidence: {backed} of {len(measured)} backed" if measured else "A reading, not measured"
        self.messages.append(bubble(title, evidence_lines(answer)))
        if answer.warnings:
            self.messages.append(bubble("Warnings", answer.warnings, None))

    def clear(self) -> None:
        """Forget the conversation; slides stay, and what was found on them."""
        self.exchanges, self.messages = [], []
        self.keep()

    # ---- what the viewer does

    def correct(self, concept: str, x: int, y: int, inside: bool) -> None:
        """Correct a mask by a click. Raises InputError as `Sheet.correct`."""
        self._clicked(concept, lambda points: [*points, (x, y, inside)])

    def undo(self, concept: str) -> None:
        """Take the last click on a concept back. Raises InputError where there is none."""
        if not self.sheet.points.get(concept):
            raise InputError(f"{concept}: no click to take back")
        self._clicked(concept, lambda points: points[:-1])

    def _clicked(self, concept: str, change: Callable[[list], list]) -> None:
        """change: of the clicks that are there when it comes to it, for quick ones wait in line."""
        sheet, box = self.sheet, self.toolbox(self.sheet)

        def begin() -> Making:
            sheet.correct(self.server.copilot, box, concept, change(list(sheet.points.get(concept, ()))))
            yield Event("answer")

        for _ in self.heard(begin):
            pass
        self.keep()

    def fly_to(self, mark: str) -> None:
        """Bring the place of an evidence mark before the eyes: "3-e2" of an answer, "r0-e7" of the report on a slide.

        Raises InputError where there is none.
        """
        number, _, name = mark.partition("-")
        try:
            if number.startswith("r"):  # of the report on a slide
                sheet = int(number[1:])
                box = self.sheets[sheet].draft.places[name]
            else:
                exchange = self.exchanges[int(number)]
                sheet, box = exchange.sheet, exchange.places[name]
        except (ValueError, IndexError, KeyError, AttributeError) as error:
            raise InputError("this mark leads to no place; ask again, or draft the report anew") from error
        self.current = sheet
        self.fly = {"box": list(box), "number": self.changes + 1}
        self.changes += 1

    # ---- kept on disk

    def keep(self) -> None:
        """Write everything down."""
        with self.lock:
            self.changes += 1
            keeping.save(self)


def _looked(messages: list[dict], looking: dict, seconds: float) -> None:
    """The slide was looked at: the bubble stays where that took its time."""
    if seconds < LONG_S:
        messages.remove(looking)
    else:
        looking["metadata"] |= {"status": "done", "duration": seconds}


def evidence_lines(answer: Answer) -> list[str]:
    """What stands in the evidence bubble."""
    lines = [f"{claim_mark(claim)} {claim.text}" for claim in answer.claims]
    lines += [
        f"{item.id}: {item.concept}, {item.kind.replace('_', ' ')}: {value_text(item)}" for item in answer.evidence
    ]
    lines.append(f"confidence {answer.confidence:.2f}")
    return [*lines, *([f"experts: {gates_text(answer.gates)}"] if answer.gates else [])]


def placed(rle: dict, box: Toolbox) -> tuple[int, int, int, int]:
    """x, y, width, height at level 0 of a mask in a toolbox's picture."""
    rows, columns = np.nonzero(from_rle(rle))
    (across, down), region = box.roi.downsample, box.roi.region
    left, right = columns.min() * across, (columns.max() + 1) * across
    top, bottom = rows.min() * down, (rows.max() + 1) * down
    return round(region.x + left), round(region.y + top), round(right - left), round(bottom - top)


class Sessions:
    """The sessions of a server, by name; those of before are found on disk."""

    MOST = 256  # in memory

    def __init__(self, server: Server, store: Store) -> None:
        self.server, self.store = server, store
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, name: object) -> Session:
        """The session of a name. Raises InputError for what is no name of one that was begun."""
        with self._lock:
            session = self._open.pop(name, None) if isinstance(name, str) else None
            if session is None:
                if not self.store.folder(name).is_dir():
                    raise InputError("no such session; begin a new one")
                session = Session(self.server, self.store, name)
                keeping.restore(session)
            self._open[name] = session  # as the one used last
            while len(self._open) > self.MOST:
                self._open.pop(next(iter(self._open)))
            return session

    def begin(self) -> Session:
        """A new one."""
        return self.get(self.store.new())
