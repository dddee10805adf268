"""Interviews on real parts: small random models, a served interviewer, a served judge, kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chatting import add_adapter, remote, server
from judge_server import Reply as Answer
from judge_server import error, serving
from small_models import byte_tokenizer, save_model

from charllm.core.evaluation.comparison import Ruler, Scored
from charllm.core.evaluation.drift import TurnScore, drift_of
from charllm.core.evaluation.fact_use import FactUse
from charllm.core.evaluation.five import Exchange, asked_about
from charllm.core.evaluation.five_correlation import correlations
from charllm.core.evaluation.five_facts import questions_for
from charllm.core.evaluation.five_measures import fresh
from charllm.core.evaluation.five_questions import (
    FOLLOW_UP,
    load_stock,
    make_questions,
    stock_path,
    write_questions,
)
from charllm.core.evaluation.five_scores import Column, judged_columns
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_quote import quote_interview
from charllm.core.evaluation.interview_report import read_report
from charllm.core.evaluation.interview_turns import TURNS, plan_talks, read_turns
from charllm.core.evaluation.interviewers import usable
from charllm.core.evaluation.interviewing import judge_interviews, run_interview
from charllm.core.evaluation.query_sets import read_query_set
from charllm.core.evaluation.report import REPORT, TABLES
from charllm.core.judging.judges import JudgeConfig
from charllm.data.config import ROOT, Paths
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Paused, Silent, Stopped
from charllm.data.queries import Query, load_queries
from charllm.services import jobs
from charllm.services.cli import main

SAID = "はいですわ。"
TALKS, TURNS_EACH = 4, 3


class Watcher(Silent):
    """Asks to stop after so many events of a kind; 0: never."""

    def __init__(self, how: str = "", after: int = 0) -> None:
        self.how, self.after = how, after
        self.told = 0

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.told += kind == "talked"

    def stop_requested(self) -> Any:
        return self.how if self.after and self.told >= self.after else ""


@pytest.fixture
def home(paths: Paths) -> Paths:
    """A small model that says one reply, an adapter that makes it talk nonsense, ten questions."""
    ends: Any = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = byte_tokenizer(words="はいですわ。質問", **ends)
    folder = paths.models / "tiny"
    tokenizer.save_pretrained(folder)
    chain = tokenizer(f"：{SAID}", add_special_tokens=False)["input_ids"]
    ids = [*chain, tokenizer.eos_token_id]
    save_model(folder, "llama", len(tokenizer), ids, max_position_embeddings=8192)
    add_adapter(paths, "wild", folder, 0, module="o_proj", strength=1.0)
    lines = paths.datasets / "ayane.jsonl"  # the style is learnt from fewer: quicker
    first = lines.read_text(encoding="utf-8").splitlines(keepends=True)[:45]
    lines.write_text("".join(first), encoding="utf-8")
    made = make_questions(load_profile(paths, "ayane"), load_stock(paths))
    few = [
        *[query for query in made if "fact" in query.tags][:4],
        *[query for query in made if "values" in query.tags][:3],
        *[query for query in made if "trap" in query.tags][:3],
        *[query for query in made if FOLLOW_UP in query.tags][:3],
    ]
    write_json_lines(
        paths.queries / "ayane-five.jsonl", [one.model_dump(mode="json") for one in few]
    )
    return paths


def config(home: Paths, **changes: Any) -> InterviewConfig:
    base = {"label_en": "x", "label_ja": "x", "model": str(home.models / "tiny")}
    fields = {
        "name": "small",
        "profile": "ayane",
        "variants": [{**base, "name": "plain"}, {**base, "name": "wild", "checkpoint": "wild"}],
        "talks": TALKS,
        "turns": TURNS_EACH,
        "preset": {"name": "short", "max_new_tokens": 10},
        "rows": 4,
        "insist": True,
        **changes,
    }
    return InterviewConfig.from_data(fields, "the test")


def interview(home: Paths, folder: str, watcher: Watcher | None = None, **changes: Any) -> Any:
    where = home.workspace / folder
    return run_interview(config(home, **changes), watcher or Watcher(), where, home)


def without_time(folder: Path) -> list[Any]:
    return [{**turn.as_json(), "seconds": 0} for turn in read_turns(folder)]


def test_a_run_without_any_model_but_the_variants(home: Paths) -> None:
    result = interview(home, "run")
    assert result["complete"] and result["wanted"] == {"single": 20, "turns": 24}
    assert result["replies"] == {"single": 20, "turns": 24, "failed": 0}
    folder = home.workspace / "run"
    turns = read_turns(folder)
    asked = {(t.talk, t.turn): t.question for t in turns if t.variant == "plain"}
    assert asked == {(t.talk, t.turn): t.question for t in turns if t.variant == "wild"}
    assert {t.text for t in turns if t.variant == "plain"} == {SAID}
    third = next(t for t in turns if (t.variant, t.talk, t.turn) == ("plain", 1, 3))
    for turn in (1, 2, 3):
        assert asked[1, turn] in third.prompt, "every turn is asked with all before it"
    assert third.prompt.count(SAID) == 2
    follow_ups = {
        q.text for q in load_queries(home.queries / "ayane-five.jsonl") if FOLLOW_UP in q.tags
    }
    assert {asked[talk, 2] for talk in range(1, 5)} <= follow_ups
    assert not {asked[talk, turn] for talk in range(1, 5) for turn in (1, 3)} & follow_ups

    five = {(one["by"], one["part"]): one for one in result["five"]}
    plain, wild = five["clean", "talk"]["summaries"]
    assert plain["mean"]["value"] == 1.0 > wild["mean"]["value"] and wild["gated"] > 0
    assert plain["mean"]["low"] < 0.8, "four talks without a fault are no certainty"
    assert five["recalled", "single"]["summaries"][0]["queries"] == 4, "only those with gold"
    assert five["style", "single"]["differences"][0]["difference"]["value"] > 0
    assert result["not_measured"] == ["values", "hallucination", "stability"]
    drift = {(one["by"], one["variant"]): one for one in result["drift"]}
    assert [at["turn"] for at in drift["style", "plain"]["turns"]] == [1, 2, 3]
    assert drift["style", "plain"]["slope"]["value"] == pytest.approx(0.0)
    assert drift["style", "plain"]["talks"] == TALKS
    assert drift["clean", "plain"]["slope"]["low"] is None, "all the same: nothing to be sure of"
    names = result["correlation"]["measured"]["names"]
    assert set(names) == {"recalled", "style", "fresh", "length"}
    said = " ".join(one["en"] for one in result["told"])
    assert "fixed list" in said and "Values, No hallucination, Stability" in said
    assert read_json(folder / REPORT) == json.loads(json.dumps(result))
    page = (folder / TABLES / "all.ja.md").read_text(encoding="utf-8")
    assert "固定の質問リスト" in page and "| 性格 | 口調 | plain |" in page
    assert (folder / TABLES / "five-talk.en.csv").exists()


def test_a_stopped_run_goes_on_to_the_same_turns(home: Paths) -> None:
    interview(home, "whole", single=False)
    part = interview(home, "part", Watcher("save", 3), single=False)
    assert not part["complete"] and 0 < part["replies"]["turns"] < 24
    assert any("途中まで" in one["ja"] for one in part["told"])
    path = home.workspace / "part" / TURNS
    with path.open("a", encoding="utf-8") as file:
        file.write('{"variant": "plain", "ta')  # what a kill leaves of a line
    with pytest.raises(Stopped):
        interview(home, "part", Watcher("cancel", 1), single=False)
    result = interview(home, "part", single=False)
    assert result["complete"]
    assert without_time(home.workspace / "part") == without_time(home.workspace / "whole")


def test_kill_9_and_resume(home: Paths) -> None:
    """The killed process is a fork of this one: what it imports is here already."""
    folder = home.workspace / "killed"
    child = os.fork()
    if child == 0:
        run_interview(config(home, single=False, rows=2), Watcher(), folder, home)
        os._exit(0)
    deadline = time.monotonic() + 60
    while not (folder / TURNS).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it was in the middle of its work"
    before = (folder / TURNS).read_text(encoding="utf-8")
    whole = before[: before.rfind("\n") + 1]
    assert interview(home, "killed", single=False, rows=2)["complete"]
    assert (folder / TURNS).read_text(encoding="utf-8").startswith(whole)
    places = [turn.place for turn in read_turns(folder)]
    assert len(places) == len(set(places)) == 24


def test_it_is_a_kind_of_run(home: Paths) -> None:
    chosen = config(home, single=False)
    run = jobs.submit(home, "interview", "queued", chosen)
    assert run.manifest().function.endswith(":run_interview") and run.manifest().accelerator
    assert jobs.config_class("interview") is InterviewConfig


def ask_next(asked: Any) -> Answer:
    """A new question each time; it knows how many turns were said from the talk it is shown."""
    said = len(re.findall(SAID, asked.text.split("<talk-")[-1]))
    return Answer(content=f"質問: 「{said + 1}番目のことを、もう少し伺えますか。」\n（続き）")


def test_an_interviewer_behind_an_endpoint_reads_the_talk(home: Paths) -> None:
    with serving(
        lambda asked: (
            error(429, headers={"retry-after": "0"}) if asked.number == 1 else ask_next(asked)
        )
    ) as asks:
        interviewer = {"kind": "endpoint", "model": "ask-1", "base_url": asks.url}
        plain = config(home).variants[:1]
        result = interview(home, "run", variants=plain, single=False, interviewer=interviewer)
    assert result["interviewer"] == {
        **{"kind": "endpoint", "model": "ask-1"},
        **{"asked": TALKS * 2, "substituted": 0},
    }
    assert asks.requests == TALKS * 2 + 1, "the first question of a talk is the set's"
    turns = read_turns(home.workspace / "run")
    assert [t.asked_by for t in turns if t.talk == 1] == ["list", "model", "model"]
    assert {t.question for t in turns if t.turn == 3} == {"3番目のことを、もう少し伺えますか。"}
    body = asks.bodies[-1]["messages"]
    assert SAID in body[1]["content"] and "小野寺絢音" in body[0]["content"]
    assert any("ask-1 asked 8" in one["en"] for one in result["told"])


def test_what_an_interviewer_cannot_ask_the_list_asks(home: Paths) -> None:
    plain = config(home).variants[:1]
    with serving(lambda asked: Answer(content="質問：\n")) as asks:
        interviewer = {"kind": "endpoint", "model": "ask-1", "base_url": asks.url}
        result = interview(home, "mute", variants=plain, single=False, interviewer=interviewer)
    assert result["complete"] and result["interviewer"]["substituted"] == TALKS * 2
    assert "補いました" in " ".join(one["ja"] for one in result["told"])
    turns = [turn for turn in read_turns(home.workspace / "mute")]
    assert {turn.asked_by for turn in turns} == {"list"} and all(turn.query for turn in turns)

    with serving(lambda asked: error(401, "invalid_api_key")) as asks:
        interviewer = {"kind": "endpoint", "model": "ask-1", "base_url": asks.url}
        with pytest.raises(Paused, match="401"):
            interview(home, "refused", variants=plain, single=False, interviewer=interviewer)
        assert len(read_turns(home.workspace / "refused")) == 4, "one batch's first turn is kept"
        assert not read_report(home.workspace / "refused").complete
        asks.behave = ask_next
        result = interview(home, "refused", variants=plain, single=False, interviewer=interviewer)
    assert result["complete"] and result["interviewer"]["asked"] == TALKS * 2
    with pytest.raises(UserError, match="API key"):
        interview(home, "keyless", interviewer={"kind": "endpoint", "model": "ask-1"})
    assert not (home.workspace / "keyless" / TURNS).exists(), "found out before anything is asked"


def test_a_local_model_and_a_remote_variant(home: Paths) -> None:
    """The local interviewer says the one thing it knows; a question is taken only once a talk."""

    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        turns = sum(message["role"] == "user" for message in body["messages"])
        return (400, []) if turns == 2 else (200, ["遠くから", "ですわ。"])

    with server(answer) as url:
        result = interview(
            home,
            "run",
            variants=[remote(url).model_dump()],
            single=False,
            talks=2,
            interviewer={"kind": "local", "model": str(home.models / "tiny"), "max_tokens": 16},
        )
    turns = {(t.talk, t.turn): t for t in read_turns(home.workspace / "run")}
    assert turns[1, 2].question == SAID and turns[1, 2].asked_by == "model"
    assert turns[1, 2].failed is not None and "400" in turns[1, 2].failed.en
    assert turns[1, 1].text == "遠くからですわ。" and turns[1, 1].weights.startswith("far-1 @ ")
    # The failed turn is forgotten, so the third is asked as the second was, and refused as well.
    assert turns[1, 3].failed is not None and result["replies"]["failed"] == 4
    five = {one["by"]: one["summaries"][0] for one in result["five"]}
    assert five["clean"]["replies"] == 2, "a reply that is not there is not measured"


def test_a_remote_variant_that_cannot_go_on_loses_nothing(home: Paths) -> None:
    asked: list[int] = []

    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        asked.append(sum(message["role"] == "user" for message in body["messages"]))
        return (401, []) if len(asked) == 5 else (200, ["遠くからですわ。"])

    with server(answer) as url:
        far: Any = {"variants": [remote(url).model_dump()], "single": False}
        with pytest.raises(Paused, match="401"):
            interview(home, "run", **far)
        kept = len(read_turns(home.workspace / "run"))
        assert kept == TALKS + 3, "the others of that turn are kept"
        assert interview(home, "run", **far)["complete"]
    assert len(asked) == TALKS * TURNS_EACH + 1, "nothing that was answered is asked again"


def judge(asked: Any) -> Answer:
    """Marks by what it reads: the nonsense never comes here, it is the gate's."""
    score = 7 if "いちばん大切" in asked.text.split("<query-")[-1] else 5
    return Answer(content=json.dumps({"flaws": [], "reasons": "設定どおり。", "score": score}))


def test_a_judge_scores_every_criterion_on_what_can_tell_of_it(home: Paths) -> None:
    with serving(judge) as scores:
        chosen = {"kind": "endpoint", "model": "judge-1", "base_url": scores.url, "in_flight": 4}
        keys: Any = ["memorisation", "values", "stability"]
        quoted = quote_interview(config(home, judge=chosen, criteria=keys), home)
        assert scores.requests == 0
        interview(home, "run")
        with pytest.raises(Paused, match="budget"):
            interview(home, "run", judge=chosen, criteria=keys, budget={"calls": 6})
        first = scores.requests
        assert 6 <= first <= 6 + 4
        judge_config = JudgeConfig.from_data(chosen, "the test")
        result = judge_interviews(
            home.workspace / "run", judge_config, keys, Watcher(), home, insist=True
        )
    five = {
        (one["criterion"], one["part"]): one for one in result["five"] if one["judge"] != "measured"
    }
    assert {"memorisation", "values"} == {key for key, part in five if part == "single"}
    assert ("stability", "talk") in five and {key for key, _ in five} == set(keys)
    plain, wild = five["memorisation", "single"]["summaries"]
    assert plain["mean"]["value"] == 5.0 and plain["queries"] == 4
    assert wild["gated"] > 0 and wild["mean"]["value"] < 5.0
    assert five["values", "single"]["summaries"][0]["mean"]["value"] == pytest.approx(17 / 3)
    stability = five["stability", "talk"]["summaries"][0]
    assert stability["queries"] == TALKS * 2, "not on first turns"
    asked = Counter(body["messages"][0]["content"] for body in scores.bodies)
    assert len(asked) == 3, "one rubric a criterion"
    by_key = {one["criterion"]: one for one in quoted["judges"]}
    assert set(by_key) == set(keys) and by_key["stability"]["calls"] > 0
    assert quoted["single"] == 20 and quoted["turns"] == 24


def test_correlation_leaves_gated_replies_out() -> None:
    ruler = Ruler("someone", "r", "1")

    def column(key: Any, scores: list[float]) -> Column:
        rows = {
            str(n): Scored("v", str(n), score, ruler, gated=n >= 12)
            for n, score in enumerate(scores)
        }
        return Column(key, ruler, (1.0, 7.0), rows)

    up = [float(n % 7) for n in range(12)]
    down = [7.0 - value for value in up]
    ones = [1.0] * 50  # gated: alike in both, and not to be counted
    found = correlations([column("values", up + ones), column("tempo", down + ones)])
    assert found is not None and found.gated == 50
    (pair,) = found.pairs
    assert pair.value == pytest.approx(-1.0) and pair.n == 12
    assert found.of("tempo", "values") is pair and found.mean == pytest.approx(-1.0)
    assert correlations([column("values", up)]) is None
    few = correlations([column("values", up[:9]), column("tempo", down[:9])])
    assert few is not None and few.pairs[0].value is None, "nine say nothing"


def test_drift_is_found_and_its_interval_is_over_talks() -> None:
    falling = [
        TurnScore(f"talk-{talk}", turn, 6.0 - 0.5 * turn + 0.1 * (talk % 3))
        for talk in range(8)
        for turn in range(1, 6)
    ]
    drift = drift_of(falling)
    assert drift.slope.value == pytest.approx(-0.5) and drift.talks == 8
    assert drift.slope.low is not None and drift.slope.low <= -0.5 + 1e-9
    assert [at.turn for at in drift.turns] == [1, 2, 3, 4, 5]
    assert drift.turns[0].mean.value == pytest.approx(5.5 + 0.1 * 7 / 8)
    assert drift.turns[0].mean.n == 8
    # The same rows as one single talk: a slope, but nothing to say how sure.
    alone = drift_of([TurnScore("one", one.turn, one.value) for one in falling])
    assert alone.slope.value == pytest.approx(-0.5) and alone.slope.low is None
    assert drift_of([]).slope.value is None and drift_of([]).turns == ()


def test_what_follow_ups_cost_is_not_drift() -> None:
    rows = [
        TurnScore(f"talk-{talk}", turn, 5.0 - (turn % 2 == 0), turn % 2 == 0)
        for talk in range(6)
        for turn in range(1, 7)
    ]
    assert drift_of(rows).slope.value == pytest.approx(0.0)
    unaware = [TurnScore(one.talk, one.turn, one.value) for one in rows]
    assert (drift_of(unaware).slope.value or 0) < -0.05
    apart = drift_of([one for one in rows if one.turn <= 2]).slope
    assert apart.value is None and apart.reason is not None and "too few" in apart.reason.en


def test_drift_intervals_hold_the_truth(seed: int = 0) -> None:
    """200 studies of 10 talks whose own level and noise hide a slope of -0.2."""
    import numpy as np

    rng, held = np.random.default_rng(seed), 0
    for study in range(200):
        levels = rng.normal(5.0, 0.8, 10)
        rows = [
            TurnScore(str(talk), turn, levels[talk] - 0.2 * turn + rng.normal(0, 0.6))
            for talk in range(10)
            for turn in range(1, 7)
        ]
        slope = drift_of(rows, study).slope
        assert slope.low is not None and slope.high is not None
        held += slope.low <= -0.2 <= slope.high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize(
    ("fact", "question"),
    [
        ("好きな季節は秋。", "好きな季節は何ですか。"),
        ("誕生日は10月12日。", "誕生日はいつですか。"),
        ("東京の私立女子校に通っている。", "どこに通っているのですか。"),
        ("祖父は長野でりんご園を営んでいる。", "祖父は何を営んでいるのですか。"),
        ("家には執事の高木さんがいる。", "家には誰がいるのですか。"),
        ("His favourite month is November.", "What is your favourite month?"),
        ("He cannot stand marmalade.", "What can you not stand?"),
        ("She carries a silver whistle.", "What do you carry?"),
        ("His wife Ingrid died nine years ago.", "Tell me about your wife Ingrid."),
    ],
)
def test_a_fact_becomes_a_question(fact: str, question: str) -> None:
    found = questions_for(fact, "en" if fact.isascii() else "ja")[0]
    assert found.text == question and not found.loose


@pytest.mark.parametrize("slug", ["ayane", "magnus"])
def test_the_set_of_a_profile(paths: Paths, slug: str) -> None:
    profile, stock = load_profile(paths, slug), load_stock(paths)
    made = make_questions(profile, stock)
    assert made == make_questions(profile, stock), "the same set for the same seed"
    assert made != make_questions(profile, stock, seed=1)
    path = write_questions(paths, profile, "five", made, replace=False)
    assert list(read_query_set(path, profile, ["report"]).queries) == made, "no fault in it"
    assert {fact for one in made for fact in one.gold} == set(profile.facts)
    assert {"name", "age"} <= {tag for one in made for tag in one.tags}
    answers = [one for one in made if "fact" in one.tags and "loose" not in one.tags]
    assert len(answers) >= 0.9 * len(profile.facts)
    use = FactUse(profile.facts)
    assert all(use.share(one.gold, one.text, "") == 0.0 for one in answers), (
        "no question holds all of its answer"
    )
    traps = [one for one in made if "trap" in one.tags]
    assert len(traps) >= 9 and not any(one.gold for one in traps)
    assert max(Counter(one.tags[1] for one in traps).values()) == 3
    with pytest.raises(UserError, match="--replace"):
        write_questions(paths, profile, "five", made, replace=False)


def test_no_trap_for_whom_it_is_none(paths: Paths) -> None:
    profile, stock = load_profile(paths, "ayane"), load_stock(paths)
    every = make_questions(profile, stock, traps=99)
    assert any("オウム" in one.text for one in every)
    facts = (*profile.facts, "オウムのビスケを飼っている。")
    owner = profile.model_copy(update={"facts": facts})
    assert not any(
        "オウム" in one.text and "trap" in one.tags
        for one in make_questions(owner, stock, traps=99)
    )
    assert not any("スマートフォン" in one.text for one in every), "she lives today"
    bare = profile.model_copy(update={"facts": ()})
    with pytest.raises(UserError, match="no facts"):
        make_questions(bare, stock)
    stock_path(paths).write_text("traps: {}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"interview\.yaml.*values"):
        load_stock(paths)


def test_facts_that_share_a_question_share_it() -> None:
    profile = load_profile(Paths.default(), "ayane")
    facts = tuple(f"運動は{what}だ。" for what in ("苦手", "不得手", "きらい"))
    made = make_questions(profile.model_copy(update={"facts": facts}), load_stock(Paths.default()))
    asked = [one for one in made if "fact" in one.tags]
    assert sum(len(one.gold) for one in asked) == 3 > len(asked)


def test_talks_are_planned_by_seed_without_repeats() -> None:
    queries = [Query(id=str(n), text=f"質問{n}", split="report") for n in range(7)]
    follow = [Query(id="f", text="なぜですか", split="report", tags=(FOLLOW_UP,))]
    talks = plan_talks([*queries, *follow], 5, 5, 0)
    assert talks == plan_talks([*queries, *follow], 5, 5, 0) != plan_talks(queries, 5, 5, 0)
    for talk in talks:
        asked = [talk.questions[turn].id for turn in (0, 2, 4)]
        assert len(set(asked)) == 3 and "f" not in asked
        assert talk.questions[1].id == talk.questions[3].id == "f", "there is no other"
    first = [one.id for talk in talks for one in talk.questions if one.id != "f"]
    assert set(first[:7]) == {query.id for query in queries}
    assert len({talk.focus for talk in talks}) == 5
    with pytest.raises(UserError, match="follow-up"):
        plan_talks(follow, 1, 2, 0)


def test_what_an_interviewer_writes_is_taken_only_as_one_new_question() -> None:
    before = (Message(role="user", content="お名前は？"), Message(role="assistant", content="絢音"))
    assert usable("次の質問：『なぜですか。』\nあと…", before) == "なぜですか。"
    assert usable("Question 2: Why is that?", before) == "Why is that?"
    for bad in ("", "お名前は", "…", "あ" * 300, "\ufffd"):
        assert usable(bad, before) == "", bad


def test_what_was_said_before_is_not_fresh() -> None:
    said = (
        Message(role="user", content="q"),
        Message(role="assistant", content="わたくしは紅茶が好きですわ。"),
    )
    parts: Any = {"id": "x", "variant": "v", "part": "talk", "unit": "talk-001", "question": "q"}
    again = Exchange(**parts, reply="わたくしは紅茶が好きですわ。", history=said)
    new = Exchange(**parts, reply="昨日は雨でしたから本を読みましたの。", history=said)
    assert fresh(again) == 0.0 and fresh(new) == 1.0
    assert fresh(Exchange(**parts, reply="わたくしは紅茶が好きですわ。")) is None
    assert [one.id for one in asked_about("stability", [again, Exchange(**parts, reply="x")])] == [
        "x"
    ]
    assert judged_columns([again], []) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": {"kind": "embedded"}}, "embedded judge reads no rubric"),
        ({"talks": 0, "single": False}, "nothing would be asked"),
        ({"criteria": ["values", "values"]}, "stands twice"),
        ({"interviewer": {"kind": "endpoint"}}, "name the endpoint model"),
        (
            {"interviewer": {"kind": "local", "model": "m", "base_url": "http://a:b@c/v1"}},
            "password",
        ),
        ({"turns": 1}, "greater than or equal to 2"),
    ],
)
def test_impossible_configurations(home: Paths, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(home, **changes)


def test_a_set_that_is_missing_or_wrong(home: Paths) -> None:
    path = home.queries / "ayane-five.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_json_lines(path, [*rows, {**rows[0], "id": "again"}])
    with pytest.raises(UserError, match=r"line 14: the same question as in line 1"):
        interview(home, "run")
    path.unlink()
    with pytest.raises(UserError, match="charllm questions ayane"):
        interview(home, "run")


def test_the_verbs(home: Paths, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CHARLLM_ROOT", str(home.root))
    monkeypatch.setenv("CHARLLM_HOME", str(home.workspace))
    assert main(["questions", "magnus", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["file"].endswith("magnus-five.jsonl") and made["tags"]["trap"] >= 9
    assert main(["questions", "magnus"]) == 2 and "--replace" in capsys.readouterr().err
    assert main(["interview", "interview-ayane", "--quote", "--json"]) == 0
    quoted = json.loads(capsys.readouterr().out)
    assert quoted["interviewer"]["calls"] == 0 and quoted["turns"] == 3 * 10 * 6
    InterviewConfig.load(ROOT / "recipes" / "interview-ayane.yaml")
