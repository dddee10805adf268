"""Text out of tokens, one at a time: whole characters only, stop strings, loops.

It knows a tokenizer's ``decode`` and nothing of models, batches or columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_BLOCK = 24
"""Tokens of the longest block whose repetition counts as a loop (about 40 Japanese characters)."""
FEWEST_REPEATS = 3
SHORTEST_LOOP = 12
"""Tokens a loop has at least, so that a laugh or three dots are not one."""

INCOMPLETE = "\ufffd"
"""What decoders write for bytes that do not make a character (yet)."""


def looped_tokens(ids: Sequence[int]) -> int:
    """How many tokens at the end only repeat the block before them; 0 where there is no loop.

    A loop is one block of at most ``LONGEST_BLOCK`` tokens, ``FEWEST_REPEATS`` times or more and
    ``SHORTEST_LOOP`` tokens or more. Cutting the returned number leaves the block once.
    """
    for block in range(1, LONGEST_BLOCK + 1):
        repeats = max(FEWEST_REPEATS, -(-SHORTEST_LOOP // block))
        matched = 0
        while matched + block < len(ids) and ids[-1 - matched] == ids[-1 - matched - block]:
            matched += 1
        if matched >= (repeats - 1) * block:
            return matched - matched % block
    return 0


class Pieces:
    """The text of single tokens, each decoded once: which of them may end a stop string."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def may_end(self, token: int, stops: Sequence[str]) -> bool:
        """False where none of ``stops`` can be complete with this token.

        Yes for a part of a character, and where the last character is a space: alone, some
        decoders drop it.
        """
        if not stops:
            return False
        if token not in self._known:
            self._known[token] = self._tokenizer.decode(
                [token], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        piece = self._known[token]
        return INCOMPLETE in piece or any(s[-1] in piece or s[-1].isspace() for s in stops)


class TextStream:
    """The text of a growing list of tokens, in pieces that are safe to show.

    A piece never ends inside a character (Japanese is often several byte tokens a character), nor
    in what may become a stop string; ``text`` ends before the first stop string. Special tokens
    are kept in the text: a template marker in a reply is a fault that has to be seen.
    """

    def __init__(
        self, tokenizer: Any, stop_strings: Sequence[str] = (), pieces: Pieces | None = None
    ) -> None:
        """With ``pieces`` nobody watches: text is made when a stop string may end, and at last."""
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stop_strings if stop]
        self._shown = 0
        self._pieces = pieces
        # The tokens of the last complete piece are decoded again with the new ones, because
        # decoders treat the start of a text differently (a leading space is dropped).
        self._context: list[int] = []
        self._context_text = ""
        self._new: list[int] = []

    def push(self, token: int) -> None:
        """Add a token; afterwards ``stopped`` says whether a stop string is complete."""
        if self.stopped:
            return
        self._new.append(token)
        if self._pieces is not None and not self._pieces.may_end(token, self._stops):
            return
        decoded = self._decode(self._context + self._new)
        if decoded.endswith(INCOMPLETE):
            return
        self._add(decoded[len(self._context_text) :])
        self._context, self._new = self._new, []
        self._context_text = self._decode(self._context)

    def take(self) -> str:
        """The text that can be shown now and was not yet."""
        return self._show(len(self.text) - (0 if self.stopped else self._held_back()))

    def finish(self) -> str:
        """The rest, at the end of the reply. Bytes that never made a character are left out."""
        if self._new and not self.stopped:
            rest = self._decode(self._context + self._new)[len(self._context_text) :]
            self._new = []
            self._add(rest.rstrip(INCOMPLETE))
        return self._show(len(self.text))

    def _show(self, end: int) -> str:
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _add(self, piece: str) -> None:
        longest = max(map(len, self._stops), default=1)
        start = max(0, len(self.text) - longest + 1)
        self.text += piece
        found = [at for stop in self._stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _held_back(self) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def text_of(tokenizer: Any, ids: Sequence[int], stop_strings: Sequence[str] = ()) -> TextStream:
    """A finished stream over ``ids``."""
    stream = TextStream(tokenizer, stop_strings)
    for token in ids:
        stream.push(token)
    stream.finish()
    return stream
