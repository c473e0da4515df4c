"""Training of the mixture of LoRA experts on top of a trained model: experts and router together, all else frozen.

On mini over cached maps, here; on any other model through its own processor (`mixture_hub.py`).

The task's loss teaches the router too, through the soft gates; a balance and a z loss keep every expert in use
(`copilot/experts.py`). A mixture of one is one plain LoRA, which is how the two are compared at equal size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from trl import SFTTrainer

from slidekick.copilot.experts import (
    ExpertPlan,
    Experts,
    balance_loss,
    information_loss,
    load_experts,
    mean_embedding,
    question_ids,
    z_loss,
)
from slidekick.copilot.mini import EXPERTS, TOWER, WEIGHTS, load_mini
from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.rl.resuming import go_through
from slidekick.rl.sft import (
    BASE,
    CachedVisionCollator,
    Maps,
    answered_loss,
    cached_arguments,
    cached_maps,
    token_rows,
)

SECTIONS = ("experts", "losses", "instructions", "sft")
KINDS = {"views": (int, "whole number"), "start": (str, "folder's name")}  # of sections that are no mappings
EXAMPLE = "rl/configs/experts.yaml"
STATE = "experts.safetensors"  # of a checkpoint: what is trained, and nothing of the base


def load_config(path: Path, sections: Sequence[str] = SECTIONS, example: str = EXAMPLE) -> dict:
    """The YAML as a dict; InputError where it is missing, broken or lacks one of `sections`. example: one that is
    right."""
    config = read_yaml(path)
    check_sections(config, path, sections, example)
    return config


def check_sections(config: object, path: Path, sections: Sequence[str], example: str = EXAMPLE) -> None:
    """Raises InputError where a configuration lacks one of `sections`, or one is of another kind."""
    for section in sections:
        if not isinstance(config, dict) or section not in config:
            raise InputError(f"{path}: section {section!r} is missing; see {example}")
        wanted, told = KINDS.get(section, (dict, "mapping"))
        if not isinstance(config[section], wanted):
            raise InputError(f"{path}: section {section!r} is no {told}; see {example}")


def start_of(config: dict) -> str:
    """What a configuration starts from: a folder or a hub id, mini where it names none."""
    return str(config.get("start") or WEIGHTS)


class RoutedCollator(CachedVisionCollator):
    """Also gives what the router reads: the number of pictures of each row, and its question's ids, padded, with a
    mask of those that count."""

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        asked = routed([row["question"] for row in rows], [len(row["map_rows"]) for row in rows])
        return super().__call__(rows) | asked


def routed(questions: Sequence[list[int]], shown: Sequence[int]) -> dict[str, torch.Tensor]:
    """What the router reads of a batch, next to the pictures: {"shown": (B,), "question", "counted": (B, T)}."""
    longest = max(1, *map(len, questions))
    ids = torch.tensor([[*one, *[-1] * (longest - len(one))] for one in questions])
    return {"shown": torch.tensor(shown), "question": ids.clamp(min=0), "counted": ids >= 0}


class MixtureTrainer(SFTTrainer):
    """SFTTrainer whose model speaks with the experts that its router weighs; here over cached tower maps.

    losses: weights of `balance_loss`, `z_loss` and, where given, `information_loss`. router_rate: the router's learning
    rate, in times the experts'.
    Checkpoints hold what is trained, not the base.
    """

    def __init__(self, *args, experts: Experts, losses: dict[str, float], router_rate: float = 1, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.experts, self.losses, self.router_rate = experts, losses, router_rate

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Experts and router in groups of their own."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            rate = settings.pop("lr")
            router = list(self.experts.router.parameters())
            routing = {id(parameter) for parameter in router}
            others = [parameter for parameter in self.experts.trainable() if id(parameter) not in routing]
            groups = [{"params": others, "lr": rate}, {"params": router, "lr": rate * self.router_rate}]
            self.optimizer = kind(groups, weight_decay=self.args.weight_decay, **settings)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        shell = self.accelerator.unwrap_model(model)
        with torch.no_grad():
            tokens = shell.model.multi_modal_projector(inputs.pop("maps"))
        gates, aside = self.routed(shell, tokens.mean(1), inputs)
        self.experts.speak(gates)
        loss, outputs = answered_loss(model, inputs, tokens, inputs.pop("labels"), num_items_in_batch)
        return (loss + aside, outputs) if return_outputs else loss + aside

    def routed(self, model, pictures: torch.Tensor, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Gates (B, K) and the losses beside the task's; pictures: (N, D). Takes what `routed` gave out of `inputs`."""
        words = mean_embedding(model.get_input_embeddings(), inputs.pop("question"), inputs.pop("counted"))
        gates, scores = self.experts.route(mean_of_rows(pictures, inputs.pop("shown")), words)
        told = self.losses.get("information", 0) * information_loss(scores)
        return gates, told + self.losses["balance"] * balance_loss(scores, gates) + self.losses["z"] * z_loss(scores)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_state(self.experts), folder / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        _restore(self.experts, load_file(Path(resume_from_checkpoint) / STATE))


def mean_of_rows(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Means over consecutive values (N, D), numbers[i] of them for row i: (B, D), zeros for a row of none."""
    row = torch.repeat_interleave(torch.arange(len(numbers), device=values.device), numbers)
    total = values.new_zeros(len(numbers), values.shape[1]).index_add_(0, row, values)
    return total / numbers.clamp(min=1)[:, None]


def _state(experts: Experts) -> dict[str, torch.Tensor]:
    state = {f"router.{name}": value for name, value in experts.router.state_dict().items()}
    for name in experts.plan.names:
        state |= {f"{name}/{key}": value for key, value in experts.expert_state(name).items()}
    return {name: value.contiguous() for name, value in state.items()}


def _restore(experts: Experts, state: dict[str, torch.Tensor]) -> None:
    router = {name.removeprefix("router."): value for name, value in state.items() if name.startswith("router.")}
    experts.router.load_state_dict(router)
    for name in experts.plan.names:
        own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
        experts.load_expert(name, own)


def train_experts(config_path: Path, data: Path, out: Path, resume: bool = False, add: Path | None = None) -> Path:
    """Train a mixture on the train split of `data` and return its folder, ready for `load_experts`.

    add: a folder of experts to go on from; the one that the configuration names and it lacks is new, and only it and
    the router learn; where it lacks none, all learn on. Raises InputError for a configuration, data or experts that
    cannot be used.
    """
    config = load_config(config_path)
    start, plan = start_of(config), ExpertPlan.read(config["experts"], config_path)
    out.mkdir(parents=True, exist_ok=True)
    if not (Path(start) / TOWER).is_file():
        from slidekick.rl.mixture_hub import hub_trainer

        trainer = hub_trainer(config, plan, config_path, data, out, add)
    else:
        check_sections(config, config_path, ("views",))
        arguments = cached_arguments(config["sft"], out, config_path)
        model, processor = load_mini(Path(start))
        experts = new_experts(model, plan, add)
        rows, maps = prepared_rows(model, processor, config, config_path, data, out)
        collator = RoutedCollator(maps.array, processor.tokenizer.pad_token_id)
        trainer = mixture_trainer(MixtureTrainer, model, processor, experts, config, arguments, rows, collator)
    go_through(trainer, out, resume)
    if trainer.is_world_process_zero():
        trainer.experts.save(out / EXPERTS, BASE if (Path(start) / TOWER).is_file() else start)
        write_atomic(out / "log.json", json.dumps(trainer.state.log_history, indent=1))
    trainer.accelerator.wait_for_everyone()
    return out / EXPERTS


def prepared_rows(model, processor, config: dict, config_path: Path, data: Path, out: Path) -> tuple[list[dict], Maps]:
    """The configuration's conversations as token rows, each with the ids of its question, and the pictures' maps."""
    from slidekick.rl.instructions.material import Plan, gather, make_lessons

    lessons = Plan.read(config["instructions"], config_path)
    material = gather(data, lessons.held_back)
    maps = cached_maps(model, material.items, config["views"], out / "maps.npy")
    made = make_lessons(lessons, material)
    rows = token_rows(made, processor, maps, lessons.seed)
    for row, one in zip(rows, made, strict=True):
        row["question"] = question_ids(one.messages, processor.tokenizer)
    return rows, maps


def new_experts(model, wanted: ExpertPlan, add: Path | None) -> Experts:
    """The `wanted` experts put into a model that learns nothing else, or those in `add`, with one more or not.

    Raises InputError where more than one is new.
    """
    model.requires_grad_(False)
    if add is None:
        torch.manual_seed(0)
        width = model.get_input_embeddings().embedding_dim
        return Experts(model, wanted, width, width)
    known = [name for name in wanted.names if (add / name).is_dir()]
    new = [name for name in wanted.names if name not in known]
    if len(new) > 1:
        raise InputError(f"{add}: {len(new)} of {', '.join(wanted.names)} are not in it; add one expert at a time")
    experts = load_experts(model, add, known, new)
    if new:
        experts.teach_only(new)
    return experts


def mixture_trainer(
    kind: type[MixtureTrainer], model, processor, experts: Experts, config: dict, args, rows: list[dict], collator
) -> MixtureTrainer:
    """A trainer of `kind` that teaches experts and router and nothing else; config: the YAML."""
    from datasets import Dataset

    for parameter in experts.trainable():
        parameter.requires_grad_(True)
    model.add_module("slidekick_router", experts.router)  # so that the trainer's optimizer finds it
    return kind(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        data_collator=collator,
        processing_class=processor,
        experts=experts,
        losses=config["losses"],
        router_rate=config.get("router_rate", 1),
    )
