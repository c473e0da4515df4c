"""The torch engine: every Hugging Face image-text-to-text model through its processor's chat template; the reference.

What people typed is encoded as plain text (`sanitize_control_tokens`), so it can never become an image or control
token.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from slidekick.copilot.compiled.eyes import eyes_module, squeezed
from slidekick.copilot.engine import MAX_HISTORY, MAX_NEW_TOKENS, SLIDE
from slidekick.copilot.experts import Experts, mean_embedding, pooled_picture, question_ids
from slidekick.copilot.grammar import Alphabet, Grammars, alphabet, fast_json
from slidekick.copilot.hub import chat_template
from slidekick.copilot.messages import user_message
from slidekick.copilot.options import TurnProcessor, weigh, write
from slidekick.copilot.pictures import MOST_PICTURES, Shown, SlidePicture, pixels_of, takes_several, with_pictures
from slidekick.copilot.turn import Turn, token_ids, turn_of
from slidekick.data.errors import InputError


class TorchEngine:
    """Any image-text-to-text model of transformers, decoded greedily under the grammar, one turn at a time.

    model, processor: as the Auto classes give them; the processor has a chat template. A model whose tokenizer has no
    fast form is refused with InputError, since calls could then not be decoded under the grammar. experts: those put
    into the model, weighed anew for each turn's picture and question. copies: see `Grammars`.
    reads_slides: whether it was taught a slide's tokens. most_pictures: of a slide in one
    prompt, as far as the processor takes them. pads: whether prompts of different lengths are decoded together, filled
    up on the left; for models that place tokens by their number, not by what they show (M-RoPE). fixed_tools: whether
    the built-in tools are all that it was taught to call.
    """

    packages = ("transformers", "torch")

    def __init__(
        self,
        model,
        processor,
        name: str = "",
        max_new_tokens: int = MAX_NEW_TOKENS,
        history: int = MAX_HISTORY,
        experts: Experts | None = None,
        copies: Mapping[str, str] | None = None,
        *,
        reads_slides: bool = False,
        most_pictures: int = MOST_PICTURES,
        pads: bool = False,
        fixed_tools: bool = False,
    ) -> None:
        if not chat_template(processor):
            raise InputError(f"{name or type(processor).__name__}: no chat template; use an instruction-tuned model")
        self.model, self.processor = model.eval(), processor
        self.name, self.max_new_tokens, self.history = name, max_new_tokens, history
        self.experts, self.grammars = experts, Grammars(self._alphabet, copies)
        self.reads_slides, self.most_pictures, self.pads = reads_slides, most_pictures, pads
        self.fixed_tools = fixed_tools
        self._busy = threading.Lock()  # a model serves one turn at a time; the chat page has many threads

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
        Raises what `generate` raises; leaving the iterator early stops the model."""
        with self._busy:
            inputs = self.encode(messages, image, tools)
            grammar = TurnProcessor(self.grammars.matcher(messages, tools, calls))
            with self._speaking(messages, inputs, expert) as gates:
                for piece in self._decode(inputs, grammar):
                    yield replace(piece, gates=gates) if isinstance(piece, Turn) else piece

    def turns(
        self,
        asked: Sequence[tuple[Sequence[dict], Shown]],
        tools: Sequence[dict],
        calls: Sequence[bool] | None = None,
        experts: Sequence[str | None] | None = None,
    ) -> list[Turn]:
        """One turn for each (messages, image), decoded together where the prompts are alike. calls: whether each may be
        a call; all where None. experts: as `expert` of `turn`, for each."""
        allowed = [True] * len(asked) if calls is None else calls
        speakers = [None] * len(asked) if experts is None else experts
        with self._busy:
            prompts = [self.encode(messages, image, tools) for messages, image in asked]
            grammars = [
                TurnProcessor(self.grammars.matcher(messages, tools, may))
                for (messages, _), may in zip(asked, allowed, strict=True)
            ]
            gates = [
                self._routed(messages, dict(one), who)
                for (messages, _), one, who in zip(asked, prompts, speakers, strict=True)
            ]
            written = write(self, prompts, grammars, self.max_new_tokens, gates)
        return [replace(turn, gates=self._told(weights)) for turn, weights in zip(written, gates, strict=True)]

    def options(
        self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], options: Sequence[str]
    ) -> np.ndarray:
        """float64 (N,): log-probability that the whole turn is each of `options`, its end token included.

        Texts are weighed as the model would write them, without the grammar. Raises InputError where an option is
        empty, or there is none.
        """
        ids = token_ids(self._ids, options)
        with self._busy:
            inputs = self.encode(messages, image, tools)
            with self._speaking(messages, inputs):
                return weigh(self.model, inputs, ids, self.end_tokens)

    def likeness(self, image: Shown, options: Sequence[str]) -> np.ndarray:
        """float64 (N,): cosine between the picture's mean image token and the mean embedding of each option's words.

        Tells something where the connector was aligned with words, as mini's is (CLIP's rule, Radford et al. 2021, in
        the language model's own space). Raises InputError as `options`.
        """
        ids = token_ids(self._ids, [f" {option}" for option in options])
        with self._busy, torch.inference_mode():
            picture = pooled_picture(
                self.model, self.encode([{"role": "user", "content": [{"type": "image"}]}], image, ())
            )
            table = self.model.get_input_embeddings().weight
            words = torch.stack([table[torch.tensor(one, device=table.device)].mean(0) for one in ids])
            return torch.cosine_similarity(picture.double(), words.double()).cpu().numpy()

    def question(self, words: str) -> np.ndarray:
        """float32 (D,): mean of a question's word embeddings."""
        with torch.inference_mode():
            return self.pooled_question([user_message(words, with_image=False)])[0].float().cpu().numpy()

    def pooled(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (1280,): what mini's tower makes of a picture, pooled; for mini and its kin."""
        seen = torch.from_numpy(squeezed(pixels).copy())[None].to(self.model.device)
        with self._busy, torch.inference_mode():
            return eyes_module(self.model)(seen)[0][0].float().cpu().numpy()

    def gates(self, messages: Sequence[dict], image: Shown, tools: Sequence[dict]) -> dict[str, float]:
        """Weight of each expert that a question about a picture gets; empty for a model without experts."""
        if self.experts is None:
            return {}
        with self._busy, self._speaking(messages, self.encode(messages, image, tools)) as gates:
            return gates

    def encode(self, messages: Sequence[dict], image: Shown, tools: Sequence[dict]):
        """The prompt as the model's inputs, on its device: BatchFeature with input_ids (1, n) and pixels, or a slide's
        tokens in their place."""
        # torch warns of arrays that it could not write to
        pictures = [one if one.flags.writeable else one.copy() for one in pixels_of(image)]
        inputs = self.processor.apply_chat_template(
            with_pictures(messages, pictures),
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
        )
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        if isinstance(image, SlidePicture) and "pixel_values" in inputs:
            del inputs["pixel_values"]
            tokens = image.tokens[None].to(self.model.device, self.model.dtype)
            inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
        return inputs

    @cached_property
    def pictures(self) -> int:
        """How many pictures a prompt may show of a slide: `most_pictures`, or 1 where the processor takes no more."""
        return self.most_pictures if self.most_pictures > 1 and takes_several(self.processor) else 1

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end a turn: the generation config's and the tokenizer's."""
        return end_tokens(self.model, self.processor.tokenizer)

    @contextmanager
    def _speaking(self, messages: Sequence[dict], inputs, expert: str | None = None) -> Iterator[dict[str, float]]:
        """Within it the model speaks with the experts that picture and question ask for, or with the one named; gives
        their weights."""
        gates = self._routed(messages, inputs, expert)
        if gates is None:
            yield {}
            return
        with self.experts.speaking(gates):
            yield self._told(gates)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the experts for pictures."""
        return () if self.experts is None else self.experts.plan.names

    def _routed(self, messages: Sequence[dict], inputs, expert: str | None = None) -> torch.Tensor | None:
        """The experts' weights (1, K) for a prompt, whose inputs change as `picture_means` tells; None without any."""
        if self.experts is None:
            return None
        if expert is not None:
            return self.experts.alone(expert)
        if "mm_encoder_outputs" in inputs and SLIDE in self.experts.plan.aside:
            return self.experts.alone(SLIDE)
        with torch.inference_mode():
            return self.experts.route(pooled_picture(self.model, inputs), self.pooled_question(messages))[0]

    def _told(self, gates: torch.Tensor | None) -> dict[str, float]:
        """Weights (1, K) of the experts that speak, by name."""
        if gates is None:
            return {}
        return {name: round(float(g), 4) for name, g in zip(self.experts.plan.everyone, gates[0], strict=True) if g > 0}

    def pooled_question(self, messages: Sequence[dict]) -> torch.Tensor:
        """(1, D): what the router reads of the last question; zeros where nothing was asked."""
        ids = question_ids(messages, self.processor.tokenizer)
        ids = torch.tensor([ids], device=self.model.device, dtype=torch.long)
        return mean_embedding(self.model.get_input_embeddings(), ids, torch.ones_like(ids, dtype=torch.bool))

    def _alphabet(self) -> Alphabet:
        vocab = self.model.get_output_embeddings().weight.shape[0]
        return alphabet(fast_json(self.processor.tokenizer), vocab, self.end_tokens)

    def _decode(self, inputs, grammar: LogitsProcessor) -> Iterator[str | Turn]:
        tokens: queue.Queue = queue.Queue()
        probabilities = _Probabilities()
        left = threading.Event()
        options = {
            "do_sample": False,
            "max_new_tokens": self.max_new_tokens,
            "eos_token_id": list(self.end_tokens),
            "pad_token_id": self.end_tokens[0],
            "streamer": _TokenQueue(tokens),
            "logits_processor": LogitsProcessorList([probabilities, grammar, probabilities.chosen]),
            "stopping_criteria": StoppingCriteriaList([_WhenLeft(left)]),
        }
        worker = threading.Thread(target=self._generate, args=(inputs, options, tokens), daemon=True)
        worker.start()
        try:
            yield from self._pieces(tokens, probabilities, inputs["input_ids"].shape[1])
        finally:
            left.set()
            worker.join()

    def _generate(self, inputs, options: dict, tokens: queue.Queue) -> None:
        try:
            with torch.inference_mode():
                self.model.generate(**inputs, **options)
            tokens.put(None)
        except BaseException as error:  # handed to the reader's thread, which raises it
            tokens.put(error)

    def _pieces(self, tokens: queue.Queue, probabilities: _Probabilities, read: int) -> Iterator[str | Turn]:
        ids: list[int] = []
        told, ended = "", False
        while (item := tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            ended = ended or item in self.end_tokens
            if ended:
                continue
            ids.append(item)
            text = self.text_of(ids)
            # "\ufffd" at the end: a character whose other bytes are still to come
            if text.startswith(told) and not text.endswith("\ufffd") and text != told:
                yield text[len(told) :]
                told = text
        text = self.text_of(ids).rstrip("\ufffd")
        if text.startswith(told) and text != told:
            yield text[len(told) :]
        yield turn_of(text.strip(), probabilities.kept, [self.text_of([one]) for one in ids], ended, read)

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text_of(self, ids: list[int]) -> str:
        """Token ids as text, special tokens spelt out."""
        return self.processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def end_tokens(model, tokenizer) -> tuple[int, ...]:
    """Ids that end a turn: the generation config's and the tokenizer's, each once."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    return tuple(one for one in dict.fromkeys([*ids, tokenizer.eos_token_id]) if one is not None)


class _Probabilities(LogitsProcessor):
    """Keeps the probability the model itself gave each token that was then chosen under the grammar.

    Stands first in the list (sees the model's own logits); `chosen` stands last (sees what greedy decoding
    takes).
    """

    def __init__(self) -> None:
        self._own: torch.Tensor | None = None
        self.kept: list[float] = []
        self.chosen = _Chosen(self)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._own = scores[0].float()
        return scores

    def keep(self, token: int) -> None:
        """Note the probability of `token` in this step."""
        self.kept.append(float(torch.exp(self._own[token] - torch.logsumexp(self._own, dim=-1))))


class _Chosen(LogitsProcessor):
    def __init__(self, probabilities: _Probabilities) -> None:
        self._probabilities = probabilities

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._probabilities.keep(int(scores[0].argmax()))
        return scores


class _TokenQueue(BaseStreamer):
    """Hands token ids to the reading thread; the prompt, which `generate` sends first, is left out."""

    def __init__(self, tokens: queue.Queue) -> None:
        self._tokens = tokens
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        for token in value.reshape(-1).tolist():
            self._tokens.put(token)

    def end(self) -> None:
        self._prompt = True


class _WhenLeft(StoppingCriteria):
    def __init__(self, left: threading.Event) -> None:
        self._left = left

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self._left.is_set(), device=input_ids.device)
