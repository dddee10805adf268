"""The Train tab in headless Chromium: set up, look, start, watch, stop, resume, compare.

The run is a real one, of a tiny model; what it publishes is read from the files it wrote.
"""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from browser import (
    Dashboard,
    Visitor,
    choose,
    fill_fold,
    go_to,
    names,
    texts,
    until,
    wait_text,
    wait_value,
)
from small_models import byte_tokenizer, save_model

from charllm.core.training_config import TrainConfig
from charllm.data.config import load_yaml
from charllm.data.dialogue import load_dialogues
from charllm.services.runs import Run, Status, Words, create_run, list_runs

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"


@pytest.fixture(scope="module")
def base(board: Dashboard) -> Path:
    """A random two-layer Llama with a small byte-level tokenizer."""
    folder = board.paths.workspace / "tiny"
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    save_model(folder, "llama", len(tokenizer), (5, 2), max_position_embeddings=4096)
    return folder


def opened(visitor: Visitor) -> Any:
    """The tab, with its form filled."""
    page = visitor.open()
    go_to(page, "学習")
    page.wait_for_selector("#train-yaml")
    return page


def write(page: Any, field: str, text: str) -> None:
    """As a visitor does it: type, and go on to the next field."""
    page.fill(f"#train-{field} input", text)
    page.press(f"#train-{field} input", "Tab")


def read_yaml(page: Any, text: str) -> None:
    """Paste settings into the form."""
    if not page.is_visible("#train-yaml-text"):
        page.click("button:has-text('YAML をフォームに読み込む')")
    fill_fold(page, "#train-yaml-text textarea", text)
    page.click("#train-yaml-read")


def tiny(base: Path, name: str, **more: Any) -> str:
    """Settings for the tiny base; JSON is YAML."""
    plain = {"name": name, "profile": "ayane", "dataset": "ayane", "base": str(base)}
    return json.dumps({**plain, "template": "plain-ja", "max_length": 2048, **more})


def run_named(board: Dashboard, name: str) -> Run:
    return next(run for run in list_runs(board.paths) if run.name == name)


# --- set up -------------------------------------------------------------------------------------


def test_changes_are_counted_taken_back_written_as_yaml_and_read_again(visitor: Visitor) -> None:
    page = opened(visitor)
    assert not page.is_visible("#train-warmup") and page.is_visible("#train-epochs")
    assert "name: ayane-1" in page.inner_text("#train-yaml")
    write(page, "epochs", "5")
    wait_text(page, "#train-state", "1 個の値を変更しています")
    write(page, "learning-rate", "0")
    wait_text(page, "#train-state", "学習率 0 より大きい値にしてください。")
    assert page.is_disabled("#train-start") and not page.query_selector("#train-yaml")
    assert "誤りを直す" in page.inner_text("#train-status")
    page.click(".change[data-name=learning_rate]")
    wait_text(page, "#train-set-command", "--set epochs=5")
    wait_value(page, "#train-learning-rate input", "0.001")
    assert "epochs: 5.0" in page.inner_text("#train-yaml") and page.is_enabled("#train-start")
    page.click("#train-view input[value=full]")
    write(page, "label-en", EVIL)
    wait_text(page, "#train-yaml", "onerror")
    page.click("#train-view input[value=simple]")
    assert page.is_visible("#train-label-en"), "what was changed stays in sight"
    with page.expect_download() as saved:
        page.click("[data-save]")
    assert saved.value.suggested_filename == "ayane-1.yaml"
    assert load_yaml(Path(saved.value.path()))["label_en"] == EVIL
    page = visitor.reload(page)
    go_to(page, "学習")
    wait_text(page, "#train-state", "2 個の値を変更しています")
    page.click("[data-do=back][data-name='']")
    wait_text(page, "#train-state", "開始時の値のまま")
    wait_value(page, "#train-epochs input", "2")
    choose(page, "#train-start-from", "論文の設定")
    wait_value(page, "#train-r input", "16")
    assert page.evaluate("window.owned") is None
    comes_back_with_what_no_field_shows(page)


def comes_back_with_what_no_field_shows(page: Any) -> None:
    read_yaml(page, "name: one\nprofile: ayane\ndataset: ayane\nr: 0")
    page.wait_for_selector("[data-testid=toast-body]:has-text('r:')")
    asked = "samples: [{text: 'お名前は？'}]\nprompt_language: en"
    read_yaml(page, f"name: one\nprofile: ayane\ndataset: ayane\nr: 3\nkeep: best\n{asked}")
    wait_value(page, "#train-r input", "3")
    wait_text(page, "#train-recipe", "samples")
    assert page.input_value("#train-start-from input") == "読み込んだ YAML"
    assert "お名前は？" in page.inner_text("#train-yaml")
    assert not page.query_selector("#train-set-command")  # --set knows no questions
    assert "開始時の値のまま" in page.inner_text("#train-state")


# --- look ---------------------------------------------------------------------------------------


def test_the_rows_are_shown_as_tokens_and_what_is_wrong_closes_the_gate(
    visitor: Visitor, board: Dashboard, base: Path
) -> None:
    page = opened(visitor)
    read_yaml(page, tiny(base, "seen", limit=12))
    wait_value(page, "#train-name input", "seen")
    page.click("#train-look")
    wait_text(page, "#train-status", "12 行とも")
    replies = {one.id: one.reply for one in load_dialogues(board.paths.datasets / "ayane.jsonl")}
    shown = texts(page, ".tokenrow header b")
    assert len(shown) == 8
    for id_ in shown:
        row = f".tokenrow[data-row='{id_}']"
        learnt = "".join(page.locator(f"{row} .tok.learnt").all_text_contents())
        assert learnt.replace("·", "") == replies[id_], "a dot is a character's earlier token"
        assert texts(page, f"{row} .tok.end") == ["</s>"]
    page.click("#train-rows-after")
    wait_text(page, "#train-rows-place", "2 ページ中 2")
    assert len(texts(page, ".tokenrow")) == 4
    page.click("#train-rows-part input[value=held]")
    wait_text(page, "#train-rows-place", "3 ページ中 1")
    page.evaluate(
        "() => { const next = document.querySelector('#train-rows-after');"
        " next.click(); setTimeout(() => next.click(), 60); }"
    )
    wait_text(page, "#train-rows-place", "3 ページ中 3")  # both presses count
    assert not set(texts(page, ".tokenrow header b")) & set(shown)
    page.click("#train-tab-setup-button")
    page.click("#train-view input[value=full]")
    write(page, "max-length", "200")
    wait_text(page, "#train-status", "まだ確認していません")
    page.click("#train-start")
    wait_text(page, "#train-status", "max_length = 200")
    assert page.is_disabled("#train-start")
    assert not any(run.name == "seen" for run in list_runs(board.paths))
    write(page, "max-length", "400")
    page.wait_for_selector("#train-start:not([disabled])")


# --- run ----------------------------------------------------------------------------------------


def test_a_run_is_watched_stopped_resumed_and_compared(
    visitor: Visitor, board: Dashboard, base: Path
) -> None:
    page = opened(visitor)
    again = {"epochs": 6, "batch_size": 1, "limit": 20, "held_out": 0.01, "r": 2}
    read_yaml(page, tiny(base, "tiny-1", sample_each_epoch=False, **again))
    wait_value(page, "#train-name input", "tiny-1")
    page.click("#train-start")
    page.wait_for_selector("#train-detail .state.running")
    page.wait_for_selector("#train-curves .curve[data-plot=loss] .main-svg")
    page.wait_for_function("document.querySelector('.curves').dataset.rows > 3")
    page.click("#train-stop")
    wait_text(page, "#train-detail", "最後のチェックポイントから続けられます")
    assert "途中の結果は残っていません" not in page.inner_text("#train-detail")
    run = run_named(board, "tiny-1")
    assert run.status().stopped == "save" and run.result() is None
    before = len([event for event in run.events() if "loss" in event.data])
    page.wait_for_function("n => document.querySelector('.curves').dataset.rows == n", arg=before)
    page.click("#train-resume")
    page.wait_for_selector("#train-result [data-checkpoint=tiny-1]")
    assert "120 / 120" in page.inner_text("#train-detail")
    page.click(".curves summary")
    with page.expect_download() as saved:
        page.click("[data-csv]")
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    steps = [int(row["step"]) for row in rows if row["loss"]]
    assert steps == list(range(1, 121))
    held = [event.data["step"] for event in run.events() if "eval_loss" in event.data]
    assert [int(row["step"]) for row in rows if row["held_out"]] == held and len(held) > 4
    drawn = page.evaluate(
        "document.querySelector('.curve[data-plot=loss]').data.map(t => t.x.length)"
    )
    assert drawn == [120, len(held)], "extended in place, each point once"
    assert len(texts(page, "#train-replies .said")) == 2  # one question is held out a reply each
    page.click("[data-do=export][data-to=merged]")
    page = visitor.leave(page, "[data-do=compare]")
    wait_text(page, "#columns", "tiny-1")
    page.fill("#composer textarea", "お名前は？")
    page.press("#composer textarea", "Control+Enter")
    page.wait_for_selector(".card[data-state=done] >> nth=1")
    merged = until(lambda: (board.paths.models / "tiny-1-merged" / "model.safetensors").is_file())
    assert merged, "the 16-bit model was published"
    assert names(page) == ["tiny（ベース）", "tiny-1"]


def test_a_failed_run_and_a_waiting_one_are_explained(visitor: Visitor, board: Dashboard) -> None:
    page = opened(visitor)
    made = []
    for name in ("broken", "waits"):
        config = TrainConfig(name=name, profile="ayane", dataset="ayane")
        made.append(create_run(board.paths, "train", name, config))
    why = Words(en=f"Use batch_size: 3. {EVIL}", ja=f"batch_size: 3 に変えてください。{EVIL}")
    now = time.time()
    failed = Status(state="failed", created=now, queued=now, started=now, ended=now, error=why)
    made[0].write_status(failed)
    made[1].write_status(Status(state="paused", created=now, queued=now))
    page.click("#train-tab-runs-button")
    choose(page, "#train-chosen", "broken")
    told = wait_text(page, "#train-detail", "batch_size: 3 に変えてください。")
    assert EVIL in told and page.evaluate("window.owned") is None
    assert page.is_visible("#train-resume") and not page.is_visible("#train-stop")
    until(lambda: "broken" in page.inner_text("#train-table tr.chosen"))
