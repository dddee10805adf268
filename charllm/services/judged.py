"""Judges' records in the store and back, the chat's replies as subjects, and a table of judges.

Other people's judgements come in through ``judged_files``. It does not judge.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from charllm.core.judging.records import Item, Record
from charllm.data.errors import Text
from charllm.services.redaction import has_secret, redact
from charllm.services.store import CHAT, Judgement, Store, Subject

UNANSWERED = ("error", "cancelled")
"""Replies that ended so are not what a variant would have said."""


def record_rows(
    store: Store, profile: str, source: str, items: Iterable[Item], records: Iterable[Record]
) -> int:
    """Keep the items of ``source`` and what a judge made of them; how many verdicts were new.

    Every record's item must be among ``items``.
    """
    subjects = {item.id: subject_of(profile, source, item) for item in items}
    store.add_subjects(list(subjects.values()))
    rows = [_judgement(subjects[record.item].subject, _redacted(record)) for record in records]
    return store.add_judgements(rows)


def records_of(
    store: Store,
    profile: str,
    source: str,
    judge: str,
    rubric: str,
    version: str | None = None,
) -> list[Record]:
    """What one judge said of every subject of ``source``, a record a sample.

    ``version`` None is the rubric's latest one that this judge used there. Of verdicts that were
    repeated the last counts.
    """
    rows = [
        (subject, row)
        for subject, rows in store.judged(profile, source)
        for row in rows
        if row.judge == judge and row.rubric == rubric
    ]
    if version is None:
        version = max(rows, key=lambda pair: pair[1].id)[1].rubric_version if rows else ""
    latest = {
        (subject.id, row.sample): _record(subject, row)
        for subject, row in rows
        if row.rubric_version == version
    }
    return list(latest.values())


def items_of(store: Store, profile: str, source: str) -> list[Item]:
    """The subjects of ``source`` as a judge takes them."""
    return [
        Item(
            id=subject.item,
            query=subject.question,
            reply=subject.reply,
            stop_reason=subject.stop_reason,
            history=subject.history,
            gold=subject.gold,
            topic=subject.topic,
        )
        for subject in store.subjects(profile, source)
    ]


def subject_of(profile: str, source: str, item: Item) -> Subject:
    return Subject.of(
        profile,
        item.query,
        item.reply,
        item.history,
        gold=item.gold,
        topic=item.topic,
        stop_reason=item.stop_reason,
        source=source,
        item=item.id,
    )


def add_chat_replies(store: Store, profile: str) -> int:
    """Make every answer shown in the chat a subject of the source ``chat``; how many were new.

    Their question stands alone, as the live scores see it. Edited answers are people's words and
    are not among them.
    """
    rows = [
        Subject.of(
            profile,
            turn.question,
            reply.text,
            stop_reason=reply.stop_reason,
            source=CHAT,
            item=f"reply-{reply.id}",
        )
        for talk in store.conversations(profile, limit=-1)
        for turn in store.turns(talk.id)
        for reply in store.replies(turn.id)
        if reply.text.strip() and reply.stop_reason not in (*UNANSWERED, "edited")
    ]
    return store.add_subjects(rows)


# A paper's table


@dataclass(frozen=True)
class JudgeSummary:
    """One judge's scores by one version of a rubric. ``n`` subjects have a score.

    A subject's score is the mean of its samples; ``mean`` and ``sd`` (n - 1) are over subjects,
    None where there are too few.
    """

    judge: str
    rubric: str
    version: str
    n: int
    unscored: int
    mean: float | None
    sd: float | None


def summary(store: Store, profile: str, source: str | None = None) -> list[JudgeSummary]:
    """A row for each judge, rubric and version; a withdrawn hand score does not count."""
    scores: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(dict)
    for subject, rows in store.judged(profile, source):
        latest = {(r.judge, r.rubric, r.rubric_version, r.sample): r for r in rows}
        for row in latest.values():
            if row.score is not None or not row.by_hand:
                of = scores[row.judge, row.rubric, row.rubric_version]
                of.setdefault(subject.subject, [])
        for row in latest.values():
            if row.score is not None:
                of = scores[row.judge, row.rubric, row.rubric_version]
                of[subject.subject].append(row.score)
    return [_summary(key, list(by_subject.values())) for key, by_subject in sorted(scores.items())]


def summary_csv(rows: Sequence[JudgeSummary]) -> str:
    """The table as CSV with a header; numbers to four places."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["judge", "rubric", "version", "n", "unscored", "mean", "sd"])
    for row in rows:
        writer.writerow(
            [
                _cell(row.judge),
                _cell(row.rubric),
                _cell(row.version),
                row.n,
                row.unscored,
                "" if row.mean is None else f"{row.mean:.4f}",
                "" if row.sd is None else f"{row.sd:.4f}",
            ]
        )
    return out.getvalue()


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _summary(key: tuple[str, str, str], by_subject: list[list[float]]) -> JudgeSummary:
    means = [sum(samples) / len(samples) for samples in by_subject if samples]
    n = len(means)
    mean = math.fsum(means) / n if n else None
    sd = None
    if mean is not None and n > 1:
        sd = math.sqrt(math.fsum((score - mean) ** 2 for score in means) / (n - 1))
    return JudgeSummary(*key, n=n, unscored=len(by_subject) - n, mean=mean, sd=sd)


def _redacted(record: Record) -> Record:
    """The record without keys in what a judge or its server wrote."""
    why = record.unscored
    if not has_secret("\n".join((*(why or ()), record.rationale, *record.flaws))):
        return record
    return replace(
        record,
        unscored=Text(redact(why.en), redact(why.ja)) if why else None,
        rationale=redact(record.rationale),
        flaws=tuple(map(redact, record.flaws)),
    )


def _judgement(subject: str, record: Record) -> Judgement:
    why = record.unscored or Text("", "")
    return Judgement(
        subject=subject,
        rubric=record.rubric,
        rubric_version=record.version,
        judge=record.judge,
        score=record.score,
        unscored_reason=why.en,
        unscored_ja=why.ja,
        prompt_hash=record.prompt_hash,
        sample=record.sample,
        levels=dict(record.levels),
        parts=dict(record.parts),
        gate=record.gate,
        rationale=record.rationale,
        flaws=record.flaws,
        tokens=record.tokens_in + record.tokens_out,
        tokens_in=record.tokens_in,
        tokens_out=record.tokens_out,
        cost=record.cost,
    )


def _record(subject: Subject, row: Judgement) -> Record:
    why = Text(row.unscored_reason, row.unscored_ja or row.unscored_reason)
    return Record(
        item=subject.item,
        judge=row.judge,
        rubric=row.rubric,
        version=row.rubric_version,
        score=row.score,
        unscored=why if row.score is None else None,
        sample=row.sample,
        gate=row.gate,
        parts=row.parts,
        levels=row.levels,
        rationale=row.rationale,
        flaws=row.flaws,
        prompt_hash=row.prompt_hash,
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        cost=row.cost,
    )
