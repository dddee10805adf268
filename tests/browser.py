"""What the browser tests share: the dashboard as a process of its own, and a visitor in Chromium.

A visitor is a fresh browser profile. It notes every request that leaves the dashboard's address
and every error of a script; the tests end with both lists empty.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from charllm.core.variants import default_columns, find_variant
from charllm.data.config import ROOT, Paths

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
]
SLOW = 120_000
"""Milliseconds to wait for anything: on two busy cores the first answer loads the model."""
STARTS_WITHIN = 120.0
ENDED = ".card[data-state=done]"
WRITING = ".card[data-state=writing]"


# --- the dashboard ------------------------------------------------------------------------------


class Dashboard:
    """A running dashboard: its address, its folders, and what it has stored."""

    def __init__(self, url: str, paths: Paths) -> None:
        self.url = url
        self.paths = paths

    def labels(self, slug: str = "ayane", names: list[str] | None = None) -> list[str]:
        """The Japanese names of these columns, the default ones if none are given."""
        names = default_columns(self.paths, slug) if names is None else names
        return [find_variant(self.paths, slug, name).label.ja for name in names]

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(self.paths.database, timeout=30)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(sql, values).fetchall()

    def replies(self, question: str) -> list[sqlite3.Row]:
        """What is stored for the latest turn with this question, by position."""
        return self.rows(
            "SELECT * FROM replies WHERE turn = (SELECT max(id) FROM turns WHERE question = ?) "
            "ORDER BY position",
            question,
        )

    def read(self, *parts: str) -> str:
        return self.paths.root.joinpath(*parts).read_text(encoding="utf-8")


@contextmanager
def running(folder: Path, base_folder: Path) -> Iterator[Dashboard]:
    """The real dashboard, on copies of what the project ships and a workspace of its own."""
    paths = Paths(folder / "root", folder / "workspace")
    for name in ("profiles", "datasets", "checkpoints", "recipes", "rubrics"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, paths.root / name)
    paths.models.mkdir(parents=True)
    (paths.models / base_folder.name).symlink_to(base_folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "CHARLLM_ROOT": str(paths.root), "CHARLLM_HOME": str(paths.workspace)}
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port)]
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield Dashboard(url, paths)
    finally:
        process.terminate()
        process.wait(30)
    words = _own_words(log.read_text(encoding="utf-8"))
    assert "Traceback" not in words, words


def _own_words(log: str) -> str:
    """Without what Gradio says when a page is left while its stream of events waits.

    A page that is still there and loses its stream complains itself.
    """
    begins = "Exception in ASGI application"
    left = ("CancelledError", "404: Not Found")
    first, *told = log.split(begins)
    ours = [p for p in told if not ("sse_stream" in p and any(word in p for word in left))]
    return first + "".join(begins + part for part in ours)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.2)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something on the server's side; what the condition gave in the end."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


# --- the visitor --------------------------------------------------------------------------------


class Visitor:
    """A browser profile of its own; its pages are tabs of one browser window."""

    def __init__(self, browser: Any, board: Dashboard) -> None:
        self.board = board
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self._leaving = False
        self.context = browser.new_context(
            locale="ja-JP", viewport={"width": 1440, "height": 900}, accept_downloads=True
        )
        self.context.set_default_timeout(SLOW)
        self.context.on("page", self._watch)

    def _watch(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)
        page.on("console", self._console)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.board.url}/", "data:", "blob:")):
            self.foreign.append(request.url)

    def _console(self, message: Any) -> None:
        # A page that is left complains about its own connection, which leaving has cut.
        if message.type == "error" and not self._leaving:
            self.errors.append(message.text)

    def open(self) -> Any:
        page = self.context.new_page()
        page.goto(self.board.url)
        return self._ready(page)

    def reload(self, page: Any) -> Any:
        self._leaving = True
        page.reload()
        self._leaving = False
        return self._ready(page)

    def leave(self, page: Any, selector: str) -> Any:
        """Click something that loads the page again."""
        self._leaving = True
        with page.expect_navigation():
            page.click(selector)
        self._leaving = False
        return self._ready(page)

    @staticmethod
    def _ready(page: Any) -> Any:
        page.wait_for_selector("#send")
        page.wait_for_selector("#board .board > *")
        return page


def late(message: str) -> str:
    """A script: messages of this kind reach the page 700 ms after they came."""
    return """(() => {
  const fetch = window.fetch.bind(window);
  const late = () => new TransformStream({ async transform(told, to) {
    const at = told.indexOf('data: {"msg":"MESSAGE"');
    if (at < 0) return to.enqueue(told);
    to.enqueue(told.slice(0, at));
    await new Promise((done) => setTimeout(done, 700));
    to.enqueue(told.slice(at));
  } });
  window.fetch = async (resource, options) => {
    const response = await fetch(resource, options);
    if (!String(resource.url ?? resource).includes("/queue/data")) return response;
    const told = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(late());
    return new Response(told.pipeThrough(new TextEncoderStream()), { headers: response.headers });
  };
})()""".replace("MESSAGE", message)


# --- what a visitor does ------------------------------------------------------------------------


def ask(page: Any, text: str) -> None:
    page.fill("#composer textarea", text)
    page.press("#composer textarea", "Control+Enter")


def go_to(page: Any, tab: str) -> None:
    page.click(f"button[role=tab]:has-text('{tab}')")


def fill_fold(page: Any, selector: str, text: str) -> None:
    """Write into a fold that has just been opened.

    Gradio sets the fields in it once more some frames later: on a busy machine after the writing.
    """
    for _ in range(20):
        page.fill(selector, text)
        page.wait_for_timeout(500)
        if page.input_value(selector) == text:
            return


def ramble(page: Any, tokens: int) -> None:
    """Let the columns talk until they are stopped or have this many tokens: no end is likely."""
    page.click("#settings button")
    for label, value in (("最大トークン数", tokens), ("温度", 2)):
        field = f"input[type=number][aria-label*='{label}']"
        fill_fold(page, field, str(value))
        page.press(field, "Enter")


def choose(page: Any, dropdown: str, option: str) -> None:
    page.click(f"{dropdown} input")
    page.click(f"[role=option]:has-text('{option}')")


def wait_count(page: Any, selector: str, count: int) -> None:
    page.wait_for_function(
        "([selector, count]) => document.querySelectorAll(selector).length === count",
        arg=[selector, count],
    )


def wait_text(page: Any, selector: str, words: str) -> str:
    """Wait until the words stand there; all that stands there then."""
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.innerText.includes(words)",
        arg=[selector, words],
    )
    return str(page.inner_text(selector))


def wait_value(page: Any, selector: str, value: str) -> None:
    page.wait_for_function(
        "([selector, value]) => document.querySelector(selector)?.value === value",
        arg=[selector, value],
    )


def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def names(page: Any) -> list[str]:
    return texts(page, ".card .name")


def toasts(page: Any) -> str:
    page.wait_for_selector("[data-testid=toast-body], .toast-body")
    return "\n".join(texts(page, "[data-testid=toast-body], .toast-body"))


def number(text: str) -> float:
    """The first number in it."""
    found = re.search(r"-?\d+(\.\d+)?", text)
    assert found, text
    return float(found[0])
