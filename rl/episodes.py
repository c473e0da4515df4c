"""Rollouts with tools: a question is asked several times over, calls are run over its picture, the last turn follows.

The model is asked as the engine asks it: the same prompt, the same grammar, the same weights of its experts. What a
tool returned stands in the tokens and is marked as not the model's own, so that no gradient comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from slidekick.copilot.answer import Step
from slidekick.copilot.experts import Experts, mean_embedding, question_ids
from slidekick.copilot.grammar import CallError, TurnGrammar, alphabet, askable, fast_json, parse_turn
from slidekick.copilot.messages import step_messages
from slidekick.copilot.options import TurnProcessor
from slidekick.copilot.tools import Toolbox, known_words, tool_schemas
from slidekick.copilot.torch_engine import end_tokens
from slidekick.data.slide import read_roi
from slidekick.rl.int8 import Int8
from slidekick.rl.rollouts import Beginning, Drawn, Told, run, sample
from slidekick.rl.sft import IMAGE_TOKENS
from slidekick.rl.tasks import Rollout, Row, ToolStep

KEPT = 512  # pictures whose findings are remembered


@dataclass
class Prompt:
    """A row as the model reads it. ids: with a place for each image token; picture: (36, D) or None; question: ids that
    the router reads; words: what a call may name."""

    row: Row
    ids: list[int]
    picture: torch.Tensor | None
    question: list[int]
    words: tuple[str, ...]


@dataclass
class Episode:
    """One sampled answer: all tokens behind the prompt, which of them are the model's own, what was admitted for these,
    and their log-probabilities (0 elsewhere)."""

    ids: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    admitted: list[np.ndarray] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    rollout: Rollout = field(default_factory=lambda: Rollout(""))
    steps: list[ToolStep] = field(default_factory=list)

    def say(self, turn: Drawn) -> None:
        """The model's own turn goes on behind what there is."""
        self.ids += turn.ids
        self.own += [1] * len(turn.ids)
        self.logs += turn.logs
        self.admitted += turn.admitted

    def hear(self, ids: Sequence[int]) -> None:
        """A tool's text."""
        self.ids += ids
        self.own += [0] * len(ids)
        self.logs += [0.0] * len(ids)

    @property
    def told(self) -> Told:
        return Told(self.ids, self.own, self.admitted)


class Player:
    """Asks rows and runs their calls.

    model, processor: mini's kind. ends: ids that end a turn. segmentor: as `Toolbox` takes it. picture: row -> image
    tokens (36, D), None without a picture. budget: tokens a turn. calls: tool calls an answer may take.
    """

    def __init__(
        self, model, processor, experts: Experts, segmentor, picture: Callable, *, budget: int, calls: int
    ) -> None:
        self.model, self.tokenizer, self.experts, self.segmentor = model, processor.tokenizer, experts, segmentor
        self.picture, self.budget, self.calls = picture, budget, calls
        self.image = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.ends = end_tokens(model, self.tokenizer)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        self.grammar = TurnGrammar(alphabet(fast_json(self.tokenizer), vocabulary, self.ends), tool_schemas())
        self._boxes: dict[object, Toolbox] = {}
        self.card = known_words(segmentor)
        self._int8: Int8 | None = None

    def quantize(self, rows: Sequence[Row]) -> None:
        """From now on answers are sampled in 8 bits, calibrated on these rows and their right answers."""
        self._int8 = Int8(self.model, lambda: self._read(rows))

    def quick(self) -> AbstractContextManager[None]:
        """Within it the model computes as tokens are drawn."""
        return self._int8.speaking() if self._int8 else nullcontext()

    def _read(self, rows: Sequence[Row]) -> None:
        for row in rows:
            answered = [*row.messages, {"role": "assistant", "content": str(row.truth["answer"])}]
            prompt = self.prompt(row)
            ids = torch.tensor([[t for one in self._tokens(answered, False) for t in [one] * self._repeats(one)]])
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
            pictures = [] if prompt.picture is None else [prompt.picture]
            with self.experts.speaking(self.gates([prompt])):
                states = run(self.model, ids, causal, torch.arange(ids.shape[1])[None], pictures=pictures)
            self.model.get_output_embeddings()(states)

    def prompt(self, row: Row) -> Prompt:
        """The row's question, encoded as `TorchEngine.encode` does it."""
        ids = [token for one in self._tokens(row.messages) for token in [one] * (self._repeats(one))]
        words = askable(row.question, self.card)
        return Prompt(row, ids, self.picture(row), question_ids(row.messages, self.tokenizer), words)

    def _repeats(self, token: int) -> int:
        return IMAGE_TOKENS if token == self.image else 1

    def _tokens(self, messages: list[dict], prompt: bool = True) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages,
            tools=list(tool_schemas()),
            add_generation_prompt=prompt,
            return_dict=True,
            sanitize_control_tokens=True,
        )["input_ids"]

    def gates(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Weights (prompts, K) of the experts."""
        width = self.model.get_input_embeddings().embedding_dim
        pictures = torch.stack([torch.zeros(width) if p.picture is None else p.picture.mean(0) for p in prompts])
        longest = max(1, *(len(prompt.question) for prompt in prompts))
        ids = torch.tensor([[*p.question, *[-1] * (longest - len(p.question))] for p in prompts])
        words = mean_embedding(self.model.get_input_embeddings(), ids.clamp(min=0), ids >= 0)
        return self.experts.route(pictures, words)[0]

    def play(self, prompts: Sequence[Prompt], number: int, generator: torch.Generator) -> list[list[Episode]]:
        """`number` episodes for each prompt."""
        episodes = [[Episode() for _ in range(number)] for _ in prompts]
        with torch.no_grad():
            gates = self.gates(prompts)
        starts = [
            (Beginning(tuple(p.ids), number, self._may_call(p), p.picture, gates[i : i + 1]), i, episodes[i])
            for i, p in enumerate(prompts)
        ]
        for left in range(self.calls, -1, -1):
            keep = self._is_call if left else (lambda turn: False)
            beginnings = [one for one, _, _ in starts]
            turns = sample(self.model, self.experts, beginnings, self.budget, self.ends, generator, keep, self.quick)
            starts = self._go_on(prompts, starts, turns, left - 1)
            if not starts:
                break
        return episodes

    def _may_call(self, prompt: Prompt) -> Callable:
        calls = self.calls > 0 and bool(prompt.row.images)  # without a picture there is nothing to look at
        return lambda: TurnProcessor(self.grammar.matcher(calls=calls, words=prompt.words if calls else ()))

    def _text_only(self):
        return TurnProcessor(self.grammar.matcher(calls=False))

    def _is_call(self, turn: Drawn) -> bool:
        return self._call(turn) is not None

    def _call(self, turn: Drawn):
        try:
            return parse_turn(self._text(turn)) if turn.complete else None
        except CallError:
            return None

    def _text(self, turn: Drawn) -> str:
        ids = turn.ids[:-1] if turn.complete else turn.ids
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd").strip()

    def _go_on(self, prompts: Sequence[Prompt], starts, turns: list[list[Drawn]], left: int) -> list[tuple]:
        """Keeps what was said; equal calls of one beginning run once and go on together."""
        following = []
        for (start, index, episodes), drawn in zip(starts, turns, strict=True):
            alike: dict[tuple[int, ...], list[tuple[Drawn, Episode]]] = {}
            for turn, episode in zip(drawn, episodes, strict=True):
                episode.say(turn)
                if turn.past is not None:
                    alike.setdefault(tuple(turn.ids), []).append((turn, episode))
                else:
                    episode.rollout = Rollout(self._text(turn), tuple(episode.steps), turn.complete)
            for members in alike.values():
                turn, some = members[0][0], [episode for _, episode in members]
                heard = self._run(prompts[index].row, turn, some)
                grammar = self._may_call(prompts[index]) if left > 0 else self._text_only
                ids = (turn.ids[-1], *heard)
                following.append((Beginning(ids, len(some), grammar, None, start.gates, turn.past), index, some))
        return following

    def _run(self, row: Row, turn: Drawn, episodes: Sequence[Episode]) -> list[int]:
        """Run a call; gives the tokens between the call's end and the next turn."""
        call = self._call(turn)
        outcome = self.box(row).call(call.name, call.arguments, "t1")
        step = Step("t1", call.name, call.arguments, outcome.result, 0.0)
        asked, answered = step_messages(step)
        before = [*row.messages, asked]
        whole, spoken = self._tokens([*before, answered]), len(self._tokens(row.messages))
        end = next(place for place in range(spoken, len(whole)) if whole[place] in self.ends)
        heard = whole[end + 1 :]
        for episode in episodes:
            episode.steps.append(ToolStep.of(call.name, call.arguments, outcome))
            episode.hear(heard)
        return heard

    def box(self, row: Row) -> Toolbox:
        """The tools over the row's picture; what they found there before is remembered."""
        key = row.images[0] if row.images else None
        if key not in self._boxes:
            if len(self._boxes) >= KEPT:
                self._boxes.pop(next(iter(self._boxes)))
            roi = None if key is None else read_roi(key, mpp=row.mpp)
            self._boxes[key] = Toolbox(self.segmentor, roi)
        return self._boxes[key]
