"""What RAG does for one set of weights: right facts found, shown, used, and what replies gain.

Read from the kept replies of an evaluation that asked a variant with RAG and the same weights
without. Whether a reply holds a fact is ``fact_use``'s to say; how other thresholds would do is
``rag_sweep``'s. Nothing is generated here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from charllm.core.evaluation.fact_use import FactUse
from charllm.core.evaluation.reply_records import Reply
from charllm.core.evaluation.retrieved import Retrieved, retrieval_report
from charllm.core.retrieval import Hit
from charllm.core.statistics import Interval, paired_difference, share_interval
from charllm.core.variants import Variant
from charllm.data.errors import UserError
from charllm.data.profile import Profile
from charllm.data.queries import Query


@dataclass(frozen=True)
class BothReplies:
    """One question, asked of both. ``shown``: facts in the prompt with RAG.

    ``held`` and ``held_without``: whether the reply holds a gold fact, None where that cannot be
    seen (no gold fact, or the question says all of it). ``misled``: whether the reply with RAG uses
    a fact that was shown and is not gold, None where none was shown.
    """

    query: Query
    repeat: int
    shown: tuple[str, ...]
    reply: str
    reply_without: str
    held: bool | None
    held_without: bool | None
    misled: bool | None

    @property
    def found(self) -> bool:
        """A gold fact stands in the prompt."""
        return not {*self.query.gold}.isdisjoint(self.shown)


@dataclass(frozen=True)
class FactRow:
    """One gold fact: replies that were to hold it, with it shown, and that hold it by variant."""

    fact: str
    replies: int
    shown: int
    held: int
    held_without: int


@dataclass(frozen=True)
class RagReport:
    """Shares of replies in [0, 1] with 95 % intervals, resampled by question.

    ``held`` and ``held_without``: replies to questions with gold facts that hold one; ``gain``
    their paired difference. ``used``: the same, of the replies with RAG whose prompt shows a gold
    fact; ``unshown``: of those whose prompt shows none. ``misled``: replies that use a shown fact
    which is not gold. ``unseen`` replies to questions that say their fact themselves count nowhere.
    """

    with_rag: str
    without: str
    weights: str
    retrieval: Retrieved | None
    held: Interval
    held_without: Interval
    gain: Interval
    used: Interval
    unshown: Interval
    misled: Interval
    unseen: int
    facts: tuple[FactRow, ...]
    answers: tuple[BothReplies, ...]


def pairs_of(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Every variant with RAG whose weights are there without as well, each with that one."""
    found = []
    for one in variants:
        plain = (v for v in variants if not v.rag and _weights(v) == _weights(one))
        if one.rag and (twin := next(plain, None)):
            found.append((one, twin))
    return found


def pair_of(variants: Sequence[Variant], name: str) -> tuple[Variant, Variant]:
    """The variant with RAG and the same weights without; ``name`` is either of them.

    ``UserError`` where one of the two is missing among ``variants``.
    """
    one = next((variant for variant in variants if variant.name == name), None)
    twin = None
    if one is not None:
        alike = (v for v in variants if _weights(v) == _weights(one) and v.rag != one.rag)
        twin = next(alike, None)
    if one is None or twin is None:
        known = ", ".join(variant.name for variant in variants) or "-"
        raise UserError(
            f"A variant with RAG and one with the same weights without are needed; for {name!r} "
            f"there are only: {known}.",
            f"同じ重みで RAG ありとなしの両方のバリアントが必要ですが、「{name}」について"
            f"あるのは {known} だけです。",
        )
    return (one, twin) if one.rag else (twin, one)


def rag_report(
    profile: Profile,
    pair: tuple[Variant, Variant],
    queries: Sequence[Query],
    facts: Mapping[str, Sequence[Hit]],
    replies: Iterable[Reply],
    seed: int = 0,
) -> RagReport:
    """From an evaluation's queries, hits and replies, of which those of ``pair`` count.

    ``UserError`` where no question has been answered by both.
    """
    rag, plain = (variant.name for variant in pair)
    found = {one.task: one for one in replies if one.variant in (rag, plain) and not one.failed}
    use = FactUse(profile.facts)
    asked = {query.id: query for query in queries}
    answers = [
        _answered(use, asked[reply.query], reply, other)
        for reply in found.values()
        if reply.variant == rag
        and reply.query in asked
        and (other := found.get(reply.task._replace(variant=plain)))
    ]
    if not answers:
        raise UserError(
            f"No question has been answered by both {rag} and {plain} yet.",
            f"「{rag}」と「{plain}」の両方が答えた質問がまだありません。",
        )
    done = {one.query.id for one in answers}
    known = {query: hits for query, hits in facts.items() if query in done}
    weights = next(one.weights for one in found.values() if one.variant == rag)
    return _summed(rag, plain, weights, answers, retrieval_report(queries, known, seed), seed)


def answers_to(report: RagReport, fact: str) -> list[BothReplies]:
    """The questions whose gold fact it is, those whose prompt showed it first.

    ``fact`` "": the questions that no fact answers, those that were shown one first.
    """
    if not fact:
        free = [one for one in report.answers if not one.query.gold]
        return sorted(free, key=lambda one: (not one.shown, not one.misled))
    asked = [one for one in report.answers if fact in one.query.gold]
    return sorted(asked, key=lambda one: fact not in one.shown)


def _summed(
    rag: str,
    plain: str,
    weights: str,
    answers: Sequence[BothReplies],
    retrieval: Retrieved | None,
    seed: int,
) -> RagReport:
    told = [one for one in answers if one.held is not None and one.held_without is not None]
    ids = [one.query.id for one in told]
    pairs = [(bool(one.held), bool(one.held_without)) for one in told]

    def share(rows: Sequence[BothReplies], hits: Sequence[bool | None]) -> Interval:
        return share_interval([bool(hit) for hit in hits], [one.query.id for one in rows], seed)

    shown, hidden = ([one for one in told if one.found is found] for found in (True, False))
    tempted = [one for one in answers if one.misled is not None]
    return RagReport(
        with_rag=rag,
        without=plain,
        weights=weights,
        retrieval=retrieval,
        held=share(told, [a for a, _ in pairs]),
        held_without=share(told, [b for _, b in pairs]),
        gain=paired_difference(
            [float(a) for a, _ in pairs], [float(b) for _, b in pairs], ids, seed
        ),
        used=share(shown, [one.held for one in shown]),
        unshown=share(hidden, [one.held for one in hidden]),
        misled=share(tempted, [one.misled for one in tempted]),
        unseen=sum(bool(one.query.gold) for one in answers) - len(told),
        facts=tuple(_fact_rows(told)),
        answers=tuple(answers),
    )


def _answered(use: FactUse, query: Query, with_rag: Reply, without: Reply) -> BothReplies:
    shown = tuple(str(hit["fact"]) for hit in with_rag.facts if hit["used"])
    wrong = [fact for fact in shown if fact not in query.gold]
    # What a wrong fact shares with a right one is no sign of the wrong one.
    beside = " ".join([query.text, *query.gold])
    return BothReplies(
        query=query,
        repeat=with_rag.repeat,
        shown=shown,
        reply=with_rag.text,
        reply_without=without.text,
        held=use.used(query.gold, query.text, with_rag.text),
        held_without=use.used(query.gold, query.text, without.text),
        misled=use.used(wrong, beside, with_rag.text),
    )


def _fact_rows(answers: Sequence[BothReplies]) -> list[FactRow]:
    """A line a gold fact, those that gain most first."""
    rows = []
    for fact in dict.fromkeys(fact for one in answers for fact in one.query.gold):
        asked = [one for one in answers if fact in one.query.gold]
        rows.append(
            FactRow(
                fact,
                len(asked),
                sum(fact in one.shown for one in asked),
                sum(bool(one.held) for one in asked),
                sum(bool(one.held_without) for one in asked),
            )
        )
    return sorted(rows, key=lambda row: (row.held_without - row.held) / row.replies)


def _weights(variant: Variant) -> tuple[object, ...]:
    return (
        *(variant.model, variant.checkpoint, variant.base_url, variant.quantization),
        variant.prompt_language,
    )
