"""The Runs tab: every long operation, followed from its folder; stop, resume, delete.

The page reads run folders once a second and never holds one open, so a reload or a second tab
shows the same thing, and a run goes on whatever the page does.
"""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.services import jobs
from charllm.services.runs import Run, Status, find_run, list_runs
from charllm.ui.beat import pulse
from charllm.ui.page import Page, progress_bar
from charllm.ui.words import say, t, warn

SHOWN = 50

STATES: dict[str, Text] = {
    "queued": Text("queued", "待機中"),
    "running": Text("running", "実行中"),
    "stopping": Text("stopping", "停止中"),
    "done": Text("done", "完了"),
    "paused": Text("paused", "一時停止"),
    "failed": Text("failed", "失敗"),
    "cancelled": Text("cancelled", "取消"),
    "crashed": Text("crashed", "異常終了"),
}
KEPT = Text("stopped, kept", "停止（保存済み）")
"""Instead of done or cancelled, where a stop came before the end and nothing was lost by it."""
EMPTY = Text(
    "No runs yet. Preparing the model, indexing facts, training and merging appear here.",
    "まだ実行はありません。モデルの準備、事実の索引、学習、マージがここに並びます。",
)


# --- data ---------------------------------------------------------------------------------------


def seconds_text(seconds: float | None) -> str:
    """``95`` → ``1:35``; "" for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def kind_text(run: Run, request: gr.Request) -> str:
    kind = jobs.KINDS.get(run.kind)
    return say(kind.label, request) if kind else run.kind


def state_text(status: Status) -> Text:
    """How a run stands, in a word or two."""
    return KEPT if status.kept else STATES[status.state]


def state_chip(status: Status, request: gr.Request) -> str:
    kind = "paused" if status.kept else status.state
    return f'<span class="state {kind}">{escape(say(state_text(status), request))}</span>'


def table_html(page: Page, request: gr.Request) -> str:
    """All runs, the newest first."""
    runs = list_runs(page.paths)[:SHOWN]
    if not runs:
        return f'<p class="note">{escape(say(EMPTY, request))}</p>'
    heads = [
        Text("Run", "実行"),
        Text("Kind", "種類"),
        Text("State", "状態"),
        Text("Progress", "進み"),
        Text("Took", "経過"),
        Text("Left", "残り"),
        Text("Started", "開始"),
    ]
    rows = "".join(_row_html(run, request) for run in runs)
    head = "".join(f"<th>{escape(say(text, request))}</th>" for text in heads)
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row_html(run: Run, request: gr.Request) -> str:
    status = run.status()
    bar = progress_bar(1.0 if status.state == "done" else status.progress.share or 0.0)
    started = time.strftime("%m-%d %H:%M", time.localtime(status.started or status.created))
    left = seconds_text(status.seconds_left) if status.live else ""
    return (
        f"<tr><td>{escape(run.name)}</td><td>{escape(kind_text(run, request))}</td>"
        f"<td>{state_chip(status, request)}</td><td style='min-width:120px'>{bar}</td>"
        f"<td class='num'>{seconds_text(status.seconds())}</td><td class='num'>{left}</td>"
        f"<td class='num'>{started}</td></tr>"
    )


def detail_html(run: Run, request: gr.Request) -> str:
    """One run: what it does now, how far it is, what went wrong, what it made."""
    status = run.status()
    step = say(status.progress.message.text, request)
    parts = [
        f"<b>{escape(kind_text(run, request))} · {escape(run.name)}</b>",
        state_chip(status, request),
        f"<span>{escape(step)}</span>",
    ]
    if status.live:
        parts.append(progress_bar(status.progress.share))
        if status.stalled:
            quiet = Text(
                "It has not been heard of for a while: the machine may be overloaded.",
                "しばらく応答がありません。マシンの負荷が高い可能性があります。",
            )
            parts.append(f'<span class="note">{escape(say(quiet, request))}</span>')
    if status.error:
        parts.append(f"<span>{escape(say(status.error.text, request))}</span>")
    parts.append(_latest_metrics(run))
    result = run.result()
    if result:
        shown = "".join(
            f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>"
            for key, value in result.items()
            if isinstance(value, str | int | float)
        )
        parts.append(f'<div class="pane"><dl>{shown}</dl></div>')
    kind = "bad" if status.error or status.state == "crashed" else ""
    return f'<div class="banner {kind}">{"".join(parts)}</div>'


def _latest_metrics(run: Run) -> str:
    """The newest value of everything the run measures; "" where it measures nothing."""
    latest: dict[str, Any] = {}
    for event in run.events():
        if event.kind == "metric":
            latest |= event.data
    shown = " · ".join(
        f"{key} {value:.4g}" for key, value in latest.items() if isinstance(value, int | float)
    )
    return f'<span class="note">{escape(shown)}</span>' if shown else ""


def log_html(run: Run) -> str:
    return f'<div class="logview">{escape(run.log_tail(8_000)) or "–"}</div>'


def choices(page: Page, request: gr.Request) -> list[tuple[str, str]]:
    return [
        (f"{kind_text(run, request)} · {run.name} · {run.id.split('-', 1)[1][:15]}", run.id)
        for run in list_runs(page.paths)[:SHOWN]
    ]


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> None:
    table = gr.HTML("", elem_id="runs-table")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown([], label=t("Follow", "表示する実行"), scale=5, elem_id="runs-chosen")
        stop = gr.Button(t("Stop and save", "保存して停止"), scale=1, elem_id="runs-stop")
        cancel = gr.Button(t("Cancel", "取り消す"), scale=1, elem_id="runs-cancel")
        resume = gr.Button(t("Resume", "再開"), scale=1, elem_id="runs-resume")
        delete = gr.Button(t("Delete", "削除"), scale=1, elem_id="runs-delete")
    detail = gr.HTML("", elem_id="runs-detail")
    with gr.Accordion(t("Log", "ログ"), open=False):
        log = gr.HTML("", elem_id="runs-log")
    ticker = pulse()
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def look(run_id: str | None, request: gr.Request) -> Any:
        """Everything the tab shows; what has not changed is not sent again by Gradio."""
        rows = choices(page, request)
        known = [value for _, value in rows]
        current = run_id if run_id in known else next(iter(known), None)
        run = find_run(page.paths, current) if current else None
        return [
            table_html(page, request),
            gr.Dropdown(rows, value=current),
            detail_html(run, request) if run else "",
            log_html(run) if run else "",
        ]

    def tick(run_id: str | None, request: gr.Request) -> Any:
        """Without the list of choices: replacing it would close it under the user's mouse, or
        choose again what is not chosen any more."""
        table_, _, detail_, log_ = look(run_id, request)
        known = run_id is not None and any(run.id == run_id for run in list_runs(page.paths))
        return [table_, detail_ if known else gr.skip(), log_ if known else gr.skip()]

    def act(what: str) -> Any:
        def handler(run_id: str | None, request: gr.Request) -> Any:
            try:
                if run_id:
                    run = find_run(page.paths, run_id)
                    if what == "resume":
                        jobs.resume(page.paths, run)
                    elif what == "delete":
                        jobs.delete(page.paths, run)
                    else:
                        jobs.stop(page.paths, run, "save" if what == "save" else "cancel")
            except UserError as error:
                warn(error, request)
            return look(run_id, request)

        return handler

    outputs = [table, chosen, detail, log]
    page.tab.select(look, chosen, outputs, **shared)
    followed = [table, detail, log]
    chosen.input(tick, chosen, followed, trigger_mode="always_last", **shared)
    ticker.tick(tick, chosen, followed, **shared)
    for button, what in (
        (stop, "save"),
        (cancel, "cancel"),
        (resume, "resume"),
        (delete, "delete"),
    ):
        button.click(act(what), chosen, outputs, **shared)
