"""The line of jobs: together what waits together, none lost, none mixed up, none spoilt by another."""

import threading
import time

import pytest

from slidekick.apps.serving.work import Busy, Job, Worker
from slidekick.copilot.draft import Event, Wanted
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError


class Speaker:
    """Says what it is asked, alone or together; waits where it is told to, and fails at "bad"."""

    def __init__(self) -> None:
        self.batches, self.go = [], threading.Event()
        self.go.set()

    def turn(self, messages, image, tools, *, calls=True):
        self.batches.append([messages])
        assert self.go.wait(5)
        if messages == "bad":
            raise RuntimeError("no")
        yield messages
        yield Turn(messages, 1.0)

    def turns(self, asked, tools, calls=None):
        self.batches.append([messages for messages, _ in asked])
        if "bad" in self.batches[-1]:
            raise RuntimeError("no")
        return [Turn(messages, 1.0) for messages, _ in asked]


def saying(words: str, tools=()):
    """A making that passes on one turn."""
    for piece in (yield Wanted(words, None, tools)):
        yield Event("turn", turn=piece) if isinstance(piece, Turn) else Event("text", text=piece)


class Ear:
    """Hears a job's events, and waits for the last."""

    def __init__(self, worker: Worker, words) -> None:
        self.heard, self.done = [], threading.Event()
        self.job = Job(words if callable(words) else lambda: saying(words), self.hear)
        worker.submit(self.job)

    def hear(self, told) -> None:
        self.heard.append(told)
        if isinstance(told, Exception) or told.kind == "turn":
            self.done.set()

    @property
    def said(self):
        assert self.done.wait(5)
        last = self.heard[-1]
        return last if isinstance(last, Exception) else last.turn.text


@pytest.fixture
def speaker():
    return Speaker()


def held(worker: Worker, speaker: Speaker) -> Ear:
    """A job that is being answered until `speaker.go` is set."""
    speaker.go.clear()
    ear = Ear(worker, "first")
    while not worker.going:
        time.sleep(0.001)
    return ear


def test_one_is_answered_word_by_word_and_those_that_waited_together(speaker):
    worker = Worker(speaker)
    first = held(worker, speaker)
    others = [Ear(worker, f"{number}") for number in range(40)]
    assert worker.waiting == 40
    speaker.go.set()
    assert [ear.said for ear in others] == [f"{number}" for number in range(40)]
    assert first.said == "first"
    assert [event.kind for event in first.heard] == ["text", "turn"]
    assert [len(batch) for batch in speaker.batches] == [1, 16, 16, 8]
    assert (worker.waiting, worker.end()) == (0, True)


def test_a_full_line_says_when_to_come_again(speaker):
    worker = Worker(speaker, most=2)
    held(worker, speaker)
    ears = [Ear(worker, "x"), Ear(worker, "y")]
    with pytest.raises(Busy, match="come again in") as caught:
        Ear(worker, "z")
    assert caught.value.seconds >= 1
    speaker.go.set()
    assert [ear.said for ear in ears] == ["x", "y"]


def test_one_that_fails_spoils_no_other(speaker):
    worker = Worker(speaker)
    held(worker, speaker)

    def unreadable():
        raise InputError("no picture")

    ears = [Ear(worker, words) for words in ("a", "bad", "b", unreadable, "c")]
    speaker.go.set()
    assert [str(ear.said) for ear in ears] == ["a", "no", "b", "no picture", "c"]
    assert speaker.batches[1:] == [["a", "bad", "b", "c"], ["a"], ["bad"], ["b"], ["c"]]
    assert Ear(worker, "after").said == "after"


def test_nothing_is_done_for_who_left(speaker):
    worker = Worker(speaker)
    held(worker, speaker)
    gone, here = Ear(worker, "gone"), Ear(worker, "here")
    gone.job.left.set()
    speaker.go.set()
    assert here.said == "here"
    assert gone.heard == []
    assert speaker.batches[1:] == [["here"]]


def test_a_listener_that_breaks_stops_nobody(speaker):
    worker = Worker(speaker)
    deaf = Job(lambda: saying("deaf"), lambda told: 1 / 0)
    worker.submit(deaf)
    assert Ear(worker, "next").said == "next"
    assert deaf.left.is_set()


def test_ending_answers_who_waits_and_takes_no_more(speaker):
    worker = Worker(speaker)
    held(worker, speaker)
    ear = Ear(worker, "last")
    threading.Timer(0.05, speaker.go.set).start()
    assert worker.end(5)
    assert ear.said == "last"
    with pytest.raises(Busy):
        Ear(worker, "late")


def test_a_question_is_turned_away_while_memory_is_short(monkeypatch):
    from slidekick.apps.serving import work

    worker = Worker(Speaker())
    monkeypatch.setattr(work, "free_bytes", lambda: work.RESERVE - 1)
    with pytest.raises(Busy, match="too little memory is free; come again in 10 s"):
        worker.submit(Job(lambda: saying("a"), print))
    monkeypatch.undo()
    assert Ear(worker, "a").said == "a"
