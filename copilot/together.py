"""Answers in the making and the engine that writes their turns: one of them word by word, or several side by side.

A making is a generator of events that gives a `Wanted` where it needs a turn of the model, and is sent the turn's
pieces in answer. So whoever drives it decides how turns are written, and nothing else of an answer hangs on that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

from slidekick.copilot.answer import Answer
from slidekick.copilot.draft import Event, Wanted
from slidekick.copilot.engine import Engine
from slidekick.copilot.grammar import opens_call
from slidekick.copilot.pictures import PicturesRefused
from slidekick.copilot.turn import Turn

Making = Generator[Event | Wanted, Iterator[str | Turn] | None]


def spoken(wanted: Wanted) -> Generator[Event | Wanted, Iterator[str | Turn], Turn]:
    """Part of a making: one turn, whose text is passed on as it comes unless it is a call. Returns the turn."""
    held, speaks = "", False
    for piece in (yield wanted):
        if isinstance(piece, Turn):
            turn = piece
        elif speaks:
            yield Event("text", text=piece)
        else:
            held = (held + piece).lstrip()
            if held and opens_call(held) is False:
                speaks = True
                yield Event("text", text=held)
    if held and not speaks and opens_call(held) is None:  # the whole turn is the beginning of "<tool_call>"
        yield Event("text", text=held)
    return turn


def answered(making: Making) -> Generator[Event | Wanted, Iterator[str | Turn], Answer]:
    """Part of a making: a whole other one, all of whose events are passed on but the last. Returns its answer."""
    event = next(making)
    while isinstance(event, Wanted) or event.kind != "answer":
        try:
            told = yield event
        except PicturesRefused as refused:
            event = making.throw(refused)
        else:
            event = making.send(told)
    return event.answer


def alone(engine: Engine, making: Making) -> Iterator[Event]:
    """The events of one making, whose text comes as it is written."""
    pieces = None
    while True:
        try:
            event = making.send(pieces)
        except StopIteration:
            return
        pieces = None
        if isinstance(event, Wanted):
            pieces = engine.turn(event.messages, event.shown, event.tools, calls=event.calls, **_speaker(event))
        else:
            yield event


def together(
    engine: Engine,
    makings: Sequence[Making],
    firsts: Sequence[Turn] = (),
    dropped: Callable[[int], bool] = lambda _: False,
) -> Iterator[tuple[int, Event]]:
    """The number of a making and an event of it, as they come: each goes as far as it can, then the engine writes
    together what all wait for. Text comes a turn at a time.

    firsts: the first turn of each where they were written before. dropped: asked before each turn of a making whether
    nobody waits for it any more; it is then left.
    """
    going = dict(enumerate(makings))
    told: dict[int, Turn | PicturesRefused | None] = dict.fromkeys(going)
    written: dict[int, Turn | PicturesRefused] = dict(enumerate(firsts))
    while going:
        wanted: dict[int, Wanted] = {}
        for index in list(going):
            if dropped(index):
                going.pop(index).close()
                continue
            event = _resumed(going[index], told[index])
            while isinstance(event, Event):
                yield index, event
                event = next(going[index], None)
            if event is None:
                del going[index]
            else:
                wanted[index] = event
        told, written = written or _turns(engine, wanted), {}


def _resumed(making: Making, turn: Turn | PicturesRefused | None) -> Event | Wanted:
    """What a making says next, given the turn that it waited for."""
    if isinstance(turn, PicturesRefused):
        return making.throw(turn)
    return making.send(None if turn is None else iter((turn.text, turn)))


def _turns(engine: Engine, wanted: dict[int, Wanted]) -> dict[int, Turn | PicturesRefused]:
    """A turn for each; those with the same tools together."""
    told: dict[int, Turn | PicturesRefused] = {}
    while waiting := [index for index in wanted if index not in told]:
        tools = wanted[waiting[0]].tools
        alike = [index for index in waiting if wanted[index].tools == tools]
        told |= zip(alike, _written(engine, [wanted[index] for index in alike], tools), strict=True)
    return told


def _written(engine: Engine, wanted: Sequence[Wanted], tools: Sequence[dict]) -> Sequence[Turn | PicturesRefused]:
    """One after the other from an engine that writes no several. Where the engine refuses pictures, all are told, and
    begin anew with fewer."""
    prompts = [(one.messages, one.shown) for one in wanted]
    try:
        if hasattr(engine, "turns"):
            speakers = {} if all(one.expert is None for one in wanted) else {"experts": [one.expert for one in wanted]}
            return engine.turns(prompts, tools, [one.calls for one in wanted], **speakers)
        return [
            list(engine.turn(*prompt, tools, calls=one.calls, **_speaker(one)))[-1]
            for prompt, one in zip(prompts, wanted, strict=True)
        ]
    except PicturesRefused as error:
        return [error] * len(wanted)


def _speaker(wanted: Wanted) -> dict[str, str]:
    return {} if wanted.expert is None else {"expert": wanted.expert}
