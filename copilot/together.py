"""Several answers in the making side by side: each goes as far as it can, then the engine writes what all wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from slidekick.copilot.draft import Draft, Event, Wanted
from slidekick.copilot.engine import Engine, Turn
from slidekick.copilot.pictures import PicturesRefused


def together(
    copilot, drafts: Sequence[Draft], firsts: Sequence[Turn], dropped: Callable[[int], bool]
) -> Iterator[tuple[int, Event]]:
    """See `Copilot.stream_many`."""
    going = {index: copilot.answering(draft) for index, draft in enumerate(drafts)}
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
                if event.kind == "answer":
                    del going[index]
                    break
                event = next(going[index])
            else:
                wanted[index] = event
        if not written and wanted:
            turns = _turns(copilot.engine, list(wanted.values()), copilot.schemas)
            written = dict(zip(wanted, turns, strict=True))
        told, written = written, {}


def _resumed(answering, turn: Turn | PicturesRefused | None) -> Event | Wanted:
    """What an answer in the making says next, given the turn that it waited for."""
    if isinstance(turn, PicturesRefused):
        return answering.throw(turn)
    return answering.send(None if turn is None else iter((turn.text, turn)))


def _turns(engine: Engine, wanted: Sequence[Wanted], tools: Sequence[dict]) -> Sequence[Turn | PicturesRefused]:
    """A turn for each; one after the other from an engine that writes no several. Where the engine refuses pictures,
    all are told, and begin anew with fewer."""
    try:
        if hasattr(engine, "turns"):
            return engine.turns([(one.messages, one.shown) for one in wanted], tools, [one.calls for one in wanted])
        return [list(engine.turn(one.messages, one.shown, tools, calls=one.calls))[-1] for one in wanted]
    except PicturesRefused as error:
        return [error] * len(wanted)
