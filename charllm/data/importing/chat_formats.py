"""Formats whose rows are chats or pairs in JSON: charllm, OpenAI, TRL, ShareGPT, Alpaca."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from charllm.data.errors import Text
from charllm.data.importing.rejecting import refuse_unless
from charllm.data.importing.talks import Talk, id_of, messages_of, rest_of, role_of, text_of

UNLEARNT_END = Text("later replies of weight 0 were left out", "最後の weight 0 の返答を除きました")


def own(row: Any, _: Mapping[str, str]) -> Talk:
    given = row.get("meta")
    meta = rest_of(row, "id", "messages", "source", "meta")
    meta |= given if isinstance(given, dict) else {} if given is None else {"meta": given}
    return Talk(messages_of(row["messages"]), id_of(row), str(row.get("source") or ""), meta)


def fits_own(row: Any) -> int:
    if not isinstance(row, dict) or not {"id", "messages"} <= row.keys():
        return 0
    return 5 if row.keys() & {"source", "meta"} else 0


def openai(row: Any, _: Mapping[str, str]) -> Talk:
    """Replies of weight 0 are not to be learnt: the talk ends at the last one that is.

    ``meta.weights`` keeps the weights of the replies that stay, where any is 0.
    """
    turns = messages_of(row["messages"])
    weights = {
        n: message.get("weight", 1)
        for n, message in enumerate(row["messages"])
        if turns[n][0] == "assistant"
    }
    learnt = [n for n, weight in weights.items() if weight != 0]
    refuse_unless(
        learnt or not weights,
        "every reply has weight 0: none is to be learnt",
        "すべての返答が weight 0 で、学習する返答がありません",
    )
    meta = rest_of(row, "messages", "id")
    if len(learnt) == len(weights):
        return Talk(turns, id_of(row), meta=meta)
    last = learnt[-1]
    kept = [weight for n, weight in weights.items() if n <= last]
    if 0 in kept:
        meta["weights"] = kept
    if len(kept) == len(weights):
        return Talk(turns, id_of(row), meta=meta)
    return Talk(turns[: last + 1], id_of(row), meta=meta, notes=(UNLEARNT_END,))


def completion(row: Any, _: Mapping[str, str]) -> Talk:
    """The legacy form: a prompt that ends in `` ->`` and a completion with blanks around it."""
    asked = re.sub(r"\s*->\s*$", "", text_of(row["prompt"], "prompt"))
    reply = text_of(row["completion"], "completion")
    _refuse_disliked(row, "label")
    meta = rest_of(row, "prompt", "completion", "id", "label")
    return Talk([("user", asked), ("assistant", reply)], id_of(row), meta=meta)


def fits_completion(row: Any) -> int:
    if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
        return 0
    asked = row.get("prompt")
    return 0 if not isinstance(asked, str) else 4 if asked.rstrip().endswith("->") else 1


def trl(row: Any, _: Mapping[str, str]) -> Talk:
    """TRL: prompt with completion, or with the chosen one of two, as text or as messages."""
    _refuse_disliked(row, "label")
    answer = row["chosen"] if "chosen" in row else row["completion"]
    turns = _side(row.get("prompt") or [], "user", "prompt")
    turns += _side(answer, "assistant", "chosen" if "chosen" in row else "completion")
    meta = rest_of(row, "prompt", "completion", "chosen", "id", "label")
    return Talk(turns, id_of(row), meta=meta)


def fits_trl(row: Any) -> int:
    if not isinstance(row, dict):
        return 0
    pair = {"prompt", "completion"} <= row.keys()
    preference = {"chosen", "rejected"} <= row.keys()
    sided = not isinstance(row.get("chosen", ""), dict)
    return 2 if pair or (preference and sided) else 0


def _side(value: Any, role: str, name: str) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return messages_of(value) if value else []
    return [(role, text_of(value, name))]


def _refuse_disliked(row: Mapping[str, Any], key: str) -> None:
    refuse_unless(
        row.get(key) is not False,
        f"{key} is false: this reply is one to avoid",
        f"{key} が false（避けるべき返答）です",
    )


def sharegpt(row: Any, _: Mapping[str, str]) -> Talk:
    _refuse_disliked(row, "kto_tag")
    turns = messages_of(row["conversations"])
    chosen = row.get("chosen")
    if isinstance(chosen, dict):
        who = chosen.get("from", chosen.get("role", "gpt"))
        said = chosen.get("value", chosen.get("content"))
        turns.append((role_of(who), text_of(said, "chosen")))
    elif chosen is not None:
        turns += _side(chosen, "assistant", "chosen")
    if isinstance(row.get("system"), str):
        turns.insert(0, ("system", row["system"]))
    meta = rest_of(row, "conversations", "id", "system", "chosen", "kto_tag")
    return Talk(turns, id_of(row), meta=meta)


def fits_sharegpt(row: Any) -> int:
    talk = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(talk, list) or not talk or not isinstance(talk[0], dict):
        return 0
    return 3 if talk[0].keys() & {"from", "role"} else 0


def alpaca(row: Any, _: Mapping[str, str]) -> Talk:
    turns: list[tuple[str, str]] = []
    if isinstance(row.get("system"), str):
        turns.append(("system", row["system"]))
    for pair in row.get("history") or []:
        refuse_unless(
            isinstance(pair, list) and len(pair) == 2,
            "history is no list of pairs",
            "history が二つ組の列ではありません",
        )
        turns += [("user", text_of(pair[0], "history")), ("assistant", text_of(pair[1], "history"))]
    asked = [text_of(row["instruction"], "instruction"), text_of(row.get("input") or "", "input")]
    turns.append(("user", "\n".join(filter(None, asked))))
    turns.append(("assistant", text_of(row["output"], "output")))
    meta = rest_of(row, "instruction", "input", "output", "system", "history", "id")
    return Talk(turns, id_of(row), meta=meta)
