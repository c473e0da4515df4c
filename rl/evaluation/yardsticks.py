"""What simple classifiers reach on the same pictures, what one gets without looking, and whether pictures leaked.

Both classifiers see the mean of a frozen tower's map: the model's own where it is mini's kind, else mini's. The probe
is a logistic regression per set; the fine-tuned head is a softmax layer per set trained by SGD on augmented views of
the same pictures, as the tower's own heads were. The probe's setting was set beforehand; the head's was the best of 27
on val (0.63 to 0.66 among them), so that it is no straw man.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slidekick.copilot.copilot import Copilot
from slidekick.data.items import Item
from slidekick.rl.instructions.held_out import pixel_hash
from slidekick.rl.scores import commonest

STRENGTH = 0.01  # C of the logistic regression on standardised features
VIEWS = 2  # augmented views of each training picture beside the picture itself
STEPS, BATCH, RATE, MOMENTUM, DECAY = 100, 64, 0.02, 0.9, 0.03  # of the head's SGD, its rate falling as a cosine
AT_ONCE = 32  # pictures through the tower


def leaks(train: Sequence[Item], held: Sequence[Item]) -> list[str]:
    """Held-out pictures whose pixels, or whose group (patient, slide, source), also occur in training."""
    pixels_seen = {pixel_hash(item.image) for item in train}
    groups = {(item.set, item.group) for item in train if item.group}
    return [
        f"{item.set}/{item.id}"
        for item in held
        if (item.set, item.group) in groups or pixel_hash(item.image) in pixels_seen
    ]


class Features:
    """Mean tower features of pictures: float32 (N, 1280); each picture is computed once."""

    def __init__(self, copilot: Copilot) -> None:
        self.tower = _tower(copilot)
        self._kept: dict[tuple[Path, int], np.ndarray] = {}

    def of(self, items: Sequence[Item], view: int = 0) -> np.ndarray:
        """View 0 is the picture as it is, others are random but the same each time."""
        self.prepare(items, [view])
        return np.stack([self._kept[item.image, view] for item in items])

    def prepare(self, items: Sequence[Item], views: Sequence[int]) -> None:
        """Compute what is missing."""
        from slidekick.rl.tower import features

        missing = [(item.image, v) for item in items for v in views if (item.image, v) not in self._kept]
        bar = tqdm(range(0, len(missing), AT_ONCE), desc="features", mininterval=5, disable=not missing)
        for start in bar:
            part = missing[start : start + AT_ONCE]
            maps = features(self.tower, [_view(path, view) for path, view in part], AT_ONCE)
            self._kept |= zip(part, maps.astype(np.float32).mean(1), strict=True)


def _tower(copilot: Copilot):
    """The timm tower: the model's own where it is of mini's kind, else mini's."""
    import timm
    from safetensors.torch import load_file

    from slidekick.copilot.mini import TOWER, WEIGHTS
    from slidekick.grounding.tower import ARCHITECTURE

    model = getattr(getattr(copilot.engine, "model", None), "model", None)
    own = getattr(getattr(model, "vision_tower", None), "timm_model", None)
    if own is not None and hasattr(own, "forward_features"):
        return own
    tower = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    tower.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS / TOWER).items()})
    return tower.eval()


def _view(path: Path, view: int) -> np.ndarray:
    from PIL import Image

    from slidekick.rl.tower import augment, shrink

    pixels = np.asarray(Image.open(path).convert("RGB"))
    if view == 0:
        return shrink(pixels)
    seed = int.from_bytes(hashlib.sha256(f"{path.name}/{view}".encode()).digest()[:4], "big")
    return augment(pixels, np.random.default_rng(seed))


def guesses(features: Features, train: Sequence[Item], held: Sequence[Item]) -> dict[str, list[str | None]]:
    """Labels that each yardstick gives the held-out pictures, in their order: linear_probe, finetuned_head, commonest.

    A set whose training pictures have one label gets that one; a set without any gets None, which is wrong.
    """
    features.prepare(train, range(VIEWS + 1))
    given: dict[str, list[str | None]] = {
        name: [None] * len(held) for name in ("linear_probe", "finetuned_head", "commonest")
    }
    known, asked = defaultdict(list), defaultdict(list)
    for item in train:
        known[item.set].append(item)
    for index, item in enumerate(held):
        asked[item.set].append(index)
    for name, indices in asked.items():
        labels = [item.label for item in known[name]]
        said = dict.fromkeys(given, [commonest(labels)] * len(indices))
        if len(set(labels)) > 1:
            features.prepare([held[i] for i in indices], [0])
            unseen = features.of([held[i] for i in indices])
            said["linear_probe"] = probe(features.of(known[name]), labels, unseen)
            views = np.concatenate([features.of(known[name], view) for view in range(VIEWS + 1)])
            said["finetuned_head"] = head(views, labels * (VIEWS + 1), unseen)
        for kind, values in said.items():
            for index, value in zip(indices, values, strict=True):
                given[kind][index] = value
    return given


def probe(known: np.ndarray, labels: Sequence[str], unseen: np.ndarray) -> list[str]:
    """Logistic regression on standardised features (scikit-learn); float (N, C), N labels, float (M, C) -> M labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=3000))
    return [str(one) for one in classifier.fit(known, labels).predict(unseen)]


def head(known: np.ndarray, labels: Sequence[str], unseen: np.ndarray, seed: int = 0) -> list[str]:
    """A softmax layer trained by SGD on standardised features, every class as often as any other."""
    import torch
    from torch.nn import functional as F

    names = sorted(set(labels))
    target = torch.tensor([names.index(label) for label in labels])
    middle, spread = known.mean(0), known.std(0) + 1e-6
    rows, new = (torch.from_numpy(((part - middle) / spread).astype(np.float32)) for part in (known, unseen))
    generator = torch.Generator().manual_seed(seed)
    shares = 1.0 / torch.bincount(target).double()[target]
    layer = torch.nn.Linear(rows.shape[1], len(names))
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        picks = torch.multinomial(shares, BATCH, replacement=True, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(layer(rows[picks]), target[picks]).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        return [names[index] for index in layer(new).argmax(1).tolist()]
