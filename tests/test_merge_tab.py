"""The Merge tab in headless Chromium: set up, start, mix by hand, resume, report, fork.

One journey in one page, because every page load costs seconds. The evolution is a real run of a
small random model in a process of its own.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from browser import Dashboard, Visitor, fill_fold, go_to, until, wait_text, wait_value
from merge_home import evolve_config, small_home

from charllm.core.merging.journal import Journal
from charllm.services.merge_forms import merge_runs, yaml_of
from charllm.services.merge_view import config_of
from charllm.services.runs import Run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"
MIXED = {"layers 0-0": [0.9, 0.1], "layers 1-1": [0.5, 0.5]}
SLIDER = "#mixer-board [data-group='layers 0-0'] input >> nth={}"


@pytest.fixture(scope="module")
def home(board: Dashboard) -> Dashboard:
    small_home(board.paths)
    return board


def read_yaml(page: Any, text: str) -> None:
    """Paste into the open fold, and read."""
    fill_fold(page, "#merge-yaml-text textarea", text)
    page.click("#merge-yaml-read")


def slide(page: Any, parent: int, value: float) -> None:
    """Let the slider of the first group go at a value."""
    page.locator(SLIDER.format(parent)).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input'));"
        " slider.dispatchEvent(new Event('change')); }",
        value,
    )


def test_an_evolution_from_the_form_to_its_fork(home: Dashboard, visitor: Visitor) -> None:
    page = visitor.open()
    kept = {"parents": evolve_config().parents, "size": 1, "weights": MIXED}
    page.evaluate("(kept) => window.charllmKeep('mixer', kept)", kept)
    go_to(page, "マージ")
    the_form_says_why_it_cannot_start(page)
    page = the_form_is_kept_over_a_switch_of_language(page, visitor)
    run = started_and_paused(page, home)
    mixed_by_hand(page, home)
    sent_into_the_paused_search(page)
    resumed_and_finished(page, run)
    the_report_is_read(page, run)
    forked(page, home)
    assert page.evaluate("window.owned") is None
    page.click("#merge-tab-mixer-button")
    page = visitor.leave(page, "#mixer-saved [data-do=compare]")
    assert "by-hand" in wait_text(page, "#columns", "by-hand")


def the_form_says_why_it_cannot_start(page: Any) -> None:
    page.click("button:has-text('YAML をフォームに読み込む'):visible")
    page.wait_for_selector("#merge-status .banner")
    wait_text(page, "#merge-status", "検査に合格していません")
    assert page.is_disabled("#merge-start")
    wait_text(page, "#merge-look", "混ぜられます")
    assert page.inner_text("#merge-recipe pre >> nth=0").startswith("name: ayane-evolved")
    page.click("#merge-parents input")
    page.click("[role=option]:has-text('(one)')")
    page.press("#merge-parents input", "Tab")  # closes the list, which lies over other things
    wait_text(page, "#merge-look", "gemma")
    assert page.is_disabled("#merge-start"), "an adapter of another base does not fit"
    read_yaml(page, "name: [")
    wait_text(page, "body", "YAML として読めません")
    read_yaml(page, yaml_of(evolve_config(label_en=EVIL, search={"max_candidates": 2})))
    wait_text(page, "#merge-status", "一世代")
    search = {"objective": "loss=1, score=0.5", "max_candidates": 400, "population": 4}
    read_yaml(page, yaml_of(evolve_config(label_en=EVIL, search=search)))
    wait_text(page, "#merge-status", "候補 400 個")
    page.fill("#evo-max-candidates input", "404")
    page.press("#evo-max-candidates input", "Tab")
    wait_text(page, "#merge-status", "候補 404 個")


def the_form_is_kept_over_a_switch_of_language(page: Any, visitor: Visitor) -> Any:
    page = visitor.leave(page, "[data-language=en]")
    go_to(page, "Merge")
    wait_text(page, "#merge-status", "Ready: 404 candidates")
    assert page.input_value("#evo-max-candidates input") == "404", "a reload loses nothing"
    page.click("#merge-tab-runs-button")
    wait_text(page, "#merge-table", "Nothing has been evolved here yet")
    assert page.locator("#merge-pause:visible, #merge-resume:visible").count() == 0
    page.click("#merge-tab-setup-button")
    return page


def started_and_paused(page: Any, home: Dashboard) -> Run:
    page.click("#merge-start")
    page.wait_for_selector("#merge-pause:visible")
    run = merge_runs(home.paths)[0]
    page.wait_for_selector("#merge-heats .heat td")
    page.click("#merge-pause")
    assert until(lambda: run.status().state == "paused")
    page.wait_for_selector("#merge-resume:visible")
    return run


def hurry(page: Any, script: str, values: list[Any]) -> None:
    """Call the script with each value, the next one while the one before is on its way."""
    page.evaluate(
        f"(values) => values.forEach((value, at) => setTimeout(() => ({script})(value), 80 * at))",
        values,
    )


def mixed_in_a_hurry(page: Any) -> None:
    """The newest move is what counts; none of the earlier ones comes back."""
    share = "const [a, b] = JSON.parse(window.charllmKept('mixer')).weights['layers 0-0'];"
    is_kept = f"(share) => {{ {share} return Math.abs(a / (a + b) - share) < 0.001; }}"
    move = (
        '(value) => { const slider = document.querySelector("#mixer-board '
        "[data-group='layers 0-0'] input\"); slider.value = value; "
        "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change')); }"
    )
    hurry(page, move, [0.2, 0.3, 0.5])
    page.wait_for_function(is_kept, arg=0.5 / 0.6)
    wait_text(page, "#mixer-board", "83 %")
    hurry(page, "() => document.querySelector('[data-mix=undo]').click()", [0, 1, 2])
    page.wait_for_function(is_kept, arg=0.9)
    wait_text(page, "#mixer-board", "90 %")


def mixed_by_hand(page: Any, home: Dashboard) -> None:
    """Sliders as the browser has kept them; they are moved, undone, asked and saved."""
    page.click("#merge-tab-mixer-button")
    wait_text(page, "#mixer-board", "90 %")
    slide(page, 0, 0.4)
    wait_text(page, "#mixer-board", "80 %")
    page.click("[data-mix=undo]")
    wait_text(page, "#mixer-board", "90 %")
    mixed_in_a_hurry(page)
    page.fill("#mixer-question textarea", "お名前は？")
    page.click("#mixer-go")
    for side in ("mix", "uniform"):
        page.wait_for_selector(f"#mixer-replies [data-side={side}][data-state=done] .text")
    before = page.inner_text("#mixer-replies [data-side=mix] .chips")
    assert "tok" in before
    page.fill("#mixer-name input", "by-hand")
    page.click("#mixer-save")
    page.wait_for_selector("#mixer-saved [data-do=compare]")
    assert (home.paths.checkpoints / "by-hand" / "recipe.yaml").is_file()
    page.click("#mixer-save")
    wait_text(page, "body", "There is a checkpoint 'by-hand' already")


def sent_into_the_paused_search(page: Any) -> None:
    page.click("#mixer-send")
    wait_text(page, "#mixer-told", "It waits for the next generation, in its own groups.")


def resumed_and_finished(page: Any, run: Run) -> None:
    page.click("#merge-tab-runs-button")
    folder = run.folder / "search"
    before = len(Journal(folder).candidates())
    resumed_with_more_candidates(page, run)
    assert until(lambda: any(one.origin for one in Journal(folder).candidates()))
    page.wait_for_selector("#merge-finish:visible")
    page.click("#merge-finish")
    page.wait_for_selector("#merge-report .verdict >> nth=1")
    assert run.status().state == "done"
    assert len(Journal(folder).candidates()) > before
    given = next(one for one in Journal(folder).candidates() if one.origin)
    assert given.origin == "mixer"
    assert given.coefficients.weights["layers 0-0"] == pytest.approx((0.9, 0.1), abs=1e-9)


def resumed_with_more_candidates(page: Any, run: Run) -> None:
    """What is typed stays while the page looks on; less than before is refused in words."""
    field = "#merge-budget-max-candidates input"
    wait_value(page, field, "404")
    assert page.locator("#merge-budget input:visible").count() == 1, "nothing else has a limit"
    page.fill(field, "5")
    page.click("#merge-resume")
    wait_text(page, "body", "Candidates: a budget can only be raised. Write 404 or more.")
    assert run.status().state == "paused" and page.input_value(field) == "5"
    page.fill(field, "408")
    page.click("#merge-resume")
    page.wait_for_selector("#merge-budget", state="hidden")
    assert config_of(run).search.max_candidates == 408


def the_report_is_read(page: Any, run: Run) -> None:
    verdict = page.get_attribute("#merge-report .verdict >> nth=0", "data-verdict")
    assert verdict == (run.result() or {})["over_parent"]
    assert page.locator("#merge-curves .curve:visible").count() == 2
    page.click("#merge-candidates tr:has([data-candidate='uniform']) [data-do=candidate]")
    page.wait_for_selector("#merge-candidate [data-shown='uniform'] .said")
    names = [one.id for one in Journal(run.folder / "search").candidates()][:4]
    press = "(id) => document.querySelector(`#merge-candidates button[data-id='${id}']`).click()"
    hurry(page, press, names)
    page.wait_for_selector(f"#merge-candidate [data-shown='{names[-1]}'] .said")
    with page.expect_download() as saved:
        page.click("#merge-report summary:has-text('Recipe')")
        page.click("#merge-report [data-save='#merge-recipe-yaml']")
    assert saved.value.suggested_filename == "bred-recipe.yaml"
    report = json.loads((run.folder / "report.json").read_text(encoding="utf-8"))
    assert any("mixed by hand" in text["en"] for text in report["told"])


def forked(page: Any, home: Dashboard) -> None:
    """A fork of what has been reported on is warned of, and is a run of its own."""
    page.click("#merge-fork button >> nth=0")
    wait_text(page, "#merge-fork-told", "have been opened 1 time(s)")
    page.fill("#merge-fork-generation input", "1")
    page.fill("#merge-fork-seed input", "7")
    page.click("#merge-fork-go")
    made = until(lambda: next((r for r in merge_runs(home.paths) if r.name == "bred-fork-1"), None))
    wait_text(page, "#merge-table", "bred-fork-1")
    page.click("#merge-cancel:visible")
    assert until(lambda: made.status().ended_)
    kept = {one.generation for one in Journal(made.folder / "search").candidates()}
    assert {0, 1} <= kept
