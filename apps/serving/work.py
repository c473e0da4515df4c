"""One model, many callers: jobs wait in a bounded line, and those that wait together are answered together.

A job says what it hears as events, from the thread that owns the model; whoever asked gives it a place to put them. A
job that nobody waits for any more is left at its next turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slidekick.copilot.draft import Event
from slidekick.copilot.engine import Engine
from slidekick.copilot.together import Making, alone, together
from slidekick.data.memory import RESERVE, free_bytes

MOST_WAITING = 64  # jobs in line; a longer line is answered sooner with "come again"
AT_ONCE = 16  # answers in the making at a time: beyond it a batch of mini's grows slower than it grows wider
ENDS = ("answer", "turn")  # kinds of a last event
FIRST_GUESS_S = 3.0  # seconds an answer takes, until some were measured
NO_MEMORY_S = 10.0  # when to come again where memory is short

log = logging.getLogger(__name__)


class Busy(Exception):
    """The line is full, or memory is. seconds: when to come again."""

    def __init__(self, seconds: float, why: str = "too many questions at a time") -> None:
        super().__init__(f"{why}; come again in {seconds:.0f} s")
        self.seconds = seconds


@dataclass
class Job:
    """begin: gives the answer in the making, on the worker's thread. hear: told of each event, and last of the answer
    or turn, or of an error that ended it. left: set when nobody waits. heard: whether anything was told."""

    begin: Callable[[], Making]
    hear: Callable[[Event | Exception], None]
    left: threading.Event = field(default_factory=threading.Event)
    heard: bool = False


class Worker:
    """Answers jobs with an engine on a thread of its own. most: jobs in line; at_once: answered together."""

    def __init__(self, engine: Engine, most: int = MOST_WAITING, at_once: int = AT_ONCE) -> None:
        self.engine, self.most, self.at_once = engine, most, at_once
        self.took_s = FIRST_GUESS_S  # seconds a batch takes, a running mean
        self._line: deque[Job] = deque()
        self._more = threading.Condition()
        self._going = 0
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="copilot", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in line."""
        return len(self._line)

    @property
    def going(self) -> int:
        """Jobs that are being answered."""
        return self._going

    def submit(self, job: Job) -> None:
        """Put a job in line. Raises Busy where it is full, memory is short or the worker is ending."""
        if free_bytes() < RESERVE:
            raise Busy(NO_MEMORY_S, "too little memory is free")
        with self._more:
            if len(self._line) >= self.most or self._ending:
                raise Busy(max(1.0, self.took_s * (1 + len(self._line) / self.at_once)))
            self._line.append(job)
            self._more.notify()

    def end(self, seconds: float = 30.0) -> bool:
        """Take no more jobs, answer those in line, and say whether all were done within the time given."""
        with self._more:
            self._ending = True
            self._more.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._line or self._ending)
                if not self._line:
                    return
                jobs = [self._line.popleft() for _ in range(min(len(self._line), self.at_once))]
                self._going = len(jobs)
            begun = time.perf_counter()
            self._answer([job for job in jobs if not job.left.is_set()])
            self.took_s = 0.7 * self.took_s + 0.3 * (time.perf_counter() - begun)
            self._going = 0

    def _answer(self, jobs: list[Job]) -> None:
        """Answer jobs together; where that fails, each alone that has heard nothing yet, so that one cannot spoil the
        others' answers."""
        makings, able = [], []
        for job in jobs:
            try:
                makings.append(job.begin())
                able.append(job)
            except Exception as error:  # whoever asked is told, and the worker goes on
                self._say(job, error)
        if not able:
            return
        ended: set[int] = set()
        failure = None
        try:
            for index, event in self._alone(makings[0], able[0]) if len(able) == 1 else self._together(makings, able):
                ended |= {index} if event.kind in ENDS else set()
                self._say(able[index], event)
        except Exception as error:
            failure = error
            log.exception("%d answers failed", len(able) - len(ended))
        for job in (job for index, job in enumerate(able) if failure and index not in ended and not job.left.is_set()):
            if len(able) == 1 or job.heard:
                self._say(job, failure)
            else:
                self._answer([job])

    def _alone(self, making: Making, job: Job) -> Iterator[tuple[int, Event]]:
        """Word by word, for the only one who waits."""
        for event in alone(self.engine, making):
            if job.left.is_set():
                return
            yield 0, event

    def _together(self, makings: list[Making], jobs: list[Job]) -> Iterator[tuple[int, Event]]:
        return together(self.engine, makings, dropped=lambda index: jobs[index].left.is_set())

    @staticmethod
    def _say(job: Job, told: Event | Exception) -> None:
        job.heard = True
        try:
            job.hear(told)
        except Exception:  # the listener's loop has gone; its answer is nobody's
            job.left.set()
