"""The embedded judge: gate, style, relevance and length, one score from 1 to 7, with reasons.

No key, no model download, the same score for the same words. It is a proxy: it measures one
character's style, stopping and repetition, not facts, and must not be used to rank replies of
different characters (on such pairs it does no better than length). A gated reply scores 1; else
1 + 6 x the weighted mean of the parts. Without style there is no score; without relevance the
weights of the others stand, under another judge's name, so that the two are never mixed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from charllm.core.embedding import Embedder, EmbedderConfig, get_embedder
from charllm.core.judging.gate import Finding, Gate
from charllm.core.judging.relevance import MIN_PAIRS, Relevance, usable
from charllm.core.judging.style import StyleModel
from charllm.core.judging.wording import length_words, relevance_words, style_words
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, dataset_path, load_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile, list_profiles, load_profile

VERSION = "2"
JUDGE = "embedded"
JUDGE_WITHOUT_RELEVANCE = "embedded-without-relevance"
LOWEST, HIGHEST = 1.0, 7.0
WEIGHTS = {"style": 0.5, "relevance": 0.3, "length": 0.2}
NAMES = {
    "gate": Text("gate", "ゲート"),
    "style": Text("style", "口調"),
    "relevance": Text("relevance", "関連度"),
    "length": Text("length", "長さ"),
}
ABOUT = Text(
    "A proxy made without a language model: it measures this character's style, stopping and "
    "repetition, not whether facts are right.",
    "言語モデルを使わない簡易採点です。このキャラクターの口調・話し終わり・繰り返しを測るもので、"
    "事実の正しさは測りません。",
)
CANCELLED = Text(
    "Not scored: the reply was stopped before its end.",
    "返事が途中で止められたため、採点していません。",
)
UNREADABLE = Text("The details of this score were not kept.", "この採点の内訳は残されていません。")
UNSHOWN = "–"


@dataclass(frozen=True)
class Part:
    """One scorer's share: ``value`` in [0, 1], None where it could not be scored (see ``text``)."""

    key: str
    name: Text
    value: float | None
    shown: str
    text: Text


@dataclass(frozen=True)
class Judgement:
    """``score`` in [1, 7], or None with the reason in ``unscored``; its evidence in ``parts``."""

    score: float | None
    unscored: Text | None
    gate: tuple[Finding, ...]
    parts: tuple[Part, ...]
    about: Text
    judge: str = JUDGE
    version: str = VERSION

    def as_json(self) -> dict[str, Any]:
        """What the page draws."""
        return {
            "state": "done",
            "value": self.score,
            "unscored": self.unscored.as_json() if self.unscored else None,
            "parts": [
                {
                    "key": part.key,
                    "name": part.name.as_json(),
                    "value": part.value,
                    "shown": part.shown,
                    "text": part.text.as_json(),
                }
                for part in self.parts
            ],
            "about": self.about.as_json(),
            "gate": [finding.code for finding in self.gate],
        }

    def as_text(self) -> str:
        """``as_json`` as one string, for the store."""
        return json.dumps(self.as_json(), ensure_ascii=False)

    @staticmethod
    def display_from(text: str) -> dict[str, Any]:
        """What ``as_text`` was made from; a stated "not kept" for any other text."""
        try:
            shown = json.loads(text)
        except json.JSONDecodeError:  # a rationale that another judge wrote
            shown = None
        if isinstance(shown, dict) and shown.get("state") == "done":
            return shown
        return Judgement(None, UNREADABLE, (), (), ABOUT).as_json()


class Scorer:
    """Judges replies of one character. Nothing in it changes: safe in any thread.

    ``style`` and ``relevance`` are the fitted models, or why there is none.
    """

    def __init__(
        self, profile: Profile, style: StyleModel | Text, relevance: Relevance | Text
    ) -> None:
        self.profile = profile
        self.gate = Gate(profile)
        self.style = style
        self.relevance = relevance
        self.judge = JUDGE_WITHOUT_RELEVANCE if isinstance(relevance, Text) else JUDGE

    def score(self, query: str, reply: str, stop_reason: str = "") -> Judgement:
        """The judgement of ``reply``. ``stop_reason`` is generation's, "" where unknown."""
        if stop_reason == "cancelled":
            return Judgement(None, CANCELLED, (), (), ABOUT, self.judge)
        found = tuple(self.gate.check(reply, query=query, stop_reason=stop_reason))
        if found:
            return Judgement(LOWEST, None, found, (_gated(found),), ABOUT, self.judge)
        parts = (_PASSED, self._style(reply), self._relevance(query, reply), self._length(reply))
        if isinstance(self.style, Text):
            return Judgement(None, self.style, (), parts, ABOUT, self.judge)
        return Judgement(_total(parts), None, (), parts, self._about(), self.judge)

    def _about(self) -> Text:
        if not isinstance(self.relevance, Text):
            return ABOUT
        return Text(
            f"{ABOUT.en} Relevance is missing from it.", f"{ABOUT.ja}関連度は含まれていません。"
        )

    def _style(self, reply: str) -> Part:
        if isinstance(self.style, Text):
            return _unscored("style", self.style)
        value = self.style.score(reply)
        words = style_words(self.profile.name, value, self.style.explain(reply))
        return _part("style", value, f"{value:.2f}", words)

    def _relevance(self, query: str, reply: str) -> Part:
        if isinstance(self.relevance, Text):
            return _unscored("relevance", self.relevance)
        if not query.strip():
            return _unscored("relevance", Text("there is no question", "質問がありません"))
        value = self.relevance.score(query, reply)
        return _part("relevance", value, f"{value:.2f}", relevance_words(value))

    def _length(self, reply: str) -> Part:
        said, asked = len(reply.strip()), self.profile.reply_length
        value = length_fit(said, asked)
        return _part("length", value, f"{said}/{asked}", length_words(value, said, asked))


def length_fit(said: int, asked: int) -> float:
    """1 from 5/8 to 8/5 of the length asked for; 4 times gives .10, a sixth .30 (both log-normal).

    Too long is worse than too short: a short reply may be all that a greeting needs.
    """
    ratio = math.log(max(said, 1) / asked)
    beyond = max(0.0, abs(ratio) - math.log(1.6))
    return math.exp(-((beyond / (0.6 if ratio > 0 else 1.2)) ** 2))


def build_scorer(paths: Paths, profile: Profile, embedder: Embedder | None = None) -> Scorer:
    """The scorer of ``profile``, fitted on ``datasets/<slug>.jsonl`` (a few seconds, once).

    The other profiles' datasets are what their replies are contrasted with. ``embedder`` None is
    the embedded one. Whatever cannot be fitted is left unscored, with the reason.
    """
    dialogues = _dialogues(paths, profile.slug)
    return Scorer(
        profile,
        _style_model(paths, profile, dialogues),
        _relevance_model(paths, profile, dialogues, embedder),
    )


def judge_name(paths: Paths, profile: Profile) -> str:
    """What ``build_scorer``'s scorer would be called, without fitting it."""
    pairs = usable([(d.question, d.reply) for d in _dialogues(paths, profile.slug)])
    try:
        get_embedder(EmbedderConfig())
    except UserError:
        return JUDGE_WITHOUT_RELEVANCE
    return JUDGE if len(pairs) >= MIN_PAIRS else JUDGE_WITHOUT_RELEVANCE


def style_scorer(paths: Paths, profile: Profile) -> Scorer:
    """The scorer by gate, style and length alone: no embedder is loaded for it."""
    unasked = Text("relevance was not asked for", "関連度は採点の対象外です")
    return Scorer(profile, _style_model(paths, profile, _dialogues(paths, profile.slug)), unasked)


def without_lines(paths: Paths, scorer: Scorer, lines: Collection[str]) -> Scorer:
    """``scorer`` as it would be had it never learnt ``lines``; itself where too few are left.

    A line must not be judged by what was learnt from this very line.
    """
    profile = scorer.profile
    dialogues = _dialogues(paths, profile.slug)
    rest = [line for line in own_lines(profile, dialogues) if line.strip() not in lines]
    try:
        style = StyleModel.fit(rest, contrast_lines(paths, profile, dialogues), profile)
    except UserError:
        return scorer
    return Scorer(profile, style, scorer.relevance)


def learnt_lines(paths: Paths, profile: Profile) -> frozenset[str]:
    """The lines that the profile's scorer is fitted on."""
    said = own_lines(profile, _dialogues(paths, profile.slug))
    return frozenset(line.strip() for line in said)


def judge_rows(
    paths: Paths, slug: str, rows: Iterable[Any], embedder: Embedder | None = None
) -> Iterator[dict[str, Any]]:
    """Judge rows ``{"id", "query", "reply"}`` (and ``stop_reason``) one by one.

    Yields ``{"id", "score", "gate": [code…], "parts": {key: value}, "unscored_reason"}``.
    ``UserError`` names the first row (from 1) that is wrong.
    """
    scorer = build_scorer(paths, load_profile(paths, slug), embedder)
    for number, row in enumerate(rows, 1):
        query, reply, stop_reason = check_row(row, number)
        judged = scorer.score(query, reply, stop_reason)
        yield {
            "id": row.get("id", number),
            "score": None if judged.score is None else round(judged.score, 3),
            "gate": [finding.code for finding in judged.gate],
            "parts": {
                part.key: None if part.value is None else round(part.value, 4)
                for part in judged.parts
            },
            "unscored_reason": judged.unscored.en if judged.unscored else None,
        }


def own_lines(profile: Profile, dialogues: Iterable[Dialogue]) -> list[str]:
    """Every line the character says in the dialogues and in the profile, once."""
    said = [m.content for d in dialogues for m in d.messages if m.role == "assistant"]
    said += [example.reply for example in profile.examples]
    said += [profile.greeting] if profile.greeting.strip() else []
    return list(dict.fromkeys(said))


def contrast_lines(
    paths: Paths, profile: Profile, dialogues: Iterable[Dialogue]
) -> dict[str, list[str]]:
    """What users say, and what other characters of the same language reply."""
    prompts = [m.content for d in dialogues for m in d.messages if m.role == "user"]
    prompts += [example.user for example in profile.examples]
    others: list[str] = []
    for slug in list_profiles(paths):
        if slug == profile.slug or not dataset_path(paths, slug).is_file():
            continue
        other = load_profile(paths, slug)
        # Another language would be told apart by its script: that teaches nothing of style.
        if other.language == profile.language:
            others += own_lines(other, _dialogues(paths, slug))
    return {"prompts": list(dict.fromkeys(prompts)), "others": list(dict.fromkeys(others))}


def _dialogues(paths: Paths, slug: str) -> list[Dialogue]:
    path = dataset_path(paths, slug)
    return load_dialogues(path) if path.is_file() else []


def _style_model(paths: Paths, profile: Profile, dialogues: list[Dialogue]) -> StyleModel | Text:
    try:
        lines = own_lines(profile, dialogues)
        return StyleModel.fit(lines, contrast_lines(paths, profile, dialogues), profile)
    except UserError as error:
        return error.text


def _relevance_model(
    paths: Paths, profile: Profile, dialogues: list[Dialogue], embedder: Embedder | None
) -> Relevance | Text:
    pairs = [(d.question, d.reply) for d in dialogues]
    try:
        chosen = embedder or get_embedder(EmbedderConfig())
        return Relevance.fit(pairs, chosen, profile, paths.workspace / "judging")
    except UserError as error:
        return error.text


def _total(parts: Iterable[Part]) -> float:
    return plain_score({part.key: part.value for part in parts})


def plain_score(parts: Mapping[str, float | None]) -> float:
    """The score in [1, 7] that the parts make by the plain weights; one of them must be known."""
    scored = [(WEIGHTS[key], v) for key, v in parts.items() if key in WEIGHTS and v is not None]
    mean = sum(weight * value for weight, value in scored) / sum(weight for weight, _ in scored)
    return LOWEST + (HIGHEST - LOWEST) * mean


def check_row(row: Any, number: int) -> tuple[str, str, str]:
    """``(query, reply, stop_reason)``; ``UserError`` names the row, which counts from 1."""
    if not isinstance(row, Mapping) or not isinstance(row.get("reply"), str):
        raise UserError(
            f'Row {number} has no text "reply"; a row is {{"id", "query", "reply"}}.',
            f"{number} 行目に文字列の reply がありません。"
            '1 行は {"id", "query", "reply"} の形にしてください。',
        )
    values = (row.get("query") or "", row["reply"], row.get("stop_reason") or "")
    if not all(isinstance(value, str) for value in values):
        raise UserError(
            f'Row {number}: "query" and "stop_reason" must be text.',
            f"{number} 行目: query と stop_reason は文字列にしてください。",
        )
    return values


def _part(key: str, value: float | None, shown: str, text: Text) -> Part:
    return Part(key, NAMES[key], value, shown, text)


def _unscored(key: str, reason: Text) -> Part:
    return _part(key, None, UNSHOWN, reason)


def _gated(found: Iterable[Finding]) -> Part:
    reasons = [finding.text for finding in found]
    text = Text(
        "The reply " + "; ".join(reason.en for reason in reasons) + ".",
        "。".join(reason.ja for reason in reasons) + "。",
    )
    return _part("gate", 0.0, "✗", text)


_PASSED = Part(
    "gate",
    NAMES["gate"],
    1.0,
    "✓",
    Text(
        "Passed: no loop, leaked markup, second turn or recital was found.",
        "問題なし。繰り返し、記号の混入、余分な発言、設定の読み上げは見つかりません。",
    ),
)
