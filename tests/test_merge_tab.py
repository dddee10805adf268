"""The Merge tab in headless Chromium: set up, start, watch, pause, resume, read the report.

The evolution is a real run of a small random model in a process of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from browser import Dashboard, Visitor, go_to, until, wait_text
from merge_home import evolve_config, small_home

from charllm.services.merge_forms import merge_runs, yaml_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"


@pytest.fixture(scope="module")
def home(board: Dashboard) -> Dashboard:
    small_home(board.paths)
    return board


def opened(visitor: Visitor) -> Any:
    page = visitor.open()
    go_to(page, "マージ")
    page.wait_for_selector("#merge-status .banner")
    return page


def read_yaml(page: Any, text: str) -> None:
    """As a visitor does it: open the fold, paste, read."""
    if not page.is_visible("#merge-yaml-text textarea"):
        page.click("button:has-text('YAML をフォームに読み込む'):visible")
    page.fill("#merge-yaml-text textarea", text)
    page.click("#merge-yaml-read")


def test_before_the_first_run_the_page_says_so_in_english(
    home: Dashboard, visitor: Visitor
) -> None:
    assert not merge_runs(home.paths), "the first journey of this file"
    page = opened(visitor)
    visitor.leave(page, "[data-language=en]")
    go_to(page, "Merge")
    wait_text(page, "#merge-status", "has not passed its check")
    page.click("#merge-tab-runs-button")
    wait_text(page, "#merge-table", "Nothing has been evolved here yet")
    assert page.locator("#merge-pause:visible, #merge-resume:visible").count() == 0


def test_the_form_says_what_it_takes_and_why_it_cannot_start(
    home: Dashboard, visitor: Visitor
) -> None:
    page = opened(visitor)
    wait_text(page, "#merge-status", "検査に合格していません")
    assert page.is_disabled("#merge-start")
    wait_text(page, "#merge-look", "混ぜられます")
    assert page.inner_text("#merge-recipe pre >> nth=0").startswith("name: ayane-evolved")
    page.check("#merge-insist input")
    wait_text(page, "#merge-status", "開始できます")
    assert page.is_enabled("#merge-start")
    page.click("#merge-parents input")
    page.click("[role=option]:has-text('(one)')")
    wait_text(page, "#merge-look", "gemma")
    assert page.is_disabled("#merge-start"), "an adapter of another base does not fit"
    read_yaml(page, "name: [")
    wait_text(page, "body", "YAML として読めません")
    read_yaml(page, yaml_of(evolve_config(label_en=EVIL, search={"max_candidates": 2})))
    wait_text(page, "#merge-status", "一世代")
    page.fill("#evo-max-candidates input", "8")
    page.press("#evo-max-candidates input", "Tab")
    wait_text(page, "#merge-status", "開始できます")
    page = visitor.reload(page)
    go_to(page, "マージ")
    wait_text(page, "#merge-status", "開始できます")
    assert page.input_value("#evo-max-candidates input") == "8", "a reload loses nothing"
    assert page.evaluate("window.owned") is None


def test_an_evolution_is_started_paused_resumed_and_told(home: Dashboard, visitor: Visitor) -> None:
    page = opened(visitor)
    search = {"objective": "loss=1, score=0.5", "max_candidates": 40, "population": 4}
    read_yaml(page, yaml_of(evolve_config(search=search)))
    wait_text(page, "#merge-status", "候補 40 個")
    page.click("#merge-start")
    page.wait_for_selector("#merge-pause:visible")
    run = merge_runs(home.paths)[0]
    page.wait_for_selector("#merge-heats .heat td")
    page.click("#merge-pause")
    assert until(lambda: run.status().state == "paused")
    page.wait_for_selector("#merge-resume:visible")
    before = len((run.folder / "search" / "candidates.jsonl").read_text().splitlines())
    page.click("#merge-resume")
    page.wait_for_selector("#merge-finish:visible")
    page.click("#merge-finish")
    page.wait_for_selector("#merge-report .verdict >> nth=1")
    assert run.status().state == "done"
    assert len((run.folder / "search" / "candidates.jsonl").read_text().splitlines()) > before
    verdict = page.get_attribute("#merge-report .verdict >> nth=0", "data-verdict")
    assert verdict == (run.result() or {})["over_parent"]
    assert page.locator("#merge-curves .curve:visible").count() == 2
    page.click("#merge-candidates tr:has([data-candidate='uniform']) [data-do=candidate]")
    page.wait_for_selector("#merge-candidate [data-shown='uniform'] .said")
    with page.expect_download() as saved:
        page.click("#merge-report summary:has-text('レシピ')")
        page.click("#merge-report [data-save='#merge-recipe-yaml']")
    assert saved.value.suggested_filename == "bred-recipe.yaml"
    page = visitor.leave(page, "#merge-report [data-do=compare]")
    assert "チェックポイント one" in wait_text(page, "#columns", "交配")
