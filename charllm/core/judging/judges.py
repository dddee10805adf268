"""Which judges there are: the embedded one, a model behind an endpoint, a local chat model.

``JudgeConfig`` names one, ``open_judge`` makes it. The key of an endpoint is never part of it: it
comes from the environment or from the session (``endpoint.set_session_key``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from charllm.core import endpoint
from charllm.core.judging import score
from charllm.core.judging.calibrated import Calibrated, load_calibrated
from charllm.core.judging.gate import Gate
from charllm.core.judging.prices import Price, price_of
from charllm.core.judging.records import Item, Judge, Quote, Record
from charllm.core.judging.rubric import load_rubric
from charllm.data.config import Config, Paths, invalid
from charllm.data.profile import Profile

FOLDS = 5
SECONDS_A_REPLY = 0.05
"""The embedded judge's, most of it for relevance; fitting takes a few seconds more."""


class JudgeConfig(Config):
    """Who judges and by which rubric (the embedded judge has its own, "character").

    ``samples``: verdicts a reply, whose mean counts. ``in_flight``: replies judged at once.
    Prices are US dollars per million tokens; None takes the known ones.
    """

    kind: Literal["embedded", "endpoint", "local"] = "embedded"
    model: str = ""
    base_url: str = ""
    rubric: str = "study"
    samples: int = Field(default=1, ge=1, le=20)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(default=600, ge=16, le=8192)
    in_flight: int = Field(default=16, ge=1, le=128)
    seed: int = Field(default=0, ge=0)
    price_in: float | None = Field(default=None, ge=0.0)
    price_cached: float | None = Field(default=None, ge=0.0)
    price_out: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.kind != "embedded" and not self.model.strip():
            raise invalid(
                f"model: name the {self.kind} model that judges",
                f"model: 採点に使うモデルの名前を書いてください（kind が {self.kind} のため）",
            )
        if self.kind == "embedded" and self.samples != 1:
            raise invalid(
                "samples: the embedded judge always says the same, one is enough",
                "samples: 内蔵ジャッジの採点は毎回同じなので、1 にしてください",
            )
        check_address(self.base_url)
        if self.samples > 1 and self.temperature == 0 and self.kind != "embedded":
            raise invalid(
                "temperature: several samples differ only above 0",
                "temperature: samples が 2 以上のときは、0 より大きくしてください",
            )
        return self


def check_address(base_url: str) -> None:
    """A validator's error where an address carries a user name or a password: it is written down
    with the configuration."""
    if "@" in base_url:
        raise invalid(
            "base_url: leave out the user name and the password; enter a key",
            "base_url: ユーザー名とパスワードは書かないでください。認証には API キーを使います",
        )


def open_judge(paths: Paths, profile: Profile, config: JudgeConfig) -> Judge:
    """The judge, ready; close it after use. ``UserError`` where it or its rubric is missing."""
    if config.kind == "embedded":
        return EmbeddedJudge(paths, profile)
    from charllm.core.judging.cache import JudgeCache

    rubric = load_rubric(paths, config.rubric)
    if config.kind == "local":
        from charllm.core.judging.local_judge import LocalJudge

        return LocalJudge(paths, profile, rubric, config, JudgeCache(paths))
    from charllm.core.judging.llm_judge import LLMJudge

    return LLMJudge(profile, rubric, config, JudgeCache(paths), price_for(config))


def price_for(config: JudgeConfig) -> Price:
    """The known price of the judge's model, overruled where the configuration names one."""
    known = price_of(config.model, endpoint.resolve_base_url(config.base_url))
    return Price(
        known.tokens_in if config.price_in is None else config.price_in,
        known.tokens_cached if config.price_cached is None else config.price_cached,
        known.tokens_out if config.price_out is None else config.price_out,
    )


class EmbeddedJudge:
    """Gate, style, relevance and length; calibrated on hand scores where that has gained.

    A reply that is among the lines the judge has learnt from is judged by one that has not learnt
    it (cross-validation in ``FOLDS``), so that a training set is not praised for being learnt.
    It is fitted when it is first asked: who only wants its name or its mark does not wait for it.
    """

    rubric = "character"
    scale = (int(score.LOWEST), int(score.HIGHEST))

    def __init__(self, paths: Paths, profile: Profile) -> None:
        self.paths, self.profile = paths, profile
        found = load_calibrated(paths, profile.slug)
        self.calibrated: Calibrated | None = found if found and found.applies else None

    @cached_property
    def scorer(self) -> score.Scorer:
        return score.build_scorer(self.paths, self.profile)

    @cached_property
    def id(self) -> str:
        if self.calibrated:
            return self.calibrated.judge
        return score.judge_name(self.paths, self.profile)

    @property
    def version(self) -> str:
        return self.calibrated.version if self.calibrated else score.VERSION

    def quote(self, items: Sequence[Item]) -> Quote:
        gate = Gate(self.profile)
        gated = sum(
            bool(gate.check(i.reply, query=i.query, stop_reason=i.stop_reason)) for i in items
        )
        seconds = (len(items) - gated) * SECONDS_A_REPLY
        return Quote(len(items), len(items) - gated, 0, gated, seconds=seconds)

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        for scorer, group in self._dealt(items):
            for item in group:
                if stop():
                    return
                yield self._record(scorer, item)

    def _dealt(self, items: Sequence[Item]) -> Iterator[tuple[score.Scorer, list[Item]]]:
        """The items in groups, each with a scorer that has learnt none of its replies."""
        learnt = score.learnt_lines(self.paths, self.profile)
        known = {i.reply.strip() for i in items} & learnt
        fold_of = {line: n % FOLDS for n, line in enumerate(sorted(known))}
        yield self.scorer, [i for i in items if i.reply.strip() not in fold_of]
        for fold in range(min(FOLDS, len(known))):
            lines = {line for line, of in fold_of.items() if of == fold}
            scorer = score.without_lines(self.paths, self.scorer, lines)
            yield scorer, [i for i in items if i.reply.strip() in lines]

    def _record(self, scorer: score.Scorer, item: Item) -> Record:
        judged = scorer.score(item.query, item.reply, item.stop_reason)
        if self.calibrated:
            judged = self.calibrated.apply(judged)
        language = self.profile.language
        return Record(
            item=item.id,
            judge=self.id,
            rubric=self.rubric,
            version=self.version,
            score=judged.score,
            unscored=judged.unscored,
            gate=tuple(finding.code for finding in judged.gate),
            parts={part.key: part.value for part in judged.parts},
            rationale="\n".join(
                f"{part.name.in_(language)}: {part.text.in_(language)}"
                for part in judged.parts
                if part.text
            ),
        )

    def close(self) -> None:
        pass
