"""Fast sampling of several answers to one prompt, and the log-probabilities of them, for causal models with a cache.

Answers to one prompt are branches of one tree: the prompt runs once, every branch's next token is one more query of the
same row of the batch, and a mask lets each branch see the prompt and its own tokens alone. Keys and values of the
prompt are so neither computed nor kept once an answer, for sampling (`sample`) as for training (`log_probs`). Branches
that have ended are dropped from the step. Every token is drawn at temperature 1 from what its grammar admits, and what
was admitted is kept, so that training weighs the same distribution that was sampled from.

Written for language models whose attention takes a mask (B, 1, Q, N) and positions of its own, in eager or sdpa form,
without sliding windows and without positions of several axes (M-RoPE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from slidekick.copilot.experts import ExpertLinear

AT_ONCE = 64  # branches decoded together: beyond, a step on a CPU costs in proportion
ROW = 4  # what a further row of a batch costs, in branches: its prompt is read once more
ROUND = 8  # few different lengths: oneDNN plans anew for every shape it has not met
HEAD = 512  # positions projected onto the vocabulary at once: 100 MB of logits at 50 k words


@dataclass(frozen=True)
class Past:
    """Keys and values of what was read before, a pair (heads, n, width) a layer, without gaps."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return self.layers[0][0].shape[1]


@dataclass(frozen=True)
class Beginning:
    """What several answers begin with.

    ids: tokens that are new, none empty; past: what stands before them. picture: image tokens (T, D) for the
    placeholders among the ids. gates: weights (1, K) of the experts that speak. number: answers to draw. grammar: makes
    a fresh processor for a turn.
    """

    ids: tuple[int, ...]
    number: int
    grammar: Callable[[], LogitsProcessor]
    picture: torch.Tensor | None = None
    gates: torch.Tensor | None = None
    past: Past | None = None


@dataclass
class Drawn:
    """One sampled turn. ids: with its end token where it is complete. logs: log-probability of each. admitted: for each
    the tokens that the grammar admitted, as packed bits. past: what stands before the last token, where it was kept."""

    ids: list[int] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    admitted: list[np.ndarray] = field(default_factory=list)
    complete: bool = False
    past: Past | None = None


def sample(
    model,
    experts,
    beginnings: Sequence[Beginning],
    budget: int,
    ends: Sequence[int],
    generator: torch.Generator,
    keep: Callable[[Drawn], bool] = lambda drawn: False,
    quick: Callable[[], AbstractContextManager] = nullcontext,
) -> list[list[Drawn]]:
    """`number` turns for each beginning, drawn at temperature 1 under the grammars.

    experts: the model's, or None. budget: tokens a turn at most, its end token among them. ends: ids that end a turn.
    keep: whether a complete turn will be gone on from, so that its keys and values are kept. quick: within it the model
    draws token by token (`int8.py`); what was there before is read without it.
    """
    drawn = [[Drawn() for _ in range(one.number)] for one in beginnings]
    for batch in batches(beginnings):
        some = [replace(beginnings[index], number=number) for index, _, number in batch]
        turns = [drawn[index][first : first + number] for index, first, number in batch]
        speaking = experts.speaking(torch.cat([one.gates for one in some])) if experts else nullcontext()
        with torch.inference_mode(), speaking:
            tree = _Tree(model, experts, some, turns, ends, keep)
            with quick():
                tree.grow(budget, generator)
    return drawn


def batches(beginnings: Sequence[Beginning]) -> list[list[tuple[int, int, int]]]:
    """What is sampled together: parts (beginning, first branch, number of branches) of one width, neighbours in length.

    Where beginnings have different numbers of branches, those with many are cut into several rows, so that few places
    of the batch are empty; at most about `AT_ONCE` branches.
    """
    made = []
    for later in (False, True):
        some = [index for index, one in enumerate(beginnings) if (one.past is not None) == later]
        if not some:
            continue
        some.sort(key=lambda index: (len(beginnings[index].ids) + len(beginnings[index].past or ()), index))
        wide = width([beginnings[index].number for index in some])
        parts = [
            (index, first, min(wide, beginnings[index].number - first))
            for index in some
            for first in range(0, beginnings[index].number, wide)
        ]
        step = max(1, AT_ONCE // wide)
        made += [parts[start : start + step] for start in range(0, len(parts), step)]
    return made


def width(numbers: Sequence[int]) -> int:
    """Branches a row that compute least: places of the batch, and `ROW` more for what each row reads again."""
    return min(range(1, max(numbers) + 1), key=lambda wide: sum(-(-n // wide) for n in numbers) * (wide + ROW))


class _Tree:
    """Several beginnings, a row of the batch each, with branches behind them.

    sees: bool (rows, branches, columns), what of the row's cache each branch may look at.
    """

    def __init__(self, model, experts, beginnings, drawn, ends, keep) -> None:
        self.model, self.experts, self.ends, self.keep = model, experts, frozenset(ends), keep
        self.gates = torch.cat([one.gates for one in beginnings]) if experts else None
        self.rows = [list(turns) for turns in drawn]
        self.lengths = [len(one.ids) + len(one.past or ()) for one in beginnings]
        self.grammars = [[one.grammar() for _ in turns] for one, turns in zip(beginnings, self.rows, strict=True)]
        self.live = [(row, branch) for row, turns in enumerate(self.rows) for branch in range(len(turns))]
        self._read(beginnings)

    def _read(self, beginnings: Sequence[Beginning]) -> None:
        """Run what the branches share; keeps the cache and the states behind which they begin."""
        before = max(len(one.past or ()) for one in beginnings)
        new = max(len(one.ids) for one in beginnings)
        there = torch.zeros(len(beginnings), before + new, dtype=torch.bool)  # columns that hold something
        ids = torch.zeros(len(beginnings), new, dtype=torch.long)
        for row, one in enumerate(beginnings):
            ids[row, new - len(one.ids) :] = torch.tensor(one.ids)
            there[row, before - len(one.past or ()) : before] = True
            there[row, before + new - len(one.ids) :] = True
        positions = (there.cumsum(1) - 1).clamp(min=0)[:, before:]
        causal = torch.ones(new, before + new, dtype=torch.bool).tril(before)
        itself = torch.eye(new, dtype=torch.bool)  # a place that holds nothing looks at itself: no row may be empty
        mask = causal & there[:, None]
        mask[:, :, before:] |= itself
        self.cache = _joined([one.past for one in beginnings], before) if before else DynamicCache()
        pictures = [one.picture for one in beginnings if one.picture is not None]
        states = run(self.model, ids, mask[:, None], positions, self.cache, pictures)
        widest = max(map(len, self.rows))
        self.sees = there[:, None].expand(-1, widest, -1).clone()
        self.states = torch.stack([states[row, -1] for row, _ in self.live])

    def grow(self, budget: int, generator: torch.Generator) -> None:
        """Draw until every branch has ended or is cut."""
        head = self.model.get_output_embeddings()
        for _ in range(budget):
            logits = head(self.states).float()
            picks = self._draw(logits, generator)
            ended = [pick in self.ends for pick in picks]
            for (row, branch), over in zip(self.live, ended, strict=True):
                turn = self.rows[row][branch]
                turn.complete = over
                if over and self.keep(turn):
                    turn.past = self._past(row, branch)
            self.live = [place for place, over in zip(self.live, ended, strict=True) if not over]
            if not self.live or len(self.rows[self.live[0][0]][self.live[0][1]].ids) == budget:
                return
            self._drop_rows()
            self._step()

    def _draw(self, logits: torch.Tensor, generator: torch.Generator) -> list[int]:
        allowed = torch.empty_like(logits)
        for place, (row, branch) in enumerate(self.live):
            ids = torch.tensor([self.rows[row][branch].ids], dtype=torch.long)
            allowed[place] = self.grammars[row][branch](ids, logits[place : place + 1])[0]
        picks, chosen = draw(allowed, generator)
        bits = np.packbits(torch.isfinite(allowed).numpy(), axis=1)
        for place, (row, branch) in enumerate(self.live):
            turn = self.rows[row][branch]
            turn.ids.append(picks[place])
            turn.logs.append(chosen[place])
            turn.admitted.append(bits[place])
        return picks

    def _step(self) -> None:
        """Feed each live branch its last token."""
        places: list[list[int]] = [[] for _ in self.rows]
        for row, branch in self.live:
            places[row].append(branch)
        wide = max(map(len, places))
        ids = torch.zeros(len(self.rows), wide, dtype=torch.long)
        positions = torch.zeros_like(ids)
        columns = self.sees.shape[2]
        self.sees = torch.nn.functional.pad(self.sees, (0, wide))
        mask = torch.zeros(len(self.rows), wide, columns + wide, dtype=torch.bool)
        mask[:, :, columns:] = torch.eye(wide, dtype=torch.bool)
        for row, branches in enumerate(places):
            for slot, branch in enumerate(branches):
                turn = self.rows[row][branch]
                self.sees[row, branch, columns + slot] = True
                ids[row, slot], positions[row, slot] = turn.ids[-1], self.lengths[row] + len(turn.ids) - 1
            mask[row, : len(branches)] = self.sees[row, branches]
        states = run(self.model, ids, mask[:, None], positions, self.cache)
        self.states = torch.cat([states[row, : len(branches)] for row, branches in enumerate(places)])

    def _drop_rows(self) -> None:
        """Rows of which all branches have ended leave the batch."""
        left = sorted({row for row, _ in self.live})
        if len(left) == len(self.rows):
            return
        index = torch.tensor(left)
        self.cache.batch_select_indices(index)
        self.sees = self.sees[index]
        self.rows, self.lengths = [self.rows[row] for row in left], [self.lengths[row] for row in left]
        self.grammars = [self.grammars[row] for row in left]
        self.live = [(left.index(row), branch) for row, branch in self.live]
        if self.experts:
            self.gates = self.gates[index]
            self.experts.speak(self.gates)

    def _past(self, row: int, branch: int) -> Past:
        columns = self.sees[row, branch].nonzero()[:, 0]
        return Past(tuple((layer.keys[row][:, columns], layer.values[row][:, columns]) for layer in self.cache.layers))


def _joined(pasts: Sequence[Past], wide: int) -> DynamicCache:
    """Pasts of different lengths as one cache, filled up on the left."""
    cache = DynamicCache()
    for layer in range(len(pasts[0].layers)):
        keys, values = (
            torch.stack(
                [torch.nn.functional.pad(past.layers[layer][which], (0, 0, wide - len(past), 0)) for past in pasts]
            )
            for which in (0, 1)
        )
        cache.update(keys, values, layer)
    return cache


def run(
    model,
    ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    cache: DynamicCache | None = None,
    pictures: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """Last states (B, Q, D) of ids (B, Q) that look where mask (B, 1, Q, N) says.

    pictures: image tokens (T, D) each, for the placeholders among the ids in their order.
    """
    shown = {"image": BaseModelOutputWithPooling(pooler_output=torch.stack(list(pictures)))} if len(pictures) else None
    kept = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    outputs = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, mm_encoder_outputs=shown, **kept
    )
    return outputs.last_hidden_state


def draw(logits: torch.Tensor, generator: torch.Generator) -> tuple[list[int], list[float]]:
    """A token for each row of logits (B, V), −inf where none may be drawn, and its log-probability.

    By the inverse of the distribution function: torch's multinomial takes five times as long on a CPU.
    """
    best = logits.amax(1, keepdim=True)
    weights = (logits - best).exp()
    sums = weights.cumsum(1)
    total = sums[:, -1:]
    picks = torch.searchsorted(sums, torch.rand(len(logits), 1, generator=generator) * total, right=True)
    picks = torch.where(picks < logits.shape[1], picks, weights.argmax(1, keepdim=True))  # rounded up to the end
    logs = logits.gather(1, picks) - best - total.log()
    return picks[:, 0].tolist(), logs[:, 0].tolist()


@dataclass(frozen=True)
class Told:
    """One answer as training weighs it. ids: all its tokens, tools' text among them. own: which of them the model
    wrote. admitted: packed bits for each of these."""

    ids: Sequence[int]
    own: Sequence[int]
    admitted: Sequence[np.ndarray]


@dataclass(frozen=True)
class Packed:
    """Prompts and their answers, a row a prompt, its answers behind it.

    ids, positions: (P, T). mask: bool (P, 1, T, T). before: row and column of the state before each of the N tokens
    that the model wrote; targets (N,): these tokens; admitted: packed bits of each; where: its answer and place in it.
    shape: answers, tokens of the longest.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    before: tuple[torch.Tensor, torch.Tensor]
    targets: torch.Tensor
    admitted: np.ndarray
    where: tuple[torch.Tensor, torch.Tensor]
    shape: tuple[int, int]


def pack(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Told]]) -> Packed:
    """Each prompt with its answers as one row."""
    longest = max(len(p) + sum(len(one.ids) for one in told) for p, told in zip(prompts, answers, strict=True))
    longest = -(-longest // ROUND) * ROUND
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(prompts), 1, 1)
    before, targets, where, bits = [], [], [], []
    number = 0
    for row, (prompt, told) in enumerate(zip(prompts, answers, strict=True)):
        first = start = len(prompt)
        ids[row, :first], positions[row, :first] = torch.tensor(prompt), torch.arange(first)
        mask[row, :first, :first] |= torch.ones(first, first, dtype=torch.bool).tril()
        for one in told:
            end = start + len(one.ids)
            ids[row, start:end] = torch.tensor(one.ids)
            positions[row, start:end] = torch.arange(first, first + len(one.ids))
            mask[row, start:end, :first] = True
            mask[row, start:end, start:end] |= torch.ones(end - start, end - start, dtype=torch.bool).tril()
            for place in (place for place, own in enumerate(one.own) if own):
                before.append((row, start + place - 1 if place else first - 1))
                targets.append(one.ids[place])
                where.append((number, place))
            bits += one.admitted
            start, number = end, number + 1
    shape = (number, max(len(one.ids) for told in answers for one in told))
    pairs = (tuple(torch.tensor(some).T) for some in (before, where))
    return Packed(ids, positions, mask[:, None], next(pairs), torch.tensor(targets), np.stack(bits), next(pairs), shape)


def below(model, packed: Packed, pictures: Sequence[torch.Tensor], depth: int) -> torch.Tensor:
    """States (P, T, D) behind the first `depth` layers, where nothing learns: made once for policy and reference."""
    with torch.no_grad(), _layers(model, 0, depth):
        return run(model, packed.ids, packed.mask, packed.positions, pictures=pictures)


def log_probs(model, packed: Packed, states: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and, without gradient, entropy of each token that the model wrote, under what was admitted:
    (R, C) each, answers one prompt after the other; 0 where a token is not its own.

    states: as `below` gave them. Experts that speak have weights (P, K).
    """
    language = model.base_model.language_model
    with _layers(model, depth, None):
        last = language(
            inputs_embeds=states, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
    logs, entropies = _weighed(model, last[packed.before], packed)
    return tuple(last.new_zeros(packed.shape).index_put(packed.where, one) for one in (logs, entropies))


def _weighed(model, states: torch.Tensor, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) log-probabilities and entropies for the states (N, D) before each token."""
    head = model.get_output_embeddings()
    words, logs, entropies = head.weight.shape[0], [], []
    for start in range(0, len(states), HEAD):
        part = slice(start, start + HEAD)
        banned = torch.from_numpy(~np.unpackbits(packed.admitted[part], axis=1, count=words).view(bool))
        told = head(states[part]).float().masked_fill_(banned, float("-inf")).log_softmax(-1)
        logs.append(told.gather(1, packed.targets[part, None])[:, 0])
        with torch.no_grad():
            entropies.append(-(told.exp() * told.masked_fill(banned, 0.0)).sum(-1))
    return torch.cat(logs), torch.cat(entropies)


@contextmanager
def _layers(model, first: int, last: int | None) -> Iterator[None]:
    """Within it the language model has some of its layers alone, and its last norm only with the last of them."""
    language = model.base_model.language_model
    layers, norm = language.layers, language.norm
    language.layers = layers[first:last]
    if last is not None:
        language.norm = torch.nn.Identity()
    try:
        yield
    finally:
        language.layers, language.norm = layers, norm


def first_taught(model) -> int:
    """Number of the language model's layers below the first with an expert in it."""
    layers = model.base_model.language_model.layers
    taught = (i for i, layer in enumerate(layers) if any(isinstance(part, ExpertLinear) for part in layer.modules()))
    return next(taught, len(layers))
