"""ChatML: marked-up text, in a file of its own or in a row's ``text``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from charllm.data.importing.rejecting import refuse_unless
from charllm.data.importing.talks import Rows, Talk, id_of, rest_of, role_of, text_of

_TURN = re.compile(
    r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n(.*?)(?:<\|im_end\|>|(?=<\|im_start\|>)|\Z)", re.S
)
_PARTED_TURNS = re.compile(r"\n\s*\n<\|im_start\|>assistant")
_AT_BLANKS = re.compile(r"\n[ \t]*\n\s*(?=<\|im_start\|>)|(?<=\n)(?=<\|im_start\|>system\b)")
_AT_SYSTEM = re.compile(r"(?<=\n)(?=<\|im_start\|>system\b)")


def chatml_rows(rows: Rows) -> Rows:
    """A text's talks: each begins with a system message or after an empty line.

    Where empty lines stand between question and reply, only system messages begin a talk.
    """
    made: Rows = []
    for start, row in rows:
        if not isinstance(row, str):
            made.append((start, row))
            continue
        mark = _AT_SYSTEM if _PARTED_TURNS.search(row) else _AT_BLANKS
        line, at = start, 0
        for match in [*mark.finditer(row), None]:
            end = len(row) if match is None else match.start()
            if (part := row[at:end]).strip():
                lead = len(part) - len(part.lstrip())
                made.append((line + part.count("\n", 0, lead), part))
            if match is not None:
                line += row.count("\n", at, match.end())
                at = match.end()
    return made


def chatml(row: Any, _: Mapping[str, str]) -> Talk:
    text = row if isinstance(row, str) else text_of(row.get("text"), "text")
    turns = [(role_of(role), said) for role, said in _TURN.findall(text)]
    refuse_unless(
        turns, "no <|im_start|> … <|im_end|> in it", "<|im_start|> … <|im_end|> がありません"
    )
    outside = _TURN.sub("", text).replace("<|endoftext|>", "").strip()
    meta = {} if isinstance(row, str) else rest_of(row, "text", "id")
    if outside:
        meta["outside"] = outside
    return Talk(turns, "" if isinstance(row, str) else id_of(row), meta=meta)


def fits_chatml(row: Any) -> int:
    text = row.get("text") if isinstance(row, dict) else row
    return 3 if isinstance(text, str) and "<|im_start|>" in text else 0
