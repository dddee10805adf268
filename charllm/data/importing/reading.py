"""A file read as one format: dialogues, refused rows, notes on what was changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Text, UserError
from charllm.data.importing.containers import BrokenLine, Container, open_container
from charllm.data.importing.detecting import columns_of, detect_in
from charllm.data.importing.formats import FORMATS, Format, Talk
from charllm.data.importing.rejecting import SHOWN, Refused, Rejected
from charllm.data.importing.tables import guess_mapping

LONGEST = 20_000
"""Characters of one message."""


@dataclass
class Imported:
    """What was read of a file. ``notes`` say what was joined or cut, and how often."""

    format: str
    dialogues: list[Dialogue] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[Text] = field(default_factory=list)


def read_file(path: Path, format: str = "", mapping: Mapping[str, str] | None = None) -> Imported:
    """Read ``path`` as ``format`` ("" as detected). ``mapping`` is field → column, for tables.

    ``UserError`` for a file that cannot be read at all, an unknown format, or a mapping that names
    no column; whatever is wrong with a row is in ``rejected``.
    """
    container = open_container(path, set((mapping or {}).values()))
    name = format or detect_in(container, path.name).format
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(
            f"There is no format {name!r}. Known: {known}.",
            f"「{name}」という形式はありません。使えるもの: {known}。",
        )
    known_format = FORMATS[name]
    if container.kind not in known_format.containers:
        raise UserError(
            f"{path.name} cannot be read as {name}: it is {container.kind}, not "
            f"{' or '.join(known_format.containers)}.",
            f"{path.name} は「{name}」として読めません（中身: {container.kind}）。",
        )
    columns = columns_of(container)
    fields = {**guess_mapping(columns), **(mapping or {})} if known_format.mappable else {}
    fields |= {key: value for key, value in (mapping or {}).items() if key == "character"}
    _check_mapping(fields, columns, path.name, known_format)
    return _Reading(path, name, known_format, fields).read(container)


def _check_mapping(fields: Mapping[str, str], columns: list[str], name: str, known: Format) -> None:
    if not known.mappable:
        return
    wrong = [
        column for key, column in fields.items() if key != "character" and column not in columns
    ]
    if wrong:
        there = ", ".join(columns)
        raise UserError(
            f"{name} has no column {wrong[0]!r}. Columns: {there}.",
            f"{name} に「{wrong[0]}」という列はありません。列: {there}。",
        )


class _Reading:
    """One file being read."""

    def __init__(self, path: Path, name: str, known: Format, fields: Mapping[str, str]) -> None:
        self.path, self.known, self.fields = path, known, fields
        self.found = Imported(name)
        self.ids: set[str] = set()
        self.joined = self.cut = 0

    def read(self, container: Container) -> Imported:
        for line, row, talks in self._talks(container):
            for talk in talks:
                try:
                    self._keep(talk)
                except Refused as refused:
                    self._reject(line, refused.reason, row)
        self._note(
            self.joined,
            "rows had turns of one speaker in a row; they were joined",
            "行で、同じ話者の連続した発言をつなげました",
        )
        self._note(
            self.cut,
            "rows went on after the last reply; that was cut",
            "行で、最後の返答より後の発言を除きました",
        )
        return self.found

    def _talks(self, container: Container) -> Iterator[tuple[int, Any, list[Talk]]]:
        if self.found.format == "sillytavern":
            yield from self._tavern(container)
            return
        for line, row in container.rows:
            if isinstance(row, BrokenLine):
                self._reject(line, Text("not JSON", "JSON として読めません"), "")
                continue
            try:
                yield line, row, self.known.read(row, self.fields)
            except Refused as refused:
                self._reject(line, refused.reason, row)
            except (AttributeError, KeyError, TypeError, IndexError):
                self._reject(
                    line, Text("not a row of this format", "この形式の行ではありません"), row
                )

    def _tavern(self, container: Container) -> Iterator[tuple[int, Any, list[Talk]]]:
        """All lines are one chat: a header, then messages; the swipe that was shown counts."""
        turns: list[tuple[str, str]] = []
        character, first = "", 1
        for line, row in container.rows:
            if not isinstance(row, dict) or "mes" not in row:
                if isinstance(row, dict) and "character_name" in row:
                    character = str(row["character_name"])
                else:
                    self._reject(line, Text("no message", "発言ではありません"), row)
                continue
            swipes, at = row.get("swipes"), row.get("swipe_id", 0)
            said = (
                swipes[at]
                if isinstance(swipes, list) and isinstance(at, int) and 0 <= at < len(swipes)
                else row["mes"]
            )
            turns.append(("user" if row.get("is_user") else "assistant", str(said)))
        if turns:
            yield first, "", [Talk(turns, meta={"character": character} if character else {})]

    def _keep(self, talk: Talk) -> None:
        turns = self._joined(talk.turns)
        while turns and turns[-1][0] != "assistant":
            turns.pop()
            self.cut += 1
        if not turns:
            raise Refused("there is no reply", "返答がありません")
        if not turns[-1][1].strip():
            raise Refused("the reply is empty", "返答が空です")
        if not any(role == "user" and text.strip() for role, text in turns):
            raise Refused("nobody asks anything", "ユーザーの発言がありません")
        if any(len(text) > LONGEST for _, text in turns):
            raise Refused(
                f"a message has more than {LONGEST:,} characters",
                f"発言が {LONGEST:,} 文字を超えています",
            )
        id_ = talk.id.strip() or f"{self.path.stem}-{len(self.found.dialogues) + 1:04}"
        if id_ in self.ids:
            raise Refused(f"the id {id_[:60]!r} stands twice", f"id「{id_[:60]}」が重複しています")
        self.ids.add(id_)
        self.found.dialogues.append(
            Dialogue(
                id=id_,
                messages=tuple(Message(role=role, content=text) for role, text in turns),  # type: ignore[arg-type]
                source=talk.source or f"{self.path.name} ({self.found.format})",
                meta=_plain(talk.meta),
            )
        )

    def _joined(self, turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
        made: list[tuple[str, str]] = []
        for role, text in turns:
            if made and made[-1][0] == role:
                made[-1] = (role, f"{made[-1][1]}\n{text.strip()}".strip())
                self.joined += 1
            else:
                made.append((role, text.strip()))
        return made

    def _reject(self, line: int, reason: Text, row: Any) -> None:
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
        self.found.rejected.append(Rejected(line, reason, text[:SHOWN]))

    def _note(self, count: int, en: str, ja: str) -> None:
        if count:
            self.found.notes.append(Text(f"{count} {en}.", f"{count} {ja}。"))


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold; NaN and infinity cannot be written."""
    facts = meta.get("facts")
    if facts is not None and not (
        isinstance(facts, list) and all(isinstance(f, str) for f in facts)
    ):
        meta = {**{k: v for k, v in meta.items() if k != "facts"}, "facts_as_given": str(facts)}
    try:
        kept: dict[str, Any] = json.loads(json.dumps(meta, ensure_ascii=False, allow_nan=False))
        return kept
    except (ValueError, TypeError, RecursionError):
        return {key: str(value) for key, value in meta.items()}
