"""What can be said of the five without any judge: measures by rule, each in [0, 1], 1 is best.

They stand beside a judge's scores, never in their place. Nothing here knows whether a claim is
true or a value is held: for values and hallucination there is no measure, and the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from charllm.core.evaluation.fact_use import FactUse
from charllm.core.evaluation.five import Exchange, Key
from charllm.core.judging.score import Scorer, learnt_lines, style_scorer, without_lines
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.profile import Profile
from charllm.data.text import ngrams, normal_form

MeasureKey = Literal["recalled", "style", "fresh", "clean", "length"]

REPEATED = 8
"""Characters of a run that counts as repeated from an earlier turn."""


@dataclass(frozen=True)
class Measure:
    """``near``: the criterion it stands beside; ``about``: what exactly is counted."""

    key: MeasureKey
    near: Key
    label: Text
    about: Text


MEASURES: dict[MeasureKey, Measure] = {
    one.key: one
    for one in (
        Measure(
            "recalled",
            "memorisation",
            Text("Words of the fact", "事実の語句"),
            Text(
                "share of the gold fact's own words that the reply holds; words, not meaning",
                "正解の事実に固有の語句が返答に含まれる割合（語句の一致であり、意味は見ない）",
            ),
        ),
        Measure(
            "style",
            "personality",
            Text("Style", "口調"),
            Text("the embedded style classifier", "内蔵の口調判定"),
        ),
        Measure(
            "fresh",
            "naturalness",
            Text("Not repeated", "繰り返しのなさ"),
            Text(
                f"share of the reply's runs of {REPEATED} characters that no earlier turn had",
                f"返答の{REPEATED}文字の並びのうち、前の返答に出ていないものの割合",
            ),
        ),
        Measure(
            "clean",
            "naturalness",
            Text("Passed the gate", "ゲート通過"),
            Text("no loop, leak, runaway, echo or recital", "繰り返し・記号混入・暴走などがない"),
        ),
        Measure(
            "length",
            "tempo",
            Text("Length", "長さ"),
            Text("how near the length asked for", "目安の長さへの近さ"),
        ),
    )
}


@dataclass(frozen=True)
class Measured:
    """One exchange. None: this measure cannot say anything of it. A gated reply has 0 in all that
    apply to it."""

    id: str
    values: Mapping[MeasureKey, float | None]
    gate: tuple[str, ...] = ()


def measure(paths: Paths, profile: Profile, exchanges: Sequence[Exchange]) -> list[Measured]:
    """Every exchange that has a reply. Lines that the style was learnt from are judged by a
    classifier that has not learnt them."""
    replied = [one for one in exchanges if one.failed is None]
    scorer = style_scorer(paths, profile)
    known = {one.reply.strip() for one in replied} & learnt_lines(paths, profile)
    unlearnt = without_lines(paths, scorer, known) if known else scorer
    use = FactUse(profile.facts)
    return [
        _measured(unlearnt if one.reply.strip() in known else scorer, use, one) for one in replied
    ]


def _measured(scorer: Scorer, use: FactUse, exchange: Exchange) -> Measured:
    judged = scorer.score(exchange.question, exchange.reply, exchange.stop_reason)
    parts = {part.key: part.value for part in judged.parts}
    values: dict[MeasureKey, float | None] = {
        "recalled": use.share(exchange.gold, exchange.question, exchange.reply),
        "style": parts.get("style"),
        "fresh": fresh(exchange),
        "clean": None if exchange.stop_reason == "cancelled" else 1.0,
        "length": parts.get("length"),
    }
    gate = tuple(finding.code for finding in judged.gate)
    if gate:
        applying = {key for key, value in values.items() if value is not None} | {"length"}
        applying |= set() if isinstance(scorer.style, Text) else {"style"}
        values = {key: 0.0 if key in applying else None for key in values}
    return Measured(exchange.id, values, gate)


def fresh(exchange: Exchange) -> float | None:
    """None for a first turn, and for a reply that is shorter than a run."""
    before = [one.content for one in exchange.history if one.role == "assistant"]
    reply = normal_form(exchange.reply)
    if not before or len(reply) < REPEATED:
        return None
    runs = ngrams(reply, REPEATED)
    had = {run for line in before for run in ngrams(normal_form(line), REPEATED)}
    return sum(count for run, count in runs.items() if run not in had) / runs.total()
