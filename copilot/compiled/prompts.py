"""A chat as token ids, by mini's template and tokenizer, without transformers.

What people typed is encoded as plain text, so it can never become an image or control token: control tokens in it are
wrapped in marks that no typed text may hold, and what stands within marks is encoded without added tokens (the rule of
transformers' `sanitize_control_tokens`, which tests hold this against).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

START, END = "\U000f0000", "\U000f0001"  # private use: what was typed loses them before it is marked


class Prompts:
    """folder: of the base, with tokenizer.json. template: Jinja text of the chat. image: the picture's placeholder;
    repeats: image tokens a picture."""

    def __init__(self, folder: Path, template: str, image: str, repeats: int) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.repeats = repeats
        self.image = self.tokenizer.token_to_id(image)
        self._template = template
        added = {token.content for token in self.tokenizer.get_added_tokens_decoder().values()}
        longest_first = sorted(added, key=lambda one: (-len(one), one))
        self._control = re.compile("|".join(map(re.escape, longest_first)))
        self._marks = re.compile(f"{START}({self._control.pattern}){END}|[{START}{END}]")

    def encode(self, messages: Sequence[dict], tools: Sequence[dict]) -> list[int]:
        """Token ids of a prompt for the next turn; `self.image` `repeats` times for each picture."""
        text = self._rendered.render(
            messages=self._marked(list(messages)), tools=self._marked(list(tools)) or None, add_generation_prompt=True
        )
        ids: list[int] = []
        for number, piece in enumerate(self._marks.split(text)):
            if piece:
                ids += self._plain(piece) if number % 2 else self.ids(piece)
        return [one for token in ids for one in [token] * (self.repeats if token == self.image else 1)]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, its control tokens as such."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Sequence[int]) -> str:
        """The reverse, special tokens spelt out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _plain(self, text: str) -> list[int]:
        self.tokenizer.encode_special_tokens = True
        try:
            return self.ids(text)
        finally:
            self.tokenizer.encode_special_tokens = False

    def _marked(self, told):
        if isinstance(told, str):
            told = told.replace(START, "").replace(END, "")
            return self._control.sub(f"{START}\\g<0>{END}", told)
        if isinstance(told, dict):
            return {key: self._marked(value) for key, value in told.items()}
        return [self._marked(one) for one in told] if isinstance(told, list | tuple) else told

    @cached_property
    def _rendered(self):
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        # `generation` marks the answer for training; here it is nothing but what stands within.
        return environment.from_string(re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", self._template))
