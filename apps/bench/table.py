"""What every measurement is told as: ours beside a peer, their ratio, the goal, and what the machine gives at best."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version


@dataclass(frozen=True)
class Row:
    """Ours beside a peer, or beside a figure to keep to. task: the area. unit: of `ours`, `theirs` and `best`. least,
    most: of the ratio ours / theirs, where there is a goal. best: what the machine gives if nothing takes time but the
    work that must be done, where that was measured. why: where the goal is from."""

    task: str
    what: str
    unit: str
    ours: float
    peer: str
    theirs: float
    least: float | None = None
    most: float | None = None
    best: float | None = None
    why: str = ""

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.ratio >= self.least) and (self.most is None or self.ratio <= self.most)

    def to_dict(self) -> dict:
        """JSON-ready, with ratio and verdict."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Python's and those of some packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def machine() -> str:
    """System, kind of processor and the number of cores that may be used, in a few words."""
    from slidekick.grounding.runtime import cores

    return f"{platform.system()} {platform.machine()}, cores: {cores()}"


def as_text(facts: dict) -> str:
    """A table for people of {"rows": dicts, "versions", "machine", and perhaps "missing": lines}."""
    cells = [("what", "ours", "", "against", "", "ratio", "goal", "at best", "")]
    for row in facts["rows"]:
        goal = f"≥ {row['least']:g}" if row["least"] is not None else f"≤ {row['most']:g}" if row["most"] else ""
        verdict = {None: "", True: "met", False: "NOT MET"}[row["met"]]
        best = _short(row["best"]) if row["best"] else ""
        told = (row["what"], _short(row["ours"]), row["unit"], row["peer"], _short(row["theirs"]))
        cells.append((*told, f"{row['ratio']:.3g}", goal, best, verdict))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines += [f"not measured: {line}" for line in facts.get("missing", ())]
    lines.append(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    return "\n".join([*lines, facts["machine"]])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
