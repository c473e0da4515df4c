"""trl's GRPOTrainer taught our trade: cached pictures, experts, tools in the rollout, and advantages scaled by task.

What is trl's: loss, clipping, KL term, schedule, logging. What is ours: which questions are asked (`Curriculum`), how
they are answered (`Player`), which groups are kept, how advantages are scaled (`Spread`), and how log-probabilities
are computed (`rollouts.log_probs`), since a row here is a prompt with all its answers. The policy is the experts that
speak; the reference is a copy of what they were, put in their place for one pass.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from slidekick.copilot.experts import Experts
from slidekick.data.files import write_atomic
from slidekick.rl.anchor import Anchor
from slidekick.rl.curriculum import Curriculum, Spread, advantages, varied
from slidekick.rl.episodes import Episode, Player, Prompt
from slidekick.rl.rollouts import Packed, below, first_taught, log_probs, pack
from slidekick.rl.tasks import Reward, Row, Task

MOST_RATIO = 2.0  # of training's probability over sampling's: beyond, the correction is cut (as trl's with vLLM)
STATE, RECORD = "experts.safetensors", "record.json"  # of a checkpoint, beside what trainers keep


@dataclass(frozen=True)
class Group:
    """A question and its sampled answers. rewards: what each earned; values: the same times the row's weight."""

    number: int
    prompt: Prompt
    episodes: list[Episode]
    rewards: list[Reward]
    values: list[float]


class Frozen:
    """A copy of parameters, which can take their place for a while."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.copies = [one.detach().clone() for one in self.parameters]

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Within it the parameters hold what they held when the copy was made."""
        now = [one.data for one in self.parameters]
        for one, copy in zip(self.parameters, self.copies, strict=True):
            one.data = copy
        try:
            yield
        finally:
            for one, data in zip(self.parameters, now, strict=True):
                one.data = data


class TaskTrainer(GRPOTrainer):
    """See the module.

    rows: questions to draw from. tasks: name -> what rewards its rows. player: asks them. experts: what learns. kl:
    weight of the KL term (trl's own `beta` stays 0, since it would load a second model). anchor: `weight`,
    `answers` and `tasks` of the right answers told beside (see `Anchor`). again: times that the groups of a step are
    filled up where all answers of a group earned the same.
    """

    def __init__(
        self,
        *args,
        rows: Sequence[Row],
        rewards: dict[str, Task],
        player: Player,
        experts: Experts,
        kl: float,
        anchor: dict,
        again: int,
        floor: float,
        **kwargs,
    ) -> None:
        super().__init__(*args, rollout_func=lambda prompts, trainer: trainer.told(), **kwargs)
        self.rows, self.rewards, self.player, self.experts = rows, rewards, player, experts
        self.beta, self.again = kl, again
        self.reference = Frozen(experts.trainable())
        self.curriculum = Curriculum([(row.task, row.set) for row in rows], floor)
        self.spread = Spread()
        self.depth = first_taught(player.model)
        self.anchor = Anchor(player, rows, **anchor, seed=self.args.seed, depth=self.depth)
        self.groups: list[Group] = []
        self._packs: dict[int, tuple[Packed, torch.Tensor]] = {}
        self._members: list[int] = []
        self._said: torch.Tensor | None = None
        self._inputs: dict = {}

    def _prepare_inputs(self, generation_batch):
        """trl's, without its shuffle: answers to one prompt stay together, since they are weighed together."""
        if self._step % self.args.steps_per_generation == 0 or self._buffered_inputs is None:
            made = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(made, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs):
        """Draw, ask and reward; the rows that trl's loader gives are placeholders."""
        self.groups, self._packs = self.collect(len(inputs) // self.num_generations), {}
        asked = [
            {"prompt": one.prompt.row.question, "task": one.prompt.row.task, "truth": json.dumps(one.prompt.row.truth)}
            for one in self.groups
            for _ in one.episodes
        ]
        weight, self.beta = self.beta, 0.0  # else trl looks for its own reference
        try:
            made = super()._generate_and_score_completions(asked)
        finally:
            self.beta = weight
        values = np.array([one.values for one in self.groups])
        scaled = advantages(values, [one.prompt.row.task for one in self.groups], self.spread)
        made["advantages"] = torch.from_numpy(scaled.reshape(-1)).float()
        made["member"] = torch.arange(len(asked))
        if self.beta:
            made["ref_per_token_logps"] = self._reference(made["completion_ids"].shape[1])
        return made

    def _reference(self, wide: int) -> torch.Tensor:
        step, parts = self.args.per_device_train_batch_size, []
        with torch.no_grad(), self.reference.speaking():
            for start in range(0, len(self.groups) * self.num_generations, step):
                self._members = list(range(start, start + step))
                parts.append(self._weigh(wide)[0])
        return torch.cat(parts)

    def collect(self, number: int) -> list[Group]:
        """Groups for a step. Those whose answers all earned the same are replaced, `again` times at most; what is still
        missing then is filled with such groups, whose advantages are 0."""
        rng = np.random.default_rng([self.args.seed, self.state.global_step])
        generator = torch.Generator().manual_seed(self.args.seed * 100_003 + self.state.global_step)
        kept: list[Group] = []
        flat: list[Group] = []
        for _ in range(self.again + 1):
            if len(kept) == number:
                break
            seen = {one.number for one in (*kept, *flat)}
            made = self._ask(number - len(kept), rng, generator, seen)
            kept += [one for one in made if varied(one.values)]
            flat += [one for one in made if not varied(one.values)]
        self._note([*kept, *flat], len(flat))
        groups = [*kept, *flat[: number - len(kept)]]
        return sorted(groups, key=lambda one: len(one.prompt.ids) + sum(len(told.ids) for told in one.episodes))

    def _ask(self, number: int, rng, generator: torch.Generator, seen: Collection[int]) -> list[Group]:
        numbers: list[int] = []
        while len(numbers) < number:
            numbers.append(self.curriculum.draw(rng, {*seen, *numbers}))
        prompts = [self.player.prompt(self.rows[one]) for one in numbers]
        made = []
        for row, prompt, episodes in zip(
            numbers, prompts, self.player.play(prompts, self.num_generations, generator), strict=True
        ):
            task, truth = self.rewards[prompt.row.task], prompt.row.truth
            rewards = [task.reward(one.rollout, truth) for one in episodes]
            weight = float(truth.get("weight", 1.0))
            made.append(Group(row, prompt, episodes, rewards, [weight * one.value for one in rewards]))
        return made

    def _note(self, groups: Sequence[Group], flat: int) -> None:
        """Keep what all groups did, also those that are not learnt from, and log it."""
        log = self._metrics["train"]
        for one in groups:
            self.curriculum.note(one.number, [reward.value for reward in one.rewards])
            self.spread.note(one.prompt.row.task, one.values)
            log[f"reward/{one.prompt.row.task}"].append(float(np.mean([reward.value for reward in one.rewards])))
            words = [len(episode.rollout.text.split()) for episode in one.episodes]
            log[f"length/{one.prompt.row.task}"].append(float(np.mean(words)))  # of what is said in the end, no call
        every = [(episode, reward) for one in groups for episode, reward in zip(one.episodes, one.rewards, strict=True)]
        log["reward/all"].append(float(np.mean([reward.value for _, reward in every])))
        log["parsed"].append(float(np.mean([reward.parsed for _, reward in every])))
        log["complete"].append(float(np.mean([episode.rollout.complete for episode, _ in every])))
        log["calls"].append(float(np.mean([len(episode.steps) for episode, _ in every])))
        log["distinct"].append(
            float(np.mean([len({tuple(told.ids) for told in one.episodes}) / len(one.episodes) for one in groups]))
        )
        log["groups/asked"].append(len(groups))
        log["groups/flat"].append(flat / len(groups))

    def told(self) -> dict:
        """The groups in the form of trl's rollout functions."""
        every = [(one.prompt, episode) for one in self.groups for episode in one.episodes]
        return {
            "prompt_ids": [prompt.ids for prompt, _ in every],
            "completion_ids": [episode.ids for _, episode in every],
            "logprobs": [episode.logs for _, episode in every],
            "env_mask": [episode.own for _, episode in every],
            "rollout": [episode.rollout for _, episode in every],
        }

    def _compute_loss(self, model, inputs):
        self._members = inputs["member"].tolist()
        self._inputs = dict(inputs)
        loss = super()._compute_loss(model, self._inputs)
        own = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
        gone = (self._said - inputs["sampling_per_token_logps"])[own]
        self._metrics["train"]["sampling/ratio"].append(float(gone.exp().mean()))
        self._metrics["train"]["sampling/difference"].append(float(gone.abs().max()))
        return loss + self._anchored() if self.anchor else loss

    def _anchored(self) -> torch.Tensor:
        told = self.anchor.loss(self.state.global_step, self._members[0])
        self._metrics["train"]["anchor"].append(float(told.detach()) / self.anchor.weight)
        return told / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **_):
        logs, entropies = self._weigh(logits_to_keep)
        self._said = logs.detach()
        # Tokens were drawn from a distribution that is not quite this one: each is weighed by how much likelier it is
        # here (truncated importance sampling, Ionides 2008).
        ratio = (self._said - self._inputs["sampling_per_token_logps"]).exp().clamp(max=MOST_RATIO)
        self._inputs["advantages"] = self._inputs["advantages"][:, None] * ratio
        return logs, entropies, None

    def _weigh(self, wide: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies (B, wide) of the answers `_members`, which are whole groups."""
        first, number = self._members[0] // self.num_generations, len(self._members) // self.num_generations
        groups = self.groups[first : first + number]
        if first not in self._packs:  # the same for reference and policy
            answers = [[episode.told for episode in one.episodes] for one in groups]
            packed = pack([one.prompt.ids for one in groups], answers)
            pictures = [one.prompt.picture for one in groups if one.prompt.picture is not None]
            self._packs[first] = packed, below(self.player.model, packed, pictures, self.depth)
        self.experts.speak(self.player.gates([one.prompt for one in groups]))
        made = log_probs(self.player.model, *self._packs[first], self.depth)
        return tuple(F.pad(one, (0, wide - one.shape[1])) for one in made)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({str(i): one.detach() for i, one in enumerate(self.experts.trainable())}, folder / STATE)
        record = {"curriculum": self.curriculum.state(), "spread": self.spread.state()}
        write_atomic(folder / RECORD, json.dumps(record))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        folder = Path(resume_from_checkpoint)
        self.restore(folder)
        record = json.loads((folder / RECORD).read_text())
        self.curriculum.restore(record["curriculum"])
        self.spread.restore(record["spread"])

    def restore(self, folder: Path) -> None:
        """What is trained, as a checkpoint holds it."""
        state = load_file(folder / STATE)
        with torch.no_grad():
            for index, one in enumerate(self.experts.trainable()):
                one.copy_(state[str(index)])
