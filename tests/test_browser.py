"""The real dashboard in headless Chromium: ask, watch, stop, reload, vote, edit."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from charllm.data.config import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
SLOW = 120_000


@dataclass
class Server:
    url: str
    root: Path
    workspace: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Server]:
    top = tmp_path_factory.mktemp("dashboard")
    root, workspace = top / "root", top / "workspace"
    for name in ("profiles", "datasets", "checkpoints", "recipes"):
        shutil.copytree(ROOT / name, root / name)
    (workspace / "models").mkdir(parents=True)
    (workspace / "models" / base_folder.name).symlink_to(base_folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "CHARLLM_ROOT": str(root), "CHARLLM_HOME": str(workspace)}
    log = (top / "log.txt").open("wb")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", str(port)], env=env, stdout=log, stderr=log
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (top / "log.txt").read_text()
                assert time.monotonic() < deadline, (top / "log.txt").read_text()
                time.sleep(0.2)
        yield Server(url, root, workspace)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: install it to run the browser tests")
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Any, server: Server) -> Iterator[Any]:
    """A fresh browser profile; every request has to stay on this machine, every script clean."""
    made = chromium.new_context(
        locale="ja-JP", viewport={"width": 1440, "height": 900}, accept_downloads=True
    )
    foreign: list[str] = []
    errors: list[str] = []

    def watch(page: Any) -> None:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((server.url, "data:", "blob:"))
                else foreign.append(request.url)
            ),
        )

    made.on("page", watch)
    yield made
    made.close()
    assert foreign == [] and errors == []


def open_page(context: Any, server: Server) -> Any:
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#send", timeout=SLOW)
    page.wait_for_selector("#board .board > *", timeout=SLOW)
    return page


def ask(page: Any, text: str) -> None:
    page.fill("#composer textarea", text)
    page.press("#composer textarea", "Control+Enter")


def cards(page: Any, state: str) -> int:
    return int(page.locator(f".card[data-state={state}]").count())


def wait_done(page: Any, count: int) -> None:
    page.wait_for_function(
        f"document.querySelectorAll('.card[data-state=done]').length === {count}", timeout=SLOW
    )


def test_four_columns_answer_side_by_side(context: Any, server: Server) -> None:
    page = open_page(context, server)
    assert page.locator(".suggestion").count() == 3
    page.locator(".suggestion").first.click()
    page.press("#composer textarea", "Control+Enter")
    page.wait_for_function(
        "document.querySelectorAll('.card[data-state=writing]').length >= 2", timeout=SLOW
    )
    wait_done(page, 4)
    page.wait_for_function("document.querySelectorAll('.score b').length === 4", timeout=SLOW)
    assert all(text.strip() for text in page.locator(".card .text").all_inner_texts())
    last = page.locator(".card").nth(3)
    last.locator("summary").click()
    last.locator("[data-pane=facts]").click()
    assert "名前は小野寺絢音。" in last.inner_text()
    last.locator("[data-pane=prompt]").click()
    assert "質問：" in last.inner_text()
    last.locator("[data-pane=run]").click()
    assert "gemma-3-270m@" in last.inner_text()


def test_reload_in_the_middle_finds_the_conversation(context: Any, server: Server) -> None:
    page = open_page(context, server)
    ask(page, "好きな食べ物は何ですか？")
    page.wait_for_function("document.querySelectorAll('.card').length === 4", timeout=SLOW)
    page.reload()
    page.wait_for_selector(".card", timeout=SLOW)
    assert page.locator(".said").inner_text() == "好きな食べ物は何ですか？"
    wait_done(page, 4)
    second = open_page(context, server)
    second.wait_for_selector(".card", timeout=SLOW)
    assert second.locator(".card .text").all_inner_texts() == (
        page.locator(".card .text").all_inner_texts()
    )


def test_escape_stops_every_column(context: Any, server: Server) -> None:
    page = open_page(context, server)
    page.click("#settings button")
    page.fill("input[aria-label*='最大トークン数'][type=number]", "1000")
    page.press("input[aria-label*='最大トークン数'][type=number]", "Enter")
    ask(page, "長い長い昔話を、できるだけ詳しく話してください。")
    page.wait_for_selector(".card[data-state=writing]", timeout=SLOW)
    page.keyboard.press("Escape")
    wait_done(page, 4)
    assert "手動で停止" in page.locator("#board").inner_text()
    ask(page, "別の昔話も、できるだけ詳しく話してください。")
    page.wait_for_selector(".card[data-state=writing]", timeout=SLOW)
    page.click("#stop.live", timeout=SLOW)
    wait_done(page, 8)
    assert page.locator("#stop.live").count() == 0


def test_a_blind_vote_hides_names_until_it_is_given(context: Any, server: Server) -> None:
    page = open_page(context, server)
    page.check("#blind input")
    ask(page, "お名前を教えてください")
    wait_done(page, 4)
    page.wait_for_selector("[data-vote='1']", timeout=SLOW)
    shown = page.locator("#board").inner_text()
    assert "ベース" not in shown and "RAG" not in shown and page.locator(".score").count() == 0
    page.click("[data-vote='1']")
    page.wait_for_function(
        "document.querySelector('#board').innerText.includes('ベース')", timeout=SLOW
    )
    with sqlite3.connect(server.workspace / "charllm.sqlite") as db:
        rows = db.execute("SELECT choice, shown, blind FROM votes").fetchall()
    assert len(rows) == 1 and rows[0][2] == 1 and rows[0][0] in rows[0][1]


def test_markup_is_text_and_long_questions_are_refused(context: Any, server: Server) -> None:
    page = open_page(context, server)
    evil = "<img src=x onerror=\"document.title='owned'\">${document.title='owned'}</script>"
    ask(page, evil)
    page.wait_for_selector(".said", timeout=SLOW)
    assert page.locator(".said").inner_text() == evil
    wait_done(page, 4)
    assert page.title() == "charllm" and page.locator("#board img").count() == 0
    ask(page, "あ" * 20_000)
    page.wait_for_selector("text=20,000 文字", timeout=SLOW)
    assert len(page.input_value("#composer textarea")) == 20_000


def test_language_and_theme_are_remembered(context: Any, server: Server) -> None:
    page = open_page(context, server)
    assert page.locator("#send").inner_text() == "送信"
    page.click("[data-theme-switch]")
    page.click("[data-language=en]")
    page.wait_for_function("document.querySelector('#send')?.innerText === 'Send'", timeout=SLOW)
    assert "dark" in page.evaluate("document.body.className")
    page.reload()
    page.wait_for_function("document.querySelector('#send')?.innerText === 'Send'", timeout=SLOW)
    assert "dark" in page.evaluate("document.body.className")


def test_facts_are_saved_undone_and_never_overwritten(context: Any, server: Server) -> None:
    facts = server.root / "profiles" / "ayane" / "facts.txt"
    before = facts.read_text(encoding="utf-8")
    first, second = open_page(context, server), open_page(context, server)
    for page in (first, second):
        page.click("button[role=tab]:has-text('キャラクター')")
        page.wait_for_selector("#table-facts .editrow", timeout=SLOW)
    cell = "#table-facts [data-row='0'] textarea[data-column=fact]"
    first.fill(cell, "<b>名前</b>は小野寺絢音。")
    first.locator(cell).blur()
    first.wait_for_selector("#character-status .banner.good", timeout=SLOW)
    changed = facts.read_text(encoding="utf-8")
    assert changed.startswith("<b>名前</b>は小野寺絢音。\n")
    second.fill(cell, "別の名前。")
    second.locator(cell).blur()
    second.wait_for_selector("#character-status .banner.bad", timeout=SLOW)
    assert facts.read_text(encoding="utf-8") == changed
    assert second.input_value(cell) == "別の名前。"
    first.click("#undo")
    deadline = time.monotonic() + 30
    while facts.read_text(encoding="utf-8") != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert facts.read_text(encoding="utf-8") == before


def test_playground_cards_models_and_runs(context: Any, server: Server, tmp_path: Path) -> None:
    page = open_page(context, server)
    page.click("button[role=tab]:has-text('キャラクター')")
    page.fill("#playground textarea, #playground input", "飼っている猫の名前は？")
    page.click("#playground-go")
    page.wait_for_selector("#playground-hits .hit.used em", timeout=SLOW)
    assert "ショコラ" in page.locator("#playground-hits").inner_text()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with page.expect_file_chooser(timeout=SLOW) as chooser:
        page.click("#card-upload")
    chooser.value.set_files(str(broken))
    page.wait_for_selector("#card-report .banner.bad", timeout=SLOW)
    with page.expect_download(timeout=SLOW) as download:
        page.click("#card-export")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    page.click("button[role=tab]:has-text('モデル')")
    page.wait_for_selector("#machine dl", timeout=SLOW)
    page.click("button[role=tab]:has-text('実行')")
    page.wait_for_selector("#runs-table p, #runs-table table", timeout=SLOW)


def test_the_server_answers_loopback_names_only(server: Server) -> None:
    with urllib.request.urlopen(server.url, timeout=20) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    request = urllib.request.Request(server.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == 421
