"""Many turns weighed or written at once: how likely a model holds given answers, and batches of first turns.

`weigh` gives the log-probability of each of some texts as the whole turn: the prompt with its picture runs once, its
keys and values are kept, and all texts run in one padded batch behind it. `write` decodes several prompts together
under the grammar: of equal shape, or of any length where the engine pads. Both serve every model that `TorchEngine`
does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList

from slidekick.copilot.grammar import TurnMatcher
from slidekick.copilot.turn import Turn, turn_of

TOKENS = ("input_ids", "attention_mask")  # what is one number a token
AT_ONCE = 32  # texts behind one prompt, or prompts decoded together: a few hundred MB of logits at a 50 k vocabulary


def weigh(model, inputs, texts: Sequence[Sequence[int]], ends: Sequence[int]) -> np.ndarray:
    """float64 (N,): log-probability of each of `texts` as the whole turn after the prompt, end token included.

    inputs: one prompt as the model's inputs. texts: token ids, none empty. ends: ids that end a turn; the likeliest
    counts, so that a turn of more than one half is the one that greedy decoding writes.
    """
    with torch.inference_mode():
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            prompt = model(**inputs, use_cache=True, logits_to_keep=1)  # anew, since a cache grows as it is used
            parts.append(_behind(model, inputs, prompt, texts[start : start + AT_ONCE], list(ends)))
        return torch.cat(parts).cpu().numpy()


def _behind(model, inputs, prompt, texts: Sequence[Sequence[int]], ends: list[int]) -> torch.Tensor:
    """float64 (N,) for up to AT_ONCE texts behind one prompt, whose cache is used up."""
    device, number = inputs["input_ids"].device, len(texts)
    rows = [torch.tensor(list(text), device=device) for text in texts]
    ids = pad_sequence(rows, batch_first=True, padding_value=ends[0])  # (N, L)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    cache = prompt.past_key_values
    cache.batch_repeat_interleave(number)
    # No attention mask: nothing stands before the prompt, and what pads a text stands after it, where causal attention
    # does not look. Models with positions of their own (M-RoPE) would misread a mask longer than the texts.
    logits = model(input_ids=ids, past_key_values=cache).logits
    first = prompt.logits[:, -1:].expand(number, -1, -1)
    logs = torch.cat([first, logits], 1).double().log_softmax(-1)  # (N, L + 1, V): what may follow each token
    of_text = (logs[:, :-1].gather(2, ids[..., None])[..., 0] * mask).sum(1)
    last = logs[torch.arange(number, device=device), mask.sum(1)]
    return of_text + last[:, ends].amax(1)


def write(
    engine, prompts: Sequence, grammars: Sequence, budget: int, gates: Sequence[torch.Tensor | None]
) -> list[Turn]:
    """One turn a prompt, decoded greedily together; their gates are left out.

    engine: a `TorchEngine`; prompts: what its `encode` gives; grammars: a fresh `TurnProcessor` each; budget: tokens;
    gates: each prompt's weights (1, K) of the engine's experts, None where it has none.
    """
    alike: dict[tuple, list[int]] = defaultdict(list)
    for index in sorted(range(len(prompts)), key=lambda one: prompts[one]["input_ids"].shape[1]):
        shapes = {name: tuple(value.shape) for name, value in prompts[index].items()}
        if engine.pads:
            shapes |= dict.fromkeys(TOKENS)
        alike[tuple(sorted(shapes.items()))].append(index)
    turns: dict[int, Turn] = {}
    for members in alike.values():
        for start in range(0, len(members), AT_ONCE):
            chosen = members[start : start + AT_ONCE]
            stacked = _stacked([prompts[i] for i in chosen], engine.end_tokens[0])
            rows = _Rows([grammars[i] for i in chosen], engine.end_tokens)
            with engine.experts.speaking(torch.cat([gates[i] for i in chosen])) if engine.experts else nullcontext():
                written = _decode(engine, stacked, rows, budget)
            turns.update(zip(chosen, written, strict=True))
    return [turns[index] for index in range(len(prompts))]


class TurnProcessor(LogitsProcessor):
    """Masks every token that would leave the grammar. Batch of one; one object a turn.

    Works with `generate`: the first call marks where the prompt ends, each later call reads the one token
    added.
    """

    def __init__(self, matcher: TurnMatcher) -> None:
        self._matcher = matcher
        self._length: int | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """input_ids: (1, n). scores: (1, vocab), returned with −inf at every token that is not allowed."""
        if input_ids.shape[0] != 1:
            raise ValueError(f"one turn at a time, not a batch of {input_ids.shape[0]}")
        if self._length is not None:
            for token in input_ids[0, self._length :].tolist():
                self._matcher.take(token)
        self._length = input_ids.shape[1]
        mask = torch.from_numpy(self._matcher.allowed(scores.shape[-1]))
        return scores.masked_fill(~mask.to(scores.device), float("-inf"))


def _stacked(prompts: Sequence, filler: int) -> dict[str, torch.Tensor]:
    """Prompts as one batch; shorter ones are filled up on the left, which attention does not look at."""
    stacked = {}
    for name in prompts[0]:
        rows = [prompt[name] for prompt in prompts]
        if name in TOKENS:
            longest = max(row.shape[1] for row in rows)
            value = filler if name == "input_ids" else 0
            rows = [pad(row, (longest - row.shape[1], 0), value=value) for row in rows]
        stacked[name] = torch.cat(rows)
    return stacked


def _decode(engine, inputs: dict, rows: _Rows, budget: int) -> list[Turn]:
    ends = list(engine.end_tokens)
    with torch.inference_mode():
        out = engine.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=budget,
            eos_token_id=ends,
            pad_token_id=ends[0],
            logits_processor=LogitsProcessorList([rows]),
        )
    turns, width = [], inputs["input_ids"].shape[1]
    read = inputs["attention_mask"].sum(1).tolist()
    for ids, kept, length in zip(out[:, width:].tolist(), rows.kept, read, strict=True):
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        text = engine.text_of(ids[:stop]).rstrip("\ufffd").strip()
        turns.append(turn_of(text, kept, [engine.text_of([one]) for one in ids[:stop]], stop is not None, length))
    return turns


class _Rows(LogitsProcessor):
    """A grammar for every row, and the model's own probability of each token taken, until the row has ended."""

    def __init__(self, grammars: Sequence, ends: Sequence[int]) -> None:
        self.grammars, self.ends = grammars, set(ends)
        self.kept: list[list[float]] = [[] for _ in grammars]
        self._ended: list[bool] | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        last = input_ids[:, -1].tolist()
        if self._ended is None:
            self._ended = [False] * len(last)  # the prompt's last token is no end of the turn
        else:
            self._ended = [over or token in self.ends for over, token in zip(self._ended, last, strict=True)]
        own, allowed = scores.float().log_softmax(-1), scores.clone()
        for row, grammar in enumerate(self.grammars):
            if not self._ended[row]:
                allowed[row : row + 1] = grammar(input_ids[row : row + 1], scores[row : row + 1])
                self.kept[row].append(float(own[row, int(allowed[row].argmax())].exp()))
        return allowed
