"""Right turns told beside the rewards, so that what examples taught is not lost while something else is learnt.

A reward moves what is sampled, and what is asked seldom drifts with it: without this, calls and "yes" crept from the
families that earn by tools into those that are read from the picture. The remedy is InstructGPT's (PPO-ptx; Ouyang et
al. 2022, arXiv 2203.02155, eq. 2): a little of the supervised loss in every step. Right calls are told as right answers
are, since answers alone would teach that no tool is to be called. Families have shares of their own here: those that
rewards hardly move need most of it. Labels are all it takes; no reasoning is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from slidekick.rl.episodes import Player
from slidekick.rl.rollouts import Told, below, log_probs, pack
from slidekick.rl.tasks import Row, right_turn


class Anchor:
    """rows: to draw from; those with a right turn (`right_turn`) of no more tokens than a rollout may say are told.
    weight: of the loss, a mean over answers of each one's mean over its tokens, so that a "yes" counts as much as a
    report's line. answers: told at a time. tasks: family -> share of what is told; without any, families are told as
    often as they are asked. depth: layers from which on something learns."""

    def __init__(
        self,
        player: Player,
        rows: Sequence[Row],
        weight: float,
        answers: int,
        tasks: Mapping[str, float],
        seed: int,
        depth: int,
    ) -> None:
        self.player, self.weight, self.answers, self.seed, self.depth = player, weight, answers, seed, depth
        self.rows = [row for row in rows if right_turn(row) and len(self._told(row).ids) <= player.budget]
        told: dict[str, int] = defaultdict(int)
        for row in self.rows:
            told[row.task] += 1
        odds = np.array([tasks.get(row.task, 0.0) / told[row.task] if tasks else 1.0 for row in self.rows])
        self.odds = odds / odds.sum() if odds.any() else np.zeros(0)

    def __bool__(self) -> bool:
        return bool(self.weight and len(self.odds))

    def loss(self, step: int, part: int) -> torch.Tensor:
        """Weighed cross-entropy of the right turns of some rows, the same ones for the same step and part of it."""
        rng = np.random.default_rng([self.seed, step, part])
        number = min(self.answers, np.count_nonzero(self.odds))
        chosen = [self.rows[one] for one in rng.choice(len(self.rows), number, replace=False, p=self.odds)]
        prompts = [self.player.prompt(row) for row in chosen]
        told = [self._told(row) for row in chosen]
        packed = pack([one.ids for one in prompts], [[one] for one in told])
        pictures = [one.picture for one in prompts if one.picture is not None]
        states = below(self.player.model, packed, pictures, self.depth)
        self.player.experts.speak(self.player.gates(prompts))
        logs, _ = log_probs(self.player.model, packed, states, self.depth)
        lengths = logs.new_tensor([len(one.ids) for one in told])
        return -self.weight * (logs.sum(1) / lengths).mean()

    def _told(self, row: Row) -> Told:
        """A row's right turn with its end token, any token being admitted."""
        said = self.player.tokenizer(right_turn(row), add_special_tokens=False)["input_ids"]
        ids = [*said, self.player.ends[0]]
        width = self.player.model.get_output_embeddings().weight.shape[0]
        return Told(ids, [1] * len(ids), [np.packbits(np.ones(width, bool))] * len(ids))
