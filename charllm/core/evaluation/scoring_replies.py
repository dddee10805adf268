"""Kept replies judged: by any judge, now or later, without a reply being generated again.

Each judge has a folder ``judges/<key>`` with ``judge.json`` (who, by which rubric, how it did in
its check) and ``records.jsonl``, a line a verdict, written as it comes. A reply that could not be
had is unscored with its reason and is never shown to a judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.comparison import Ruler, Scored
from charllm.core.evaluation.kept_lines import append_lines, cut_torn_line, read_lines
from charllm.core.evaluation.reply_records import Reply
from charllm.core.filtering import Budget, Tally, judge_all
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.records import Item, Judge, Record
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256, write_json
from charllm.data.progress import Paused, Reporter, Stopped
from charllm.data.queries import Query

if TYPE_CHECKING:
    from charllm.core.judging.quality_marks import Mark
    from charllm.core.judging.score import Scorer

JUDGES = "judges"
RECORDS = "records.jsonl"
CARD = "judge.json"
GATE_AND_STYLE = "gate and style"
"""The rubric's name of scores that ``score_again`` gives."""


@dataclass(frozen=True)
class Judged:
    """What one judge has said so far. ``mark`` is how it did in its quality check, as JSON."""

    key: str
    ruler: Ruler
    scale: tuple[int, int]
    config: JudgeConfig
    mark: Mapping[str, Any]
    records: tuple[Record, ...]

    def waiting(self, items: Iterable[Item]) -> int:
        """How many of the items have not all their verdicts yet."""
        tally = Tally(self.config.samples)
        for record in self.records:
            tally.add(record)
        return sum(not tally.complete(item.id) for item in items)


def items_of(replies: Iterable[Reply], queries: Iterable[Query]) -> list[Item]:
    """What judges are asked about: every reply that there is, named by ``Task.key``."""
    by_id = {query.id: query for query in queries}
    return [
        Item(
            id=reply.task.key,
            query=by_id[reply.query].text,
            reply=reply.text,
            stop_reason=reply.stop_reason,
            gold=by_id[reply.query].gold,
            topic=next(iter(by_id[reply.query].tags), ""),
        )
        for reply in replies
        if reply.failed is None
    ]


def judge_replies(
    folder: Path,
    judge: Judge,
    config: JudgeConfig,
    mark: Mark,
    items: Sequence[Item],
    reporter: Reporter,
    budget: Budget,
) -> bool:
    """Judge what this judge has not judged yet; False where a stop was asked for first.

    ``config`` is what ``judge`` was opened with. ``Stopped`` when cancelled; ``Paused`` where the
    budget is spent or the judge cannot go on (no key, quota used up). What it has said stays.
    """
    home = _open_home(folder, judge, config, mark.as_json())
    known = [Record.from_json(row) for row in read_lines(home / RECORDS)]

    def keep(record: Record) -> None:
        append_lines(home / RECORDS, [record.as_json()])

    try:
        complete = judge_all(judge, items, known, config.samples, budget, reporter, keep)
    except UserError as error:
        raise Paused(error.text.en, error.text.ja) from error
    asked = reporter.stop_requested()
    if asked == "cancel":
        raise Stopped
    if not complete and not asked:
        raise Paused(
            "The judge's budget is spent. Replies and verdicts are kept: raise the budget and "
            "resume, or use the part that is judged.",
            "ジャッジの予算に達したため一時停止しました。返答と採点は残っています。"
            "予算を増やして再開するか、採点済みの分をお使いください。",
        )
    return complete


def read_judged(folder: Path) -> list[Judged]:
    """Every judge of an evaluation's folder with its records, in the order in which they came."""
    homes = [path.parent for path in (folder / JUDGES).glob(f"*/{CARD}")]
    cards = sorted(((read_json(home / CARD), home) for home in homes), key=lambda one: one[0]["n"])
    return [
        Judged(
            key=home.name,
            ruler=Ruler(card["judge"], card["rubric"], card["version"]),
            scale=(card["scale"][0], card["scale"][1]),
            config=JudgeConfig.from_data(card["config"], str(home / CARD)),
            mark=card["mark"],
            records=tuple(Record.from_json(row) for row in read_lines(home / RECORDS)),
        )
        for card, home in cards
    ]


def scored_rows(replies: Sequence[Reply], judged: Judged) -> list[Scored]:
    """One row a reply that this judge has a verdict on; a failed reply is a row without a score.

    Several samples are averaged. Replies not judged yet have no row: they are not unscored.
    """
    records: dict[str, dict[int, Record]] = {}
    for record in judged.records:
        records.setdefault(record.item, {})[record.sample] = record
    rows = []
    for reply in replies:
        found = list(records.get(reply.task.key, {}).values())
        if not found and reply.failed is None:
            continue
        scores = [one.score for one in found if one.score is not None]
        rows.append(
            Scored(
                variant=reply.variant,
                query=reply.query,
                score=sum(scores) / len(scores) if scores else None,
                ruler=judged.ruler,
                gated=any(one.gate for one in found),
                repeat=reply.repeat,
            )
        )
    return rows


def score_again(replies: Iterable[Reply], queries: Iterable[Query], scorer: Scorer) -> list[Scored]:
    """Kept replies by gate, style and length alone, with a scorer of ``score.style_scorer``.

    No model and no embedder: thousands of replies a second, to try another gate or other lines.
    """
    from charllm.core.judging.score import VERSION

    text_of = {query.id: query.text for query in queries}
    ruler = Ruler(scorer.judge, GATE_AND_STYLE, VERSION)
    rows = []
    for reply in replies:
        score, gated = None, False
        if reply.failed is None:
            judged = scorer.score(text_of[reply.query], reply.text, reply.stop_reason)
            score, gated = judged.score, bool(judged.gate)
        rows.append(Scored(reply.variant, reply.query, score, ruler, gated, reply.repeat))
    return rows


def _open_home(folder: Path, judge: Judge, config: JudgeConfig, mark: Mapping[str, Any]) -> Path:
    """The judge's folder. Asked again for more samples it keeps its records and adds to them."""
    name = "\0".join((judge.id, judge.rubric, judge.version))
    home = folder / JUDGES / sha256(name.encode())[:12]
    home.mkdir(parents=True, exist_ok=True)
    cut_torn_line(home / RECORDS)
    known = read_json(home / CARD) if (home / CARD).exists() else None
    if known is None or known["config"]["samples"] < config.samples:
        card = {
            "n": known["n"] if known else len(list((folder / JUDGES).glob(f"*/{CARD}"))),
            "judge": judge.id,
            "rubric": judge.rubric,
            "version": judge.version,
            "scale": list(judge.scale),
            "config": config.model_dump(mode="json"),
            "mark": dict(mark),
        }
        write_json(home / CARD, card)
    return home
