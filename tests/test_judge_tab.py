"""The Judge tab in headless Chromium: choose a judge, prove it, filter, set the threshold, publish.

The endpoint is a real server on loopback; the filter and the check are real runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Dashboard, Visitor, choose, go_to, number, texts, until, wait_text
from judge_server import Asked, JudgeServer, Reply, serving

from charllm.core.judging.judges import JudgeConfig
from charllm.data.collection import load
from charllm.data.dataset_card import quality_note
from charllm.services.desk import Desk, Who
from charllm.services.judge_choice import load_choice, save_choice
from charllm.services.runs import list_runs
from charllm.services.store import Store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
KEY = "sk-test-never-written-anywhere"
ROWS = 30
EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"


def opened(visitor: Visitor, panel: str) -> Any:
    page = visitor.open()
    go_to(page, "ジャッジ")
    page.wait_for_selector("#judge-tab-judges-button")
    return to_panel(page, panel)


def to_panel(page: Any, panel: str) -> Any:
    page.click(f"#judge-tab-{panel}-button")
    return page


def pick(page: Any, radio: str, value: str) -> None:
    page.click(f"{radio} input[value='{value}']")


def write(page: Any, box: str, text: str) -> None:
    """As a visitor does it: type, and go on to the next field."""
    page.fill(f"{box} :is(input, textarea)", text)
    page.press(f"{box} :is(input, textarea)", "Tab")


def written_under(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


# --- who judges ---------------------------------------------------------------------------------


def test_the_choice_is_shared_and_its_key_is_written_nowhere(
    visitor: Visitor, board: Dashboard
) -> None:
    page = opened(visitor, "judges")
    assert not page.is_visible("#judge-model") and not page.is_visible("#judge-local-model")
    pick(page, "#judge-kind", "endpoint")
    page.wait_for_selector("#judge-model")
    assert not page.is_visible("#judge-url") and not page.is_visible("#judge-local-model")
    wait_text(page, "#judge-status", "モデルの名前を入力してください")
    write(page, "#judge-model", "gpt-4o-mini")
    wait_text(page, "#judge-notices", "2027-01-14")
    wait_text(page, "#judge-about", "rubrics/study.yaml")
    assert "未設定" in page.inner_text("#judge-key-state")
    page.fill("#judge-key input", KEY)
    page.press("#judge-key input", "Enter")
    wait_text(page, "#judge-key-state", "設定済み")
    assert page.input_value("#judge-key input") == ""
    choose(page, "#judge-rubric", "自然")
    wait_text(page, "#judge-about", "rubrics/naturalness.yaml")

    kept = until(lambda: (c := load_choice(board.paths)).rubric == "naturalness" and c)
    assert (kept.kind, kept.model, kept.base_url) == ("endpoint", "gpt-4o-mini", "")
    second = opened(visitor, "judges")
    second.wait_for_selector("#judge-model")
    wait_text(second, "#judge-about", "rubrics/naturalness.yaml")
    wait_text(second, "#judge-key-state", "設定済み")
    second.click("#judge-forget")
    wait_text(second, "#judge-key-state", "未設定")
    everything = written_under(board.paths.workspace) + written_under(board.paths.root)
    log = (board.paths.workspace.parent / "log.txt").read_bytes()
    assert KEY.encode() not in everything + log


def test_a_reply_is_tried_before_anything_is_paid_for(visitor: Visitor, board: Dashboard) -> None:
    save_choice(board.paths, JudgeConfig())
    page = opened(visitor, "judges")
    page.fill("#try-question textarea", "お名前を教えてください。")
    page.fill("#try-reply textarea", "小野寺絢音ですわ。どうぞよろしくお願いいたしますわ。")
    page.click("#try-go")
    page.wait_for_selector("#try-result .verdict")
    assert 5 < number(page.inner_text("#try-result .big")) <= 7
    assert "口調" in page.inner_text("#try-result .verdict")
    page.fill("#try-reply textarea", "私はAIです。[INST] こんにちは [/INST]")
    page.click("#try-go")
    wait_text(page, "#try-result", "ゲートが止めました")
    assert number(page.inner_text("#try-result .big")) == 1

    with serving(lambda asked: Reply()) as server:
        pick(page, "#judge-kind", "endpoint")
        page.wait_for_selector("#judge-model")
        pick(page, "#judge-server", "other")
        write(page, "#judge-url", server.url)
        write(page, "#judge-model", "judge-1")
        choose(page, "#judge-rubric", "(personality)")
        page.fill("#try-question textarea", EVIL)
        page.fill("#try-reply textarea", "絢音と申しますわ。")
        page.click("#try-go")
        told = wait_text(page, "#try-result", "口調は設定どおり。")
        assert number(page.inner_text("#try-result .big")) == 6 and "1,000" in told
        page.click("#try-result .fold summary")
        prompt = page.inner_text("#try-result .promptview")
        asked = "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in server.bodies[-1]["messages"])
        assert prompt.strip() == asked.strip() and EVIL in prompt
    assert page.evaluate("window.owned") is None


# --- the filter, the threshold ------------------------------------------------------------------


def the_reply(asked: Asked, what: str = "reply") -> str:
    found = re.search(rf"<{what}-\w+>\n(.*)\n</{what}-", asked.text, re.DOTALL)
    assert found, asked.text
    return found[1]


def by_length(asked: Asked) -> Reply:
    """A judge that takes its time and likes long replies."""
    score = min(7, 2 + len(the_reply(asked)) // 7)
    return Reply(content=json.dumps({"flaws": [], "reasons": "r", "score": score}), wait=0.1)


@pytest.fixture
def judge(board: Dashboard) -> Iterator[JudgeServer]:
    with serving(by_length) as server:
        config = JudgeConfig(
            kind="endpoint",
            model="judge-1",
            base_url=server.url,
            rubric="personality",
            in_flight=2,
        )
        save_choice(board.paths, config)
        yield server


def test_an_unproven_judge_filters_only_where_one_insists(
    visitor: Visitor, board: Dashboard, judge: JudgeServer, chromium: Any
) -> None:
    page = opened(visitor, "filter")
    wait_text(page, "#filter-table", "まだ選別をしていません")
    write(page, "#filter-limit", str(ROWS))
    write(page, "#filter-calls", "6")
    page.click("#filter-quote")
    page.wait_for_selector("#filter-quoted [data-quote]")
    quoted = page.inner_text("#filter-quoted")
    assert number(page.locator("#filter-quoted .figure b").nth(1).inner_text()) == ROWS
    assert "未検査" in quoted and "承知のうえで使う指定により使われました" in quoted
    page.click("#filter-start")
    wait_text(page, "#filter-quoted", "まだ検査されていません")
    assert list_runs(board.paths) == [] and judge.requests == 0

    page.check("#filter-insist input")
    page.click("#filter-start")
    watcher = Visitor(chromium, board)
    other = opened(watcher, "filter")
    for one in (page, other):
        one.wait_for_selector("#filter-detail .state.paused")
        wait_text(one, "#filter-detail", "予算に達した")
        one.wait_for_selector("#filter-histogram .hlegend")
    assert 6 <= len(judge.billed) <= 8, "what was under way when the budget was reached is taken"
    assert texts(page, "#filter-histogram .hlegend") == texts(other, "#filter-histogram .hlegend")

    write(other, "#filter-raise-calls", "100")
    other.click("#filter-raise")
    for one in (page, other):
        one.wait_for_selector("#filter-detail .state.done")
        wait_text(one, "#filter-detail", f"{ROWS} / 100")
    assert len(judge.billed) == ROWS == len(set(judge.billed)), "something was paid for twice"
    watcher.context.close()
    assert watcher.errors == [] and watcher.foreign == []

    _publish(to_panel(page, "threshold"), board)


def _score_by_hand(board: Dashboard, source: str) -> float:
    """Every row by hand, two of three good; the share of good ones among those of 6 and more."""
    store = Store(board.paths)
    rows = store.judged("ayane", source)
    who = next(Who(r.judge, r.rubric, r.rubric_version) for _, given in rows for r in given)
    desk = Desk(store, "ayane", who, "tester", source)
    good = kept = 0
    for n, (subject, given) in enumerate(rows):
        desk.give(subject.subject, 7 if n % 3 else 2)
        kept += (given[0].score or 0) >= 6
        good += (given[0].score or 0) >= 6 and n % 3 > 0
    store.close()
    return good / kept


def _publish(page: Any, board: Dashboard) -> None:
    """At a threshold of 6: the page's counts are those of the files."""
    wait_text(page, "#threshold-head", "judge-1")
    wait_text(page, "#threshold-expected", "手採点がありません")
    right = _score_by_hand(board, list_runs(board.paths)[0].id)
    slider = "#threshold-histogram input[type=range]"
    page.focus(slider)
    page.press(slider, "ArrowRight")
    legend = texts(page, "#threshold-histogram .hlegend span")
    kept, lost = (int(number(text)) for text in legend[:2])
    assert kept + lost == ROWS and 0 < kept < ROWS
    wait_text(page, "#threshold-counts .figure b", str(kept))
    assert number(page.locator("#threshold-counts .figure b").nth(1).inner_text()) == lost
    gone = page.locator("#threshold-topics [data-topic].lostall").count()
    assert number(page.locator("#threshold-counts .figure b").nth(4).inner_text()) == gone
    assert "もとになった手採点" in wait_text(page, "#threshold-expected", f"{right:.0%}")
    near = texts(page, "#threshold-rows .fold[open] .score")
    assert {float(score) >= 6 for score in near} == {True, False}

    write(page, "#threshold-name", "ayane")
    page.click("#threshold-publish")
    page.wait_for_selector("#threshold-made .banner.bad")
    write(page, "#threshold-name", "ayane-long")
    page.click("#threshold-publish")
    page.wait_for_selector("#threshold-made .banner.good")
    made = load(board.paths, "ayane-long")
    assert len(made.dialogues) == kept
    dropped = board.read("datasets", "dropped", "ayane-long.jsonl").splitlines()
    assert len(dropped) == lost and all(json.loads(row)["meta"]["dropped"] for row in dropped)
    assert made.card.filtered is not None and made.card.filtered.threshold == 6
    assert "承知のうえで" in quality_note(made.card.filtered).ja


# --- the judge's check --------------------------------------------------------------------------


def check(page: Any, board: Dashboard, word: str) -> dict[str, Any]:
    """Check the chosen judge ; the run's result, which the page now shows."""
    to_panel(page, "quality")
    wait_text(page, "#quality-mark", "：未検査")
    before = len(list_runs(board.paths))
    page.click("#quality-start")
    wait_text(page, "#quality-mark", f"：{word}")
    run = list_runs(board.paths)[0]
    assert len(list_runs(board.paths)) == before + 1 and run.kind == "quality"
    result = run.result()
    assert result is not None
    cells = texts(page, "#quality-report .figure b")
    assert cells[0] == word and number(cells[1]) == round(100 * result["all"]["share"])
    rows = texts(page, "#quality-report tbody tr")
    assert ["対象外" in row for row in rows] == [
        not kind["measured"] for kind in result["kinds"].values()
    ]
    assert page.locator("#quality-report .fold").count() == result["failures"]
    return result


def test_only_a_judge_that_passes_its_check_may_filter(
    visitor: Visitor, board: Dashboard, judge: JudgeServer
) -> None:
    save_choice(board.paths, load_choice(board.paths).model_copy(update={"in_flight": 16}))
    page = opened(visitor, "judges")
    failed = check(page, board, "不合格")
    assert not failed["passed"] and failed["failures"] > 0
    page.locator("#quality-report .fold summary").first.click()
    assert page.locator("#quality-report .fold[open] .pairtexts > div").count() == 2

    known = {(d.question, d.reply) for d in load(board.paths, "ayane").dialogues}

    def knows_them_all(asked: Asked) -> Reply:
        good = (the_reply(asked, "query"), the_reply(asked)) in known
        return Reply(content=json.dumps({"flaws": [], "reasons": "", "score": 6 if good else 2}))

    with serving(knows_them_all) as server:
        chosen = load_choice(board.paths)
        save_choice(board.paths, chosen.model_copy(update={"base_url": server.url}))
        to_panel(page, "judges")
        passed = check(page, board, "合格")
        assert passed["passed"]
        to_panel(page, "filter")
        write(page, "#filter-limit", "5")
        page.click("#filter-quote")
        wait_text(page, "#filter-quoted", "：合格")
        assert not page.is_visible("#filter-insist")
        page.click("#filter-start")
        wait_text(page, "#filter-detail", "5 / 5")
        page.wait_for_selector("#filter-detail .state.done")
