"""The quality check of a judge: the contrast pairs, what counts as right, and who may decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from charllm.core.judging import quality, quality_report
from charllm.core.judging.contrasts import (
    KINDS,
    Contrast,
    contrast_pairs,
    contrast_path,
    exchanges,
    load_contrasts,
)
from charllm.core.judging.gate import Gate
from charllm.core.judging.holding_out import folds, without_rows
from charllm.core.judging.quality import QualityConfig, mark_of, require, run_quality
from charllm.core.judging.records import Item, Quote, Record
from charllm.core.judging.wrong_facts import with_wrong_fact
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, dataset_path, load_dialogues, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import write_json_lines
from charllm.data.profile import Profile, load_profile, save_profile
from charllm.data.progress import Silent, Stopped
from charllm.data.queries import Query, load_queries

BY_GATE = ("runaway", "loop", "leak", "second_turn")


@pytest.fixture(params=["ayane", "magnus"])
def slug(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(paths: Paths, slug: str, seed: int = 0, per_kind: int = 8) -> list[Contrast]:
    dialogues, queries = data(paths, slug)
    return contrast_pairs(load_profile(paths, slug), dialogues, queries, seed, per_kind)


def data(paths: Paths, slug: str) -> tuple[list[Dialogue], list[Query]]:
    return load_dialogues(dataset_path(paths, slug)), load_queries(paths.queries / f"{slug}.jsonl")


# The pairs


def test_every_kind_has_its_pairs(paths: Paths, slug: str) -> None:
    pairs = made(paths, slug)
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in KINDS}
    assert counts == dict.fromkeys(KINDS, 8)
    replies = {it.reply for it in exchanges(data(paths, slug)[0])}
    assert {pair.better for pair in pairs} <= replies
    assert all(pair.worse.strip() and pair.worse != pair.better for pair in pairs)
    assert all(kind.label.en and kind.label.ja for kind in KINDS.values())


def test_pairs_follow_the_seed(paths: Paths) -> None:
    assert made(paths, "ayane") == made(paths, "ayane")
    assert made(paths, "ayane") != made(paths, "ayane", seed=1)
    few, many = made(paths, "ayane", per_kind=3), made(paths, "ayane", per_kind=5)
    assert [pair for pair in many if pair in few] == few


def test_only_the_search_split_lends_its_questions(paths: Paths, slug: str) -> None:
    dialogues, queries = data(paths, slug)
    pairs = made(paths, slug, per_kind=50)
    asked = {it.query for it in exchanges(dialogues)}
    lent = {pair.query for pair in pairs} - asked
    assert lent and lent <= {query.text for query in queries if query.split == "search"}


def test_the_gate_decides_what_it_should(paths: Paths, slug: str) -> None:
    gate = Gate(load_profile(paths, slug))
    for pair in made(paths, slug):
        if pair.kind in BY_GATE:
            assert gate.check(pair.worse, query=pair.query), pair
        assert not gate.check(pair.better, query=pair.query), pair


def test_pairs_are_worse_in_the_way_they_say(paths: Paths) -> None:
    profile = load_profile(paths, "ayane")
    of = {kind: [p for p in made(paths, "ayane") if p.kind == kind] for kind in KINDS}
    assert all("わたくし" not in pair.worse for pair in of["style"])
    assert all(pair.better in pair.worse for pair in of["filler"])
    assert all(pair.gold for pair in of["fact"])
    assert all("7" in pair.worse for pair in of["order"])
    topics = {it.reply: it.topic for it in exchanges(data(paths, "ayane")[0])}
    assert all(topics[pair.better] != topics[pair.worse] for pair in of["off_topic"])
    recited = [pair for pair in of["dump"] if sum(f in pair.worse for f in profile.facts) >= 3]
    assert recited and len(recited) < len(of["dump"])


@pytest.mark.parametrize(
    ("reply", "gold", "query", "gone"),
    [
        ("18歳ですわ。", "年齢は18歳。", "おいくつ？", "18"),
        ("モンブランですわ。", "好きな食べ物はモンブラン。", "お好きなものは？", "モンブラン"),
        ("金木犀が好きですの。", "好きな花は金木犀。", "好きな花は？", "金木犀"),
    ],
)
def test_a_wrong_fact_is_another_value(
    paths: Paths, reply: str, gold: str, query: str, gone: str
) -> None:
    facts = load_profile(paths, "ayane").facts
    worse = with_wrong_fact(reply, [gold], query, facts, "ja", 0)
    assert worse and gone not in worse
    assert worse[-3:] == reply[-3:]


def test_a_wrong_fact_keeps_words_whole_and_what_was_asked(paths: Paths) -> None:
    facts = load_profile(paths, "magnus").facts
    gold = ["His grandson Tom is eight years old."]
    worse = with_wrong_fact("Tom's eight. Tomorrow too.", gold, "", facts, "en", 0)
    assert "Tomorrow" in worse and "eight" not in worse
    assert with_wrong_fact("Tom, aye.", gold, "Who is Tom?", facts, "en", 0) == ""
    assert with_wrong_fact("He is a fine lad.", gold, "", facts, "en", 0) == ""


def test_talks_are_read_at_their_first_exchange(paths: Paths) -> None:
    turns = [("system", "s"), ("user", "何が好き？"), ("assistant", "紅茶が好きですわ。")]
    more = [*turns, ("user", "なぜ？"), ("assistant", "香りがよろしいのですもの。")]
    rows = [
        {"id": str(n), "messages": [{"role": r, "content": c} for r, c in talk], "meta": meta}
        for n, (talk, meta) in enumerate([(more, {"facts": ["x"]}), (turns, {}), (turns[2:], {})])
    ]
    assert [it[:3] for it in exchanges([Dialogue.model_validate(row) for row in rows])] == [
        ("何が好き？", "紅茶が好きですわ。", ())
    ]


def test_a_users_own_pairs_are_read(paths: Paths) -> None:
    path = contrast_path(paths, "ayane")
    assert load_contrasts(path) == []
    row = {"query": "お名前は？", "better": "絢音ですわ。", "worse": "さあ。"}
    write_json_lines(path, [row, {**row, "kind": "polite", "gold": ["名前は小野寺絢音。"]}])
    plain, named = load_contrasts(path)
    assert (plain.kind, plain.gold) == ("own", ())
    assert (named.kind, named.gold) == ("polite", ("名前は小野寺絢音。",))
    profile = load_profile(paths, "ayane")
    assert quality.pairs_for(paths, profile, 0, 2)[-2:] == [plain, named]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"query": "q", "better": "b"}', "worse"),
        ('{"query": "q", "better": "b", "worse": " b "}', "same text"),
        ('{"query": "q", "better": "b", "worse": "w", "score": 7}', "score"),
        ('{"query": "q", "better": "", "worse": "w"}', "better"),
        ("[]", "line 2"),
        ("{", "JSON"),
    ],
)
def test_a_broken_pair_is_named(paths: Paths, line: str, named: str) -> None:
    path = contrast_path(paths, "ayane")
    path.parent.mkdir(parents=True)
    path.write_text('{"query": "q", "better": "b", "worse": "w"}\n' + line + "\n")
    with pytest.raises(UserError, match="line 2") as caught:
        load_contrasts(path)
    assert named in str(caught.value) and "2" in caught.value.text.ja


# What a judge makes of them


class Scripted:
    """A judge at our own seam: the gate first, like every judge, then what the script says."""

    id, version, scale = "scripted", "1-abc", (1, 7)

    def __init__(
        self, profile: Profile, says: Callable[[Item], float | None], rubric: str = "study"
    ) -> None:
        self.gate, self.says, self.rubric = Gate(profile), says, rubric
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    def quote(self, items: Sequence[Item]) -> Quote:
        return Quote(len(items), len(items), 0, 0)

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        for item in items:
            if stop():
                return
            self.asked.append((item.query, item.reply))
            codes = tuple(f.code for f in self.gate.check(item.reply, query=item.query))
            score = 1.0 if codes else self.says(item)
            why = Text("cut off", "途中で切れました") if score is None else None
            yield Record(
                item.id, self.id, self.rubric, self.version, score, why,
                gate=codes, rationale=f"score {score}", cost=0.001,
            )  # fmt: skip

    def close(self) -> None:
        self.closed = True


class Declaring(Scripted):
    measures = ("style", "off_topic")


@pytest.fixture
def ayane(paths: Paths) -> Profile:
    return load_profile(paths, "ayane")


def knowing(pairs: Sequence[Contrast]) -> Callable[[Item], float]:
    """Scores as somebody who knows every pair."""
    worse = {(pair.query, pair.worse) for pair in pairs}
    return lambda item: 2.0 if (item.query, item.reply) in worse else 6.0


def check(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, judge: Scripted, per_kind: int = 8
) -> dict[str, object]:
    monkeypatch.setattr(quality, "open_judge", lambda *_: judge)
    judge_config = quality.JudgeConfig(kind="endpoint", model="m")
    config = QualityConfig(profile="ayane", judge=judge_config, per_kind=per_kind)
    folder = paths.runs / "quality-1"
    folder.mkdir(parents=True, exist_ok=True)
    return run_quality(config, Silent(), folder, paths)


def latest(paths: Paths, judge: Scripted) -> quality.Quality:
    found = quality.latest(paths, "ayane", judge.id, judge.rubric, judge.version)
    assert found is not None
    return found


def test_a_judge_that_knows_passes(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scripted(ayane, knowing(made(paths, "ayane")))
    result = check(paths, monkeypatch, judge)
    assert result["passed"] is True and judge.closed
    assert len(judge.asked) == len(set(judge.asked))
    found = latest(paths, judge)
    assert found.all.right == found.all.n == 104 and found.failures == ()
    assert found.own.right == found.own.n == 104 - found.gated and found.gated > 32
    assert found.cost == pytest.approx(0.001 * len(judge.asked))
    stored = json.loads((paths.runs / "quality-1" / "quality.json").read_text())
    assert stored == found.model_dump(mode="json")
    assert quality.listing(paths, "ayane") == [found]
    mark = require(paths, "ayane", judge)
    assert mark.passed and not mark.insisted and mark.not_measured == ()
    assert "104 of 104" in mark.text.en and "合格しました" in mark.text.ja
    assert json.loads(json.dumps(mark.as_json()))["text"]["ja"]


def test_the_gate_does_not_carry_a_blind_judge(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One score for all: equal is wrong, but for filler, which must only not come out above."""
    judge = Scripted(ayane, lambda item: 5.0)
    check(paths, monkeypatch, judge)
    found = latest(paths, judge)
    by_kind = {kind.kind: kind for kind in found.kinds}
    assert by_kind["filler"].own.right == 8 and by_kind["style"].all.right == 0
    assert all(by_kind[kind].gated == by_kind[kind].all.right == 8 for kind in BY_GATE)
    assert found.own.share is not None and found.own.share < 0.4
    assert not quality.passed(found) and "style" in found.weak
    style = next(failure for failure in found.failures if failure.kind == "style")
    assert (style.verdict, style.better_score, style.worse_score) == ("wrong", 5.0, 5.0)
    assert style.better_reason == style.worse_reason == "score 5.0"


def test_nine_in_ten_of_its_own_pairs_are_needed(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that overlooks style alone is above nine in ten only with the gate's help."""
    pairs = made(paths, "ayane")
    knows = knowing([pair for pair in pairs if pair.kind != "style"])
    judge = Scripted(ayane, knows)
    check(paths, monkeypatch, judge)
    found = latest(paths, judge)
    assert found.all.share is not None and found.own.share is not None
    assert found.all.share > 0.9 > found.own.share
    assert not quality.passed(found)


def test_unscored_pairs_are_counted_and_never_right(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = made(paths, "ayane")
    knows = knowing(pairs)
    mute = {(pair.query, pair.worse) for pair in pairs if pair.kind == "off_topic"}
    judge = Scripted(ayane, lambda i: None if (i.query, i.reply) in mute else knows(i))
    result = check(paths, monkeypatch, judge)
    found = latest(paths, judge)
    off = next(kind for kind in found.kinds if kind.kind == "off_topic")
    assert (off.unscored, off.all.right, off.all.n) == (8, 0, 8)
    assert result["unscored"] == found.unscored >= 8
    failure = next(failure for failure in found.failures if failure.kind == "off_topic")
    assert failure.verdict == "unscored" and failure.worse_score is None


def test_a_good_line_that_the_gate_stops_is_a_failure(paths: Paths, ayane: Profile) -> None:
    pair = Contrast("own", "お名前は？", "絢音ですわ。</s>", "さあ。")
    judge = Scripted(ayane, lambda item: 4.0)
    records = list(judge.judge(quality_report.items_of([pair]), lambda: False))
    (assessed,) = quality_report.assess([pair], records)
    assert assessed.verdict == "wrong" and assessed.by_gate
    assert assessed.failure().gate == ("template",)


def test_a_rubric_says_what_it_does_not_measure(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown, not counted, and the mark says so; what nobody may reward always counts."""
    pairs = made(paths, "ayane")
    knows = knowing([pair for pair in pairs if pair.kind not in ("fact", "dump", "filler")])
    judge = Declaring(ayane, knows, "personality")
    check(paths, monkeypatch, judge)
    found = latest(paths, judge)
    assert set(found.not_measured) == {"fact", "echo", "dump", "filler"}
    assert found.all.n == 104 - 32 and quality.passed(found)
    mark = require(paths, "ayane", judge)
    assert set(mark.not_measured) == set(found.not_measured)
    assert "a wrong fact" in mark.text.en and "事実の誤り" in mark.text.ja
    assert any(failure.kind == "fact" for failure in found.failures)
    obedient = Declaring(ayane, lambda i: 7.0 if "7" in i.reply else knows(i), "personality")
    check(paths, monkeypatch, obedient)
    assert not quality.passed(latest(paths, obedient))


def test_the_embedded_judge_leaves_facts_out(ayane: Profile) -> None:
    judge = Scripted(ayane, lambda item: 4.0, "character")
    assert not quality_report.measures(judge, "fact")
    assert quality_report.measures(judge, "style") and quality_report.measures(judge, "mine")
    study = Scripted(ayane, lambda item: 4.0)
    assert quality_report.measures(study, "fact")


def test_a_stopped_check_leaves_no_report(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scripted(ayane, lambda item: 4.0)
    monkeypatch.setattr(Silent, "stop_requested", lambda _: "cancel")
    with pytest.raises(Stopped):
        check(paths, monkeypatch, judge)
    assert judge.closed and mark_of(paths, "ayane", judge) is None


# Who may decide


def test_a_judge_that_was_never_checked_may_not_decide(paths: Paths, ayane: Profile) -> None:
    judge = Scripted(ayane, lambda item: 4.0)
    assert mark_of(paths, "ayane", judge) is None
    with pytest.raises(UserError, match="never checked") as caught:
        require(paths, "ayane", judge)
    assert "検査" in caught.value.text.ja
    mark = require(paths, "ayane", judge, insist=True)
    assert mark.insisted and not mark.passed and mark.share is None
    assert "insisted" in mark.text.en


def test_a_judge_that_failed_needs_insisting_for_ever(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scripted(ayane, lambda item: 5.0)
    check(paths, monkeypatch, judge)
    with pytest.raises(UserError, match="did not pass"):
        require(paths, "ayane", judge)
    mark = require(paths, "ayane", judge, insist=True)
    assert mark.insisted and not mark.passed and mark.as_json()["insisted"] is True
    assert "without the gate's help" in mark.text.en and "不合格" in mark.text.ja
    known = mark_of(paths, "ayane", judge)
    assert known is not None and not known.insisted


def test_a_mark_holds_for_one_version_and_tells_of_changed_data(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scripted(ayane, knowing(made(paths, "ayane")))
    check(paths, monkeypatch, judge)
    edited = Scripted(ayane, judge.says)
    edited.version = "1-def"
    with pytest.raises(UserError, match="never checked"):
        require(paths, "ayane", edited)
    assert "changed since" not in require(paths, "ayane", judge).text.en
    save_profile(paths, ayane.model_copy(update={"greeting": "ごきげんよう。"}))
    mark = require(paths, "ayane", judge)
    assert mark.passed and "changed since" in mark.text.en


def test_too_few_own_pairs_prove_nothing(
    paths: Paths, ayane: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Scripted(ayane, knowing(made(paths, "ayane", per_kind=2)))
    result = check(paths, monkeypatch, judge, per_kind=2)
    assert result["passed"] is False
    with pytest.raises(UserError, match="too few to tell"):
        require(paths, "ayane", judge)


def test_without_any_data_there_is_nothing_to_check_with(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile(paths, Profile(slug="nobody", name="無名"))
    with pytest.raises(UserError, match=r"nobody\.jsonl"):
        quality.pairs_for(paths, load_profile(paths, "nobody"), 0, 8)


def test_the_interval_of_a_share() -> None:
    low, high = quality_report.wilson(9, 10)
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)
    assert quality_report.wilson(5, 5)[1] == 1.0 and quality_report.wilson(0, 5)[0] == 0.0
    assert quality_report.Count.of([]).share is None


# The embedded judge


def test_it_is_not_checked_on_what_it_has_learnt(paths: Paths) -> None:
    pairs = made(paths, "ayane")
    dealt = folds(pairs)
    assert sorted(map(repr, pairs)) == sorted(repr(pair) for fold in dealt for pair in fold)
    betters = [{pair.better for pair in fold} for fold in dealt]
    assert sum(map(len, betters)) == len(set().union(*betters))
    for fold in dealt:
        with without_rows(paths, "ayane", fold) as held:
            left = [row.reply for row in load_dialogues(dataset_path(held, "ayane"))]
            assert not set(left) & {pair.better for pair in fold}
            assert not set(left) & {pair.worse for pair in fold}
            assert len(left) > 100
            assert load_profile(held, "magnus").name == load_profile(paths, "magnus").name
            assert held.datasets != paths.datasets
        assert not held.root.exists()


def test_the_embedded_judge_is_checked(paths: Paths) -> None:
    """Really: fitted without the pairs' rows, on fewer dialogues than are shipped for speed."""
    path = dataset_path(paths, "ayane")
    save_dialogues(path, load_dialogues(path)[::5])
    folder = paths.runs / "quality-1"
    folder.mkdir(parents=True)
    result = run_quality(QualityConfig(profile="ayane", per_kind=3), Silent(), folder, paths)
    assert result["rubric"] == "character" and str(result["judge"]).startswith("embedded")
    assert result["kinds"]["style"] == {
        "n": 3, "right": 3, "gated": 0, "unscored": 0, "measured": True
    }  # fmt: skip
    assert result["kinds"]["fact"]["measured"] is False
    assert result["all"]["share"] > 0.8 and result["unscored"] == 0
    assert Path(str(result["report"])).is_file()
