"""mini's engine on CPUs: greedy decoding under the grammar over the compiled graphs, without torch.

What costs is weights read once a step, so whatever can be known without a step is not computed: tokens that the grammar
forces ride along with the step before them, and so do guesses that may save steps (`guesses.py`), what earlier prompts
share with this one is kept as keys and values, and prompts asked together are decoded as one batch.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slidekick.copilot.base import IMAGE_SIDE, IMAGE_TOKEN, PATCH, TEMPLATE, base_folder
from slidekick.copilot.compiled.eyes import Eyes, squeezed
from slidekick.copilot.compiled.guesses import Guesses, load_guesses
from slidekick.copilot.compiled.language import Cache, LanguageModel, Said, joined
from slidekick.copilot.compiled.prompts import Prompts
from slidekick.copilot.compiled.router import Router
from slidekick.copilot.compiled.store import language_graph
from slidekick.copilot.compiled.writing import Writing
from slidekick.copilot.engine import MAX_NEW_TOKENS, SLIDE
from slidekick.copilot.grammar import Grammars, alphabet
from slidekick.copilot.messages import questions
from slidekick.copilot.mini import EXPERTS, SLIDES, aside_of, load_mini, tower_name
from slidekick.copilot.pictures import Shown, SlidePicture, pixels_of
from slidekick.copilot.turn import Turn, token_ids
from slidekick.data.errors import InputError

KEPT = 16  # prompts and turns whose keys and values are kept: 50 kB a token, some 4 MB each
RECENT = 256  # tokens of the prompt's end in which guesses are looked for
SEEN = 32  # pictures whose image tokens are kept
AT_ONCE = 16  # prompts decoded together: more are no faster


@dataclass(frozen=True)
class Prompt:
    """ids: image tokens as so many placeholders. embeds: float32 (n, D) of them. gates: (1, K). key: of pictures and
    gates, without which equal ids do not mean the same."""

    ids: tuple[int, ...]
    embeds: np.ndarray
    gates: np.ndarray
    key: bytes


class CompiledEngine:
    """mini on CPUs; see `Engine`. One turn at a time; a model of one picture, asked single questions (`history` 0).

    language, eyes, prompts: what it is made of. router: where there are experts. ends: ids that end a turn. copies:
    see `Grammars`. guesses: of what was taught. reads_slides: whether it was taught a slide's tokens.
    """

    history, pictures, fixed_tools = 0, 1, True
    packages = ("onnxruntime", "openvino")

    def __init__(
        self,
        language: LanguageModel,
        eyes: Eyes,
        prompts: Prompts,
        router: Router | None,
        ends: Sequence[int],
        name: str,
        copies: Mapping[str, str] | None,
        *,
        guesses: Guesses | None = None,
        reads_slides: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.guesses = guesses or Guesses()
        self.language, self.eyes, self.prompts, self.router = language, eyes, prompts, router
        self.end_tokens, self.name = tuple(ends), name
        self.reads_slides, self.max_new_tokens = reads_slides, max_new_tokens
        background = ThreadPoolExecutor(1)  # what the first question needs, while other things are loaded
        tokenizer, words = prompts.tokenizer.to_str(), language.shape.words
        letters = background.submit(alphabet, tokenizer, words, self.end_tokens)
        background.submit(eyes.prepare)
        background.shutdown(wait=False)
        self._busy = threading.Lock()  # sessions keep their buffers; the chat page has many threads
        self.grammars = Grammars(letters.result, copies)
        self._seen: OrderedDict[bytes, tuple[np.ndarray, np.ndarray]] = OrderedDict()  # pooled map, tokens
        self._kept: OrderedDict[tuple[bytes, tuple[int, ...]], tuple[Cache, Said | None]] = OrderedDict()

    @classmethod
    def from_folder(cls, folder: Path, name: str, copies: Mapping[str, str]) -> CompiledEngine:
        """The engine over mini's weights in `folder` and its base, its graphs made on first use.

        name: as answers tell it. Raises InputError for weights that do not fit, SourceError where the base cannot be
        fetched, OutputError where the cache cannot be written.
        """
        base, aside = base_folder(), aside_of(folder)
        language = LanguageModel(language_graph(base, folder, aside))
        router = Router(folder / EXPERTS, tuple(aside)) if (folder / EXPERTS).is_dir() else None
        eyes = Eyes(tower_name(folder), lambda: load_mini(folder)[0])
        prompts = Prompts(base, TEMPLATE.read_text(encoding="utf-8"), IMAGE_TOKEN, (IMAGE_SIDE // PATCH) ** 2)
        ends = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
        ends = ends if isinstance(ends, list) else [ends]
        slides, guesses = (folder / SLIDES).is_dir(), load_guesses(folder)
        return cls(language, eyes, prompts, router, ends, name, copies, guesses=guesses, reads_slides=slides)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the experts for pictures."""
        return self.router.names if self.router else ()

    def turn(
        self,
        messages: Sequence[dict],
        image: Shown,
        tools: Sequence[dict],
        *,
        calls: bool = True,
        expert: str | None = None,
    ) -> Iterator[str | Turn]:
        """See `Engine.turn`. expert: who speaks, in place of those that picture and question ask for; "": none of them.
        Leaving the iterator early stops the model."""
        with self._busy:
            prompt = self._prompt(messages, image, tools, expert)
            matcher = self.grammars.matcher(messages, tools, calls)
            cache, said = self._read(prompt, self.max_new_tokens)
            writing = Writing(self, matcher, said, Guesses.of_prompt(prompt.ids[-RECENT:]))
            told = ""
            while (fed := writing.choose()) is not None:
                if piece := writing.news(told):
                    told += piece
                    yield piece
                writing.hear(cache.step(self.language.embed(fed)[None], len(fed))[0])
                cache.rewind(len(prompt.ids) + len(writing.ids))  # of guesses, those that were wrong
            self._keep(prompt.key, prompt.ids + tuple(writing.ids[: cache.length - len(prompt.ids)]), cache, None)
            if (text := writing.text()).startswith(told) and text != told:
                yield text[len(told) :]
            yield replace(writing.turn(len(prompt.ids)), gates=self._told(prompt.gates))

    def turns(
        self,
        asked: Sequence[tuple[Sequence[dict], Shown]],
        tools: Sequence[dict],
        calls: Sequence[bool] | None = None,
        experts: Sequence[str | None] | None = None,
    ) -> list[Turn]:
        """One turn for each (messages, image), decoded together. calls: whether each may be a call; all where None.
        experts: as `expert` of `turn`, for each."""
        allowed = [True] * len(asked) if calls is None else calls
        speakers = [None] * len(asked) if experts is None else experts
        made: list[Turn] = []
        for start in range(0, len(asked), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            with self._busy:
                made += self._together(asked[part], tools, allowed[part], speakers[part])
        return made

    def options(
        self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], options: Sequence[str]
    ) -> np.ndarray:
        """float64 (N,): log-probability that the whole turn is each of `options`, its end token included.

        Texts are weighed as the model would write them, without the grammar. Raises InputError where an option is
        empty, or there is none.
        """
        ids = token_ids(self.prompts.ids, options)
        with self._busy:
            prompt = self._prompt(messages, image, tools)
            cache, first = self._read(prompt, max(map(len, ids)))
            weighed = []
            for one in ids:
                cache.rewind(len(prompt.ids))
                *steps, last = [first, *cache.step(self.language.embed(one)[None], len(one))[0]]
                odds = [step.log_odds([token])[0] for step, token in zip(steps, one, strict=True)]
                weighed.append(sum(odds) + last.log_odds(self.end_tokens).max())
        return np.array(weighed)

    def likeness(self, image: Shown, options: Sequence[str]) -> np.ndarray:
        """float64 (N,): cosine between the picture's mean image token and the mean embedding of each option's words
        (see `TorchEngine.likeness`). Raises InputError as `options`."""
        ids = token_ids(self.prompts.ids, [f" {option}" for option in options])
        with self._busy:
            picture = np.concatenate(self._tokens(image)[0]).mean(0).astype(np.float64)
            words = [self.language.embed(one).mean(0).astype(np.float64) for one in ids]
        return np.array([picture @ one / (np.linalg.norm(picture) * np.linalg.norm(one)) for one in words])

    def question(self, words: str) -> np.ndarray:
        """float32 (D,): mean of a question's word embeddings."""
        return self.language.embed(self.prompts.ids(words)).mean(0)

    def pooled(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (1280,): the tower's map of a picture, pooled."""
        with self._busy:
            return self._seen[self._look(pixels)][0]

    def gates(self, messages: Sequence[dict], image: Shown, tools: Sequence[dict]) -> dict[str, float]:
        """Weight of each expert that a question about a picture gets; empty for a model without experts."""
        if self.router is None:
            return {}
        with self._busy:
            return self._told(self._prompt(messages, image, tools).gates)

    # ---- prompts

    def _prompt(
        self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], expert: str | None = None
    ) -> Prompt:
        ids = self.prompts.encode(messages, tools)
        tokens, key = self._tokens(image)
        embeds = self.language.embed(ids)
        places = np.flatnonzero(np.asarray(ids) == self.prompts.image)
        if len(places):
            shown = len(places) // self.prompts.repeats
            embeds[places] = np.concatenate(tokens * shown if len(tokens) == 1 else tokens)
        gates = self._route(messages, image, tokens if len(places) else [], expert)
        return Prompt(tuple(ids), embeds, gates, key + gates.tobytes())

    def _tokens(self, image: Shown) -> tuple[list[np.ndarray], bytes]:
        """Image tokens (T, D) of each picture that is shown, and a key of them."""
        if isinstance(image, SlidePicture):
            tokens = np.asarray(image.tokens, np.float32)
            return [tokens], hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
        keys = [self._look(pixels) for pixels in pixels_of(image)]
        return [self._seen[key][1] for key in keys], b"".join(keys)

    def _look(self, pixels: np.ndarray) -> bytes:
        """The key of a picture in `_seen`."""
        key = hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16, person=b"%d" % pixels.shape[1]).digest()
        if key not in self._seen:
            pooled, tokens = self.eyes(squeezed(pixels)[None])
            self._seen[key] = pooled[0], tokens[0]
            if len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return key

    def _route(
        self, messages: Sequence[dict], image: Shown, tokens: Sequence[np.ndarray], expert: str | None
    ) -> np.ndarray:
        if self.router is None:
            return np.zeros((1, 0), np.float32)
        if expert is not None:
            return self.router.alone(expert)
        if isinstance(image, SlidePicture) and SLIDE in self.router.everyone:
            return self.router.alone(SLIDE)
        width = self.language.shape.width
        asked = self.prompts.ids(said[-1]) if (said := questions(messages)) else []
        question = self.language.embed(asked).mean(0) if asked else np.zeros(width, np.float32)
        picture = np.mean([one.mean(0) for one in tokens], axis=0) if tokens else np.zeros(width, np.float32)
        return self.router(picture, question)

    def _told(self, gates: np.ndarray) -> dict[str, float]:
        return self.router.told(gates) if self.router else {}

    # ---- reading and writing

    def _read(self, prompt: Prompt, budget: int) -> tuple[Cache, Said]:
        """A cache that holds the prompt, with room for `budget` more, and what the model holds behind it."""
        need = self._room(prompt, budget)
        found, shared = self._nearest(prompt)
        if found is not None and shared == len(prompt.ids):
            self._kept.move_to_end(found)
        cache = self.language.cache(1, need) if found is None else self._kept[found][0].copied(need, shared)
        cache.speak(prompt.gates)
        if found is not None and shared == len(prompt.ids):
            return cache, self._kept[found][1]
        said = cache.step(prompt.embeds[None, shared:])[0][0]
        self._keep(prompt.key, prompt.ids, cache.copied(len(prompt.ids), len(prompt.ids)), said)
        return cache, said

    def _room(self, prompt: Prompt, budget: int) -> int:
        """Positions that a prompt takes with `budget` more behind it. Raises InputError where there are fewer."""
        need = len(prompt.ids) + budget
        if need > self.language.longest:
            raise InputError(f"the question is {len(prompt.ids)} tokens long; {self.language.longest - budget} fit")
        return need

    def _keep(self, key: bytes, ids: tuple[int, ...], cache: Cache, said: Said | None) -> None:
        self._kept[key, ids] = cache, said
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _nearest(self, prompt: Prompt) -> tuple[tuple | None, int]:
        """The kept prompt that shares the longest beginning, and how long that is; (None, 0) without one."""
        best, longest = None, 0
        for key, ids in self._kept:
            if key != prompt.key:
                continue
            if ids == prompt.ids and self._kept[key, ids][1] is not None:
                return (key, ids), len(ids)
            shared = next((n for n, (a, b) in enumerate(zip(ids, prompt.ids, strict=False)) if a != b), len(ids))
            shared = min(shared, len(prompt.ids) - 1)  # the last token is read anew, for its logits
            if shared > longest:
                best, longest = (key, ids), shared
        return best, longest

    def _together(self, asked, tools, allowed, speakers) -> list[Turn]:
        prompts = [
            self._prompt(messages, image, tools, who) for (messages, image), who in zip(asked, speakers, strict=True)
        ]
        room = max(self._room(prompt, self.max_new_tokens) for prompt in prompts)
        read = [self._read(prompt, 1) for prompt in prompts]
        writings = [
            Writing(self, self.grammars.matcher(messages, tools, may), said)
            for (messages, _), may, (_, said) in zip(asked, allowed, read, strict=True)
        ]
        going = list(range(len(asked)))
        cache = joined([one for one, _ in read], room)
        cache.speak(np.concatenate([prompt.gates for prompt in prompts]))
        while True:
            fed = [writings[one].choose() for one in going]
            if not all(fed):  # rows that have ended are left out from here on
                kept = [row for row, one in enumerate(fed) if one]
                if not kept:
                    break
                cache = cache.rows(kept)
                going, fed = [going[row] for row in kept], [fed[row] for row in kept]
                cache.speak(np.concatenate([prompts[one].gates for one in going]))
            heard = cache.step(self.language.embed([one for some in fed for one in some])[:, None])
            for one, row in zip(going, heard, strict=True):
                writings[one].hear(row)
        return [
            replace(writing.turn(len(prompt.ids)), gates=self._told(prompt.gates))
            for writing, prompt in zip(writings, prompts, strict=True)
        ]
