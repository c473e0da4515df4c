"""Do the copilot's words hold on held-out pictures? Balanced accuracy per set beside two yardsticks.

Each labelled picture is asked its set's canonical question, as a user would type it, tools on offer. Only the exact
label (any case, any punctuation) is right; anything else is wrong, and what is no label of the set is counted as
"outside" too. Yardsticks: logistic regression on the same tower's pooled features, and the commonest training label
(what one gets without looking, since the question names the set).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slidekick.copilot.copilot import Copilot
from slidekick.data.items import Item, load_items
from slidekick.data.slide import read_roi
from slidekick.data.statistics import Figure, balanced_accuracy, bootstrap
from slidekick.rl.instructions import QUESTIONS, question_for

SMALL = 5  # pictures; the figure of a set with fewer means little by itself and is flagged `small`
STRENGTH = 0.01  # C of the logistic regression on standardised features; set beforehand, not tuned


def normalise(text: str) -> str:
    """Lower case, letters and digits, single spaces: how answers and labels are compared."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def leaks(train: Sequence[Item], held: Sequence[Item]) -> list[str]:
    """Held-out pictures whose bytes or whose group (patient, slide, source) also occur in training."""
    bytes_seen = {hashlib.sha256(item.image.read_bytes()).digest() for item in train}
    groups = {(item.set, item.group) for item in train if item.group}
    return [
        f"{item.set}/{item.id}"
        for item in held
        if hashlib.sha256(item.image.read_bytes()).digest() in bytes_seen or (item.set, item.group) in groups
    ]


def ask_labelled(copilot: Copilot, items: Sequence[Item], labels: dict[str, set[str]]) -> list[dict]:
    """One row a picture: set, question, label, the answer's text, whether it is right, outside, or called a tool."""
    rows = []
    for item in tqdm(items, desc="questions", mininterval=5):
        question = question_for(item)
        answer = copilot.ask(read_roi(item.image), question)
        said = normalise(answer.text)
        rows.append(
            {
                "set": item.set,
                "item": item.id,
                "question": question,
                "label": item.label,
                "answer": answer.text,
                "right": said == normalise(item.label),
                "outside": said not in labels[item.set],
                "tool": bool(answer.steps),
                "confidence": answer.confidence,
            }
        )
    return rows


def probe(copilot: Copilot, train: Sequence[Item], held: Sequence[Item]) -> list[bool]:
    """Logistic regression per set on the tower's mean features: right or wrong for each held-out picture."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, processor = copilot.engine.model, copilot.engine.processor
    right = dict.fromkeys(range(len(held)), False)
    for name in sorted({item.set for item in held}):
        known = [item for item in train if item.set == name]
        asked = [index for index, item in enumerate(held) if item.set == name]
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=3000))
        if len({item.label for item in known}) > 1:
            classifier.fit(pooled(model, processor, known), [item.label for item in known])
            guesses = classifier.predict(pooled(model, processor, [held[i] for i in asked]))
        else:
            guesses = [known[0].label if known else None] * len(asked)
        for index, guess in zip(asked, guesses, strict=True):
            right[index] = guess == held[index].label
    return list(right.values())


def pooled(model, processor, items: Sequence[Item]) -> np.ndarray:
    """float32 (N, 1280): the mean of the tower's map of each picture, prepared as the copilot prepares it."""
    import torch
    from PIL import Image

    parts = []
    with torch.inference_mode():
        for start in range(0, len(items), 32):
            pictures = [Image.open(item.image).convert("RGB") for item in items[start : start + 32]]
            pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            parts.append(model.model.vision_tower(pixels).last_hidden_state.mean((2, 3)).numpy())
    return np.concatenate(parts)


def evaluate_answers(copilot: Copilot, data: Path, split: str, sets: Sequence[str] | None = None) -> dict:
    """Figures and rows over the labelled pictures of `split`.

    Returns {"figures": {set: {...}}, "mean_over_sets": {...}, "rows": [...], "leaks": [...]}.
    """
    train = _labelled(load_items(data, sets, "train"))
    held = _labelled(load_items(data, sets, split))
    labels: dict[str, set[str]] = defaultdict(set)
    for item in (*train, *held):
        labels[item.set].add(normalise(item.label))
    rows = ask_labelled(copilot, held, labels)
    for row, right in zip(rows, probe(copilot, train, held), strict=True):
        row["probe_right"] = right
    common = {name: Counter(i.label for i in train if i.set == name).most_common(1) for name in labels}
    for row in rows:
        row["common_right"] = bool(common[row["set"]]) and common[row["set"]][0][0] == row["label"]
    by_set = {name: [row for row in rows if row["set"] == name] for name in sorted({row["set"] for row in rows})}
    return {
        "split": split,
        "figures": {name: _figures(group) | {"small": len(group) < SMALL} for name, group in by_set.items()},
        "mean_over_sets": {key: _mean_over_sets(by_set, key) for key in ("right", "probe_right", "common_right")},
        "outside": float(np.mean([row["outside"] for row in rows])) if rows else None,
        "tool_called": float(np.mean([row["tool"] for row in rows])) if rows else None,
        "rows": rows,
        "leaks": leaks(train, held),
    }


def _labelled(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.label and item.set in QUESTIONS]


def _balanced(rows: list[dict], key: str) -> Figure:
    truth = np.array([row["label"] for row in rows])
    correct = np.array([row[key] for row in rows], float)
    return bootstrap(lambda index: balanced_accuracy(truth[index], correct[index]), len(rows))


def _figures(rows: list[dict]) -> dict:
    keys = {"copilot": "right", "probe": "probe_right", "commonest": "common_right"}
    return {name: _balanced(rows, key).to_dict() for name, key in keys.items()}


def _mean_over_sets(by_set: dict[str, list[dict]], key: str) -> dict:
    """Mean of the sets' balanced accuracies; pictures are resampled within their sets."""
    groups = [
        (np.array([r["label"] for r in rows]), np.array([r[key] for r in rows], float)) for rows in by_set.values()
    ]
    rng = np.random.default_rng(0)

    def draw(truth: np.ndarray, correct: np.ndarray) -> float:
        index = rng.integers(len(truth), size=len(truth))
        return balanced_accuracy(truth[index], correct[index])

    drawn = [np.mean([draw(*group) for group in groups]) for _ in range(1000)]
    value = float(np.mean([balanced_accuracy(*group) for group in groups]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high), sum(len(t) for t, _ in groups)).to_dict() | {"sets": len(groups)}
