"""Second stage of the slide encoder: supervised fine-tuning of how the language model reads a slide's tokens.

The connector between encoder and language model, and an expert of its own for slides, learn together; what reads
pictures stays as it is (scale-dependent fine-tuning). Batches hold plans; their tiles' features are drawn on the spot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from trl import SFTConfig, SFTTrainer

from slidekick.copilot.engine import SLIDE
from slidekick.copilot.experts import ExpertPlan, Experts, peft_config
from slidekick.copilot.mini import ADAPTER_FILE
from slidekick.copilot.slide_encoder import SlideEncoder
from slidekick.copilot.tools import tool_schemas
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.grounding.tower import float16_bytes
from slidekick.rl.instructions.slides import exchange, slide_questions
from slidekick.rl.instructions.turns import conversation
from slidekick.rl.resuming import go_through
from slidekick.rl.sft import BASE, CachedVisionCollator, answered_loss, cached_arguments, encode
from slidekick.rl.slide_bags import Bags

STATE = "reading.safetensors"  # of a checkpoint: what is trained, and nothing of the base


def slide_rows(bags: Bags, processor, count: int, seed: int) -> list[dict]:
    """Token rows of `count` conversations about plans, kinds of questions drawn evenly; "bag" is a plan's seed."""
    rng = np.random.default_rng([seed, 12])
    rows = []
    while len(rows) < count:
        number = int(rng.integers(1 << 31))
        bag = bags.draw(number)
        asked = slide_questions(bag.layout, bag.absent)
        kinds = sorted({(one.kind, one.present) for one in asked})
        for kind in rng.permutation(len(kinds))[:3]:
            these = [one for one in asked if (one.kind, one.present) == kinds[kind]]
            turns = exchange(these[int(rng.integers(len(these)))], bag.layout, rng)
            one = conversation(kinds[kind][0], bag.layout.case, (Path("slide"),), turns)
            row = encode(one, processor, list(tool_schemas()))
            rows.append(row | {"bag": number, "length": len(row["input_ids"])})
    return rows[:count]


class SlideCollator(CachedVisionCollator):
    """Pads token rows, and draws each row's bag."""

    def __init__(self, bags: Bags, pad: int) -> None:
        super().__init__(np.zeros((1, 1, 1), np.float16), pad)
        self.bags = bags

    def __call__(self, rows: list[dict]) -> dict:
        batch = super().__call__([{**row, "map_rows": []} for row in rows])
        del batch["maps"]
        return batch | {"bags": [self.bags.draw(row["bag"]) for row in rows]}


class SlideTrainer(SFTTrainer):
    """SFTTrainer whose pictures are slides: the encoder's tokens stand where a picture's would."""

    def __init__(self, *args, encoder: SlideEncoder, experts: Experts, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.encoder, self.experts = encoder, experts

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """What reads the tokens: the expert, and the encoder's way to the language model."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            read = [*self.encoder.add.parameters(), self.encoder.glass, self.encoder.reach]
            self.optimizer = kind([{"params": self.experts.trainable()}, {"params": read}], **settings)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        parts = [tuple(map(torch.from_numpy, (b.features, b.tokens, b.places))) for b in inputs.pop("bags")]
        tokens = torch.stack([self.encoder(*part) for part in parts])
        self.experts.speak(self.experts.alone(SLIDE).expand(len(tokens), -1))
        loss, outputs = answered_loss(model, inputs, tokens, inputs.pop("labels"), num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.experts.expert_state(SLIDE) | self.encoder.state_dict(), folder / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        state = load_file(Path(resume_from_checkpoint) / STATE)
        own = self.encoder.state_dict()
        self.encoder.load_state_dict({name: state.pop(name) for name in own})
        self.experts.load_expert(SLIDE, state)


@dataclass(frozen=True)
class ReadingPlan:
    """expert: of the slide expert. questions, seed: number of conversations, and what they are drawn by. arguments:
    trl's."""

    expert: ExpertPlan
    questions: int
    seed: int
    arguments: SFTConfig

    @classmethod
    def read(cls, section: Mapping, where: Path, out: Path) -> ReadingPlan:
        """The section `reading` (expert, questions, sft) of a configuration, checked. Raises InputError."""
        for key in ("expert", "questions", "sft"):
            if not isinstance(section.get(key), Mapping):
                raise InputError(f"{where}: reading.{key} is no mapping; see rl/configs/slides.yaml")
        asked = section["questions"]
        for key, least in (("count", 1), ("seed", 0)):
            if type(asked.get(key)) is not int or asked[key] < least:
                raise InputError(f"{where}: reading.questions.{key} is {asked.get(key)!r}, no whole number >= {least}")
        expert = ExpertPlan.read(section["expert"], where, "reading.expert", names=(SLIDE,), top=1)
        return cls(expert, asked["count"], asked["seed"], cached_arguments(section["sft"], out, where))


def train_reading(
    model, processor, encoder: SlideEncoder, bags: Bags, plan: ReadingPlan, out: Path, resume: bool
) -> None:
    """Teach encoder and slide expert, and write both to `out`/slides.

    resume: go on from the last whole checkpoint in `out`, if there is one.
    """
    from datasets import Dataset

    model.requires_grad_(False)
    encoder.requires_grad_(False)
    for part in (encoder.add, encoder.glass, encoder.reach):
        part.requires_grad_(True)
    width = model.get_input_embeddings().embedding_dim
    torch.manual_seed(plan.arguments.seed)  # a run that was cut begins with the same matrices
    experts = Experts(model, plan.expert, width, width)
    rows = slide_rows(bags, processor, plan.questions, plan.seed)
    trainer = SlideTrainer(
        model=model,
        args=plan.arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=SlideCollator(bags, processor.tokenizer.pad_token_id),
        processing_class=processor,
        encoder=encoder,
        experts=experts,
    )
    go_through(trainer, out, resume)
    encoder.save(out / "slides")
    save_expert(experts, out / "slides" / SLIDE)
    write_atomic(out / "log.json", json.dumps(trainer.state.log_history, indent=1))


def save_expert(experts: Experts, folder: Path) -> None:
    """The slide expert as a PEFT folder."""
    write_atomic(folder / ADAPTER_FILE, float16_bytes(experts.expert_state(SLIDE)))
    write_atomic(folder / "adapter_config.json", json.dumps(peft_config(experts.plan, BASE), indent=1))
