"""What each expert became: how much weight the router gives it, by family of questions and by set of pictures.

No answer is written: the router alone reads held-out pictures and questions. It was never told a family or a set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from slidekick.copilot.experts import pooled_picture
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.rl.instructions import SHARES, Instruction, make_instructions

QUESTIONS, SEED = 1200, 3
FEWEST = 10  # questions: the mean weights of fewer say little, so no row of the picture is drawn for them


def expert_weights(engine: TorchEngine, data: Path, split: str = "test") -> dict[str, dict[str, dict[str, float]]]:
    """{"family" | "set": {name: {expert: mean weight, ..., "n": questions}}} over questions of all families.

    Raises InputError for a model without experts, or data without pictures in the split.
    """
    if engine.experts is None:
        raise InputError(f"{engine.name}: has no experts; train some with `slidekick train experts`")
    items = load_items(data, None, split)
    made = make_instructions(items, QUESTIONS, SEED, dict.fromkeys(SHARES, 1.0))
    weights = np.stack([_weights(engine, one) for one in tqdm(made, desc="router", mininterval=5)])
    return {
        "family": _means(engine, made, weights, [one.task for one in made]),
        "set": _means(engine, made, weights, [one.set for one in made]),
    }


def _weights(engine: TorchEngine, one: Instruction) -> np.ndarray:
    """float (K,): the weights of the experts for a conversation's first question."""
    first = one.messages[:1]
    with torch.inference_mode():
        inputs = {}
        if one.images:
            pictures = [Image.open(path).convert("RGB") for path in one.images]
            inputs = dict(engine.processor.image_processor(pictures, return_tensors="pt"))
        gates, _ = engine.experts.route(pooled_picture(engine.model, inputs), engine.pooled_question(first))
    return gates[0].numpy()


def _means(engine: TorchEngine, made: Sequence[Instruction], weights: np.ndarray, names: Sequence[str]) -> dict:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        rows[name].append(index)
    return {
        name: {
            **{e: round(float(w), 4) for e, w in zip(engine.experts.plan.names, weights[at].mean(0), strict=True)},
            "n": len(at),
        }
        for name, at in sorted(rows.items())
    }


def heat_map(weights: dict[str, dict[str, dict[str, float]]]) -> bytes:
    """PNG of both tables: a row a family or set, a column an expert, darker for more weight."""
    from slidekick.grounding.charts import heat_png

    tables = {}
    for kind, rows in weights.items():
        kept = {name: dict(row) for name, row in rows.items() if row["n"] >= FEWEST}
        tables[kind] = {f"{name} (n = {row.pop('n')})": row for name, row in kept.items()}
    return heat_png(tables, "mean weight of each expert")
