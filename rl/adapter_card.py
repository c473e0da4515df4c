"""The model card of an adapter over a hub model: its base, what it was taught, and what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from slidekick.copilot.hub import Base
from slidekick.rl.instructions import Instruction

CARD = """---
base_model: {name}
library_name: peft
pipeline_tag: image-text-to-text
license: other
license_name: see-base
tags: [pathology, lora]
---
# A Slidekick adapter over {name}

Research use only. Not for diagnosis.

- Base: `{name}`, revision `{revision}`, {quantization} while it was trained. Its licence: see base.
- Taught: {count} conversations about {pictures} pictures of {sets} sets, {steps} steps; last loss {loss}. What is
  trained on a set falls under that set's licence too.
- Load: `Copilot.from_pretrained("FOLDER")`, or `PeftModel.from_pretrained` over the base.

| family | conversations |
|---|---|
{families}

| set | conversations |
|---|---|
{by_set}
"""


def adapter_card(base: Base, made: Sequence[Instruction], history: Sequence[dict]) -> str:
    """Markdown with the hub's metadata in front. history: the trainer's log."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    by_set = Counter(one.set for one in made)
    return CARD.format(
        name=base.name,
        revision=base.revision or "main",
        quantization=base.quantization or "not quantised",
        count=len(made),
        pictures=len({image for one in made for image in one.images}),
        sets=len(by_set),
        steps=max((entry.get("step", 0) for entry in history), default=0),
        loss=f"{losses[-1]:.3f}" if losses else "not logged",
        families=_rows(Counter(one.task for one in made)),
        by_set=_rows(by_set),
    )


def _rows(counts: Counter) -> str:
    return "\n".join(f"| {name} | {number} |" for name, number in counts.most_common())
