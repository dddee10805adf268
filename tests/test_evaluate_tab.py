"""The Evaluate tab in headless Chromium: set up, start, read figures, questions and ratings.

One evaluation is a real run of a small random model in a process of its own; the judged one lies
in its folder as a run leaves it, with replies and opinions made up.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from browser import (
    Dashboard,
    Visitor,
    choose,
    fill_fold,
    go_to,
    toasts,
    until,
    wait_count,
    wait_text,
)
from evaluation_home import (
    EVIL,
    asked_run,
    config_with,
    ended,
    few_queries,
    judged_by,
    longer_is_better,
    reported,
)
from small_models import byte_tokenizer, save_model

from charllm.core.evaluation.report import REPORT
from charllm.data.config import Paths
from charllm.data.files import write_json_lines
from charllm.data.queries import load_queries
from charllm.services.evaluate_forms import evaluate_runs, yaml_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
QUERIES = 12
PERSON = "#queries-person :is(input, textarea)"


def opened(visitor: Visitor) -> Any:
    page = visitor.open()
    go_to(page, "評価")
    page.wait_for_selector("#evaluate-status .banner")
    return page


def small_model(board: Dashboard) -> str:
    """A random Llama that says one short reply."""
    folder = board.paths.workspace / "tiny"
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    chain = tokenizer("：はいですわ。", add_special_tokens=False)["input_ids"]
    save_model(folder, "llama", len(tokenizer), [*chain, tokenizer.eos_token_id])
    return str(folder)


def with_and_without_facts(paths: Paths) -> None:
    """An evaluation of the base with RAG and without; thresholds can be chosen on other splits."""
    every = load_queries(paths.queries / "ayane.jsonl")
    splits = [[q for q in every if q.split == split] for split in ("search", "report")]
    rows = [query.model_dump(mode="json") for part in splits for query in part[:QUERIES]]
    write_json_lines(paths.queries / "splits.jsonl", rows)
    config = config_with(name="facts", queries="splits", variants=["base", "rag"], judges=[])
    ended(asked_run(paths, config, lambda v, n: f"{EVIL}はい。"))


def test_an_evaluation_is_started_read_scored_by_hand_and_rated(
    board: Dashboard, visitor: Visitor, tmp_path: Path
) -> None:
    paths = board.paths
    few_queries(paths, QUERIES)
    page = opened(visitor)
    # Before the first evaluation every page says so.
    page.click("#evaluate-tab-runs-button")
    wait_text(page, "#evaluate-table", "まだ評価を実行していません")
    page.click("#evaluate-tab-queries-button")
    wait_text(page, "#queries-shown", "返答のある評価がまだありません")
    page.click("#evaluate-tab-pairs-button")
    wait_text(page, "#pairs-shown", "まだ判定がありません")
    page.click("#evaluate-tab-interviews-button")
    wait_text(page, "#interviews-status", "質問セットがまだありません")
    wait_text(page, "#interviews-table", "まだインタビューをしていません")
    page.click("#interviews-make")
    wait_text(page, "#interviews-status", "開始できます")
    page.click("#evaluate-tab-rag-button")
    wait_text(page, "#rag-shown", "まだ評価がありません")
    page.click("#evaluate-tab-setup-button")

    # Set up: one click fills the matrix, a file fills the form.
    wait_text(page, "#evaluate-status", "検査に合格していません")
    assert page.is_disabled("#evaluate-start")
    page.click("#evaluate-matrix")
    wait_text(page, "#evaluate-yaml", "- rag")
    assert "100" in page.inner_text("#evaluate-look"), "the report split has a hundred questions"
    model = small_model(board)
    variants = [{"name": n, "label_en": n, "label_ja": n, "model": model} for n in ("one", "two")]
    preset = {"name": "short", "max_new_tokens": 12}
    config = config_with(name="real", variants=variants, judges=[], preset=preset)
    page.click("button:has-text('YAML をフォームに読み込む'):visible")
    fill_fold(page, "#evaluate-yaml-text textarea", yaml_of(config))
    page.click("#evaluate-yaml-read")
    wait_text(page, "#evaluate-status", f"返答 {2 * QUERIES} 件")
    page.click("#evaluate-start")
    page.wait_for_selector("#evaluate-detail [data-state]")
    (real,) = evaluate_runs(paths)
    assert until(lambda: real.status().state == "done"), real.log_tail()
    wait_text(page, "#evaluate-result", "まだどのジャッジも採点していません")
    wait_text(page, "#evaluate-result", f"{2 * QUERIES} / {2 * QUERIES}")

    # Figures of a judged one, and of one that was stopped half-way.
    run = asked_run(
        paths, config_with(judges=[]), lambda v, n: EVIL if v == "plain" else "はい。" * n
    )
    judged_by(paths, run, "length", longer_is_better)
    ended(reported(run))
    half = asked_run(paths, config_with(name="half"), lambda v, n: "はい。")
    ended(half, "crashed")
    with_and_without_facts(paths)
    go_to(page, "モデル")
    go_to(page, "評価")
    choose(page, "#evaluate-chosen", "made")
    wait_text(page, "#evaluate-result", "対応のある差")
    assert page.get_attribute("#evaluate-result [data-evaluated]", "data-evaluated") == run.id
    wait_count(page, "#evaluate-plots .evalplot .main-svg:nth-child(1)", 2)
    with page.expect_download() as saved:
        page.click("#evaluate-csv")
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    lines = list(csv.reader(text.splitlines()))
    report = json.loads((run.folder / REPORT).read_text(encoding="utf-8"))
    mean = report["judges"][0]["summaries"][0]["mean"]["value"]
    assert ["plain", repr(mean)] in [line[:2] for line in lines]

    # Question by question, with a hand score in place.
    page.click("#evaluate-tab-queries-button")
    wait_count(page, "#queries-shown .paircard", 10)
    page.click("#queries-shown .kept >> nth=0 >> .hand button >> nth=4")
    assert "採点する人の名前" in toasts(page)
    page.fill(PERSON, "Rin")
    page.press(PERSON, "Enter")
    page.wait_for_timeout(500)
    page.click("#queries-shown .kept >> nth=0 >> .hand button >> nth=4")
    page.wait_for_selector("#queries-shown .kept >> nth=0 >> .hand button.on")
    rows = board.rows("SELECT * FROM judgements WHERE judge = 'person:Rin'")
    assert [row["score"] for row in rows] == [5.0]
    page.click("#queries-ahead")
    wait_count(page, "#queries-shown .paircard", QUERIES - 10)

    # Ratings, and a verdict file that cannot be read.
    page.click("#evaluate-tab-pairs-button")
    page.wait_for_selector("#pairs-shown .winmatrix td")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": "q", "a": "x", "b": "y", "winner": "z"}\n', encoding="utf-8")
    with page.expect_file_chooser() as chooser:
        page.click("#pairs-file")
    chooser.value.set_files(bad)
    wait_text(page, "#pairs-shown", "勝者「z」は")

    # What RAG does: which columns to tick where none are there, else figures, replies and curves.
    page.click("#evaluate-tab-rag-button")
    wait_text(page, "#rag-shown", "「ベース」と「ベース + RAG」")
    page.click("#evaluate-tab-runs-button")
    choose(page, "#evaluate-chosen", "facts")
    page.click("#evaluate-tab-rag-button")
    page.wait_for_selector("#rag-shown [data-rag=rag]")
    page.click("#rag-facts .factname >> nth=1")
    page.wait_for_selector("#rag-facts tr:nth-child(2) .factname.on")
    wait_text(page, "#rag-answers", page.inner_text("#rag-facts .factname.on"))
    assert page.locator("#rag-answers article:first-child section").count() == 2
    page.click("#rag-sweep")
    page.wait_for_selector("#rag-plot .main-svg")
    with page.expect_download() as saved:
        page.click("#rag-csv")
    lines = list(csv.reader(Path(saved.value.path()).read_text(encoding="utf-8").splitlines()))
    assert {line[0] for line in lines[1:]} == {"1", "2", "3", "5"}

    page.click("#evaluate-tab-runs-button")
    choose(page, "#evaluate-chosen", "half")
    wait_text(page, "#evaluate-detail", "途中で止まっています")
    wait_text(page, "#evaluate-result", "保存済みの分から計算しています")
    assert page.is_visible("#evaluate-resume") and not page.is_visible("#evaluate-stop")
    assert page.evaluate("window.owned") is None
