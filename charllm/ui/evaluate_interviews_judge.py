"""A fold that has the kept turns of an interview run judged, by the criteria that are ticked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from charllm.core.evaluation.five import CRITERIA, Key
from charllm.core.evaluation.interview_quote import quote_judging
from charllm.core.filtering import Budget
from charllm.data.errors import Text, UserError
from charllm.services import jobs
from charllm.services.evaluate_forms import read_judges
from charllm.services.interview_again import start_judging
from charllm.services.interview_forms import judge_choices
from charllm.ui.evaluate_fill import labelled
from charllm.ui.evaluate_interviews_fill import NO_CRITERION
from charllm.ui.evaluate_interviews_html import detail_html, quote_row
from charllm.ui.judge_html import SHARED, empty, figures, money_text, one_of, run_among, table
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t, warn

STARTED = Text(
    "The judge reads the kept answers now; nothing is asked again. The figures follow by "
    "themselves. The Runs page can stop it.",
    "保存済みの返答の採点を始めました。質問はし直しません。終わると数値が更新されます。"
    "「実行」タブで停止できます。",
)
NO_MODEL = Text(
    "Choose a judge that reads on the Judge page first: an endpoint's model or a local chat model.",
    "先に「ジャッジ」タブで、文章を読むジャッジ（エンドポイントかローカルのモデル）を選んで"
    "ください。",
)


def build(page: Page, current: gr.Textbox, detail: gr.HTML) -> None:
    """``current`` says which run is followed, ``detail`` shows its judges' progress."""
    with gr.Accordion(
        t("Have the answers judged", "返答を採点する"), open=False, elem_id="interviews-again"
    ) as fold:
        gr.Markdown(
            t(
                "The kept answers are judged as they are; verdicts that are there already are not "
                "paid again.",
                "保存済みの返答をそのまま採点します。済んでいる採点に二重の費用はかかりません。",
            )
        )
        with gr.Row(equal_height=True):
            judge = gr.Dropdown(
                [], label=t("Judge", "ジャッジ"), scale=4, elem_id="interviews-again-judge"
            )
            money = gr.Number(
                None,
                label=t("Budget, US$ (0: no limit)", "予算（米ドル、0 なら無制限）"),
                min_width=190,
                elem_id="interviews-again-money",
            )
            go = gr.Button(
                t("Start judging", "採点を始める"),
                scale=0,
                min_width=140,
                elem_id="interviews-again-go",
            )
        criteria = gr.CheckboxGroup(
            [(t(*one.label), key) for key, one in CRITERIA.items()],
            value=list(CRITERIA),
            label=t("Criteria", "基準"),
            elem_id="interviews-again-criteria",
        )
        insist = gr.Checkbox(
            False,
            label=t(
                "Take the judge even if it has not passed its check",
                "検査に合格していないジャッジでも使う",
            ),
            container=False,
            elem_id="interviews-again-insist",
        )
        quoted = gr.HTML("", apply_default_css=False, elem_id="interviews-again-quote")

    def quote(run_id: str, written: str | None, keys: list[Key], request: gr.Request) -> str:
        run = run_among(page.paths, "interview", run_id)
        if run is None:
            return ""
        if not written:
            return empty(NO_MODEL, request)
        try:
            told = quote_judging(run.folder, read_judges([written])[0], keys, page.paths)
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        return _quote_html(told, request)

    def opened(run_id: str, written: str | None, keys: list[Key], request: gr.Request) -> list[Any]:
        """The judges there are now, and what the chosen one would take."""
        choices = labelled(judge_choices(page.paths)[1:], request)  # the first is nobody
        name = one_of(written, choices)
        return [gr.Dropdown(choices, value=name), quote(run_id, name, keys, request)]

    def on_go(
        run_id: str,
        written: str | None,
        keys: list[Key],
        money_: float | None,
        insist_: bool,
        request: gr.Request,
    ) -> Any:
        run = run_among(page.paths, "interview", run_id)
        if run is None:
            return gr.skip()
        try:
            _check_chosen(written, keys)
            config = read_judges([written or ""])[0]
            # An empty field that was folded away is 0.
            budget = Budget.from_data({"money": money_ or None}, "budget")
            start_judging(page.paths, run, config, keys, insist=bool(insist_), budget=budget)
            jobs.tick(page.paths)
            gr.Info(say(STARTED, request))
        except UserError as error:
            warn(error, request)
        return detail_html(page.paths, run, request)

    chosen = [current, judge, criteria]
    fold.expand(opened, chosen, [judge, quoted], **SHARED)
    for moment in (judge.input, criteria.input):
        moment(quote, chosen, quoted, trigger_mode="always_last", **SHARED)
    go.click(on_go, [*chosen, money, insist], detail, **SHARED)


def _check_chosen(written: str | None, keys: Sequence[Key]) -> None:
    for missing, words in ((not written, NO_MODEL), (not keys, NO_CRITERION)):
        if missing:
            raise UserError(words.en, words.ja)


def _quote_html(told: Sequence[dict[str, Any]], request: gr.Request) -> str:
    prices = [one["money"] for one in told]
    cells = [
        (f"{sum(one['calls'] for one in told):,}", Text("calls", "呼び出し")),
        (f"{sum(one['cached'] for one in told):,}", Text("known already", "採点済み")),
        (money_text(None if None in prices else sum(prices)), Text("money, about", "費用（約）")),
    ]
    boxes = figures([(value, say(text, request), "") for value, text in cells])
    heads = (
        Text("Criterion", "基準"),
        Text("Check", "検査"),
        Text("Calls", "呼び出し"),
        Text("About", "費用（約）"),
    )
    shown = table([say(text, request) for text in heads], [quote_row(one, request) for one in told])
    return f'<div class="stacked">{boxes}{shown}</div>'
