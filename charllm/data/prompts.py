"""Prompts and labels, for training, evaluation, evolution and chat alike.

A conversation is rendered by the model family's template into token ids, piece by piece: control
tokens by their ids, words as plain text, so that a user who types ``</s>`` types five characters.
Labels are built from ids (prompt, reply, end token), never by searching text. The tokenizer is
handed in; this module knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from charllm.data.dialogue import Message
from charllm.data.errors import Language, UserError
from charllm.data.own_template import own_end_id, own_prompt_ids, plain_ids
from charllm.data.profile import Profile
from charllm.data.templates import TEMPLATES, Template, get_template
from charllm.data.text import first_lines

__all__ = [
    "IGNORED",
    "TEMPLATES",
    "Row",
    "Template",
    "build_messages",
    "check_rows",
    "end_id",
    "end_ids",
    "get_template",
    "labelled_row",
    "labels_of",
    "learnt_spans",
    "prompt_ids",
    "prompt_text",
    "reply_ids",
]

IGNORED = -100
"""The label of a token that is not learnt."""


class Row(NamedTuple):
    """One training row: ids, and labels of the same length (−100 = not learnt)."""

    input_ids: list[int]
    labels: list[int]


# Messages


def build_messages(
    profile: Profile,
    question: str,
    *,
    facts: Sequence[str] | None,
    history: Sequence[Message] = (),
    language: Language | None = None,
) -> list[Message]:
    """System message, history and question.

    ``facts`` None: no retrieval. Facts that were found stand as bullets in the system prompt with
    retrieval; where none was found the prompt is the one without, since an empty list would teach
    a model to ignore lists. ``language`` chooses the system prompt's, the profile's by default.
    """
    chosen = language or profile.prompt_language
    system = profile.system_prompt(rag=bool(facts), language=chosen)
    if facts:
        bullet = "・" if chosen == "ja" else "- "
        lines = "\n".join(f"{bullet}{fact}" for fact in facts)
        system = system.replace("{facts}", lines) if "{facts}" in system else f"{system}\n{lines}"
    head = [Message(role="system", content=system)] if system.strip() else []
    return [*head, *history, Message(role="user", content=question)]


# Ids


def prompt_ids(template: Template, tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The ids of everything up to where the reply begins, one beginning token first."""
    if template.name == "tokenizer":
        return own_prompt_ids(tokenizer, messages)
    # Where a family opens its turns with the beginning token itself, it stands there already.
    bos = None if tokenizer.bos_token in template.control else tokenizer.bos_token_id
    pieces: list[str | int] = [] if bos is None else [bos]
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    if system and template.system:
        pieces += _filled(template, tokenizer, template.system, system)
        system = ""
    turns = [m for m in messages if m.role != "system"]
    for position, message in enumerate(turns):
        text = message.content
        if message.role == "user":
            if system:
                text = _folded(template.fold, system, text)
                system = ""
            if position and template.begins_turns and bos is not None:
                pieces.append(bos)
            pieces += _filled(template, tokenizer, template.user, text)
            pieces += _filled(template, tokenizer, template.assistant, "")
        else:
            pieces.append(template.lead + text.strip())
            if template.end:
                # A plain text has no turn ends: an end token would end the whole document.
                pieces.append(end_id(template, tokenizer))
            pieces += _filled(template, tokenizer, template.after_reply, "")
    return _tokenised(tokenizer, [*pieces, template.opening])


def prompt_text(template: Template, tokenizer: Any, messages: Sequence[Message]) -> str:
    """What the prompt's ids say, control tokens included: exactly what the model is given."""
    ids = prompt_ids(template, tokenizer, messages)
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def reply_ids(template: Template, tokenizer: Any, reply: str) -> list[int]:
    """The reply's ids behind its lead, and exactly one end token."""
    return [*_reply_text(template, tokenizer, reply), end_id(template, tokenizer)]


def labelled_row(
    template: Template, tokenizer: Any, messages: Sequence[Message], reply: str
) -> Row:
    """Prompt and reply as a training row; only the reply and its end token are learnt."""
    prompt = prompt_ids(template, tokenizer, messages)
    answer = reply_ids(template, tokenizer, reply)
    return Row(prompt + answer, [IGNORED] * len(prompt) + answer)


def end_id(template: Template, tokenizer: Any) -> int:
    """The id that ends a reply; ``UserError`` where the tokenizer has no such token."""
    if template.name == "tokenizer":
        return own_end_id(tokenizer)
    if not template.end:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "This tokenizer has no end token, so no reply could ever be learnt to stop.",
                "このトークナイザーには終了トークンがないため、返答の終わりを学習できません。",
            )
        return int(tokenizer.eos_token_id)
    return _control(template, tokenizer, template.end)


def end_ids(template: Template, tokenizer: Any) -> frozenset[int]:
    """Every id at which a reply of this family ends: its end of turn, the tokenizer's, others."""
    found = {end_id(template, tokenizer)}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    others = (_known_id(tokenizer, token) for token in template.also_end)
    return frozenset(found.union(number for number in others if number is not None))


def _known_id(tokenizer: Any, token: str) -> int | None:
    """The token's id, None if there is none (asked so, since a list of all takes long to make)."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or tokenizer.convert_ids_to_tokens(found) != token:
        return None
    return int(found)


def _folded(fold: str, system: str, user: str) -> str:
    """Both texts in their places, whatever braces they contain (cards write ``{{user}}``)."""
    before, _, rest = fold.partition("{system}")
    between, _, after = rest.partition("{user}")
    return before + system + between + user + after


def _filled(
    template: Template, tokenizer: Any, pieces: Sequence[str], text: str
) -> list[str | int]:
    return [
        _control(template, tokenizer, piece)
        if piece in template.control
        else piece.replace("{text}", text)
        for piece in pieces
    ]


def _tokenised(tokenizer: Any, pieces: Sequence[str | int]) -> list[int]:
    """Ids of the pieces; neighbouring texts are tokenised as one, as the whole text would be."""
    ids: list[int] = []
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            ids += [*plain_ids(tokenizer, text), piece]
            text = ""
    return ids + plain_ids(tokenizer, text)


def _reply_text(template: Template, tokenizer: Any, reply: str) -> list[int]:
    """The reply's ids as they continue the prompt, whose ids stay as they are.

    A SentencePiece tokenizer puts a space before the first word of any text, so the reply is
    tokenised behind the prompt's last words and these are taken off again. Where both would share
    a token (``：「``), a line's start stands in for the prompt: it merges with nothing.
    """
    if template.name == "tokenizer":
        return plain_ids(tokenizer, reply.strip())
    before = (template.assistant or template.user)[-1]
    before = before.rpartition("{text}")[2] if before not in template.control else ""
    words = template.lead + reply.strip()
    for anchor in (before + template.opening, "\n"):
        head = plain_ids(tokenizer, anchor)
        whole = plain_ids(tokenizer, anchor + words)
        if whole[: len(head)] == head:
            return whole[len(head) :]
    raise UserError(
        f"The reply {first_lines(reply, 40)!r} runs together with the prompt under the "
        f"template {template.name}. Choose another template for this model.",
        f"テンプレート {template.name} では返答「{first_lines(reply, 40)}」がプロンプトと"
        "一つのトークンになります。別のテンプレートを選んでください。",
    )


def _control(template: Template, tokenizer: Any, token: str) -> int:
    found = _known_id(tokenizer, token)
    if found is None:
        raise UserError(
            f"The template {template.name} needs the token {token}, which this tokenizer does not "
            "have. Choose the template of the model's own family.",
            f"テンプレート {template.name} に必要なトークン {token} が、このトークナイザーに"
            "ありません。モデルの系統に合うテンプレートを選んでください。",
        )
    return found


# Checks and views


def check_rows(rows: Sequence[Row], template: Template, tokenizer: Any) -> None:
    """Refuse rows from which a model could not learn to stop.

    In every row the last learnt label has to be the template's end token, exactly once among the
    learnt ones, and each learnt label equals its id. ``UserError`` names the first row that fails.
    """
    end = end_id(template, tokenizer)
    for number, row in enumerate(rows, 1):
        learnt = [label for label in row.labels if label != IGNORED]
        wrong = _problem(row, learnt, end, tokenizer)
        if wrong:
            shown = first_lines(tokenizer.decode([i for i in learnt if i >= 0]), 60)
            raise UserError(
                f"Row {number} cannot be learnt from: {wrong[0]}. Learnt: {shown!r}",
                f"{number} 行目は学習に使えません: {wrong[1]}。学習される部分:「{shown}」",
            )


def _problem(row: Row, learnt: list[int], end: int, tokenizer: Any) -> tuple[str, str] | None:
    token = tokenizer.convert_ids_to_tokens(end)
    if len(row.input_ids) != len(row.labels):
        return "ids and labels differ in length", "ID とラベルの長さが異なります"
    if not learnt:
        return "nothing in it is learnt", "学習される部分がありません"
    if row.labels[-1] != end:
        return (
            f"its last label is not the end token {token}",
            f"最後のラベルが {token} ではありません",
        )
    if learnt.count(end) != 1:
        return f"the end token {token} is learnt {learnt.count(end)} times", (
            f"終了トークン {token} が {learnt.count(end)} 回学習されます"
        )
    if any(a != b for a, b in zip(row.labels, row.input_ids, strict=True) if a != IGNORED):
        return "a label differs from its token", "ラベルがトークンと一致しません"
    return None


def learnt_spans(row: Row, tokenizer: Any) -> list[tuple[str, bool]]:
    """The row's text in runs of learnt and not learnt tokens, for a coloured view."""
    spans: list[tuple[list[int], bool]] = []
    for token, label in zip(row.input_ids, row.labels, strict=True):
        learnt = label != IGNORED
        if spans and spans[-1][1] == learnt:
            spans[-1][0].append(token)
        else:
            spans.append(([token], learnt))
    return [
        (tokenizer.decode(ids, clean_up_tokenization_spaces=False), learnt) for ids, learnt in spans
    ]


def labels_of(
    template: Template, tokenizer: Any, system: str, user: str, reply: str
) -> dict[str, list[int]]:
    """What ``labels`` prints on the command line."""
    head = [Message(role="system", content=system)] if system else []
    row = labelled_row(template, tokenizer, [*head, Message(role="user", content=user)], reply)
    check_rows([row], template, tokenizer)
    return {"input_ids": row.input_ids, "labels": row.labels}
