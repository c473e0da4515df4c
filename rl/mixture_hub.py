"""The mixture of experts on any image-text-to-text model: pictures through its own processor and tower at every step.

`train_experts` comes here where its configuration starts from a hub id, or from the folder of an adapter that
`train sft` made over one. Experts and router, and what they learn from, are those of `mixture.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from trl import SFTTrainer

from slidekick.copilot.experts import ExpertPlan, picture_means, question_ids
from slidekick.copilot.mini import load_generalist
from slidekick.copilot.tools import tool_schemas
from slidekick.rl.instructions.material import Plan, gather, make_lessons
from slidekick.rl.mixture import MixtureTrainer, mixture_trainer, new_experts, routed, start_of
from slidekick.rl.sft_hub import ConversationCollator, hub_arguments, row_of


class RoutedConversations(ConversationCollator):
    """Also gives what the router reads next to the pictures (`mixture.routed`)."""

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        questions = [question_ids(json.loads(row["messages"]), self.tokenizer) for row in rows]
        return super().__call__(rows) | routed(questions, [len(row["images"]) for row in rows])


class HubMixtureTrainer(MixtureTrainer):
    """MixtureTrainer over the processor's own inputs; the task's loss is trl's."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        shell = self.accelerator.unwrap_model(model)
        with torch.no_grad():
            pictures = picture_means(shell, inputs)
        gates, aside = self.routed(shell, pictures, inputs)
        self.experts.speak(gates)
        loss, outputs = SFTTrainer.compute_loss(self, model, inputs, True, num_items_in_batch)
        return (loss + aside, outputs) if return_outputs else loss + aside


def hub_trainer(
    config: dict, plan: ExpertPlan, where: Path, data: Path, out: Path, add: Path | None
) -> HubMixtureTrainer:
    """A trainer over the configuration's lessons, ready to train. Raises InputError as `train_experts`."""
    lessons, arguments = Plan.read(config["instructions"], where), hub_arguments(config["sft"], where, out)
    model, processor = load_generalist(start_of(config))
    experts = new_experts(model, plan, add)
    collator = RoutedConversations(processor, tool_schemas())
    rows = [row_of(one, collator) for one in make_lessons(lessons, gather(data, lessons.held_back))]
    return mixture_trainer(HubMixtureTrainer, model, processor, experts, config, arguments, rows, collator)
