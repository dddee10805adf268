"""Hand scores of kept replies, given where the two replies of a question stand side by side.

Kept in the store beside the judge's own verdict, as the desk keeps them: nothing is overwritten, a
score that is taken back is a further row. What was given here was given with the judge's score in
view, and each row says so.
"""

from __future__ import annotations

from charllm.core.evaluation.reply_records import Reply
from charllm.core.evaluation.scoring_replies import items_of
from charllm.core.judging.records import Item
from charllm.data.errors import UserError
from charllm.services.evaluate_rows import Rows
from charllm.services.judged import record_rows, subject_of
from charllm.services.store import Judgement, Store, person
from charllm.services.store_rows import WITHDRAWN

SEEN = "given beside the judge's score"
"""The note of every hand score from here: it is no blind one."""


def give(
    store: Store, rows: Rows, judge: str, key: str, name: str, score: int | None
) -> int | None:
    """Keep a person's score of the reply ``key`` by the rubric of ``judge``; None takes it back.

    What stands afterwards is returned. ``UserError`` for no name, a reply that is gone, or a score
    off the judge's scale.
    """
    if not name.strip():
        raise UserError("Say who is scoring first.", "先に採点する人の名前を入力してください。")
    card = rows.card(judge)
    low, high = card["scale"]
    if score is not None and not low <= score <= high:
        raise UserError(
            f"A hand score is a whole number from {low} to {high}.",
            f"手採点は {low} から {high} の整数です。",
        )
    item, subject = _subject(rows, key)
    record_rows(
        store, rows.planned.profile.slug, rows.folder.name, [item], rows.records(judge, key)
    )
    store.add_judgement(
        Judgement(
            subject=subject,
            rubric=card["rubric"],
            rubric_version=card["version"],
            judge=person(name.strip()),
            score=None if score is None else float(score),
            unscored_reason=WITHDRAWN if score is None else "",
            rationale=SEEN,
        )
    )
    return score


def given(store: Store, rows: Rows, judge: str, reply: Reply, name: str) -> int | None:
    """The person's standing score of a reply by the rubric of ``judge``; None where there is none.

    A score from the desk counts as well: it is about the same text.
    """
    if not name.strip():
        return None
    subject = _hash(rows, _item(rows, reply))
    mine = [
        row
        for row in store.judgements(subject, judge=person(name.strip()))
        if row.rubric == rows.card(judge)["rubric"]
    ]
    return None if not mine or mine[-1].score is None else round(mine[-1].score)


def _subject(rows: Rows, key: str) -> tuple[Item, str]:
    if key not in rows.kept:
        raise UserError(f"There is no reply {key!r}.", f"返答「{key}」はありません。")
    item = _item(rows, rows.reply(rows.kept[key]))
    return item, _hash(rows, item)


def _item(rows: Rows, reply: Reply) -> Item:
    """``UserError`` where there is no reply to score."""
    items = items_of([reply], rows.planned.queries)
    if not items:
        raise UserError("There is no reply to score here.", "採点できる返答がありません。")
    return items[0]


def _hash(rows: Rows, item: Item) -> str:
    return subject_of(rows.planned.profile.slug, rows.folder.name, item).subject
