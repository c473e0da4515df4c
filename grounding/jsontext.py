"""A JSON text read value by value, so that a long list needs no more memory than its longest entry.

The values themselves are decoded by the standard library (which also takes NaN and Infinity, as QuPath writes them).
Only the brackets around them are handled here.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

from slidekick.data.errors import InputError

CHUNK = 1 << 20  # characters that are read at once
MOST_CHARACTERS = 64_000_000  # of one value: a polygon of 3 million vertices, 0.6 GB once decoded
NEAR_END = 64  # characters from the end in which an error may come from what is not read yet
_SPACE = " \t\r\n"
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"


class JsonText:
    """Values of the JSON in `stream`, UTF-8 with or without a byte-order mark. where: names it in errors.

    Every method raises InputError for what is no JSON, not UTF-8, cut short, nested too deeply or too long.
    """

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.where = where
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decoder = json.JSONDecoder()
        self._text, self._at = "", 0
        self._gone = 0  # characters before `_text`
        self._ended = False

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def value(self) -> object:
        """The value that comes next, decoded."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self._text) - NEAR_END or error.msg.startswith("Unterminated string")
                if unfinished and self._more():
                    continue
                raise self._bad(error.msg, error.pos, cut=unfinished) from error
            except RecursionError as error:
                raise InputError(f"{self.where}: nested too deeply to be GeoJSON; export it again") from error
            except ValueError as error:
                raise self._bad("a number of thousands of digits", self._at) from error
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def items(self) -> Iterator[object]:
        """The entries of the list that comes next."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def fields(self) -> Iterator[str]:
        """The keys of the object that comes next; the caller takes each one's value before the next key."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if (opening := self.peek()) != '"':
                raise self._bad("a key in quotes is missing", self._at, cut=not opening)
            key = self.value()
            self._take(":")
            yield str(key)
            if self._take(",}") == "}":
                return

    def end(self) -> None:
        """Check that nothing follows."""
        if self.peek():
            raise self._bad("something follows the end", self._at)

    def _take(self, wanted: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise self._bad(f"{' or '.join(wanted)} is missing", self._at, cut=not found)
        self._at += 1
        return found

    def _more(self) -> bool:
        """Read on; False at the end. As much again as is waiting, so that a long value is decoded few times."""
        waiting = len(self._text) - self._at
        if waiting > MOST_CHARACTERS:
            raise InputError(
                f"{self.where}: one value of more than {MOST_CHARACTERS // 1_000_000} million characters; "
                "simplify the largest annotation"
            )
        if self._ended:
            return False
        size = max(CHUNK, waiting)
        data = self._stream.read(size)
        if not self._gone and not self._text and data.startswith((_ZIP, _GZIP)):
            raise InputError(f"{self.where}: is compressed; unpack it first")
        self._ended = len(data) < size
        try:
            text = self._decode(data, self._ended)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.where}: not UTF-8 text; save it as UTF-8") from error
        self._gone += self._at
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(text) or not self._ended

    def _bad(self, reason: str, at: int, cut: bool = False) -> InputError:
        if cut and self._ended:
            return InputError(f"{self.where}: cut short; copy or export it again")
        return InputError(f"{self.where}: no JSON at character {self._gone + at + 1:,} ({reason}); export it again")
