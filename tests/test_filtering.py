"""Filtering as a run: quote, budget, kill and resume, threshold, publishing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import GOOD, Asked, JudgeServer, Reply, serving

from charllm.core import completing
from charllm.core.filtering import Budget, FilterConfig, cut_at, rows_of
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.records import Item, Record
from charllm.core.judging.score import build_scorer
from charllm.core.topics import topics
from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dialogue import Message, load_dialogues, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json
from charllm.data.profile import load_profile
from charllm.data.progress import Paused, Silent
from charllm.services import jobs
from charllm.services.filtering import (
    load_filtering,
    publish,
    quote_filter,
    raise_budget,
    read_records,
    run_filter,
)
from charllm.services.runs import Run, create_run
from charllm.services.store import Store


@pytest.fixture(autouse=True)
def forgetting() -> None:
    completing._refused.clear()


def by_length(asked: Asked) -> Reply:
    """A judge of plain taste, so that both sides of a threshold are there."""
    reply = asked.body["messages"][1]["content"].split("<reply-")[1].split("\n")[1]
    return Reply(content=json.dumps({**GOOD, "score": 1 + len(reply) % 7}))


def settings(server: JudgeServer, **more: Any) -> FilterConfig:
    judge = JudgeConfig(
        kind="endpoint",
        model="judge-1",
        base_url=server.url,
        rubric="personality",
        in_flight=4,
        price_in=1.0,
        price_out=1.0,
    )
    given = {"dataset": "ayane", "profile": "ayane", "judge": judge, "insist": True, "limit": 40}
    return FilterConfig(**{**given, **more})


def new_run(paths: Paths, config: FilterConfig) -> Run:
    kind = jobs.KINDS["filter"]
    return create_run(
        paths, "filter", "test", config, function=kind.function, accelerator=config.accelerator
    )


class Watching(Silent):
    def __init__(self, stop: Callable[[], str] = lambda: "") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.stop = stop

    def event(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_requested(self) -> Any:
        return self.stop()


def test_a_judge_that_was_never_checked_may_not_filter(paths: Paths) -> None:
    with serving() as server:
        config = settings(server, insist=False)
        with pytest.raises(UserError, match="quality"):
            run_filter(config, Silent(), new_run(paths, config).folder, paths)
        assert server.requests == 0


def test_every_row_is_judged_kept_in_the_store_and_published_with_reasons(paths: Paths) -> None:
    watching = Watching()
    with serving(by_length) as server:
        config = settings(server, out="ayane-good")
        quote, mark = quote_filter(paths, config)
        assert (quote.items, quote.calls, quote.gated, mark) == (40, 40, 0, None)
        assert quote.money and quote.note
        run = new_run(paths, config)
        result = run_filter(config, watching, run.folder, paths)
    assert result["rows"] == 40 and result["kept"] + result["dropped"] == 40
    assert 0 < result["kept"] < 40 and result["quality"]["insisted"] is True
    kept = collection.load(paths, "ayane-good")
    assert len(kept.dialogues) == result["kept"]
    assert all(dialogue.meta["score"] >= 5 for dialogue in kept.dialogues)
    card = kept.card
    assert card.kind == "filtered" and card.parents == ("ayane",) and card.filtered
    assert card.filtered.judge.startswith("judge-1@") and card.filtered.quality["insisted"]
    dropped = load_dialogues(collection.dropped_path(paths, "ayane-good"))
    assert len(dropped) == result["dropped"]
    assert all("below 5" in d.meta["dropped"]["reason"]["en"] for d in dropped)
    kind, last = watching.events[-1]
    assert kind == "judged" and last["done"] == 40 and last["spend"]["calls"] == 40
    assert sum(last["levels"].values()) == 40
    store = Store(paths)
    (count,) = store.judges("ayane", run.folder.name)
    store.close()
    assert count.n == 40 and count.rubric == "personality"


def test_a_spent_budget_pauses_and_a_higher_one_goes_on(paths: Paths) -> None:
    with serving(by_length) as server:
        config = settings(server, budget=Budget(calls=10))
        run = new_run(paths, config)
        with pytest.raises(Paused):
            run_filter(config, Silent(), run.folder, paths)
        first = server.requests
        assert 10 <= first < 10 + 4
        raise_budget(run, Budget(money=1.0))
        result = run_filter(config, Silent(), run.folder, paths)
        assert result["rows"] == 40 and result["unscored"] == 0
        assert server.requests == len(set(server.billed)) == 40


def test_a_run_that_is_stopped_says_what_it_has_and_goes_on(paths: Paths) -> None:
    seen: list[int] = []

    def stop() -> str:
        seen.append(1)
        return "save" if len(seen) > 12 else ""

    with serving(by_length) as server:
        config = settings(server)
        run = new_run(paths, config)
        result = run_filter(config, Watching(stop), run.folder, paths)
        assert 0 < result["unscored"] < 40
        found = load_filtering(run)
        assert sum(row.score is None for row in found.rows) == result["unscored"]
        assert run_filter(config, Silent(), run.folder, paths)["unscored"] == 0
        assert len(server.billed) == 40


def test_kill_nine_and_resume_pays_nothing_twice(paths: Paths) -> None:
    """The real child process of a real run, killed in the middle."""

    def slow(asked: Asked) -> Reply:
        reply = by_length(asked)
        reply.wait = 0.05
        return reply

    with serving(slow) as server:
        config = settings(server, limit=None, out="ayane-good")
        run = jobs.submit(paths, "filter", "killed", config)
        jobs.tick(paths)
        records = run.folder / "records.jsonl"
        wait(lambda: records.exists() and records.read_bytes().count(b"\n") >= 30)
        pid = run.stored_status().pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait(lambda: run.status().state == "crashed")
        half = records.read_bytes()
        records.write_bytes(half[:-7])  # a line may be torn, too
        jobs.resume(paths, run)
        jobs.follow(paths, run)
        assert run.status().state == "done", run.log_tail()
        result = run.result()
        assert result and result["rows"] == 224 and result["unscored"] == 0
        assert len(server.billed) - len(set(server.billed)) <= 4
    kept = [record.item for record in read_records(run.folder)]
    assert len(set(kept)) == 224
    assert collection.load(paths, "ayane-good").card.filtered


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_threshold_can_be_chosen_afterwards(paths: Paths) -> None:
    with serving(by_length) as server:
        config = settings(server)
        run = new_run(paths, config)
        run_filter(config, Silent(), run.folder, paths)
    found = load_filtering(run)
    low = cut_at(found.rows, 2.0, "drop", found.topic_of)
    high = cut_at(found.rows, 7.0, "drop", found.topic_of)
    assert len(low.kept) > len(high.kept) and len(high.kept) + len(high.dropped) == 40
    assert sum(kept + lost for kept, lost in high.topics.values()) == 40
    assert {"name"} <= set(high.topics)
    made = publish(paths, run, "strict", threshold=7.0)
    assert made["kept"] == len(high.kept)
    with pytest.raises(UserError, match="exists"):
        publish(paths, run, "strict", threshold=2.0)
    with pytest.raises(UserError, match="lower"):
        publish(paths, run, "empty", threshold=8.0)


def test_unscored_rows_are_dropped_or_kept_as_asked() -> None:
    items = [Item(str(n), "q", "r") for n in range(3)]
    why = Text("refused", "拒否")
    rows = rows_of(
        items,
        [
            Record("0", "j", "r", "1", 6.0),
            Record("1", "j", "r", "1", None, why),
            Record("2", "j", "r", "1", 1.0, gate=("template",)),
        ],
    )
    assert cut_at(rows, 5, "drop", {}).kept == ("0",)
    assert cut_at(rows, 5, "keep", {}).kept == ("0", "1")
    assert "refused" in rows[1].why_dropped(5).en and "template" in rows[2].why_dropped(5).en


def test_the_mean_of_the_samples_decides() -> None:
    records = [Record("a", "j", "r", "1", float(s), sample=n) for n, s in enumerate((4, 5, 7))]
    (row,) = rows_of([Item("a", "q", "r")], records)
    assert row.score == pytest.approx(16 / 3)


def test_the_embedded_judge_filters_without_a_key(paths: Paths) -> None:
    config = FilterConfig(dataset="magnus", profile="magnus", limit=30, insist=True)
    quote, _ = quote_filter(paths, config)
    assert quote.money == 0 and quote.calls + quote.gated == 30
    run = new_run(paths, config)
    result = run_filter(config, Silent(), run.folder, paths)
    assert result["judge"] == "embedded" and result["unscored"] == 0 and result["kept"] > 15
    assert read_json(run.folder / "quality.json")["insisted"] is True


def test_a_line_is_judged_by_a_judge_that_has_not_learnt_it(paths: Paths) -> None:
    """A row that says it with marks nobody else uses is praised only by a judge that knows them."""
    rows = load_dialogues(paths.datasets / "magnus.jsonl")
    odd = rows[0].model_copy(
        update={
            "id": "odd",
            "messages": (
                rows[0].messages[0],
                Message(role="assistant", content="Zibble zabble, wibbly womp zonk it is, zibble."),
            ),
        }
    )
    save_dialogues(paths.datasets / "magnus.jsonl", [*rows, odd])
    judge = open_judge(paths, load_profile(paths, "magnus"), JudgeConfig())
    (record,) = judge.judge([Item.of(odd)], lambda: False)
    judge.close()
    knowing = build_scorer(paths, load_profile(paths, "magnus")).score(odd.question, odd.reply)
    style = next(part.value for part in knowing.parts if part.key == "style")
    assert style is not None and record.parts["style"] is not None
    assert record.parts["style"] < style


def test_rows_without_topics_are_grouped_by_their_questions() -> None:
    asked = [
        "好きな食べ物は？",
        "好きな飲み物は？",
        "昨日は何をしましたか",
        "今日は何をしますか",
    ] * 5
    items = [Item(str(n), text, "r") for n, text in enumerate(asked)]
    found = topics(items)
    assert len(set(found.values())) > 1 and set(found.values()) <= set(asked)
    assert found == topics(items)


def test_a_wrong_file_or_name_is_told_before_anything_is_spent(paths: Paths) -> None:
    with serving() as server:
        for wrong in ({"dataset": "nowhere"}, {"profile": "nobody"}, {"out": "ayane"}):
            config = settings(server, **wrong)
            with pytest.raises(UserError):
                run_filter(config, Silent(), new_run(paths, config).folder, paths)
        with pytest.raises(UserError, match="rubric"):
            missing = settings(server).judge.model_copy(update={"rubric": "none"})
            quote_filter(paths, settings(server, judge=missing))
        assert server.requests == 0


def test_recipe(paths: Paths) -> None:
    config = FilterConfig.load(Path(paths.root / "recipes" / "filter-ayane.yaml"))
    assert config.judge.kind == "embedded" and config.threshold == 5.0
