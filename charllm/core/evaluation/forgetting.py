"""What a model forgot while it learnt a character, and what it learnt: each variant and its base.

General questions are answered by likelihood (``general_questions``), without system prompt or
template: they ask the weights, so a variant with RAG is the same as without. The held-out lines are
the character's own, with the prompt that training gives them; only lines that no variant was
trained on count. Where the models come from is ``forgetting_models``'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charllm.core.evaluation.general_questions import Answered, GeneralQuestion
from charllm.core.evaluation.tables import Column, Table
from charllm.core.statistics import Interval, mean_interval, paired_difference, share_interval
from charllm.data.errors import Text


@dataclass(frozen=True)
class Measured:
    """One model's answers, and the loss of each held-out line in nats per token.

    ``base`` names the base model; ``variant`` "" is that base itself. ``weights`` names what
    answered, with hashes.
    """

    variant: str
    base: str
    weights: str
    answers: tuple[Answered, ...]
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Forgetting:
    """One variant beside its base, or (``variant`` "") the base itself, which changes nothing.

    ``right``: share of general questions answered rightly, in [0, 1]; ``share``: the right
    option's mean part of the likelihood, finer than right or wrong. ``loss``: of the held-out
    lines, in nats per token. ``…_change`` are variant minus base on the same questions or lines,
    with paired 95 % intervals. ``lost`` and ``gained``: ids that only the base or only the variant
    answered rightly. ``by_tag``: right answers and questions of each kind.
    """

    variant: str
    base: str
    weights: str
    right: Interval
    right_change: Interval | None
    share: Interval
    share_change: Interval | None
    loss: Interval | None
    loss_change: Interval | None
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    by_tag: Mapping[str, tuple[int, int]]


def forgetting_report(
    measured: Sequence[Measured], questions: Sequence[GeneralQuestion], seed: int = 0
) -> list[Forgetting]:
    """A line for each, in the order given; every variant's base is among ``measured``."""
    bases = {one.base: one for one in measured if not one.variant}
    return [_of(one, bases[one.base], questions, seed) for one in measured]


def _of(
    one: Measured, base: Measured, questions: Sequence[GeneralQuestion], seed: int
) -> Forgetting:
    ids = [answer.question for answer in one.answers]
    was = {answer.question: answer for answer in base.answers}
    pairs = [(answer, was[answer.question]) for answer in one.answers]
    itself = one is base
    lines = [line for line in one.losses if line in base.losses]
    right = {answer.question for answer in one.answers if answer.right}
    return Forgetting(
        variant=one.variant,
        base=one.base,
        weights=one.weights,
        right=share_interval([a.right for a in one.answers], ids, seed),
        right_change=None
        if itself
        else paired_difference(
            [float(a.right) for a, _ in pairs], [float(b.right) for _, b in pairs], ids, seed
        ),
        share=mean_interval([a.share for a in one.answers], ids, seed),
        share_change=None
        if itself
        else paired_difference([a.share for a, _ in pairs], [b.share for _, b in pairs], ids, seed),
        loss=mean_interval([one.losses[line] for line in lines], lines, seed) if lines else None,
        loss_change=None
        if itself or not lines
        else paired_difference(
            [one.losses[line] for line in lines], [base.losses[line] for line in lines], lines, seed
        ),
        lost=tuple(b.question for a, b in pairs if b.right and not a.right),
        gained=tuple(a.question for a, b in pairs if a.right and not b.right),
        by_tag=_by_tag(questions, right),
    )


def _by_tag(questions: Sequence[GeneralQuestion], right: set[str]) -> dict[str, tuple[int, int]]:
    """Questions count under their language and under each of their tags."""
    found: dict[str, tuple[int, int]] = {}
    for question in questions:
        for tag in (question.language, *question.tags):
            hits, of = found.get(tag, (0, 0))
            found[tag] = (hits + (question.id in right), of + 1)
    return found


def chance_level(questions: Sequence[GeneralQuestion]) -> float:
    """The share of right answers that guessing gives."""
    return sum(question.chance for question in questions) / len(questions)


def forgetting_table(report: Sequence[Forgetting]) -> Table:
    """A line a model; changes are against its base."""
    return Table(
        Text("Forgetting: general questions and held-out lines", "忘却: 一般問題と評価用のせりふ"),
        (
            Column(Text("Variant", "バリアント")),
            Column(Text("Right", "正答率"), "share"),
            Column(Text("Against the base", "ベースとの差"), "share"),
            Column(Text("Likelihood of the right option", "正解の尤度の割合")),
            Column(Text("Against the base", "ベースとの差")),
            Column(Text("Loss of held-out lines", "評価用のせりふの loss")),
            Column(Text("Against the base", "ベースとの差")),
        ),
        tuple(
            (
                *(one.variant or one.base, one.right, one.right_change),
                *(one.share, one.share_change, one.loss, one.loss_change),
            )
            for one in report
        ),
    )


def told(report: Sequence[Forgetting], questions: Sequence[GeneralQuestion]) -> list[Text]:
    """A sentence a model: what the interval says, and no more. The chance level comes first."""
    chance = chance_level(questions)
    said = [
        Text(
            f"{len(questions)} general questions; guessing would get {chance:.0%} right.",
            f"一般問題 {len(questions)} 問。当てずっぽうの正答率は {chance:.0%} です。",
        )
    ]
    for one in report:
        if not one.variant and one.right.low is not None and one.right.low <= chance:
            said.append(
                Text(
                    f"{one.base} is not surely better than guessing: these questions are too hard "
                    "for it, and cannot show what was forgotten.",
                    f"{one.base} の正答率は当てずっぽうより高いとは言えません。問題が難しすぎる"
                    "ため、忘却は測れません。",
                )
            )
        elif one.share_change is not None:
            said.append(_verdict(one, one.share_change))
    return said


def _verdict(one: Forgetting, change: Interval) -> Text:
    """By the finer measure; counts of answers beside it."""
    counts = Text(
        f"{len(one.lost)} answers lost, {len(one.gained)} gained",
        f"不正解に変わった問題 {len(one.lost)} 問、正解に変わった問題 {len(one.gained)} 問",
    )
    if change.low is None or change.high is None:
        return Text(
            f"{one.variant}: too few questions to tell ({counts.en}).",
            f"{one.variant}: 問題が少なすぎて判断できません（{counts.ja}）。",
        )
    size = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    if change.high < 0:
        found = Text("it has forgotten something", "知識の一部が失われています")
    elif change.low > 0:
        found = Text(
            "it has forgotten nothing; it even gained", "失われておらず、むしろ上がりました"
        )
    else:
        found = Text("no change can be told", "変化があるとは言えません")
    return Text(
        f"{one.variant}: {found.en} (the right option's share {size}; {counts.en}).",
        f"{one.variant}: {found.ja}（正解の尤度の割合 {size}、{counts.ja}）。",
    )
