"""The spot-check desk and the agreement page: in headless Chromium, on a real store."""

from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Dashboard, Visitor, choose, go_to, late, number, texts, until

from charllm.core.judging.calibrated import load_calibrated
from charllm.core.judging.records import Item, Record
from charllm.core.judging.score import VERSION
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.services.desk import Who, agreements
from charllm.services.judge_pairs import judge_pairs
from charllm.services.judged import record_rows
from charllm.services.store import Judgement, Store, person, subject_hash
from charllm.ui.desk_view import desk_view

EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"
REASON = "ジャッジだけの理由"
RUBRIC = "study"
VERSION_SEEN = "1-test"
JUDGE = "judge-1@localhost"
ENTER = "Enter"


def seed(paths: Paths, source: str, count: int, hands: int = 0) -> list[Item]:
    """``count`` replies judged by two judges; the first ``hands`` of them scored by two people."""
    rng = random.Random(source)
    items, records, by_hand = [], [], []
    for n in range(count):
        item = Item(f"r{n}", f"{source} の質問 {n}", f"返答 {n} {EVIL}" + "わ" * (n % 17))
        true = rng.uniform(1, 7)
        near = [min(7.0, max(1.0, true + rng.gauss(0, 0.7))) for _ in range(4)]
        items.append(item)
        records.append(
            Record(item.id, JUDGE, RUBRIC, VERSION_SEEN, float(round(near[0])), rationale=REASON)
        )
        parts = {"style": near[1] / 7, "relevance": rng.random(), "length": 0.9}
        records.append(Record(item.id, "embedded", "character", VERSION, near[1], parts=parts))
        subject = subject_hash("ayane", item.query, item.reply)
        for name, score in (("先生", near[2]), ("Kim", near[3])):
            for rubric, version in ((RUBRIC, VERSION_SEEN), ("character", VERSION)):
                if n < hands:
                    given = float(round(score))
                    by_hand.append(Judgement(subject, rubric, version, person(name), given))
    store = Store(paths)
    record_rows(store, "ayane", source, items, records)
    store.add_judgements(by_hand)
    store.close()
    return items


# --- without a browser --------------------------------------------------------------------------


def test_thousands_of_judged_replies_neither_slow_a_key_down_nor_show_the_judge_early(
    paths: Paths,
) -> None:
    seed(paths, "run-many", 5000)
    store = Store(paths)
    request: Any = SimpleNamespace(cookies={}, headers={})
    view = desk_view(paths, store, "ayane", Who(JUDGE, RUBRIC, VERSION_SEEN), "run-many", "me")
    seconds = []
    for _ in range(6):
        assert view.current is not None
        subject = view.current.subject
        assert REASON not in json.dumps(view.shown(request), ensure_ascii=False)
        for action in ({"action": "give", "score": 4}, {"action": "next"}):
            began = time.perf_counter()
            told = view.act({**action, "subject": subject}, request)
            seconds.append(time.perf_counter() - began)
            assert (told["reveal"] is not None) == (action["action"] == "give")
        assert view.current.subject != subject
    store.close()
    assert min(seconds[0::2]) < 0.1 and min(seconds[1::2]) < 0.3


def test_judges_are_compared_where_both_have_scored(paths: Paths) -> None:
    seed(paths, "run-a", 60)
    store = Store(paths)
    items = [Item("x", "一人だけの質問", "はい。")]
    only = Record("x", JUDGE, RUBRIC, VERSION_SEEN, None, unscored=Text("no", "なし"))
    record_rows(store, "ayane", "run-b", items, [only])
    (pair,) = judge_pairs(store, "ayane")
    store.close()
    assert pair.n == 60 and (pair.one.judge, pair.other.judge) == ("embedded", JUDGE)
    assert pair.kappa.low is not None and 0.3 < pair.kappa.low < (pair.kappa.value or 0)


# --- in the browser -----------------------------------------------------------------------------


def opened(visitor: Visitor, panel: str) -> Any:
    page = visitor.open()
    go_to(page, "ジャッジ")
    page.click(f"#judge-tab-{panel}-button")
    return page


def state(page: Any, name: str) -> None:
    page.wait_for_selector(f".desk[data-state={name}]:not(.waiting)")


def own_rows(board: Dashboard, name: str) -> list[Any]:
    return board.rows("SELECT * FROM judgements WHERE judge = ? ORDER BY id", person(name))


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_a_person_scores_by_keys_and_sees_the_judge_only_afterwards(
    visitor: Visitor, board: Dashboard
) -> None:
    seed(board.paths, "run-desk", 30)
    page = opened(visitor, "desk")
    page.wait_for_selector(".deskempty")
    assert "名前" in page.inner_text(".deskempty")
    choose(page, "#desk-judge", JUDGE)
    page.wait_for_function("document.querySelector('#desk-judge input').value.includes('judge-1')")
    page.fill("#desk-person :is(input, textarea)", "鈴木")
    page.press("#desk-person :is(input, textarea)", ENTER)
    state(page, "card")
    assert page.locator(".desklevel").count() == 7
    assert EVIL in page.inner_text(".deskreply")
    assert REASON not in page.content()

    page.evaluate("document.activeElement.blur()")
    first = page.inner_text(".deskquestion p")
    page.keyboard.press("5")
    state(page, "reveal")
    assert REASON in page.inner_text(".deskanswer")
    assert number(page.inner_text(".deskpair .mine b")) == 5
    assert page.locator(".desklevel.yours[data-level='5']").count() == 1
    (given,) = own_rows(board, "鈴木")
    assert (given["score"], given["rubric"], given["rubric_version"]) == (5, RUBRIC, VERSION_SEEN)

    page.keyboard.press(ENTER)
    state(page, "card")
    assert page.inner_text(".deskquestion p") != first and REASON not in page.content()
    page.keyboard.press("n")
    page.keyboard.type("5 u s 語尾が気になる")
    page.keyboard.press("Escape")
    assert len(own_rows(board, "鈴木")) == 1, "a key was taken while a note was written"
    second = page.inner_text(".deskquestion p")
    page.click(".desklevel[data-level='2']")
    state(page, "reveal")
    row = own_rows(board, "鈴木")[-1]
    assert row["score"] == 2 and row["rationale"] == "5 u s 語尾が気になる"

    page.keyboard.press("u")
    state(page, "card")
    assert page.inner_text(".deskquestion p") == second
    assert own_rows(board, "鈴木")[-1]["unscored_reason"] == "withdrawn"
    page.keyboard.press("s")
    page.wait_for_function(
        "(text) => document.querySelector('.deskquestion p').innerText !== text", arg=second
    )
    assert own_rows(board, "鈴木")[-1]["unscored_reason"] == "skipped"
    assert number(page.inner_text(".deskmix b")) == 1

    visitor.reload(page)
    go_to(page, "ジャッジ")
    page.click("#judge-tab-desk-button")
    state(page, "card")
    assert page.input_value("#desk-person :is(input, textarea)") == "鈴木"
    assert page.evaluate("window.owned") is None


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_a_score_stands_though_an_earlier_answer_arrives_after_it(
    visitor: Visitor, board: Dashboard
) -> None:
    """A key is answered directly; what leaving the name's field asks for comes after it."""
    seed(board.paths, "run-late", 30)
    visitor.context.add_init_script(late("process_completed"))
    page = opened(visitor, "desk")
    page.wait_for_selector(".deskempty:has-text('名前')")
    page.fill("#desk-person :is(input, textarea)", "佐藤")
    page.press("#desk-person :is(input, textarea)", ENTER)
    state(page, "card")
    page.wait_for_timeout(1500)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(400)
    page.keyboard.press("4")
    state(page, "reveal")
    page.wait_for_timeout(1500)
    assert page.get_attribute(".desk", "data-state") == "reveal"


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_the_page_tells_how_far_judges_agree_and_calibrates_the_embedded_one(
    visitor: Visitor, board: Dashboard, tmp_path: Path
) -> None:
    seed(board.paths, "run-agree", 90, hands=60)
    page = opened(visitor, "agreement")
    page.wait_for_function("document.querySelector('#calibrate-rubric input')?.value")
    choose(page, "#agreement-source", "run-agree")
    store = Store(board.paths)
    found = {row.who.judge: row.agreement for row in agreements(store, "ayane", "run-agree")}
    store.close()
    assert found[JUDGE].n == 120
    for one in found.values():
        for told in (f"{one.kappa.value:.2f}", f"{one.bias.value:.2f}", one.verdict.ja):
            assert until(lambda told=told: told in page.inner_text("#agreement-overview"))
    assert until(lambda: page.locator("#agreement-detail circle").count() == 240)
    cells = texts(page, "#agreement-detail .confusion td")
    assert sum(int(cell) for cell in cells if cell) == 120
    assert "Kim / 先生" in page.inner_text("#agreement-people")
    assert "judge-1" in page.inner_text("#agreement-judges")

    with page.expect_download() as fetched:
        page.click("#agreement-csv")
    fetched.value.save_as(tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    kappa = next(row["kappa"] for row in rows if row["judge"] == JUDGE)
    assert float(kappa) == pytest.approx(found[JUDGE].kappa.value, abs=1e-4)

    choose(page, "#calibrate-rubric", "character")
    page.click("#calibrate-fit")
    page.wait_for_selector("#calibrate-made table")
    made = until(lambda: load_calibrated(board.paths, "ayane"))
    assert made.labels >= 60 and made.text.ja in page.inner_text("#calibrate-made")
    page.click("#calibrate-forget")
    until(lambda: "取り消しました" in page.inner_text("#calibrate-said"))
    assert load_calibrated(board.paths, "ayane") is None


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_judgements_come_in_with_refusals_told_and_go_out_again(
    visitor: Visitor, board: Dashboard, tmp_path: Path
) -> None:
    good = [
        {"query": f"外の質問{n}", "reply": "はい。", "judge": "outside", "score": 1 + n}
        for n in range(3)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in good]
    lines.insert(1, json.dumps({"query": "外の質問", "reply": EVIL, "judge": "x", "score": 9}))
    file = tmp_path / "Outside Scores.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = opened(visitor, "agreement")
    page.click("#verdicts > button")
    page.set_input_files("#verdicts-file input[type=file]", str(file))
    page.wait_for_selector("#verdicts-found .figure")
    assert [number(text) for text in texts(page, "#verdicts-found .figure b")] == [3, 3, 1, 1]
    assert texts(page, "#verdicts-found tbody td")[0] == "2"
    assert page.evaluate("window.owned") is None
    with page.expect_download() as fetched:
        page.click("#verdicts-refused")
    fetched.value.save_as(tmp_path / "refused.csv")
    assert EVIL in (tmp_path / "refused.csv").read_text(encoding="utf-8-sig")

    for told in ("3 件を「import:outside-scores」", "0 件を「import:outside-scores」"):
        page.click("#verdicts-take")
        until(lambda told=told: told in page.inner_text("#verdicts-result"))
        assert told in page.inner_text("#verdicts-result")
    with page.expect_download() as fetched:
        page.click("#verdicts-jsonl")
    fetched.value.save_as(tmp_path / "out.jsonl")
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    own = {(row["query"], row["score"]) for row in out if row["judge"].endswith("/outside")}
    assert own == {(row["query"], row["score"]) for row in good}
