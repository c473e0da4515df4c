"""Training of the segmentor from a YAML, under accelerate: averaged weights, checkpoints that resume to the step.

What a step asks is in `lesson.py`, what it looks at in `windows.py`; evaluation and the card are in `evaluate.py`.
`accelerate launch -m slidekick.apps.cli train segmentor ...` runs the same on several devices.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.ontology import load_ontology
from slidekick.grounding.averaging import (
    begin_average,
    falling,
    keep_statistics,
    moved,
    read_checkpoint,
    update_average,
    write_checkpoint,
)
from slidekick.grounding.lesson import Lesson, collate, point_tensors
from slidekick.grounding.model import SegmentorModel
from slidekick.grounding.sizes import PHRASE_WIDTH, PYRAMID, SegmentorConfig
from slidekick.grounding.text import encode_phrases
from slidekick.grounding.tower import imagenet_state
from slidekick.grounding.windows import Sampler

CHECKPOINT, LOG, MODEL = "checkpoint.pt", "log.jsonl", "model.safetensors"
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "segmentor.yaml"
BASE_SIDE = 256  # px of the windows that `batch` counts; larger ones come in smaller batches of as many pixels
VAL_WINDOWS = 96
PLAN = (  # numbers that section `training` must hold
    "seed", "steps", "batch", "learning_rate", "encoder_learning_rate", "weight_decay", "warmup", "ema", "clip",
    "positive_share", "objects", "corrected", "checkpoint_every", "log_every", "validate_every",
)  # fmt: skip
DEFAULTED = ("encoder",)  # of section `model`: what may be left out
CONCEPT = ("mpp", "zoom", "jitter")  # keys that every concept must hold


def build(config: dict, start: Path | None) -> SegmentorModel:
    """A model that takes from the folder `start` what fits by name and shape; without it only the ImageNet tower."""
    model = SegmentorModel(SegmentorConfig(**config["model"]))
    own = model.state_dict()
    if start is None:
        known = {f"encoder.body.{name}": tensor for name, tensor in imagenet_state().items()}
    else:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (start / MODEL).is_file():
            raise InputError(f"{start}: {MODEL} is missing; `start` is a folder of weights, or leave it out")
        try:
            known = {name: tensor.float() for name, tensor in load_file(start / MODEL).items()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{start}: {MODEL} is no safetensors file; give whole weights or leave it out") from error
    fitting = {name: tensor for name, tensor in known.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    return model


def phrase_vectors(concepts: dict[str, dict]) -> dict[str | None, np.ndarray]:
    """Vectors of every name and synonym, and the zero vector for no words at all."""
    phrases = sorted({words for name, entry in concepts.items() for words in (name, *entry["synonyms"])})
    return dict(zip(phrases, encode_phrases(phrases), strict=True)) | {None: np.zeros(PHRASE_WIDTH, np.float32)}


def train(config_path: Path, data: Path, out: Path, resume: bool = False, steps: int | None = None) -> dict:
    """Train and leave `checkpoint.pt` and `log.jsonl` in `out`; returns the last logged figures.

    Raises InputError for a configuration or data folder that cannot be used.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    config = load_config(config_path)
    plan = config["training"]
    total = steps or plan["steps"]
    torch.manual_seed(plan["seed"])
    sampler = Sampler(config["concepts"], _taught(load_items(data, split="train"), config), plan)
    if not sampler.names:
        raise InputError(f"{data}: no labelled picture of any concept in {config_path}; give a folder of labelled sets")
    watched = Sampler(config["concepts"], _taught(load_items(data, split="val"), config), plan)
    vectors = phrase_vectors(config["concepts"])
    start = config.get("start")
    model = build(config, Path(start) if start else None)
    average = begin_average(model)
    optimizer = _optimizer(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan["warmup"], total))
    first = _load_checkpoint(out, model, optimizer, schedule, average) if resume else 0
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # no click in a step: no click's weights
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused])
    lesson, optimizer = accelerator.prepare(Lesson(model, plan["corrected"]), optimizer)
    average = moved(average, accelerator.device)  # where `prepare` has put the model
    _trim_log(out / LOG, first)
    log: dict = {}
    began = time.monotonic()
    bar = tqdm(range(first, total), initial=first, total=total, desc="segmentor", mininterval=5)
    for step in bar:
        log = _step(accelerator, lesson, optimizer, sampler, vectors, step) | {"rate": schedule.get_last_lr()[-1]}
        schedule.step()
        update_average(average, model, plan["ema"], step)
        if not accelerator.is_main_process:
            continue
        if (step + 1) % plan["validate_every"] == 0 and watched.names:
            log |= validate(model, average, watched, vectors)
        if (step + 1) % plan["log_every"] == 0 or step + 1 == total:  # `finish` draws curves of what is logged
            entry = {"step": step + 1, "minutes": (time.monotonic() - began) / 60, **log}
            out.mkdir(parents=True, exist_ok=True)
            with (out / LOG).open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
        if (step + 1) % plan["checkpoint_every"] == 0 or step + 1 == total:
            _save_checkpoint(out, model, optimizer, schedule, average, step + 1)
    return log


def _taught(items: Sequence[Item], config: dict) -> list[Item]:
    """Items but those of sets that the configuration keeps apart, to see how it does elsewhere."""
    return [item for item in items if item.set not in config.get("kept_apart", ())]


def _step(accelerator, lesson, optimizer, sampler: Sampler, vectors: dict, step: int) -> dict[str, float]:
    lesson.train()
    keep_statistics(lesson)
    side = sampler.side(step)
    number = max(2, round(sampler.plan["batch"] * (BASE_SIDE / side) ** 2))
    first = accelerator.process_index * number  # each process draws windows of its own
    batch = collate([sampler.draw(step, first + index, side) for index in range(number)], vectors)
    loss, parts = lesson(batch, np.random.default_rng([sampler.plan["seed"], step, accelerator.process_index, 1]))
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(lesson.parameters(), sampler.plan["clip"])
    optimizer.step()
    return {"loss": float(loss.detach()), **parts}


def validate(model: SegmentorModel, average: dict, sampler: Sampler, vectors: dict) -> dict[str, float]:
    """Of the averaged weights on fixed val windows.

    By words: mean Dice where the concept is, share right of presence; by a box or a click in one object: mean Dice.
    """
    import copy

    model = copy.deepcopy(model)
    model.load_state_dict(average)
    model.eval()
    dices, right, objects = [], [], []
    with torch.inference_mode():
        for index in range(0, VAL_WINDOWS, 8):
            batch = collate([sampler.draw(0, index + place, BASE_SIDE) for place in range(8)], vectors)
            batch = batch.to(next(model.parameters()).device)
            batch_features = model.encode(batch.pixels)
            features = type(batch_features)(*(level[batch.index] for level in batch_features))
            masks, present = model.decode(features, batch.phrases, *point_tensors(batch.clicks, batch.mask.device))
            drawn, wanted = masks[:, 0] > 0, batch.mask >= 0.5
            both = 2 * (drawn & wanted).sum((1, 2)) / (drawn.sum((1, 2)) + wanted.sum((1, 2))).clamp(min=1)
            fair = batch.asked
            dices += both[fair & (batch.present > 0)].tolist()
            right += ((present > 0) == (batch.present > 0))[fair].tolist()
            objects += [float(score) for score, marks in zip(both, batch.clicks, strict=True) if marks]
    means = {"val_dice": dices, "val_presence": right, "val_object": objects}
    return {name: float(np.mean(values)) for name, values in means.items() if values}


def _optimizer(model: SegmentorModel, plan: dict) -> torch.optim.Optimizer:
    tower = list(model.encoder.body.parameters())
    inside = {id(p) for p in tower}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        {"params": tower, "lr": plan["encoder_learning_rate"]},
        {"params": rest, "lr": plan["learning_rate"]},
    ]
    return torch.optim.AdamW(groups, weight_decay=plan["weight_decay"])


def _rate(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then `falling`."""
    if step < warmup:
        return (step + 1) / warmup
    return falling((step - warmup) / max(1, total - warmup))


def _save_checkpoint(out: Path, model, optimizer, schedule, average: dict, step: int) -> None:
    state = {
        "model": model.state_dict(), "average": average, "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(), "step": step,
    }  # fmt: skip
    write_checkpoint(out / CHECKPOINT, state)


def _load_checkpoint(out: Path, model, optimizer, schedule, average: dict) -> int:
    if not (out / CHECKPOINT).exists():
        return 0
    state = read_checkpoint(out / CHECKPOINT)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    average.update(state["average"])
    return state["step"]


def _trim_log(file: Path, step: int) -> None:
    """Forget what was logged after `step`: a run that goes on from there logs it again."""
    if file.exists():
        whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]  # not a cut one
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_atomic(file, "".join(kept))


def load_config(path: Path) -> dict:
    """The YAML as a dict; InputError where it is missing or broken, or lacks a section, a key or a number."""
    config = read_yaml(path)
    if complaint := _complaint(config):
        raise InputError(f"{path}: {complaint}; see grounding/configs/segmentor.yaml")
    for name, entry in config["concepts"].items():  # names and kinds stand in one place, the hierarchy
        term = load_ontology().terms[name]
        entry |= {"kind": term.kind, "level": term.level, "parents": term.parents, "synonyms": term.synonyms}
    return config


def _complaint(config: object) -> str | None:
    """What is wrong with a configuration, in a few words."""
    for section in ("model", "training", "concepts"):
        if not isinstance(config, dict) or section not in config:
            return f"section {section!r} is missing"
        if not isinstance(config[section], dict):
            return f"section {section!r} is no mapping"
    fields = SegmentorConfig.__dataclass_fields__
    numbers = [("model", key) for key in fields if key not in DEFAULTED] + [("training", key) for key in PLAN]
    for section, key in numbers:
        if key not in config[section]:
            return f"{section}.{key} is missing"
        if not isinstance(value := config[section][key], int | float):  # YAML reads 1e-3 as text; 1.0e-3 is a number
            return f"{section}.{key} is {value!r}, not a number"
    if unknown := [key for key in config["model"] if key not in fields]:
        return f"model.{unknown[0]} is unknown"
    if (encoder := config["model"].get("encoder", PYRAMID)) != PYRAMID:
        return f"model.encoder is {encoder!r}; only {PYRAMID!r} can be trained"
    return _sampling_complaint(config["training"]) or _concept_complaint(config["concepts"])


def _sampling_complaint(plan: dict) -> str | None:
    for key in ("sides", "further"):
        if not isinstance(plan.get(key), dict):
            return f"training.{key} is no mapping to shares"
    shares = list(plan["sides"].values())
    if not all(isinstance(share, int | float) for share in shares) or abs(sum(shares) - 1) > 1e-6:
        return "training.sides are shares that do not add up to 1"
    return None


def _concept_complaint(concepts: dict) -> str | None:
    for name, entry in concepts.items():
        if entry is not None and not isinstance(entry, dict):
            return f"concepts.{name} is no mapping"
        if absent := [key for key in CONCEPT if key not in (entry or {})]:
            return f"concepts.{name}.{absent[0]} is missing"
        if name not in load_ontology().terms:
            return f"concepts.{name} is no term of data/ontology.yaml"
    return None
