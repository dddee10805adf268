"""The preparation steps themselves: pure functions of rows, options and inputs.

Each gives the new rows and the ids of those it changed, added, divided or removed. What a step took
from the profile and the query sets lies in its inputs, read once by the functions at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from charllm.data.config import Config
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import UserError
from charllm.data.overlaps import overlapping, repeats
from charllm.data.preparing_rows import rows_from
from charllm.data.profile import Profile
from charllm.data.text import NEAR_DUPLICATE

TOO_LONG = 4
"""``max-length`` without a number: so many times the profile's reply length."""

Rows = list[Dialogue]
Inputs = Mapping[str, Any]
Applied = tuple[Rows, list[str]]


@dataclass(frozen=True)
class Surroundings:
    """What a step may look at when it is chosen: the profile and the texts of all query sets."""

    profile: Profile | None = None
    queries: tuple[str, ...] = ()


class ProfileRows(Config):
    per_topic: int = Field(default=2, ge=1, le=4)


class SplitTurns(Config):
    history: int = Field(default=3, ge=0, le=20)


class SetSystem(Config):
    text: str = ""


class NearDuplicates(Config):
    overlap: float = Field(default=NEAR_DUPLICATE, ge=0.3, le=1.0)


class MaxLength(Config):
    characters: int = Field(default=0, ge=0, le=20_000)


# Changing texts


def _changed(row: Dialogue, messages: Sequence[Message]) -> Dialogue:
    return row.model_copy(update={"messages": tuple(messages)})


def each_text(
    change: Callable[[str], str], *, replies_only: bool
) -> Callable[[Rows, Any, Inputs], Applied]:
    def message(old: Message) -> Message:
        if replies_only and old.role != "assistant":
            return old
        text = change(old.content)
        # A reply of nothing but blanks stays: a dialogue without a reply could not be read again.
        return old if text == old.content or not text else Message(role=old.role, content=text)

    def apply(rows: Rows, options: Any, inputs: Inputs) -> Applied:
        made = [_changed(row, [message(m) for m in row.messages]) for row in rows]
        changed = [new.id for new, old in zip(made, rows, strict=True) if new != old]
        return made, changed

    return apply


def drop_system(rows: Rows, options: Any, inputs: Inputs) -> Applied:
    made = [_changed(row, [m for m in row.messages if m.role != "system"]) for row in rows]
    return made, _differing(made, rows)


def set_system(rows: Rows, options: SetSystem, inputs: Inputs) -> Applied:
    text = options.text or inputs.get("text", "")
    if not text:
        return rows, []
    head = Message(role="system", content=text)
    made = [_changed(row, [head, *(m for m in row.messages if m.role != "system")]) for row in rows]
    return made, _differing(made, rows)


def _differing(made: Rows, rows: Rows) -> list[str]:
    return [new.id for new, old in zip(made, rows, strict=True) if new.messages != old.messages]


# Adding and dividing rows


def add_profile_rows(rows: Rows, options: ProfileRows, inputs: Inputs) -> Applied:
    taken = {row.id for row in rows}
    added = [_profile_row(data) for data in inputs.get("rows", ()) if data["id"] not in taken]
    return [*rows, *added], [row.id for row in added]


def _profile_row(data: Mapping[str, Any]) -> Dialogue:
    return Dialogue(
        id=data["id"],
        messages=(
            Message(role="user", content=data["user"]),
            Message(role="assistant", content=data["reply"]),
        ),
        source="profile",
        meta={"topic": data["topic"], "facts": data["facts"], "added": data["from"]},
    )


def split_turns(rows: Rows, options: SplitTurns, inputs: Inputs) -> Applied:
    made: Rows = []
    divided = []
    taken = {row.id for row in rows}
    for row in rows:
        parts = _parts(row, options.history, taken)
        made.extend(parts)
        if parts != [row]:
            divided.append(row.id)
    return made, divided


def _parts(row: Dialogue, history: int, taken: set[str]) -> list[Dialogue]:
    """One dialogue for each reply to a user; the row itself where there is only one."""
    head = [m for m in row.messages if m.role == "system"]
    talk = [m for m in row.messages if m.role != "system"]
    ends = [
        place
        for place, message in enumerate(talk)
        if message.role == "assistant" and place and talk[place - 1].role == "user"
    ]
    weights = row.meta.get("weights")
    replies = [place for place, message in enumerate(talk) if message.role == "assistant"]
    if isinstance(weights, list) and len(weights) == len(replies):
        unlearnt = {place for place, weight in zip(replies, weights, strict=True) if weight == 0}
        ends = [place for place in ends if place not in unlearnt]
    if len(ends) < 2:
        return [row]
    parts = []
    for number, end in enumerate(ends, 1):
        start = _start(talk, end, history)
        meta = {k: v for k, v in row.meta.items() if k != "weights"} | {"turn": number}
        if end != len(talk) - 1:
            meta.pop("facts", None)  # they are those of the last reply
        parts.append(
            row.model_copy(
                update={
                    "id": _free_id(f"{row.id}-{number}", taken),
                    "messages": (*head, *talk[start : end + 1]),
                    "meta": meta,
                }
            )
        )
    return parts


def _start(talk: list[Message], end: int, history: int) -> int:
    """Where the talk begins that the reply at ``end`` sees: ``history`` questions earlier."""
    asked = [place for place in range(end) if talk[place].role == "user"]
    wanted = asked[-1 - history :]
    return wanted[0] if len(wanted) > history else 0


def _free_id(wanted: str, taken: set[str]) -> str:
    while wanted in taken:
        wanted += "x"
    taken.add(wanted)
    return wanted


# Removing rows


def _without(rows: Rows, gone: set[str]) -> Applied:
    return [row for row in rows if row.id not in gone], [row.id for row in rows if row.id in gone]


def drop_duplicates(rows: Rows, options: NearDuplicates, inputs: Inputs) -> Applied:
    again = repeats([f"{row.question}\n{row.reply}" for row in rows], options.overlap)
    return _without(rows, {rows[place].id for place in again})


def drop_leaks(rows: Rows, options: NearDuplicates, inputs: Inputs) -> Applied:
    queries = str(inputs.get("queries", "")).splitlines()
    asked = [(row.id, m.content) for row in rows for m in row.messages if m.role == "user"]
    near = overlapping([text for _, text in asked], queries, options.overlap, most=1)
    return _without(rows, {asked[i][0] for i, _, _ in near})


def drop_long(rows: Rows, options: MaxLength, inputs: Inputs) -> Applied:
    limit = options.characters or inputs.get("characters", 0)
    return _without(rows, {row.id for row in rows if limit and len(row.reply) > limit})


# Inputs


def system_input(options: SetSystem, around: Surroundings) -> dict[str, Any]:
    if options.text:
        return {}
    return {"text": _profile(around, "set-system").system_prompt(rag=False)}


def profile_input(options: ProfileRows, around: Surroundings) -> dict[str, Any]:
    profile = _profile(around, "profile-rows")
    return {"rows": rows_from(profile, around.queries, options.per_topic)}


def query_input(options: NearDuplicates, around: Surroundings) -> dict[str, Any]:
    # One text, a query a line: a card of five hundred entries would be slow to read and write.
    return {"queries": "\n".join(" ".join(query.split()) for query in around.queries)}


def length_input(options: MaxLength, around: Surroundings) -> dict[str, Any]:
    if options.characters:
        return {}
    return {"characters": TOO_LONG * _profile(around, "max-length").reply_length}


def _profile(around: Surroundings, step: str) -> Profile:
    if around.profile is None:
        raise UserError(
            f"The step {step} needs to know the character: choose the dataset's profile first.",
            f"前処理「{step}」にはキャラクターの情報が必要です。"
            "先にデータセットのプロファイルを選んでください。",
        )
    return around.profile
