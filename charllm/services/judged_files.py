"""Judgements as files: other people's come in, ours go out, in one form (JSONL, a verdict a line).

``{"id", "query", "reply", "history", "judge", "rubric", "version", "score", "unscored_reason",
"sample", "rationale", …}``. Required: ``query``, ``reply``, ``judge`` and a ``score`` or the reason
why there is none. It does not know what a verdict is worth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charllm.core.judging.rubric import load_rubric
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text
from charllm.data.files import check_slug, read_text
from charllm.data.importing import Rejected
from charllm.data.text import first_lines
from charllm.services.redaction import redact
from charllm.services.store import Judgement, Store, Subject

PREFIX = "import:"
SCALE = (1, 7)
"""The scale of a rubric that no file describes."""
SHOWN = 200
_TEXTS = ("id", "query", "reply", "judge", "rubric", "version", "rationale", "topic")
_MORE_TEXTS = ("unscored_reason", "unscored_ja", "stop_reason", "prompt_hash")
_LISTS = ("gold", "gate", "flaws")
_NUMBERS = ("parts", "levels")
_OTHERS = ("score", "sample", "history", "time")
FIELDS = frozenset((*_TEXTS, *_MORE_TEXTS, *_LISTS, *_NUMBERS, *_OTHERS))


class _Wrong(Exception):
    """What is wrong with a row."""

    def __init__(self, en: str, ja: str) -> None:
        self.reason = Text(en, ja)
        super().__init__(en)


@dataclass
class Verdicts:
    """A file that was read. ``ignored`` are fields that mean nothing here.

    Subjects and judgements stand in pairs.
    """

    source: str
    subjects: list[Subject] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)

    @property
    def judges(self) -> list[str]:
        return sorted({row.judge for row in self.judgements})


def read_verdicts(
    paths: Paths,
    profile: str,
    path: Path,
    name: str,
    scale: tuple[int, int] | None = None,
) -> Verdicts:
    """Read other people's judgements of ``profile``'s replies; nothing is stored yet.

    Their judges are called ``import:<name>/<judge>``, their source ``import:<name>``. ``scale``
    None is the one of the rubric that a row names, 1 to 7 where we have no such rubric. Rows
    without ``sample`` that speak of the same reply count as samples. ``UserError`` for a file that
    cannot be read; whatever is wrong with a row is told in ``rejected``.
    """
    reader = _Reader(paths, profile, PREFIX + check_slug(name), scale)
    for number, line in enumerate(redact(read_text(path)).split("\n"), 1):
        if line.strip():
            reader.read(number, line)
    return reader.found


def store_verdicts(store: Store, found: Verdicts) -> int:
    """Keep what was read; how many verdicts were new (a second time none is)."""
    store.add_subjects(found.subjects)
    return store.add_judgements(found.judgements)


def export_rows(
    store: Store, profile: str, source: str | None = None, judge: str | None = None
) -> Iterator[dict[str, Any]]:
    """Every verdict that counts, in the form that ``read_verdicts`` takes.

    Repeated and withdrawn ones are left out.
    """
    for subject, rows in store.judged(profile, source):
        latest = {(r.judge, r.rubric, r.rubric_version, r.sample): r for r in rows}
        for row in latest.values():
            if judge in (None, row.judge) and not (row.by_hand and row.score is None):
                yield _exported(subject, row)


def export_jsonl(
    store: Store, profile: str, source: str | None = None, judge: str | None = None
) -> str:
    """``export_rows`` as a file's text; no key is in it."""
    rows = export_rows(store, profile, source, judge)
    return redact("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class _Reader:
    """Reads one file, line after line."""

    def __init__(
        self, paths: Paths, profile: str, source: str, scale: tuple[int, int] | None
    ) -> None:
        self.paths, self.profile, self.scale = paths, profile, scale
        self.found = Verdicts(source)
        self._known = {path.stem for path in paths.rubrics.glob("*.yaml")}
        self._scales: dict[str, tuple[int, int]] = {}
        self._samples: dict[tuple[str, ...], dict[int, tuple[int, Judgement]]] = {}

    def read(self, number: int, line: str) -> None:
        try:
            row = _parsed(line)
            subject = self._subject(row, number)
            verdict = self._numbered(self._verdict(row, subject), row, number)
        except _Wrong as wrong:
            self.found.rejected.append(Rejected(number, wrong.reason, line[:SHOWN]))
            return
        self.found.ignored |= row.keys() - FIELDS
        self.found.subjects.append(subject)
        self.found.judgements.append(verdict)

    def _subject(self, row: Mapping[str, Any], number: int) -> Subject:
        if not _text(row, "query").strip():
            raise _Wrong("query is missing or empty", "query がないか、空です")
        if "reply" not in row:
            raise _Wrong("reply is missing", "reply がありません")
        return Subject.of(
            self.profile,
            _text(row, "query"),
            _text(row, "reply"),
            _history(row),
            gold=_list(row, "gold"),
            topic=_text(row, "topic"),
            stop_reason=_text(row, "stop_reason"),
            source=self.found.source,
            item=_text(row, "id") or f"line-{number}",
        )

    def _verdict(self, row: Mapping[str, Any], subject: Subject) -> Judgement:
        if not _text(row, "judge").strip():
            raise _Wrong("judge is missing or empty", "judge がないか、空です")
        rubric, reason = _text(row, "rubric"), _text(row, "unscored_reason").strip()
        score = _score(row.get("score"), self._scale_of(rubric))
        if score is None and not reason:
            raise _Wrong(
                "there is neither a score nor an unscored_reason",
                "score も unscored_reason もありません",
            )
        if score is not None and reason:
            raise _Wrong(
                "there are both a score and an unscored_reason",
                "score と unscored_reason の両方があります",
            )
        return Judgement(
            subject=subject.subject,
            rubric=rubric,
            rubric_version=_text(row, "version"),
            judge=f"{self.found.source}/{_text(row, 'judge').strip()}",
            score=score,
            unscored_reason=reason,
            unscored_ja=_text(row, "unscored_ja"),
            prompt_hash=_text(row, "prompt_hash"),
            rationale=_text(row, "rationale"),
            flaws=_list(row, "flaws"),
            gate=_list(row, "gate"),
            parts=_numbers(row, "parts"),
            levels={key: value or 0.0 for key, value in _numbers(row, "levels").items()},
        )

    def _numbered(self, verdict: Judgement, row: Mapping[str, Any], number: int) -> Judgement:
        """The verdict with its sample's number: the row's own, else the next free one."""
        key = (verdict.subject, verdict.judge, verdict.rubric, verdict.rubric_version)
        taken = self._samples.setdefault(key, {})
        sample = row.get("sample")
        if sample is None:
            sample = max(taken, default=-1) + 1
        elif isinstance(sample, bool) or not isinstance(sample, int) or not 0 <= sample < 2**31:
            raise _Wrong(
                "sample is not a whole number from 0", "sample が 0 以上の整数ではありません"
            )
        line, other = taken.get(sample, (number, verdict))
        if other.score != verdict.score or other.unscored_reason != verdict.unscored_reason:
            raise _Wrong(
                f"line {line} gives the same sample another score",
                f"{line} 行目で、同じ sample に別の結果が書かれています",
            )
        numbered = Judgement(**{**vars(verdict), "sample": sample})
        taken.setdefault(sample, (number, numbered))
        return numbered

    def _scale_of(self, rubric: str) -> tuple[int, int]:
        if self.scale is not None:
            return self.scale
        if rubric not in self._scales:
            known = rubric in self._known
            self._scales[rubric] = load_rubric(self.paths, rubric).scale if known else SCALE
        return self._scales[rubric]


def _parsed(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Wrong(
            "it holds halves of characters", "文字として不完全なデータがあります"
        ) from None
    except (ValueError, RecursionError):  # ValueError: also a number of thousands of digits
        raise _Wrong("not valid JSON", "JSON として読めません") from None
    if not isinstance(row, dict):
        raise _Wrong("not a JSON object", "JSON のオブジェクトではありません")
    return row


def _score(value: Any, scale: tuple[int, int]) -> float | None:
    if value is None:
        return None
    if not _is_number(value):
        shown = first_lines(repr(value), 40)
        raise _Wrong(f"score {shown} is not a number", f"score の {shown} が数ではありません")
    low, high = scale
    if not low <= value <= high:
        raise _Wrong(
            f"score {value:g} lies outside {low} to {high}",
            f"score の {value:g} が {low}〜{high} の範囲外です",
        )
    return float(value)


def _is_number(value: Any) -> bool:
    """A number that the store can hold; JSON also has NaN, and integers of any length."""
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return fine and abs(value) < 1e15


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name in ("id", "version") and isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise _Wrong(f"{name} is not a text", f"{name} が文字列ではありません")
    return value


def _list(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"{name} is not a list of texts", f"{name} が文字列のリストではありません")
    return tuple(value)


def _numbers(row: Mapping[str, Any], name: str) -> dict[str, float | None]:
    value = row.get(name) or {}
    fine = isinstance(value, dict) and all(
        number is None or _is_number(number) for number in value.values()
    )
    if not fine:
        raise _Wrong(
            f"{name} is not an object of numbers",
            f"{name} が数を値とするオブジェクトではありません",
        )
    return dict(value)


def _history(row: Mapping[str, Any]) -> tuple[Message, ...]:
    value = row.get("history") or []
    try:
        return tuple(Message.model_validate(message) for message in value)
    except (TypeError, ValueError):
        raise _Wrong(
            'history is not a list of {"role", "content"}',
            'history が {"role", "content"} のリストではありません',
        ) from None


def _exported(subject: Subject, row: Judgement) -> dict[str, Any]:
    return {
        "id": subject.item,
        "query": subject.question,
        "reply": subject.reply,
        "history": [message.model_dump() for message in subject.history],
        "gold": list(subject.gold),
        "topic": subject.topic,
        "stop_reason": subject.stop_reason,
        "judge": row.judge,
        "rubric": row.rubric,
        "version": row.rubric_version,
        "score": row.score,
        "unscored_reason": row.unscored_reason,
        "unscored_ja": row.unscored_ja,
        "sample": row.sample,
        "gate": list(row.gate),
        "parts": row.parts,
        "levels": row.levels,
        "flaws": list(row.flaws),
        "rationale": row.rationale,
        "prompt_hash": row.prompt_hash,
        "time": datetime.fromtimestamp(row.time, UTC).isoformat(timespec="seconds"),
    }
