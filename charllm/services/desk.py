"""The spot-check desk: a person scores judged replies without seeing the judge's score first.

Nothing is overwritten: a score that is taken back is a further row. What the judge said is read
only after the hand score has been given (``reveal``), so that a page cannot show it by mistake.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from charllm.core.judging.agreement import Agreement, Pair, agreement, to_level, weighted
from charllm.core.judging.calibrated import JUDGE as CALIBRATED
from charllm.core.judging.calibrated import Rated
from charllm.core.judging.sampling import Judged, Picked, queue, spread
from charllm.core.judging.score import JUDGE, JUDGE_WITHOUT_RELEVANCE, WEIGHTS, plain_score
from charllm.core.statistics import bootstrap, labels_needed
from charllm.core.weighted import kappa_of
from charllm.data.errors import Text, UserError
from charllm.services.store import Judgement, Store, Subject, person
from charllm.services.store_rows import PERSON, WITHDRAWN

SKIPPED = "skipped"
SEED = 0
SCALE = (1, 7)
EMBEDDED = (JUDGE, JUDGE_WITHOUT_RELEVANCE, CALIBRATED)


class Who(NamedTuple):
    """A judge by one version of a rubric."""

    judge: str
    rubric: str
    version: str


@dataclass(frozen=True)
class Card:
    """One reply to score: everything a person needs, and nothing of what a judge said."""

    subject: str
    question: str
    reply: str
    history: tuple[tuple[str, str], ...]
    gold: tuple[str, ...]
    topic: str
    why: str


@dataclass(frozen=True)
class Progress:
    """``given`` hand scores of this person, ``left`` in the queue, ``needed`` for a kappa."""

    given: int
    skipped: int
    left: int
    needed: int


class Desk:
    """One person at one judge's replies of one source (None: all)."""

    def __init__(
        self,
        store: Store,
        profile: str,
        who: Who,
        name: str,
        source: str | None = None,
        threshold: float = 5.0,
        scale: tuple[int, int] = SCALE,
    ) -> None:
        if not name.strip():
            raise UserError("Say who is scoring first.", "先に採点する人の名前を入力してください。")
        self.store, self.profile, self.who, self.source = store, profile, who, source
        self.judge = person(name.strip())
        self.threshold, self.scale = threshold, scale
        self._rows = store.judged(profile, source)
        self._order = self._ordered()

    def next(self) -> Card | None:
        """The next reply, None when all have been scored or skipped."""
        picked = next(iter(self._queue()), None)
        if picked is None:
            return None
        subject = next(s for s, _ in self._rows if s.subject == picked.subject)
        return Card(
            subject.subject,
            subject.question,
            subject.reply,
            tuple((m.role, m.content) for m in subject.history),
            tuple(subject.gold),
            subject.topic,
            picked.why,
        )

    def give(self, subject: str, score: int, note: str = "") -> None:
        """Keep a hand score. ``UserError`` for one off the scale."""
        low, high = self.scale
        if not isinstance(score, int) or not low <= score <= high:
            raise UserError(
                f"A hand score is a whole number from {low} to {high}.",
                f"手採点は {low} から {high} の整数です。",
            )
        self._add(subject, float(score), "", note)

    def skip(self, subject: str, note: str = "") -> None:
        """Leave a reply out; it is not shown again."""
        self._add(subject, None, SKIPPED, note)

    def undo(self) -> str | None:
        """Take back this person's last score or skip; the subject it was about, None if none."""
        last: dict[str, Judgement] = {}
        for _, rows in self._rows:
            for row in rows:
                if row.judge == self.judge and row.rubric == self.who.rubric:
                    last[row.subject] = row
        given = [row for row in last.values() if row.unscored_reason != WITHDRAWN]
        if not given:
            return None
        row = max(given, key=lambda row: row.id)
        self._add(row.subject, None, WITHDRAWN, "")
        return row.subject

    def reveal(self, subject: str) -> list[Judgement]:
        """What judges have said of a reply that this person has scored.

        ``UserError`` before that, and after a skip: it can be taken back and scored.
        The judge that is checked comes first.
        """
        rows = next((rows for s, rows in self._rows if s.subject == subject), [])
        mine = [r for r in rows if r.judge == self.judge and r.rubric == self.who.rubric]
        if not mine or mine[-1].score is None:
            raise UserError(
                "The judge's score is shown once yours is given.",
                "ジャッジの点数は、あなたの点数を付けたあとに表示されます。",
            )
        latest = {(r.judge, r.rubric, r.rubric_version, r.sample): r for r in rows if not r.by_hand}
        return sorted(latest.values(), key=lambda r: (_who(r) != self.who, r.judge, r.rubric))

    @property
    def progress(self) -> Progress:
        mine = self._mine()
        scored = [p for p in pairs_of(self._rows, self.who) if p.judge is not None]
        levels = range(self.scale[0], self.scale[1] + 1)
        rounded = [to_level(p.judge or 0.0, self.scale) for p in scored]
        kappa = bootstrap(
            kappa_of([p.hand for p in scored], rounded, levels),
            [p.cluster for p in scored],
            SEED,
        )
        given = sum(row.score is not None for row in mine.values())
        skipped = sum(row.unscored_reason == SKIPPED for row in mine.values())
        return Progress(given, skipped, len(self._queue()), labels_needed(kappa))

    def _queue(self) -> list[Picked]:
        """What is left of the order that all replies were brought into at the beginning."""
        done = {
            subject
            for subject, row in self._mine().items()
            if row.score is not None or row.unscored_reason == SKIPPED
        }
        return [picked for picked in self._order if picked.subject not in done]

    def _ordered(self) -> list[Picked]:
        scores = {
            s.subject: Judged(s.subject, *_scores(rows, self.who))
            for s, rows in self._rows
            if any(_who(r) == self.who for r in rows)
        }
        return queue(list(scores.values()), (), self.threshold, SEED, len(scores))

    def _mine(self) -> dict[str, Judgement]:
        return {
            row.subject: row
            for _, rows in self._rows
            for row in rows
            if row.judge == self.judge and row.rubric == self.who.rubric
        }

    def _add(self, subject: str, score: float | None, reason: str, note: str) -> None:
        row = self.store.add_judgement(
            Judgement(
                subject=subject,
                rubric=self.who.rubric,
                rubric_version=self.who.version,
                judge=self.judge,
                score=score,
                unscored_reason=reason,
                rationale=note.strip(),
            )
        )
        for known, rows in self._rows:
            if known.subject == subject:
                rows.append(row)


def _who(row: Judgement) -> Who:
    return Who(row.judge, row.rubric, row.rubric_version)


def _scores(rows: Sequence[Judgement], who: Who) -> tuple[float | None, dict[str, float]]:
    """The judge's mean score of one reply, and the other judges' by name."""
    means = judge_means(rows)
    others = {
        f"{judge} {rubric} {version}": score
        for (judge, rubric, version), score in means.items()
        if (judge, rubric, version) != who and score is not None
    }
    return means.get(who), others


def judge_means(rows: Sequence[Judgement]) -> dict[Who, float | None]:
    """Each judge's mean over its samples, the latest verdict of each; None where none scored."""
    latest = {(_who(r), r.sample): r for r in rows if not r.by_hand}
    scores: dict[Who, list[float]] = defaultdict(list)
    for (who, _), row in latest.items():
        scores[who].extend([] if row.score is None else [row.score])
    return {who: sum(got) / len(got) if got else None for who, got in scores.items()}


def _hand(rows: Sequence[Judgement], rubric: str) -> dict[str, int]:
    """Each person's standing score of one reply."""
    latest = {r.judge: r for r in rows if r.by_hand and r.rubric == rubric}
    return {name: round(r.score) for name, r in latest.items() if r.score is not None}


def pairs_of(rows: Sequence[tuple[Subject, list[Judgement]]], who: Who) -> list[Pair]:
    """Hand scores beside the judge's, one for each person and reply, weighted by level."""
    pairs: list[Pair] = []
    judged: list[float | None] = []
    apart: list[float] = []
    seen: set[str] = set()
    for subject, given in rows:
        if subject.subject in seen:
            continue
        seen.add(subject.subject)
        means = judge_means(given)
        if who not in means:
            continue
        distance = spread(*_scores(given, who))
        judged.append(means[who])
        apart.append(distance)
        for name, score in _hand(given, who.rubric).items():
            key = f"{subject.subject} {name}"
            length = len(subject.reply)
            pair = Pair(key, subject.question, score, means[who], length, apart=distance)
            pairs.append(pair)
    return weighted(pairs, judged, apart)


def _scale(pairs: Sequence[Pair]) -> tuple[int, int]:
    """The usual scale, or a wider one where a rubric has further levels.

    Levels that nobody uses change no measure.
    """
    scores = [p.hand for p in pairs]
    return min([SCALE[0], *scores]), max([SCALE[1], *scores])


def pairs_for(
    store: Store,
    profile: str,
    judge: str,
    rubric: str,
    source: str | None = None,
    version: str = "",
) -> list[Pair]:
    """``pairs_of`` for one judge; ``version`` "" is the rubric's latest that it has used."""
    rows = store.judged(profile, source)
    if not version:
        used = [r for _, given in rows for r in given if r.judge == judge and r.rubric == rubric]
        version = max(used, key=lambda r: r.id).rubric_version if used else ""
    return pairs_of(rows, Who(judge, rubric, version))


@dataclass(frozen=True)
class JudgeAgreement:
    """How one judge, by one version of a rubric, agrees with the hand scores by that rubric."""

    who: Who
    agreement: Agreement

    def as_json(self) -> dict[str, Any]:
        return {**self.who._asdict(), **self.agreement.as_json()}


def agreements(store: Store, profile: str, source: str | None = None) -> list[JudgeAgreement]:
    """Every judge that has scored something, also those that nobody has checked yet."""
    rows = store.judged(profile, source)
    whos = dict.fromkeys(_who(r) for _, given in rows for r in given if not r.by_hand)
    found = ((who, pairs_of(rows, who)) for who in whos)
    return [JudgeAgreement(who, agreement(pairs, _scale(pairs), SEED)) for who, pairs in found]


def people_agreement(
    store: Store, profile: str, rubric: str, source: str | None = None
) -> list[tuple[str, str, Agreement]]:
    """Each two people on the replies that both have scored: the ceiling for any judge."""
    both: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    seen: set[str] = set()
    for subject, given in store.judged(profile, source):
        if subject.subject in seen:
            continue
        seen.add(subject.subject)
        scores = sorted(_hand(given, rubric).items())
        for n, (one, first) in enumerate(scores):
            for other, second in scores[n + 1 :]:
                pair = Pair(
                    subject.subject, subject.question, first, float(second), len(subject.reply)
                )
                both[one.removeprefix(PERSON), other.removeprefix(PERSON)].append(pair)
    return [
        (one, other, agreement(pairs, _scale(pairs), SEED)) for (one, other), pairs in both.items()
    ]


def rated_rows(store: Store, profile: str, rubric: str) -> list[Rated]:
    """Hand scores by ``rubric`` of replies whose embedded score is known: what calibrates it."""
    made = []
    seen: set[str] = set()
    for subject, rows in store.judged(profile):
        if subject.subject in seen:
            continue
        seen.add(subject.subject)
        own = [r for r in rows if r.judge in EMBEDDED and r.score is not None and not r.gate]
        hand = _hand(rows, rubric)
        if not own or not hand:
            continue
        parts = {key: value for key, value in own[-1].parts.items() if key in WEIGHTS}
        if not any(value is not None for value in parts.values()):  # from before parts were kept
            continue
        score = round(sum(hand.values()) / len(hand))
        raw = plain_score(parts)
        made.append(Rated(subject.subject, subject.question, score, raw, parts))
    return made


NO_JUDGE = Text(
    "Nothing has been judged yet: filter a dataset first, or score replies in the chat.",
    "まだ採点された返答がありません。先にデータを選別するか、チャットで採点してください。",
)
