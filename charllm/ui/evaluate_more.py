"""Beside an evaluation's figures: its files to save, and a further judge for its kept replies."""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.core.judging.records import Quote
from charllm.data.errors import Text, UserError
from charllm.services import jobs
from charllm.services.evaluate_again import How, quote_rejudge, start_rejudge
from charllm.services.evaluate_files import FORMS, Form, hand_out
from charllm.services.evaluate_forms import judge_choices, read_judges
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.evaluate_fill import labelled
from charllm.ui.evaluate_live_html import again_html
from charllm.ui.judge_html import LAST, SHARED, figures, money_text, one_of, run_among
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t, warn

STARTED = Text(
    "The judge reads the kept replies now; nothing is generated again. The figures follow by "
    "themselves. The Runs page can stop it.",
    "保存済みの返答の採点を始めました。返答は作り直しません。終わると数値が更新されます。"
    "「実行」タブで停止できます。",
)


TITLES: dict[How, Any] = {
    "scores": t("Score with another judge", "別のジャッジでも採点する"),
    "pairs": t("Have a judge compare the replies in pairs", "ジャッジに返答をペアで比べさせる"),
}
EXPLAINED: dict[How, Any] = {
    "scores": t(
        "The kept replies are judged as they are. Each judge has its own table.",
        "保存済みの返答をそのまま採点します。表はジャッジごとに分かれます。",
    ),
    "pairs": t(
        "Every two replies to a question are shown in both orders; where the orders disagree it is "
        "a tie. It needs a model: choose one on the Judge page.",
        "同じ質問への返答を2つずつ、順序を入れ替えて2回比べさせます。判定が食い違えば引き分けです。"
        "モデルのジャッジが必要です（「ジャッジ」タブで選びます）。",
    ),
}


def files(page: Page, current: gr.Textbox) -> None:
    """The buttons that save an evaluation's files."""
    with gr.Row(equal_height=True, elem_id="evaluate-files"):
        buttons = {
            form: gr.Button(t(*label), size="sm", elem_id=f"evaluate-{form}", min_width=120)
            for form, label in FORMS.items()
        }
    download = made_file()

    def handed(form: Form) -> Any:
        def handler(run_id: str, request: gr.Request) -> str | None:
            run = run_among(page.paths, "evaluate", run_id)
            if run is None:
                return None
            try:
                folder = page.paths.workspace / "exports"
                path = hand_out(run, form, language_of(request), folder)
            except UserError as error:
                warn(error, request)
                return None
            return str(path)

        return handler

    for form, button in buttons.items():
        saved_after(button.click(handed(form), current, download, **SHARED), download)


def again(page: Page, current: gr.Textbox, how: How) -> gr.HTML:
    """A fold that asks a further judge; gives where such judges' progress is shown."""
    with gr.Accordion(TITLES[how], open=False, elem_id=f"again-{how}") as fold:
        gr.Markdown(EXPLAINED[how])
        with gr.Row(equal_height=True):
            judge = gr.Dropdown(
                [], label=t("Judge", "ジャッジ"), scale=4, elem_id=f"again-{how}-judge"
            )
            money = gr.Number(
                None,
                label=t("Budget, US$", "予算（米ドル）"),
                min_width=130,
                visible=how == "scores",
                elem_id=f"again-{how}-money",
            )
            go = gr.Button(t("Start", "始める"), scale=0, min_width=130, elem_id=f"again-{how}-go")
        insist = gr.Checkbox(
            False,
            label=t(
                "Take the judge even if it has not passed its check",
                "検査に合格していないジャッジでも使う",
            ),
            container=False,
            visible=how == "scores",
            elem_id=f"again-{how}-insist",
        )
        quoted = gr.HTML("", elem_id=f"again-{how}-quote")
    progress = gr.HTML("", apply_default_css=False, elem_id=f"again-{how}-progress")

    def quote(run_id: str, written: str | None, request: gr.Request) -> str:
        run = run_among(page.paths, "evaluate", run_id)
        if run is None or not written:
            return ""
        try:
            told = quote_rejudge(page.paths, run, read_judges([written])[0], how)
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad")
        return _quote_html(told, how, request)

    def opened(run_id: str, written: str | None, request: gr.Request) -> list[Any]:
        """The judges there are now, and what the chosen one would take."""
        choices = labelled(judge_choices(page.paths), request)
        if how == "pairs" and len(choices) > 1:  # the embedded judge compares no texts
            choices = choices[1:]
        name = one_of(written, choices)
        return [gr.Dropdown(choices, value=name), quote(run_id, name, request)]

    def on_go(
        run_id: str, written: str | None, money_: float | None, insist_: bool, request: gr.Request
    ) -> Any:
        run = run_among(page.paths, "evaluate", run_id)
        if run is None or not written:
            return gr.skip()
        try:
            config = read_judges([written])[0]
            start_rejudge(page.paths, run, config, how, insist=bool(insist_), money=money_ or None)
            jobs.tick(page.paths)
            gr.Info(say(STARTED, request))
        except UserError as error:
            warn(error, request)
        return again_html(page.paths, run, request)

    fold.expand(opened, [current, judge], [judge, quoted], **SHARED)
    judge.input(quote, [current, judge], quoted, **LAST)
    go.click(on_go, [current, judge, money, insist], progress, **SHARED)
    return progress


def _quote_html(told: Quote, how: How, request: gr.Request) -> str:
    items = Text("replies", "返答") if how == "scores" else Text("pairs", "組")
    cells = [
        (f"{told.items:,}", items),
        (f"{told.calls:,}", Text("calls", "呼び出し")),
        (f"{told.cached:,}", Text("known already", "採点済み")),
        (money_text(told.money), Text("money, about", "費用（約）")),
    ]
    return figures([(value, say(text, request), "") for value, text in cells])
