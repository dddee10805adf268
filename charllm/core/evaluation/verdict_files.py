"""Situations, replies and verdicts in files: japanese-llm-roleplay-benchmark's form, and our own.

Its files are JSON lines: situations (``situation_id, character_name, character, context``), replies
(``situation_id, model_id, response``) and reviews (``situation_id, reviewer_id, model_id_A,
model_id_B, response_A, response_B, review, winner``; the winner is a model's id). Our own lines are
``query, a, b, winner`` with any other field of ``Match``. A file with a wrong line is refused
whole, with every wrong line named, and nothing of what was there before is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from charllm.core.evaluation.matches import ALL_BAD, NOT_NAMES, TIE, Match
from charllm.data.errors import Text, UserError
from charllm.data.files import SLUG, json_lines, sha256, write_json_lines
from charllm.data.profile import Profile

NAMED = 5
"""Wrong lines that a message names; the others are counted."""
REVIEW = ("situation_id", "model_id_A", "model_id_B", "winner")
OURS = ("query", "a", "b", "winner")
_TIES = frozenset({TIE, "引き分け", "draw", "both", ALL_BAD})
_FIELDS = {field.name for field in fields(Match)}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("cluster", "source", "rubric", "version", "rationale"), (str,)),
    **dict.fromkeys(("reply_a", "reply_b"), (str, type(None))),
    **dict.fromkeys(("tokens_in", "tokens_out"), (int,)),
    **dict.fromkeys(("looks", "gate_a", "gate_b"), (list,)),
    "cost": (int, float, type(None)),
    "unscored": (dict, type(None)),
    "meta": (dict,),
}
"""What the optional fields of our own lines may be."""

NO_VERDICT = Text("the file holds no verdict", "ファイルに判定がありません")


@dataclass(frozen=True)
class Situation:
    """A character in the middle of a story; ``context`` ends where it has to speak."""

    id: str
    name: str
    character: str
    context: str

    def profile(self) -> Profile:
        """The character as a profile: who speaks, for prompts, gate and judge."""
        number = self.id if SLUG.fullmatch(self.id) else sha256(self.id.encode())[:12]
        data = {"slug": f"situation-{number}", "name": self.name, "persona": self.character}
        return Profile.from_data(data, f"situation {self.id}")


@dataclass(frozen=True)
class Response:
    situation: str
    model: str
    reply: str


class _Problems:
    """What is wrong with a file's lines, raised as one ``UserError``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[tuple[int, Text]] = []

    def add(self, line: int, en: str, ja: str) -> None:
        self._found.append((line, Text(en, ja)))

    def check(self) -> None:
        if not self._found:
            return
        first, more = self._found[:NAMED], len(self._found) - NAMED
        en = "; ".join(f"line {line}: {text.en}" for line, text in first)
        ja = "、".join(f"{line} 行目: {text.ja}" for line, text in first)
        raise UserError(
            f"{self._path} was not read. {en}" + (f"; and {more} more lines" if more > 0 else "."),
            f"{self._path} は読み込みませんでした。{ja}"
            + (f"、ほか {more} 行" if more > 0 else "")
            + "。",
        )


def read_situations(path: Path) -> list[Situation]:
    """All situations; ``UserError`` names each line that lacks a field or repeats an id."""
    problems, found = _Problems(path), dict[str, Situation]()
    for line, row in json_lines(path):
        values = _texts(row, ("situation_id", "character_name", "character", "context"))
        if isinstance(values, str):
            problems.add(line, f"{values!r} is missing", f"「{values}」がありません")
            continue
        situation = Situation(*(value.replace("\r\n", "\n").strip() for value in values))
        if situation.id in found:
            problems.add(
                line,
                f"situation {situation.id} stands twice",
                f"状況 {situation.id} が重複しています",
            )
        found[situation.id] = situation
    problems.check()
    return list(found.values())


def read_responses(path: Path, situations: Collection[str] | None = None) -> list[Response]:
    """All replies; with ``situations`` (ids) those of others are errors."""
    problems, found = _Problems(path), dict[tuple[str, str], Response]()
    for line, row in json_lines(path):
        values = _texts(row, ("situation_id", "model_id", "response"))
        if isinstance(values, str):
            problems.add(line, f"{values!r} is missing", f"「{values}」がありません")
            continue
        response = Response(*values)
        _known_situation(problems, line, response.situation, situations)
        if (response.model, response.situation) in found:
            problems.add(
                line,
                f"{response.model} answers situation {response.situation} a second time",
                f"{response.model} の状況 {response.situation} への返答が重複しています",
            )
        found[response.model, response.situation] = response
    problems.check()
    return list(found.values())


def read_verdicts(
    path: Path,
    models: Collection[str] | None = None,
    queries: Collection[str] | None = None,
) -> list[Match]:
    """All verdicts of a file of either form, told apart line by line.

    ``models`` and ``queries`` are those there may be (None: any). ``UserError`` names each line
    with an unknown model or query, a model against itself, a winner that did not take part, or a
    missing field, and an empty file.
    """
    problems, found = _Problems(path), []
    for line, row in json_lines(path):
        if not isinstance(row, dict):
            problems.add(line, "not a JSON object", "JSON オブジェクトではありません")
            continue
        ours = "model_id_A" not in row
        missing = next((name for name in (OURS if ours else REVIEW) if name not in row), None)
        if missing is not None:
            problems.add(line, f"{missing!r} is missing", f"「{missing}」がありません")
            continue
        a, b = _name(row["a" if ours else "model_id_A"]), _name(row["b" if ours else "model_id_B"])
        winner = _winner(row["winner"])
        query = _name(row["query" if ours else "situation_id"])
        _known_situation(problems, line, query, queries)
        if _possible(problems, line, (a, b), winner, models):
            kept = {**row, "query": query, "a": a, "b": b, "winner": winner}
            found.append(_of_ours(kept, problems, line) if ours else _of_review(kept))
    problems.check()
    if not found:
        raise UserError(f"{path}: {NO_VERDICT.en}.", f"{path}: {NO_VERDICT.ja}。")
    return [match for match in found if match]


def write_matches(path: Path, matches: Iterable[Match]) -> None:
    """In our own form, whole and at once; ``read_verdicts`` gives the same matches again."""
    write_json_lines(path, [match.as_json() for match in matches])


def _possible(
    problems: _Problems,
    line: int,
    pair: tuple[str, str],
    winner: str,
    models: Collection[str] | None,
) -> bool:
    """Whether a verdict can be true; what is wrong with it goes to ``problems``."""
    a, b = pair
    unknown = [name for name in pair if models is not None and name not in models]
    if set(pair) & NOT_NAMES:
        problems.add(line, "a model has no usable name", "モデル名が空か、使えない名前です")
    elif a == b:
        problems.add(line, f"{a!r} plays against itself", f"「{a}」が自分自身と対戦しています")
    elif unknown:
        names = ", ".join(unknown)
        problems.add(line, f"unknown model {names}", f"知らないモデル「{names}」があります")
    elif winner not in (a, b, TIE, ""):
        problems.add(
            line,
            f"the winner {winner!r} is neither {a!r} nor {b!r} nor a tie",
            f"勝者「{winner}」は「{a}」でも「{b}」でも引き分けでもありません",
        )
    else:
        return True
    return False


def _known_situation(
    problems: _Problems, line: int, query: str, known: Collection[str] | None
) -> None:
    if not query or (known is not None and query not in known):
        problems.add(line, f"unknown situation {query!r}", f"知らない状況「{query}」です")


def _of_review(row: Mapping[str, Any]) -> Match:
    """The benchmark shows A first and asks once. What has no field of ours is kept."""
    used = {*REVIEW, *OURS, "response_A", "response_B", "review", "reviewer_id"}
    return Match(
        query=row["query"],
        a=row["a"],
        b=row["b"],
        winner=row["winner"],
        unscored=None if row["winner"] else _UNDECIDED,
        reply_a=_text(row.get("response_A")),
        reply_b=_text(row.get("response_B")),
        source=_name(row.get("reviewer_id")),
        looks=(row["winner"],),
        rationale=_text(row.get("review")) or "",
        meta={name: value for name, value in row.items() if name not in used},
    )


def _of_ours(row: Mapping[str, Any], problems: _Problems, line: int) -> Match | None:
    """Unknown fields go to ``meta``."""
    known = {name: value for name, value in row.items() if name in _FIELDS}
    extra = {name: value for name, value in row.items() if name not in _FIELDS}
    wrong = [n for n, kinds in _KINDS.items() if n in known and not isinstance(known[n], kinds)]
    if wrong:
        names = ", ".join(wrong)
        problems.add(line, f"wrong kind of value: {names}", f"値の種類が違います（{names}）")
        return None
    why = known.get("unscored")
    if row["winner"] and why:
        problems.add(
            line,
            "both a winner and a reason why there is none",
            "winner と unscored は、どちらか一方だけを書いてください",
        )
        return None
    if why and not {"en", "ja"} <= why.keys():
        problems.add(line, "unscored needs en and ja", "unscored には en と ja が必要です")
        return None
    if not row["winner"] and not why:
        known["unscored"] = _UNDECIDED.as_json()
    return Match.from_json({**known, "meta": {**known.get("meta", {}), **extra}})


_UNDECIDED = Text("the file names no winner", "ファイルに勝者がありません")


def _winner(value: Any) -> str:
    """A name, ``TIE`` for any word that means it, "" for none."""
    name = _name(value)
    return TIE if name.lower() in _TIES else name


def _name(value: Any) -> str:
    """A name or a number as text; "" for anything else."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if known else ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(row: Any, names: Sequence[str]) -> list[str] | str:
    """The fields in order, or the name of the first that is missing or empty."""
    if not isinstance(row, dict):
        return names[0]
    missing = next((name for name in names if not _name(row.get(name))), None)
    return missing if missing else [str(row[name]) for name in names]
