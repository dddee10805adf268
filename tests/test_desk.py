"""The spot-check desk on a real store: hidden scores, skips, undo, two people, what it teaches."""

from __future__ import annotations

import pytest

from charllm.core.judging.agreement import Pair, agreement, precision_curve, weighted
from charllm.core.judging.calibrated import fit_calibrated, load_calibrated
from charllm.core.judging.records import Item, Record
from charllm.core.judging.sampling import Judged, queue
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.services.desk import (
    Desk,
    Who,
    agreements,
    pairs_for,
    people_agreement,
    rated_rows,
)
from charllm.services.judged import record_rows
from charllm.services.store import Store

WHO = Who("judge@x", "study", "1")


@pytest.fixture
def store(paths: Paths) -> Store:
    made = Store(paths)
    items = [Item(str(n), f"質問{n}", "返答ですわ。" * (1 + n % 5)) for n in range(70)]
    records = [
        Record(str(n), WHO.judge, WHO.rubric, WHO.version, float(1 + n % 7), rationale="理由")
        for n in range(70)
    ]
    record_rows(made, "ayane", "run-1", items, records)
    return made


def desk(store: Store, name: str = "me") -> Desk:
    return Desk(store, "ayane", WHO, name, "run-1")


def test_a_card_shows_nothing_of_the_judge_until_a_score_is_given(store: Store) -> None:
    mine = desk(store)
    card = mine.next()
    assert card and "理由" not in repr(card) and WHO.judge not in repr(card)
    with pytest.raises(UserError, match="once yours"):
        mine.reveal(card.subject)
    mine.give(card.subject, 6, note="語尾が少し弱い")
    shown = mine.reveal(card.subject)
    assert shown[0].judge == WHO.judge and shown[0].rationale == "理由"
    again = mine.next()
    assert again and again.subject != card.subject
    (kept,) = store.current_hand_scores("ayane", "study")
    assert kept.score == 6 and kept.rationale == "語尾が少し弱い"


def test_every_level_comes_early_and_nothing_comes_twice(store: Store) -> None:
    mine = desk(store)
    levels, subjects = set(), set()
    for _ in range(20):
        card = mine.next()
        assert card and card.subject not in subjects
        subjects.add(card.subject)
        mine.give(card.subject, 4)
        levels.add(mine.reveal(card.subject)[0].score)
    assert levels == {1, 2, 3, 4, 5, 6, 7}
    assert desk(store).progress.given == 20


def test_skips_and_undo_are_kept_as_history(store: Store) -> None:
    mine = desk(store)
    first = mine.next()
    assert first
    mine.skip(first.subject)
    second = mine.next()
    assert second and second.subject != first.subject
    mine.give(second.subject, 7)
    assert mine.undo() == second.subject and mine.undo() == first.subject and mine.undo() is None
    again = desk(store).next()
    assert again and again.subject == first.subject
    assert store.current_hand_scores("ayane") == []
    assert len(store.hand_scores("study")) == 4  # nothing was overwritten
    mine.give(second.subject, 3)
    (kept,) = store.current_hand_scores("ayane")
    assert kept.score == 3


@pytest.mark.parametrize("score", [0, 8, 4.5, "5", None])
def test_a_score_off_the_scale_is_refused(store: Store, score: object) -> None:
    mine = desk(store)
    card = mine.next()
    assert card
    with pytest.raises(UserError):
        mine.give(card.subject, score)  # type: ignore[arg-type]


def test_two_people_are_each_other_s_ceiling(store: Store) -> None:
    for name, shift in (("a", 0), ("b", 1)):
        mine = desk(store, name)
        for _ in range(30):
            card = mine.next()
            assert card
            number = int(card.question.removeprefix("質問"))
            mine.give(card.subject, min(7, 1 + number % 7 + shift))
    ((one, other, found),) = people_agreement(store, "ayane", "study")
    assert (one, other) == ("a", "b") and found.n == 30
    assert found.bias.value is not None and 0.5 < found.bias.value <= 1
    with pytest.raises(UserError, match="who is scoring"):
        desk(store, "  ")


def test_agreement_by_judge_and_version(store: Store) -> None:
    mine = desk(store)
    for _ in range(40):
        card = mine.next()
        assert card
        mine.give(card.subject, 1 + int(card.question.removeprefix("質問")) % 7)
    (found,) = agreements(store, "ayane")
    assert found.who == WHO and found.agreement.kappa.value == pytest.approx(1.0)
    assert found.agreement.n == 40 and sum(map(sum, found.agreement.table)) == 40
    pairs = pairs_for(store, "ayane", WHO.judge, WHO.rubric)
    assert sum(p.weight for p in pairs) == pytest.approx(70)
    low, high = precision_curve(pairs, [1.0, 5.0])
    assert high.precision.value == 1.0 and high.recall.value == 1.0
    assert low.precision.value == pytest.approx(3 / 7, abs=0.02)


def test_no_labels_say_how_many_are_needed(store: Store) -> None:
    (found,) = agreements(store, "ayane")
    assert found.agreement.n == 0 and found.agreement.needed >= 80
    assert found.agreement.kappa.value is None and "80" in found.agreement.verdict.en
    assert desk(store).progress.needed >= 80


def test_one_level_and_few_questions_give_reasons_not_numbers() -> None:
    same = [Pair(str(n), str(n), 5, 5.0, 10) for n in range(40)]
    found = agreement(same, (1, 7))
    assert found.kappa.value is None and found.kappa.reason and found.exact.value == 1.0
    assert found.exact.low is not None and found.exact.low < 1.0
    one_question = [Pair(str(n), "q", 1 + n % 7, 1.0 + n % 7, 10) for n in range(40)]
    assert agreement(one_question, (1, 7)).kappa.low is None
    unscored = [Pair("a", "q", 5, None, 10)]
    assert agreement(unscored, (1, 7)).unscored == 1


def test_a_judge_that_likes_length_is_found_out() -> None:
    pairs = [
        Pair(str(n), str(n), 1 + n * 5 % 7, min(7.0, 1 + (n * 3 % 50) / 8), n * 3 % 50)
        for n in range(120)
    ]
    found = agreement(pairs, (1, 7))
    assert found.length_preference.low is not None and found.length_preference.low > 0.5


def test_the_queue_mixes_levels_threshold_and_disagreement() -> None:
    items = [Judged(str(n), 1 + n % 7, {"other": 1.0 + (n * 3) % 7}) for n in range(60)]
    items.append(Judged("none", None, {}))
    first = queue(items, (), 5.0, seed=1, size=24)
    assert {p.why for p in first} == {"level", "threshold", "disagree"}
    assert len({p.subject for p in first}) == 24
    assert "none" in {p.subject for p in first}
    assert queue(items, (), 5.0, seed=1, size=24) == first
    done = {p.subject for p in first}
    assert not done & {p.subject for p in queue(items, done, 5.0, seed=1)}
    assert queue([], (), 5.0, seed=1) == []


def test_weights_stand_for_what_was_judged() -> None:
    pairs = [Pair("a", "a", 5, 6.0, 1), Pair("b", "b", 5, 6.0, 1), Pair("c", "c", 1, 2.0, 1)]
    made = weighted(pairs, [6.0] * 10 + [2.0] * 30)
    assert [p.weight for p in made] == [5.0, 5.0, 30.0]


def test_hand_scores_calibrate_the_embedded_judge(paths: Paths) -> None:
    """People who care for length alone teach it what the plain weights do not say."""
    made = Store(paths)
    items = [Item(str(n), f"質問{n}", f"返答{n}ですわ。") for n in range(90)]
    records = []
    for n in range(90):
        parts = {"style": (n * 37 % 90) / 90, "relevance": (n * 53 % 90) / 90, "length": n / 90}
        score = 1 + 6 * (0.5 * parts["style"] + 0.3 * parts["relevance"] + 0.2 * parts["length"])
        records.append(Record(str(n), "embedded", "character", "2", score, parts=parts))
    record_rows(made, "ayane", "run-2", items, records)
    who = Who("embedded", "character", "2")
    mine = Desk(made, "ayane", who, "me")
    while card := mine.next():
        mine.give(card.subject, 1 + int(card.question.removeprefix("質問")) * 7 // 90)
    rows = rated_rows(made, "ayane", "character")
    assert len(rows) == 90
    found = fit_calibrated(paths, "ayane", rows, seed=0, rubric="character")
    assert found.gained and found.applies
    stored = load_calibrated(paths, "ayane")
    assert stored == found


def test_a_skip_shows_nothing_since_it_can_be_taken_back(store: Store) -> None:
    mine = desk(store)
    card = mine.next()
    assert card
    mine.skip(card.subject)
    with pytest.raises(UserError, match="once yours"):
        mine.reveal(card.subject)


def test_a_rubric_of_another_scale_has_an_agreement(store: Store) -> None:
    mine = Desk(store, "ayane", WHO, "me", "run-1", scale=(0, 10))
    for score in (0, 9, 10):
        card = mine.next()
        assert card
        mine.give(card.subject, score)
    ((found),) = agreements(store, "ayane")
    assert found.agreement.levels == tuple(range(0, 11)) and found.agreement.n == 3


def test_good_replies_without_a_score_are_lost() -> None:
    pairs = [Pair(str(n), str(n), 6, 6.0 if n < 10 else None, 1) for n in range(20)]
    assert precision_curve(pairs, [5.0])[0].recall.value == 0.5


def test_replies_that_judges_differ_about_do_not_weigh_more_than_they_are() -> None:
    """The desk asks for many of them; precision must still be that of all that is kept."""
    import numpy as np

    off = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        hand = np.clip(np.rint(rng.normal(4.5, 1.5, 1500)), 1, 7).astype(int)
        one, other = (np.clip(hand + rng.normal(0, 1.2, 1500), 1, 7) for _ in "ab")
        apart = np.abs(one - other).tolist()
        items = [Judged(str(n), one[n], {"other": other[n]}) for n in range(1500)]
        drawn = [int(picked.subject) for picked in queue(items, (), 5.0, seed, 150)]
        pairs = [Pair(str(n), str(n), int(hand[n]), one[n], 9, apart=apart[n]) for n in drawn]
        made = [p for p in weighted(pairs, one.tolist(), apart) if (p.judge or 0) >= 5]
        kept = sum(p.weight for p in made)
        off.append(sum(p.weight for p in made if p.hand >= 5) / kept - (hand[one >= 5] >= 5).mean())
    assert abs(float(np.mean(off))) < 0.04
