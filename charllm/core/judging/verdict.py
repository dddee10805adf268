"""A judge's answer turned into a score, or into the reason why there is none.

Strict: a number counts only where a verdict stands, never in passing. The study's own rule (the
last digit after a space) reads "6 out of 7" as 7 and a cut-off answer's list number as a score.
What cannot be read for certain is unscored.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from charllm.data.errors import Text

LAST_LINES = 4
"""The verdict stands on one of so many last lines that are not empty."""

EMPTY = Text("the judge answered nothing", "ジャッジの回答が空でした")
CUT = Text("the judge's answer was cut off", "ジャッジの回答が途中で切れました")
FILTERED = Text("the judge's server withheld the answer", "ジャッジのサーバーが回答を遮断しました")
REFUSED = Text("the judge refused to answer", "ジャッジが回答を拒否しました")
NO_SCORE = Text("no score stands at the end", "末尾に点数がありません")
TWO_SCORES = Text("two different scores stand at the end", "末尾に異なる点数が二つあります")
OUT_OF_SCALE = Text("the score is not on the scale", "点数が尺度の範囲外です")
NOT_JSON = Text("the answer is not the JSON asked for", "回答が指定の JSON ではありません")

_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
"""Some templates write the opening mark into the prompt: only the last closing one is certain."""
_OPEN_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_FENCED = re.compile(r"<(reply|query|talk)\b[^>]*>.*?</\1\b[^>]*>", re.DOTALL | re.IGNORECASE)
_QUOTED = re.compile(r"「[^」]*」|『[^』]*』|“[^”]*”|\"[^\"\n]*\"")
_LONGEST_EMPHASIS = 6
"""Signs, quotation marks included: 「7」 stresses a score, anything longer repeats somebody."""
_LABEL = (
    r"(?:(?:最終|総合|合計)?(?:的な)?\s*(?:スコア|得点|点数|評点|評価点|評価|採点|判定|結論|回答|答え)"
    r"|(?:final|overall|total)?\s*(?:score|rating|verdict|grade|answer))"
)
_VERDICT = re.compile(
    rf"(?:[-•]\s+|・\s*)?(?:{_LABEL}\s*(?:\d+\s*[-~〜–—]\s*\d+)?\s*(?:is|は|が|=|:|→|-|—|–)*\s*){{0,2}}"
    r"(?:(?P<full>\d+)\s*点満点中\s*)?(?P<score>[-+]?\d+(?:\.\d+)?)\s*(?:点|points?|pts?)?"
    r"(?:\s*(?:/|out\s+of|of)\s*(?P<top>\d+)|\s+(?P<most>\d+)\s*点満点中?)?\s*(?:点|points?)?"
    r"\s*(?:です|でした|とします|とする|と評価します|である|だ)?",
    re.IGNORECASE,
)
_NO_VERDICT = re.compile(r"\s*(?:\d+\s*[.)、:]|\(\d+\)|[①-⑳❶-❿].*|[>＞].*)\s*")
"""A list's number whose item was never written, and a line that quotes."""
_CLOSING = re.compile(
    r"以上(?:です|となります)?|終わり|-+|=+|end"
    r"|(?:※|(?:注\d*|備考|補足|note)\s*:).*|\(.*\)",
    re.IGNORECASE,
)
"""What may follow a verdict: a sign-off, or a note that says of itself that it is one."""
_MARKS = re.compile(r"[*_`#|【】\[\]<>()「」『』“”\\\"'{}$]+")


@dataclass(frozen=True)
class Parsed:
    """``score`` on the scale, or None with the ``reason``."""

    score: float | None
    reason: Text | None = None
    rationale: str = ""
    flaws: tuple[str, ...] = ()


def parse_text(text: str, scale: tuple[int, int], finish_reason: str = "stop") -> Parsed:
    """The verdict on the last lines of an answer in words.

    A line is a verdict if, marks aside, it is nothing but a number, with or without a label in
    front, "/7" or "点" behind. All verdicts among the last lines must agree, and only a closing
    word or a note may follow them. What is quoted has no vote.
    """
    words = text.strip()
    if problem := _unfinished(words, finish_reason):
        return Parsed(None, problem, words)
    said = _THOUGHT.sub("", words)
    if _OPEN_THOUGHT.search(said):
        return Parsed(None, CUT, words)
    found = _verdicts(_unquoted(said))
    scores = {float(match["score"]) for match in found}
    if len(scores) != 1:
        return Parsed(None, TWO_SCORES if scores else NO_SCORE, words)
    score = scores.pop()
    tops = {float(top) for m in found if (top := m["top"] or m["full"] or m["most"])}
    if tops - {scale[1]} or not _on_scale(score, scale):
        return Parsed(None, OUT_OF_SCALE, words)
    return Parsed(score, None, words)


def _unquoted(text: str) -> str:
    """``text`` without what it repeats of the reply."""
    text = _FENCED.sub(" ", text)
    return _QUOTED.sub(
        lambda quoted: quoted[0] if len(quoted[0]) <= _LONGEST_EMPHASIS else " ", text
    )


def _verdicts(text: str) -> list[re.Match[str]]:
    """The verdicts on the last lines, [] where anything but a closing follows the last one."""
    lines = [line for line in text.splitlines() if _plain(line)]
    found: list[re.Match[str]] = []
    for line in reversed(lines[-LAST_LINES:]):
        match = None if _NO_VERDICT.fullmatch(line) else _VERDICT.fullmatch(_plain(line))
        if match:
            found.append(match)
        elif not found and not _CLOSING.fullmatch(_closing(line)):
            return []
    return found


def parse_structured(text: str, scale: tuple[int, int], finish_reason: str = "stop") -> Parsed:
    """The verdict in a JSON object ``{"flaws", "reasons", "score"}``, in a code fence or not."""
    words = text.strip()
    if problem := _unfinished(words, finish_reason):
        return Parsed(None, problem, words)
    data = _object(_THOUGHT.sub("", words).strip())
    if data is None:
        return Parsed(None, NOT_JSON, words)
    reasons = data.get("reasons")
    flaws = data.get("flaws")
    said = reasons if isinstance(reasons, str) else ""
    listed = tuple(map(str, flaws)) if isinstance(flaws, list) else ()
    score = data.get("score")
    if isinstance(score, str) and re.fullmatch(r"\s*\d{1,4}\s*", score):
        score = int(score)  # also in full-width digits
    if isinstance(score, bool) or not isinstance(score, int | float):
        return Parsed(None, NO_SCORE, said, listed)
    if not _on_scale(score, scale):
        return Parsed(None, OUT_OF_SCALE, said, listed)
    return Parsed(float(score), None, said, listed)


def _unfinished(words: str, finish_reason: str) -> Text | None:
    if finish_reason == "refusal":
        return REFUSED
    if finish_reason == "content_filter":
        return FILTERED
    if finish_reason != "stop":
        return CUT
    return None if words else EMPTY


def _on_scale(score: float, scale: tuple[int, int]) -> bool:
    return scale[0] <= score <= scale[1] and score == int(score)


def _plain(line: str) -> str:
    """A line in half-width signs, without emphasis, brackets and the full stop at its end."""
    text = _MARKS.sub(" ", unicodedata.normalize("NFKC", line))
    return " ".join(text.split()).rstrip(" 。.!！、,;")


def _closing(line: str) -> str:
    text = unicodedata.normalize("NFKC", line).strip().strip("*_")
    return text.rstrip(" 。.!！")


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that ``text`` is, None where it is none or names a field twice."""
    fence = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL | re.IGNORECASE)
    try:
        data = json.loads(fence[1] if fence else text, object_pairs_hook=_once)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of 5,000 digits
        return None
    return data if isinstance(data, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a field is named twice")
    return dict(pairs)
