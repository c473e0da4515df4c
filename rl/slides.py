"""Training of the slide encoder: first what each tile is, then how the language model reads the slide's tokens.

`slidekick train slides rl/configs/slides.yaml --data DIR --out DIR`. Stage one teaches tissues on bags of tile features
(`slide_bags.py`), cross-entropy on the shares of tissue in each tile; its temperature and what counts as "there" are
fitted on val bags. Stage two is supervised fine-tuning on questions about slides (`slide_sft.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from slidekick.copilot.mini import load_mini, tower_name
from slidekick.copilot.slide_encoder import ABOUT, SlideEncoder, SlidePlan, load_slide_encoder
from slidekick.copilot.slide_tiles import TileTower
from slidekick.data.composed import tissue_terms
from slidekick.data.items import load_items
from slidekick.rl.mixture import load_config
from slidekick.rl.slide_bags import GLASS_NAME, Bag, Bags, joined, tissue_pools
from slidekick.rl.slide_regions import region_items

SECTIONS = ("start", "bags", "tissues", "reading")
TRAINED = "slides"  # folder in --out: what goes beside an adapter


def train_slides(config_path: Path, data: Path, out: Path, resume: bool = False) -> Path:
    """Train the slide encoder and its expert, and return the folder that goes beside mini's adapter as `slides`.

    resume: take up pools and the first stage where they are in `out`. Raises InputError for a configuration or data
    that cannot be used.
    """
    from slidekick.rl.slide_sft import ReadingPlan, train_reading

    config = load_config(config_path, SECTIONS, "rl/configs/slides.yaml")
    start, plan = Path(config["start"]), ReadingPlan.read(config["reading"], config_path, out)
    model, processor = load_mini(start)
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        for file in (*out.glob("pools-*.npz"), out / TRAINED / ABOUT):
            file.unlink(missing_ok=True)
    split_bags = _bags(
        config["bags"], data, TileTower(lambda: model, tower_name(start), model.device.type != "cpu"), out
    )
    if not (out / TRAINED / ABOUT).exists():  # written last
        _tissue_stage(split_bags, config).save(out / TRAINED)
    encoder = load_slide_encoder(out / TRAINED)
    train_reading(model, processor, encoder, split_bags["both"], plan, out, resume)
    return out / TRAINED


def _tissue_stage(split_bags: dict[str, Bags], config: dict) -> SlideEncoder:
    """An encoder taught on train and val. Its temperature and presence were fitted on val by one taught on train alone.

    The tower has seen the pictures of train, so their features part better than new ones; val's are like new ones.
    """
    plan, seed = config["tissues"], config["tissues"]["seed"]
    held_out = [split_bags["val"].draw(number) for number in range(config["bags"]["val"])]
    scaled = fitted(train_tissues(split_bags["train"], plan, seed), held_out).plan
    encoder = train_tissues(split_bags["both"], plan, seed)
    encoder.plan = replace(encoder.plan, temperature=scaled.temperature, least=scaled.least)
    return encoder


def _bags(plan: dict, data: Path, tower: TileTower, out: Path) -> dict[str, Bags]:
    """Bags of train, val and both; a tissue without a train picture is none.

    plan: also `regions`, sets that pictures are cut out of, and `other`, sets of tissues that are not to be named.
    """
    sizes = {"rows": tuple(plan["rows"]), "columns": tuple(plan["columns"])}
    items = {split: load_items(data, split=split) for split in ("train", "val")}
    items = {split: some + region_items(some, plan["regions"], out / "regions") for split, some in items.items()}
    pools = {
        split: tissue_pools(some, tower, plan["seed"], out / f"pools-{split}.npz", plan["other"])
        for split, some in items.items()
    }
    items["both"] = [*items["train"], *items["val"]]
    pools["both"] = {
        name: joined(pools[split][name] for split in ("train", "val") if name in pools[split])
        for name in pools["train"]
    }
    tissues = [name for name in pools["train"] if name != GLASS_NAME]
    return {split: Bags(some, pools[split], tissues, **sizes) for split, some in items.items()}


def train_tissues(bags: Bags, plan: dict, seed: int) -> SlideEncoder:
    """Teach an encoder which tissue each tile is. plan: steps, bags (a step), learning_rate, noise."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    terms = tissue_terms()
    width = bags.pools[bags.tissues[0]].tokens.shape[1]
    encoder = SlideEncoder(
        SlidePlan(bags.tissues, tokens=width, kinds={name: terms.get(name, ()) for name in bags.tissues})
    )
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=plan["learning_rate"], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan["learning_rate"], total_steps=plan["steps"])
    bar, began = tqdm(range(plan["steps"]), desc="tissues", mininterval=5), time.monotonic()
    for step in bar:
        loss = torch.zeros(())
        for _ in range(plan["bags"]):
            bag = bags.draw(int(rng.integers(1 << 31)))
            features, _, places, shares = tensors(bag)
            features = features * (1 + plan["noise"] * torch.randn_like(features))
            logits = encoder.tissues(features, places)
            loss = loss + F.cross_entropy(logits, shares, label_smoothing=0.05) / plan["bags"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", minutes=f"{(time.monotonic() - began) / 60:.1f}")
    return encoder.eval()


def fitted(encoder: SlideEncoder, bags: Sequence[Bag]) -> SlideEncoder:
    """The same encoder with temperature and presence fitted on held-out slides."""
    with torch.inference_mode():
        seen = [(encoder.tissues(f, p), shares) for f, _, p, shares in map(tensors, bags)]
        grid = np.exp(np.linspace(np.log(0.5), np.log(8), 60))
        losses = [
            sum(float(F.cross_entropy(logits / t, shares, reduction="sum")) for logits, shares in seen) for t in grid
        ]
        encoder.plan = replace(encoder.plan, temperature=float(grid[int(np.argmin(losses))]) * encoder.plan.temperature)
        said = [(encoder.shares(f, p).numpy(), shares.mean(0).numpy()) for f, _, p, shares in map(tensors, bags)]
    encoder.plan = replace(encoder.plan, least=_least(said, [_column_mask(encoder, bag) for bag in bags]))
    return encoder


def _column_mask(encoder: SlideEncoder, bag: Bag) -> np.ndarray:
    """bool (K,): tissues that a slide of this case is asked about."""
    asked = {*bag.layout.tissues, *bag.absent}
    return np.array([name in asked for name in encoder.plan.tissues])


def _least(said, asked) -> float:
    """The share from which on a tissue counts as there: where presence and absence are right most often, each kind
    weighted alike."""
    values = np.concatenate([one[0][mask] for one, mask in zip(said, asked, strict=True)])
    truth = np.concatenate([one[1][mask] > 0 for one, mask in zip(said, asked, strict=True)])
    levels = np.linspace(0.002, 0.2, 100)
    balanced = [((values >= t)[truth].mean() + (values < t)[~truth].mean()) / 2 for t in levels]
    best = np.flatnonzero(np.isclose(balanced, max(balanced)))
    return float(levels[best[len(best) // 2]])


def tensors(bag: Bag) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """features, tokens, places and shares."""
    return tuple(torch.from_numpy(one) for one in (bag.features, bag.tokens, bag.places, bag.shares))
