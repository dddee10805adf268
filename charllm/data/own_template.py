"""The chat template that a tokenizer carries itself, rendered to ids.

Ordinary text stays ordinary: a user who types the name of a control token types letters. It does
not know the families' templates (``templates``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from charllm.data.dialogue import Message
from charllm.data.errors import UserError


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of ordinary text: names of control tokens in it are text like any other."""
    if not text:
        return []
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    return list(encoded["input_ids"])


def _own_text(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "This tokenizer has no chat template of its own. Choose the model family's template.",
            "このトークナイザーにはチャットテンプレートがありません。モデルの系統のテンプレートを"
            "選んでください。",
        )
    rows = [m.model_dump() for m in messages]
    if rows[0]["role"] == "system" and len(rows) > 1:
        folded = [
            {**rows[1], "content": f"{rows[0]['content']}\n\n{rows[1]['content']}"},
            *rows[2:],
        ]
    else:
        folded = []
    try:
        try:
            return _rendered(tokenizer, rows, prompt)
        except Exception:  # templates raise errors of their own where they know no system role
            if not folded:
                raise
            return _rendered(tokenizer, folded, prompt)
    except Exception as error:  # whatever a template raises says what it does not accept
        raise UserError(
            f"The model's own chat template refuses this conversation: {error}",
            f"モデルのチャットテンプレートがこの会話を受け付けません: {error}",
        ) from error


def _rendered(tokenizer: Any, rows: Sequence[dict[str, str]], prompt: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(rows), tokenize=False, add_generation_prompt=prompt, enable_thinking=False
        )
    )


_MARK = re.compile("\ue000(\\d+)\ue001")


def own_prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The chat template's ids, at most one beginning token first.

    What users wrote is kept apart where it names control tokens.
    """
    ids = _template_ids(tokenizer, messages)
    # Some templates write the beginning token that their authors' tool would put there as well.
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        del ids[0]
    return ids


def _template_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    names = _specials(tokenizer)
    if not any(name in m.content for m in messages for name in names):
        text = _own_text(tokenizer, messages, prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    marked = [m.model_copy(update={"content": f"\ue000{n}\ue001"}) for n, m in enumerate(messages)]
    # Marks may come in another order: some templates move the system text to the last question.
    parts = _MARK.split(_own_text(tokenizer, marked, prompt=True))
    ids: list[int] = []
    for position, part in enumerate(parts):
        if position % 2:
            ids += plain_ids(tokenizer, messages[int(part)].content)
        else:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def _specials(tokenizer: Any) -> dict[str, int]:
    """Control tokens and their ids; added tokens that are ordinary text (line feeds) are not."""
    added = tokenizer.added_tokens_decoder.items()
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {**{token.content: number for number, token in added if token.special}, **named}


def own_end_id(tokenizer: Any) -> int:
    """The first control token that the chat template writes behind a reply."""
    mark = "\ue0000\ue001"
    messages = [Message(role="user", content="?"), Message(role="assistant", content=mark)]
    tail = _own_text(tokenizer, messages, prompt=False).partition(mark)[2]
    special = set(_specials(tokenizer).values())
    for found in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if found in special:
            return int(found)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "The model's chat template writes no end token behind a reply.",
            "モデルのチャットテンプレートは返答の後に終了トークンを置きません。",
        )
    return int(tokenizer.eos_token_id)
