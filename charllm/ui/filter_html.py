"""What the filter page shows: the form as a run, a quote, and the runs read from their folders."""

from __future__ import annotations

import time
from html import escape
from typing import Any

import gradio as gr

from charllm.core.filtering import THRESHOLD, Budget, FilterConfig, Spend
from charllm.core.judging.quality_marks import Mark
from charllm.core.judging.records import Quote
from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dataset_card import Filtered, quality_note
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json
from charllm.services.filter_progress import FilterProgress, SoFar
from charllm.services.filtering import BUDGET
from charllm.services.judge_choice import load_choice, scale_of, title
from charllm.services.runs import Run, Status
from charllm.ui.judge_html import (
    UNKNOWN,
    empty,
    figures,
    histogram,
    money_text,
    runs_of,
)
from charllm.ui.page import banner, progress_bar
from charllm.ui.runs_tab import seconds_text, state_chip
from charllm.ui.words import language_of, say

SHOWN = 20
NO_DATA = Text(
    "There is no dataset yet: import one in the Data tab.",
    "データセットがまだありません。「データ」タブで読み込んでください。",
)
NO_RUNS = Text(
    "Nothing has been filtered yet. Ask for a quote above, then start.",
    "まだ選別をしていません。上で見積もりを取ってから開始してください。",
)


# --- data ---------------------------------------------------------------------------------------


def dataset_choices(paths: Paths, request: gr.Request) -> list[tuple[str, str]]:
    """``(name with its rows, name)`` of every dataset that can be read."""
    rows = Text("rows", "行")
    return [
        (f"{one.name} · {one.rows:,} {say(rows, request)}", one.name)
        for one in collection.listing(paths)
        if one.problem is None
    ]


def profile_of(paths: Paths, dataset: str, header: str | None) -> str:
    """Whose dataset it is: its card says so, else the character chosen in the header."""
    named = next((one.profile for one in collection.listing(paths) if one.name == dataset), "")
    return named or header or ""


def config_from(paths: Paths, header: str | None, values: dict[str, Any]) -> FilterConfig:
    """The run that the form describes, with the judge that is chosen now."""
    dataset = values["dataset"]
    if not dataset:
        raise UserError(NO_DATA.en, NO_DATA.ja)
    whole = {key: int(values[key]) if values[key] else None for key in ("limit", "calls", "tokens")}
    data = {
        "dataset": dataset,
        "profile": profile_of(paths, dataset, header),
        "judge": load_choice(paths).model_dump(mode="json"),
        "threshold": THRESHOLD if values["threshold"] is None else values["threshold"],
        "unscored": values["unscored"],
        "out": values["out"].strip(),
        "budget": budget_data(whole["calls"], whole["tokens"], values["money"]),
        "insist": values["insist"],
        "limit": whole["limit"],
    }
    return FilterConfig.from_data(data, "filter")


def budget_data(calls: float | None, tokens: float | None, money: float | None) -> dict[str, Any]:
    """A field that is 0, or empty, is no limit."""
    whole = {"calls": int(calls) if calls else None, "tokens": int(tokens) if tokens else None}
    return {**whole, "money": money or None}


def raised(budget: Budget, more: dict[str, Any]) -> Budget:
    """The budget with the limits that were given; ``UserError`` where none was."""
    given = {key: value for key, value in more.items() if value is not None}
    if not given:
        raise UserError(
            "Say how much it may spend in all: enter at least one limit.",
            "全体でどこまで使ってよいか、上限を一つ以上入力してください。",
        )
    return Budget.from_data({**budget.model_dump(), **given}, "budget")


def budget_of(run: Run, config: FilterConfig) -> Budget:
    """What the run may spend now: the budget that it was last given."""
    path = run.folder / BUDGET
    return Budget.from_data(read_json(path), str(path)) if path.exists() else config.budget


def filter_config(run: Run) -> FilterConfig:
    config = run.manifest().load_config(run.folder)
    assert isinstance(config, FilterConfig), run.id
    return config


def quote_html(quote: Quote, request: gr.Request) -> str:
    """What it will take: calls, what is free, tokens, money, time."""
    free = quote.calls == 0 or quote.money == 0.0
    nothing = Text("free", "無料")
    money = say(nothing, request) if free else money_text(quote.money)
    words = {
        "items": Text("rows to judge", "採点する行"),
        "calls": Text("calls to the judge", "ジャッジの呼び出し"),
        "cached": Text("known already, cost nothing", "採点済み（費用なし）"),
        "gated": Text("stopped by the gate, cost nothing", "ゲートで停止（費用なし）"),
        "tokens": Text("tokens, estimated", "トークン（推定）"),
        "money": Text("estimated cost", "費用の見積もり"),
        "time": Text("estimated time", "時間の見積もり"),
    }
    tokens = quote.tokens_in + quote.tokens_out
    cells = [
        (f"{quote.items:,}", "items", ""),
        (f"{quote.calls:,}", "calls", ""),
        (f"{quote.cached:,}", "cached", "good" if quote.cached else ""),
        (f"{quote.gated:,}", "gated", ""),
        (f"{tokens:,}" if tokens else "0", "tokens", ""),
        (money, "money", "good" if free else ""),
        (seconds_text(quote.seconds) or UNKNOWN, "time", ""),
    ]
    boxes = figures((value, say(words[key], request), kind) for value, key, kind in cells)
    note = f'<p class="note">{escape(say(quote.note, request))}</p>' if quote.note else ""
    return f'<div class="stacked" data-quote>{boxes}{note}</div>'


def insist_note(mark: Mark, request: gr.Request) -> str:
    """What a dataset made with an unproven judge will say for ever."""
    made = Filtered(
        run="",
        judge=mark.judge,
        rubric=mark.rubric,
        version=mark.version,
        threshold=0,
        kept=0,
        dropped=0,
        quality=mark.as_json(),
    )
    lead = Text(
        "The card of every dataset made with it will say for ever:",
        "この判定で作るデータセットのカードに、次の文がずっと残ります。",
    )
    said = say(quality_note(made), request)
    return (
        f'<div class="banner bad"><span>{escape(say(lead, request))}</span>'
        f"<span><b>{escape(said)}</b></span></div>"
    )


def run_choices(paths: Paths, request: gr.Request) -> list[tuple[str, str]]:
    return [(run_label(run), run.id) for run in runs_of(paths, "filter")[:SHOWN]]


def run_label(run: Run) -> str:
    stamp = run.id.split("-", 1)[1][:15]
    return f"{run.name} · {stamp[4:6]}/{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}"


def table_html(paths: Paths, chosen: str | None, request: gr.Request) -> str:
    """Every filter run with its judge, progress, spend and state."""
    runs = runs_of(paths, "filter")[:SHOWN]
    if not runs:
        return empty(NO_RUNS, request)
    heads = (
        Text("Dataset", "データセット"),
        Text("Judge", "ジャッジ"),
        Text("State", "状態"),
        Text("Progress", "進み"),
        Text("Left", "残り"),
        Text("Spent", "費用"),
        Text("Started", "開始"),
    )
    head = "".join(f"<th>{escape(say(text, request))}</th>" for text in heads)
    body = "".join(_run_row(run, run.id == chosen, request) for run in runs)
    return f'<table class="plain figs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _run_row(run: Run, chosen: bool, request: gr.Request) -> str:
    status = run.status()
    try:
        config = filter_config(run)
        names = (config.dataset, say(title(config.judge), request))
        spend = _progress.of(run, config).spend
    except UserError:  # a damaged folder is still a row; what is wrong is told where it is chosen
        names, spend = (run.name, UNKNOWN), Spend()
    started = time.strftime("%m-%d %H:%M", time.localtime(status.started or status.created))
    progress = status.progress
    bar = progress_bar(1.0 if status.state == "done" else progress.share or 0.0)
    count = f"{progress.done:,.0f} / {progress.total:,.0f}" if progress.total else ""
    left = seconds_text(status.seconds_left) if status.live else ""
    mark = ' class="chosen"' if chosen else ""
    return (
        f"<tr{mark}><td><b>{escape(names[0])}</b></td><td>{escape(names[1])}</td>"
        f"<td>{state_chip(status, request)}</td>"
        f"<td style='min-width:150px'>{bar}<span class='note'>{count}</span></td>"
        f"<td class='num'>{left}</td><td class='num'>{spent_text(spend)}</td>"
        f"<td class='num'>{started}</td></tr>"
    )


def spent_text(spend: Spend) -> str:
    if not spend.calls:
        return ""
    return money_text(spend.money if spend.priced else None)


def detail_html(run: Run, request: gr.Request) -> str:
    """One run: its state and why it paused or failed, what it has spent of what it may."""
    status = run.status()
    parts = [f"<span>{state_chip(status, request)} {escape(_step(status, request))}</span>"]
    if status.live:
        parts.append(progress_bar(status.progress.share))
    if status.error:
        parts.append(f"<span>{escape(say(status.error.text, request))}</span>")
    bad = "bad" if status.state in ("failed", "crashed") else ""
    try:
        config = filter_config(run)
        so_far = _progress.of(run, config)
        budget = budget_of(run, config)
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad")
    boxes = figures(_spend_cells(so_far, budget, status, request)) if so_far.items else ""
    return f'<div class="stacked"><div class="banner {bad}">{"".join(parts)}</div>{boxes}</div>'


def _step(status: Status, request: gr.Request) -> str:
    progress = status.progress
    count = f"{progress.done:,.0f} / {progress.total:,.0f}" if progress.total else ""
    left = seconds_text(status.seconds_left) if status.live else ""
    ahead = say(Text(f"{left} left", f"残り {left}"), request) if left else ""
    doing = say(progress.message.text, request) if status.live else ""
    return " · ".join(filter(None, [doing, count, ahead]))


def _spend_cells(
    so_far: SoFar, budget: Budget, status: Status, request: gr.Request
) -> list[tuple[str, str, str]]:
    spend = so_far.spend
    tokens = f"{spend.tokens_in + spend.tokens_out:,}"
    of_calls = "" if budget.calls is None else f" / {budget.calls:,}"
    of_tokens = "" if budget.tokens is None else f" / {budget.tokens:,}"
    of_money = "" if budget.money is None else f" / {money_text(budget.money)}"
    cells = [
        (f"{spend.calls:,}{of_calls}", Text("calls", "呼び出し")),
        (f"{tokens}{of_tokens}", Text("tokens", "トークン")),
        (money_text(spend.money if spend.priced else None) + of_money, Text("spent", "費用")),
        (f"{spend.cached:,}", Text("from the cache", "キャッシュから")),
        (f"{so_far.gated:,}", Text("stopped by the gate", "ゲートで停止")),
        (f"{so_far.unscored:,}", Text("unscored", "採点なし")),
        (seconds_text(status.seconds()), Text("took", "経過時間")),
    ]
    return [(value, say(name, request), "") for value, name in cells]


def live_histogram(paths: Paths, run: Run) -> dict[str, Any]:
    """The scores so far, for histogram.js; {} before anything was judged."""
    try:
        config = filter_config(run)
    except UserError:  # told in the detail beside it
        return {}
    so_far = _progress.of(run, config)
    if not so_far.items:
        return {}
    pending = max(0, round(run.status().progress.total) - so_far.items)
    return {
        **histogram(so_far.scores, scale_of(paths, config.judge)),
        "owner": run.id,
        "gated": so_far.gated,
        "unscored": so_far.unscored,
        "pending": pending,
        "keepUnscored": config.unscored == "keep",
        "threshold": config.threshold,
        "slider": False,
    }


def judge_line(paths: Paths, request: gr.Request) -> str:
    """Which judge will do it; chosen on the first page."""
    try:
        name = title(load_choice(paths))
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad")
    words = Text(
        f"Judge: {name.en}. It is chosen on the Judges page.",
        f"ジャッジ：{name.ja}（「ジャッジの選択」で選びます）",
    )
    return empty(words, request)


_progress = FilterProgress()
