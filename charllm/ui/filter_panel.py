"""The filter: what judging a dataset will take, its start, and every filter run as it goes.

What is running is read from the run folders once a second, so two browsers see the same thing.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.core.filtering import THRESHOLD, FilterConfig
from charllm.data import collection
from charllm.data.errors import UserError
from charllm.data.files import SLUG
from charllm.services import jobs
from charllm.services.filtering import quote_filter, raise_budget
from charllm.services.judge_choice import check_key, require_fit, title
from charllm.ui.beat import pulse
from charllm.ui.filter_html import (
    budget_data,
    budget_of,
    config_from,
    dataset_choices,
    detail_html,
    filter_config,
    insist_note,
    judge_line,
    live_histogram,
    quote_html,
    raised,
    run_choices,
    table_html,
)
from charllm.ui.judge_html import LAST, SHARED, Panel, mark_html, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, t, warn

# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    gr.Markdown(
        t(
            "### Score a dataset and keep what passes",
            "### データセットを採点し、基準を超えた対話を残す",
        )
    )
    judge = gr.HTML("", elem_id="filter-judge")
    with gr.Group(), gr.Row():
        dataset = gr.Dropdown(
            [], label=t("Dataset", "データセット"), elem_id="filter-dataset", scale=3, min_width=220
        )
        limit = gr.Number(
            0,
            label=t("Only the first rows", "先頭から何行だけ"),
            info=t("0: all of them", "0 なら全部"),
            precision=0,
            minimum=0,
            elem_id="filter-limit",
            min_width=140,
        )
        threshold = gr.Number(
            THRESHOLD,
            label=t("Threshold", "しきい値"),
            info=t("kept from this score on", "このスコア以上を残す"),
            step=0.5,
            elem_id="filter-threshold",
            min_width=140,
        )
        unscored = gr.Radio(
            [(t("take out", "外す"), "drop"), (t("keep", "残す"), "keep")],
            value="drop",
            label=t("Rows without a verdict", "採点できなかった行"),
            elem_id="filter-unscored",
            min_width=170,
        )
    with gr.Group(), gr.Row():
        calls, tokens, money = _budget_fields("filter", t("0: no limit", "0 なら無制限"))
        out = gr.Textbox(
            "",
            label=t("Publish as, at the end", "終わったら公開する名前"),
            info=t("empty: decide on the Threshold page", "空欄なら「しきい値」で決める"),
            elem_id="filter-out",
            scale=2,
            min_width=220,
        )
    with gr.Row(equal_height=True):
        ask = gr.Button(t("Quote", "見積もり"), elem_id="filter-quote", scale=1)
        start = gr.Button(
            t("Start", "採点を始める"), variant="primary", elem_id="filter-start", scale=1
        )
    quoted = gr.HTML("", elem_id="filter-quoted")
    insist = gr.Checkbox(
        False,
        label=t(
            "I insist: use this judge although it has not passed its check",
            "検査に合格していないことを承知のうえで、このジャッジを使う",
        ),
        visible=False,
        elem_id="filter-insist",
    )
    gr.Markdown(t("### Filter runs", "### 選別の実行"))
    table = gr.HTML("", elem_id="filter-table")
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            [], label=t("Follow", "表示する実行"), scale=4, elem_id="filter-chosen"
        )
        stop = gr.Button(t("Stop and save", "保存して停止"), elem_id="filter-stop", visible=False)
        cancel = gr.Button(t("Cancel", "取り消す"), elem_id="filter-cancel", visible=False)
        resume = gr.Button(t("Resume", "再開"), elem_id="filter-resume", visible=False)
    detail = gr.HTML("", elem_id="filter-detail")
    with gr.Column(visible=False) as raising:
        gr.Markdown(
            t(
                "Raise the budget and go on: what was judged is kept and not paid again. The "
                "limits are for the whole run, what was spent included.",
                "予算を増やして続けます。採点済みの分は残り、二重に支払うことはありません。"
                "上限は、これまでに使った分も含めた全体の値です。",
            )
        )
        with gr.Group(), gr.Row():
            more_calls, more_tokens, more_money = _budget_fields(
                "filter-raise", t("0: as it is", "0 なら今のまま")
            )
        go_on = gr.Button(
            t("Raise and resume", "増やして再開"), variant="primary", elem_id="filter-raise"
        )
    bars = gr.HTML(
        {},
        html_template='<div class="histogram"></div>',
        js_on_load="window.charllmHistogram(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="filter-histogram",
    )
    ticker = pulse()
    fields = {
        "dataset": dataset,
        "limit": limit,
        "threshold": threshold,
        "unscored": unscored,
        "out": out,
        "calls": calls,
        "tokens": tokens,
        "money": money,
        "insist": insist,
    }
    form = [page.profile, *fields.values()]
    followed = [table, stop, cancel, resume, detail, raising, bars]
    shown = [dataset, judge, chosen, *followed]

    def configured(slug: str | None, values: tuple[Any, ...]) -> FilterConfig:
        return config_from(page.paths, slug, dict(zip(fields, values, strict=True)))

    def follow(run_id: str | None, request: gr.Request) -> list[Any]:
        """Everything below the form, for the run that is followed."""
        run = run_among(page.paths, "filter", run_id)
        if run is None:
            hidden = gr.Button(visible=False)
            rest = [hidden, hidden, hidden, "", gr.Column(visible=False), {}]
            return [table_html(page.paths, None, request), *rest]
        status = run.status()
        goes = status.live or status.state == "queued"
        return [
            table_html(page.paths, run.id, request),
            gr.Button(visible=status.state == "running"),
            gr.Button(visible=goes),
            gr.Button(visible=status.resumable and status.state != "paused"),
            detail_html(run, request),
            gr.Column(visible=status.state == "paused"),
            live_histogram(page.paths, run),
        ]

    def look(slug: str | None, name: str | None, run_id: str | None, request: gr.Request) -> Any:
        """All there is, lists of choices included."""
        datasets = dataset_choices(page.paths, request)
        runs = run_choices(page.paths, request)
        current = one_of(run_id, runs)
        return [
            gr.Dropdown(datasets, value=one_of(name or slug, datasets)),
            judge_line(page.paths, request),
            gr.Dropdown(runs, value=current),
            *follow(current, request),
        ]

    def quote(slug: str | None, request: gr.Request, *values: Any) -> Any:
        try:
            config = configured(slug, values)
            found, mark = quote_filter(page.paths, config)
            needs = mark is None or not mark.passed
            told = quote_html(found, request)
            told += mark_html(mark, title(config.judge), request)
            if needs:
                said = require_fit(page.paths, config.profile, config.judge, insist=True)
                told += insist_note(said, request)
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), gr.skip()]
        insisted = bool(values[-1]) and needs
        return [f'<div class="stacked">{told}</div>', gr.Checkbox(insisted, visible=needs)]

    def begin(slug: str | None, request: gr.Request, *values: Any) -> Any:
        try:
            config = configured(slug, values)
            if config.out:
                collection.check_new(page.paths, config.out)
            check_key(config.judge)
            require_fit(page.paths, config.profile, config.judge, insist=config.insist)
            name = config.dataset if SLUG.fullmatch(config.dataset) else "filter"
            run = jobs.submit(page.paths, "filter", name, config)
        except UserError as error:
            refused = banner(error.in_(language_of(request)), "bad")
            return [refused, gr.Checkbox(visible=True), *[gr.skip()] * (1 + len(followed))]
        runs = run_choices(page.paths, request)
        return [
            "",
            gr.Checkbox(False, visible=False),
            gr.Dropdown(runs, value=run.id),
            *follow(run.id, request),
        ]

    def tick(run_id: str | None, request: gr.Request) -> Any:
        """A run that another page has started shows in the table; the choice stays."""
        return follow(run_id, request)

    def act(what: str) -> Any:
        def handler(run_id: str | None, request: gr.Request, *budget: Any) -> Any:
            try:
                run = run_among(page.paths, "filter", run_id)
                if run is None:
                    return [gr.skip()] * len(followed)
                if what == "raise":
                    now = budget_of(run, filter_config(run))
                    raise_budget(run, raised(now, budget_data(*budget)))
                if what in ("resume", "raise"):
                    jobs.resume(page.paths, run)
                else:
                    jobs.stop(page.paths, run, "save" if what == "save" else "cancel")
            except UserError as error:
                warn(error, request)
            return follow(run_id, request)

        return handler

    seen = [page.profile, dataset, chosen]
    ticker.tick(tick, chosen, followed, **SHARED)
    chosen.input(tick, chosen, followed, **LAST)
    page.profile.change(look, [page.profile, page.profile, chosen], shown, **LAST)
    ask.click(quote, form, [quoted, insist], show_progress="minimal", api_visibility="private")
    start.click(
        begin,
        form,
        [quoted, insist, chosen, *followed],
        show_progress="minimal",
        api_visibility="private",
    )
    for button, what in ((stop, "save"), (cancel, "cancel"), (resume, "resume")):
        button.click(act(what), chosen, followed, **SHARED)
    limits = [chosen, more_calls, more_tokens, more_money]
    go_on.click(act("raise"), limits, followed, **SHARED)
    return Panel(look, seen, shown)


def _budget_fields(name: str, zero: Any) -> tuple[gr.Number, gr.Number, gr.Number]:
    """Three limits; ``zero`` says what 0 means."""
    calls = gr.Number(
        0,
        label=t("At most, calls", "呼び出しの上限"),
        info=zero,
        precision=0,
        minimum=0,
        elem_id=f"{name}-calls",
        min_width=140,
    )
    tokens = gr.Number(
        0,
        label=t("At most, tokens", "トークンの上限"),
        info=zero,
        precision=0,
        minimum=0,
        elem_id=f"{name}-tokens",
        min_width=140,
    )
    money = gr.Number(
        0,
        label=t("At most, US dollars", "費用の上限（米ドル）"),
        info=zero,
        minimum=0,
        elem_id=f"{name}-money",
        min_width=140,
    )
    return calls, tokens, money
