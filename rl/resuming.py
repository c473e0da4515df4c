"""Where a training that was cut goes on: at its last whole checkpoint. Knows no trainer."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = "checkpoints"  # folder in --out
LAST_WRITTEN = "trainer_state.json"  # transformers writes it last: a checkpoint without it was cut short


def last_whole(out: Path) -> str | None:
    """Path of the newest checkpoint in `out` that was written to its end; None where there is none."""
    whole = [state.parent for state in (out / CHECKPOINTS).glob(f"checkpoint-*/{LAST_WRITTEN}")]
    newest = max(whole, key=lambda one: int(one.name.rsplit("-", 1)[1]), default=None)
    return None if newest is None else str(newest)
