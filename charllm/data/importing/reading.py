"""A file read as one format: dialogues, refused rows, notes on what was changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Text, UserError
from charllm.data.importing.containers import Container, open_container
from charllm.data.importing.detecting import columns_of, detect_in
from charllm.data.importing.formats import FORMATS
from charllm.data.importing.rejecting import Refused, Rejected, Unreadable, beginning, refuse_unless
from charllm.data.importing.tables import FIELDS, guess_mapping
from charllm.data.importing.talks import Format, Kind, Rows, Talk, plain

LONGEST = 20_000
"""Characters of one message."""

KINDS: dict[Kind, Text] = {
    "json": Text("JSON", "JSON"),
    "table": Text("a table", "表"),
    "text": Text("plain text", "プレーンテキスト"),
}
JOINED = Text("turns of one speaker in a row were joined", "同じ話者の連続した発言をつなげました")
CUT = Text("what came after the last reply was cut", "最後の返答より後の発言を除きました")


@dataclass
class Imported:
    """What was read of a file. ``notes`` say what was joined or cut, and how often."""

    format: str
    dialogues: list[Dialogue] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[Text] = field(default_factory=list)


def read_file(path: Path, format: str = "", mapping: Mapping[str, str] | None = None) -> Imported:
    """Read ``path`` as ``format`` ("" as detected).

    ``mapping`` is field → column for tables, over what the columns' names tell; "" leaves a field
    out. For scripts it is ``character`` → who replies. ``UserError`` for a file that cannot be
    read at all, an unknown format, or a mapping that names no column; whatever is wrong with a
    row is in ``rejected``.
    """
    told = dict(mapping or {})
    if format and format not in FORMATS:
        raise UserError(
            f"There is no format {format!r}. Known: {', '.join(FORMATS)}.",
            f"「{format}」という形式はありません。使えるもの: {', '.join(FORMATS)}。",
        )
    wanted = FORMATS[format].containers if format else ()
    container = open_container(path, set(told.values()), wanted)
    name = format or detect_in(container, path.name).format
    known = FORMATS[name]
    if container.kind not in known.containers:
        there, needed = KINDS[container.kind], [KINDS[kind] for kind in known.containers]
        raise UserError(
            f"{path.name} cannot be read as {name}: it is {there.en}, not "
            f"{' or '.join(kind.en for kind in needed)}.",
            f"{path.name} は{there.ja}なので「{name}」として読めません。"
            f"必要なのは{'か'.join(kind.ja for kind in needed)}です。",
        )
    rows = known.rows(container.rows)
    if known.mappable:
        told = _columns(container, told, path.name)
    elif not told.get("character"):
        told = known.guess(rows)
    return _Reading(path, name, known, told).read(rows)


def _columns(container: Container, told: dict[str, str], name: str) -> dict[str, str]:
    """Field → column of the table, checked."""
    columns = columns_of(container)
    fields = {key: column for key, column in (guess_mapping(columns) | told).items() if column}
    there = ", ".join(columns)
    for key, column in fields.items():
        if key not in FIELDS:
            raise UserError(
                f"{key!r} is nothing that a column can hold. Known: {', '.join(FIELDS)}.",
                f"「{key}」という項目はありません。使えるもの: {', '.join(FIELDS)}。",
            )
        if column not in columns:
            raise UserError(
                f"{name} has no column {column!r}. Columns: {there}.",
                f"{name} に「{column}」という列はありません。列: {there}。",
            )
    for key, what in (("user", Text("question", "質問")), ("reply", Text("reply", "返答"))):
        if key not in fields:
            raise UserError(
                f"{name}: no column holds the {what.en}. Choose one of: {there}.",
                f"{name}: {what.ja}の列が決まっていません。次の中から選んでください: {there}。",
            )
    return fields


class _Reading:
    """One file being read."""

    def __init__(self, path: Path, name: str, known: Format, fields: Mapping[str, str]) -> None:
        self.path, self.known, self.fields = path, known, fields
        self.found = Imported(name)
        self.kept: list[tuple[Talk, list[tuple[str, str]]]] = []
        self.ids: set[str] = set()
        self.noted: Counter[Text] = Counter()

    def read(self, rows: Rows) -> Imported:
        for line, row in rows:
            try:
                self._keep(self._talk(row))
            except Refused as refused:
                text = row.text if isinstance(row, Unreadable) else row
                self.found.rejected.append(Rejected(line, refused.reason, beginning(text)))
        self.found.rejected.sort(key=lambda rejected: rejected.line)
        self._number()
        self.found.notes += [
            Text(
                f"{count} {'row' if count == 1 else 'rows'}: {note.en}.", f"{count} 行: {note.ja}。"
            )
            for note, count in self.noted.items()
        ]
        if not rows:
            self.found.notes.append(Text("There are no rows.", "行がありません。"))
        return self.found

    def _talk(self, row: Any) -> Talk:
        if isinstance(row, Unreadable):
            raise Refused(*row.reason)
        try:
            return self.known.read(row, self.fields)
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise Refused("not a row of this format", "この形式の行ではありません") from error

    def _keep(self, talk: Talk) -> None:
        turns = _joined(talk.turns)
        notes = list(talk.notes)
        if len(turns) < sum(bool(text.strip()) or role != "system" for role, text in talk.turns):
            notes.append(JOINED)
        replies = [place for place, (role, _) in enumerate(turns) if role == "assistant"]
        refuse_unless(replies, "there is no reply", "返答がありません")
        if replies[-1] + 1 < len(turns):
            turns = turns[: replies[-1] + 1]
            notes.append(CUT)
        _check(turns)
        id_ = str(plain(talk.id.strip()))
        if id_ in self.ids:
            raise Refused(f"the id {id_[:60]!r} stands twice", f"id「{id_[:60]}」が重複しています")
        talk.id = id_
        self.ids |= {id_} - {""}
        self.kept.append((talk, turns))
        self.noted.update(set(notes))

    def _number(self) -> None:
        """Dialogues without an id get the file's name and their place, where that is free."""
        for place, (talk, turns) in enumerate(self.kept, 1):
            id_, more = talk.id or f"{self.path.stem}-{place:04}", 1
            while not talk.id and id_ in self.ids:
                more += 1
                id_ = f"{self.path.stem}-{place:04}-{more}"
            self.ids.add(id_)
            self.found.dialogues.append(
                Dialogue(
                    id=id_,
                    messages=tuple(Message(role=role, content=text) for role, text in turns),  # type: ignore[arg-type]
                    source=plain(talk.source) or f"{self.path.name} ({self.found.format})",
                    meta=_meta(talk.meta),
                )
            )


def _joined(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Stripped, without empty system messages; turns of one role in a row are one."""
    made: list[tuple[str, str]] = []
    for role, text in turns:
        if role == "system" and not text.strip():
            continue
        if made and made[-1][0] == role:
            made[-1] = (role, f"{made[-1][1]}\n{text.strip()}".strip())
        else:
            made.append((role, text.strip()))
    return made


def _check(turns: list[tuple[str, str]]) -> None:
    """``Refused`` for what no dialogue may be; the last turn is a reply."""
    refuse_unless(turns[-1][1], "the reply is empty", "返答が空です")
    refuse_unless(
        any(role == "user" and text for role, text in turns),
        "nobody asks anything",
        "ユーザーの発言がありません",
    )
    refuse_unless(
        all(len(text) <= LONGEST for _, text in turns),
        f"a message has more than {LONGEST:,} characters",
        f"発言が {LONGEST:,} 文字を超えています",
    )
    refuse_unless(
        all(plain(text) == text and "\0" not in text for _, text in turns),
        "a message has broken characters",
        "発言に壊れた文字が含まれています",
    )


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it; ``facts`` only as the list of texts that charllm means by it."""
    made: dict[str, Any] = plain(dict(meta))
    facts = made.get("facts", [])
    if not (isinstance(facts, list) and all(isinstance(fact, str) for fact in facts)):
        made["facts_as_given"] = made.pop("facts")
    return made
