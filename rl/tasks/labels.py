"""Labels of a set: how near two of them are in the tree of labels, and how much each class weighs.

The tree stands in `label_tree.yaml`; the weights follow from how often each label is met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

GRADED = 0.3  # most that a wrong label earns; the right one earns 1
LIGHTEST, HEAVIEST = 0.25, 4.0  # weights of a class: a label met once in a thousand must not outweigh a batch
COMPOSED = "composed"  # the tree's name for the tissues of composed slides
_FILE = Path(__file__).with_name("label_tree.yaml")


@cache
def label_tree() -> dict[str, dict[str, tuple[str, ...]]]:
    """Set -> label -> the branches that it lies on, outermost first."""
    import yaml

    return {name: dict(_leaves(entry, ())) for name, entry in yaml.safe_load(_FILE.read_text()).items()}


def _leaves(entry: object, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(entry, list):
        yield from ((label, path) for label in entry)
    else:
        for branch, inner in entry.items():
            yield from _leaves(inner, (*path, branch))


def nearness(name: str, said: str | None, truth: str) -> float:
    """1 for the right label; else `GRADED` · branches shared from the root / branches of the truth; 0 for None.

    name: the set. A set or label that the tree does not know shares no branch.
    """
    if said == truth:
        return 1.0
    paths = label_tree().get(name, {})
    own, other = paths.get(truth, ()), paths.get(said, ())
    shared = next((i for i, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(own), len(other)) if shared is None else shared
    return GRADED * shared / len(own) if own else 0.0


def class_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weight of each class by how rare it is: w = min(`HEAVIEST`, max(`LIGHTEST`, s / n)), with the s at which the mean
    weight of all Σ n items is 1. Without the bounds s is (Σ n) / classes, the "balanced" weight of scikit-learn, under
    which Σ w · right / Σ n is balanced accuracy.

    counts: class -> items n, classes without any are left out.
    """
    met = {name: number for name, number in counts.items() if number > 0}
    if not met:
        return {}

    def weighed(scale: float) -> dict[str, float]:
        return {name: min(HEAVIEST, max(LIGHTEST, scale / number)) for name, number in met.items()}

    low, high = LIGHTEST * min(met.values()), HEAVIEST * max(met.values())  # mean weights LIGHTEST and HEAVIEST
    total = sum(met.values())
    for _ in range(80):
        middle = (low + high) / 2
        mean = sum(met[name] * weight for name, weight in weighed(middle).items()) / total
        low, high = (middle, high) if mean < 1 else (low, middle)
    return weighed(high)
