"""Reinforcement fine-tuning from a YAML: mini's experts learn from what their answers earn (GRPO, arXiv 2402.03300).

mini's tower, connector and LoRA stay as they are; pictures' tower maps are made once. Rewards are the task families'
(`rl/tasks/`). Other models are trained by `grpo_hub.py`, on many devices by `accelerate launch -m slidekick.rl.grpo`.
What is in a configuration: docs/reinforcement.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from slidekick.copilot.experts import Experts, load_experts
from slidekick.copilot.mini import ADAPTER_FILE, EXPERTS, GUESSES, SIGHT, SLIDES, TOWER, load_mini
from slidekick.data.allocation import freed_memory_kept
from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic
from slidekick.rl.episodes import Player
from slidekick.rl.grpo_trainer import TaskTrainer
from slidekick.rl.guards import GuardCallback, Guards
from slidekick.rl.instructions.material import Material, gather
from slidekick.rl.launch import launched
from slidekick.rl.resuming import CHECKPOINTS, go_through
from slidekick.rl.sft import ADAPTER, BASE, cached_maps
from slidekick.rl.tasks import (
    GENERIC,
    SLIDE_TASKS,
    TASKS,
    Row,
    Task,
    generic_reward,
    is_read,
    reward_functions,
    rl_rows,
)

SECTIONS = {
    "experts": dict, "rows": dict, "rewards": str, "rollouts": dict, "curriculum": dict, "anchor": dict,
    "guards": dict, "grpo": dict,
}  # fmt: skip
CALIBRATION = 12  # rows that 8 bits are fitted to
VIEWS = 1000  # added to the seed of views, so that they are none that examples showed
HUB_SECTIONS = {"base": dict, "rows": dict, "rewards": str, "lora": dict, "guards": dict, "grpo": dict}


def load_config(path: Path) -> dict:
    """The YAML as a dict; InputError where it is missing, broken, or lacks a section."""
    config = read_yaml(path)
    hub = isinstance(config, dict) and "base" in config
    example = "rl/configs/qwen2_5_vl_3b_grpo.yaml" if hub else "rl/configs/grpo.yaml"
    for section, kind in (HUB_SECTIONS if hub else SECTIONS).items():
        if not isinstance(config, dict) or section not in config:
            raise InputError(f"{path}: section {section!r} is missing; see {example}")
        if not isinstance(config[section], kind):
            raise InputError(
                f"{path}: section {section!r} is no {'mapping' if kind is dict else 'text'}; see {example}"
            )
    if config["rewards"] not in ("tasks", "generic"):
        raise InputError(f"{path}: rewards is {config['rewards']!r}; give tasks or generic")
    check_shares(tasks := config["rows"].get("tasks"), "rows", path)
    if slides := [name for name in SLIDE_TASKS if name in tasks]:
        raise InputError(f"{path}: rows.tasks: {slides[0]} shows slides, which are not rolled out here; leave it out")
    return config


def train_grpo(config_path: Path, data: Path, out: Path, resume: bool = False) -> Path:
    """Train on questions about the train split of `data`; returns the folder that `Copilot.from_pretrained` takes.

    A run that a guard stops ends with the last good checkpoint, and tells why in log.json and on stderr. Raises
    InputError for a configuration or data folder that cannot be used.
    """
    config = load_config(config_path)
    rows, material = read_rows(config["rows"], config_path, data)
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # else a later resume would take up the old run
    if "base" in config:
        from slidekick.rl.grpo_hub import train_hub

        return train_hub(config, config_path, rows, out, resume)
    trainer, guards = make_trainer(config, config_path, rows, material, out)
    with freed_memory_kept():
        go_through(trainer, out, resume)
    history = list(trainer.state.log_history)
    if guards.reason:
        kept = guards.last_good(out / CHECKPOINTS)
        if kept is not None:
            trainer.restore(kept)
        else:
            with torch.no_grad():
                for one, copy in zip(trainer.reference.parameters, trainer.reference.copies, strict=True):
                    one.copy_(copy)
        history.append(guards.told(kept))
        print(f"slidekick: {history[-1]['stopped']}", file=sys.stderr)
    write_atomic(out / "log.json", json.dumps(history, indent=1))
    return save(trainer.experts, Path(config["start"]), out / ADAPTER)


def read_rows(plan: Mapping, where: Path, data: Path) -> tuple[list[Row], Material]:
    """The section `rows` over a data folder. Raises InputError that names the file and the key."""
    for key, least in (("count", 1), ("seed", 0)):
        if type(plan.get(key)) is not int or plan[key] < least:
            raise InputError(f"{where}: rows.{key} is {plan.get(key)!r}, not a whole number >= {least}")
    check_shares(plan.get("tasks"), "rows", where)
    material = gather(data, tuple(plan.get("held_back") or ()))
    try:
        return rl_rows(material, plan["tasks"], plan["count"], plan["seed"]), material
    except InputError as error:
        raise InputError(f"{where}: rows: {error}") from error


def rewards_of(kind: str, rows: Sequence[Row], ends: Collection[int] = ()) -> tuple[dict[str, Task], list]:
    """What rewards each task among the rows, and the same as trl's functions. kind: "tasks" or "generic".

    ends: ids that end a turn, by which functions tell answers that were cut; rollouts of ours tell it themselves.
    """
    names = sorted({row.task for row in rows})
    if kind == "generic":
        return dict.fromkeys(names, GENERIC), [generic_reward(ends)]
    return {name: TASKS[name] for name in names}, reward_functions([TASKS[name] for name in names], ends)


def make_trainer(
    config: dict, where: Path, rows: Sequence[Row], material: Material, out: Path
) -> tuple[TaskTrainer, GuardCallback]:
    """A trainer over mini's experts, and its guards, ready to train."""
    from datasets import Dataset

    start = Path(str(config.get("start") or ""))
    if not (start / TOWER).is_file() or not (start / EXPERTS).is_dir():
        raise InputError(f"{where}: start is {str(start)!r}, no folder of mini with experts; see rl/configs/grpo.yaml")
    sections = {
        "rollouts": ("budget", "calls", "int8"),
        "curriculum": ("floor", "again"),
        "anchor": ("weight", "answers", "tasks"),
    }
    for section, keys in sections.items():
        check_keys(config[section], section, keys, where)
    arguments = grpo_arguments(config["grpo"], where, out)
    most = arguments.generation_batch_size // arguments.num_generations * (config["curriculum"]["again"] + 1)
    if len(rows) < most:
        raise InputError(f"{where}: rows.count is {len(rows)}; a step may ask {most} questions, give as many at least")
    if type(config["rows"].get("views")) is not int or config["rows"]["views"] < 1:
        raise InputError(f"{where}: rows.views is {config['rows'].get('views')!r}, not a whole number >= 1")
    guards = GuardCallback(Guards.read(config["guards"], where))
    model, processor = load_mini(start)
    experts = load_experts(model, start / EXPERTS)
    model.requires_grad_(False)
    taught(experts, config["experts"], where)
    if config["experts"].get("router"):
        model.add_module("slidekick_router", experts.router)  # so that the trainer's optimizer finds it
    sizes = {key: config["rollouts"][key] for key in ("budget", "calls")}
    pictures = pictures_of(model, rows, material, config["rows"], out)
    player = Player(model, processor, experts, load_segmentor(), pictures, **sizes)
    if config["rollouts"]["int8"]:
        player.quantize(rows[:CALIBRATION])
    tasks, functions = rewards_of(config["rewards"], rows)
    trainer = TaskTrainer(
        model=model,
        args=arguments,
        reward_funcs=functions,
        # Placeholders: which questions are asked hangs on how earlier ones went.
        train_dataset=Dataset.from_dict({"prompt": [""] * arguments.generation_batch_size}),
        processing_class=processor,
        callbacks=[guards],
        rows=rows,
        rewards=tasks,
        player=player,
        experts=experts,
        kl=float(config["grpo"].get("beta", 0.0)),
        anchor=config["anchor"],
        **config["curriculum"],
    )
    return trainer, guards


def check_keys(section: Mapping, name: str, keys: Sequence[str], where: Path) -> None:
    """Raises InputError where a section has other keys, or a value of another kind."""
    if odd := sorted(set(section) ^ set(keys)):
        raise InputError(f"{where}: {name} has the keys {', '.join(keys)}; {odd[0]!r} is missing or too many")
    for key, value in section.items():
        if key == "int8":
            if not isinstance(value, bool):
                raise InputError(f"{where}: {name}.{key} is {value!r}; give true or false")
            continue
        if key == "tasks":
            check_shares(value, name, where)
            continue
        whole = key not in ("floor", "weight")
        right = type(value) is int if whole else isinstance(value, int | float) and not isinstance(value, bool)
        if not right or value < (key in ("budget", "answers")):
            raise InputError(f"{where}: {name}.{key} is {value!r}; give a {'whole ' * whole}number from 0 on")


def check_shares(value: object, name: str, where: Path) -> None:
    """Raises InputError where `tasks` of a section is no mapping of families to numbers from 0 on."""
    if not isinstance(value, Mapping):
        none = "" if name == "rows" else ", or {}"
        raise InputError(f"{where}: {name}.tasks is {value!r}; give families and their shares{none}")
    for task, share in value.items():
        if task not in TASKS:
            raise InputError(f"{where}: {name}.tasks: no task family {task!r}; there are {', '.join(TASKS)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise InputError(f"{where}: {name}.tasks.{task} is {share!r}; give a number from 0 on")


def load_segmentor():
    """The segmentor whose masks are rewarded: the one shipped."""
    from slidekick.grounding import Segmentor

    return Segmentor.from_pretrained()


def pictures_of(model, rows: Sequence[Row], material: Material, plan: Mapping, out: Path):
    """row -> image tokens (36, D) of its picture, None without one; tower maps are made once, in `out`.

    plan: the section `rows`. A question about what is shown is put to one of `views` views of its picture, of which
    the examples showed the first alone; where something lies can be asked of that one only.
    """
    shown = {row.images[0] for row in rows if row.images}
    items = {item.image: item for item in material.items if item.image in shown}
    seed = VIEWS + plan["seed"]
    maps = cached_maps(model, list(items.values()), plan["views"], out / "maps.npy", seed) if items else None

    def picture(row: Row) -> torch.Tensor | None:
        if not row.images:
            return None
        view = crc32(row.question.encode()) if is_read(row) else 0
        one = torch.from_numpy(maps.array[maps.row(row.images[0], view)].astype(np.float32))
        with torch.no_grad():
            return model.model.multi_modal_projector(one[None])[0]

    return picture


def taught(experts: Experts, plan: Mapping, where: Path) -> None:
    """From now on only what `plan` names learns: experts `train` ("all" or names), and the router where `router`.

    Raises InputError for a name that is none.
    """
    wanted = plan.get("train", "all")
    names = experts.plan.names if wanted == "all" else tuple(wanted or ())
    for name in names:
        if name not in experts.plan.names:
            raise InputError(f"{where}: experts.train: no expert {name!r}; there are {', '.join(experts.plan.names)}")
    if not names and not plan.get("router"):
        raise InputError(f"{where}: experts: nothing learns; name experts or let the router learn")
    for matrix in experts.trainable():
        matrix.requires_grad_(bool(names))
    for one in experts.router.parameters():
        one.requires_grad_(bool(plan.get("router")))
    if names and {*names} != {*experts.plan.everyone}:
        experts.teach_only(names)


def grpo_arguments(plan: Mapping, where: Path, out: Path):
    """trl's GRPOConfig of the section `grpo` for cached pictures. Raises InputError for keys that it does not have."""
    from trl import GRPOConfig

    check_reporters(plan, where)
    ours = {
        "output_dir": str(out / CHECKPOINTS), "beta": 0.0, "scale_rewards": "none", "num_iterations": 1,
        "use_cpu": True,  # the trees of rollouts.py are built for it, and mini is small
    }  # fmt: skip
    usual = {
        "report_to": "none", "bf16": False, "activation_checkpointing": False, "remove_unused_columns": False,
        "temperature": 1.0,
    }  # fmt: skip
    try:
        made = GRPOConfig(**usual | dict(plan) | ours)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: grpo: {first_line(error)}") from error
    if made.per_device_train_batch_size % made.num_generations:
        raise InputError(
            f"{where}: grpo.per_device_train_batch_size is {made.per_device_train_batch_size}, not a multiple of "
            f"num_generations ({made.num_generations}); answers to one question are weighed together"
        )
    if made.temperature != 1.0:
        raise InputError(f"{where}: grpo.temperature is {made.temperature}; rollouts are drawn at 1.0, leave it out")
    return made


def check_reporters(plan: Mapping, where: Path) -> None:
    """Raises InputError where TensorBoard is asked for and not there."""
    if "tensorboard" in str(plan.get("report_to", "")) and find_spec("tensorboard") is None:
        raise InputError(f"{where}: grpo.report_to: tensorboard is not installed; pip install 'slidekick[train]'")


def save(experts: Experts, start: Path, folder: Path) -> Path:
    """The adapter in `start` with these experts in place of its own."""
    copy_base(start, folder)
    experts.save(folder / EXPERTS, BASE)
    return folder


def copy_base(start: Path, folder: Path) -> None:
    """What lies below the experts of `start`, slides' weights among it; no confidence, which was fitted with them."""
    for file in ("adapter_config.json", ADAPTER_FILE, TOWER, SIGHT, GUESSES):
        if (start / file).is_file():
            write_atomic(folder / file, (start / file).read_bytes())
    if (start / SLIDES).is_dir():
        shutil.copytree(start / SLIDES, folder / SLIDES, dirs_exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`slidekick train grpo` for launchers, which start a module in each process; 2 for what a user can mend."""
    return launched("grpo", train_grpo, arguments)


if __name__ == "__main__":
    sys.exit(main())
