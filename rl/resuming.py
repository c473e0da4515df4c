"""Where a training that was cut goes on: at its last whole checkpoint."""

from __future__ import annotations

from pathlib import Path

from slidekick.data.files import told_where_full

CHECKPOINTS = "checkpoints"  # folder in --out
LAST_WRITTEN = "trainer_state.json"  # transformers writes it last: a checkpoint without it was cut short


def last_whole(out: Path) -> str | None:
    """Path of the newest checkpoint in `out` that was written to its end; None where there is none."""
    whole = [state.parent for state in (out / CHECKPOINTS).glob(f"checkpoint-*/{LAST_WRITTEN}")]
    newest = max(whole, key=lambda one: int(one.name.rsplit("-", 1)[1]), default=None)
    return None if newest is None else str(newest)


def go_through(trainer, out: Path, resume: bool) -> None:
    """Train to the end, from the last whole checkpoint in `out` where `resume` and there is one.

    Where that is the end already, it is loaded and nothing is learnt: transformers' trainer would take one more step of
    a training that is counted in steps. Raises OutputError where no room is left in `out`.
    """
    from transformers import TrainerState

    last = last_whole(out) if resume else None
    if last is not None and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        state = TrainerState.load_from_json(str(Path(last) / LAST_WRITTEN))
        if 0 < trainer.args.max_steps <= state.global_step:
            trainer._load_from_checkpoint(last)
            trainer.state = state
            return
    with told_where_full(out):
        trainer.train(resume_from_checkpoint=last)
