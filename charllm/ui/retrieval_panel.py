"""Facts and questions: the index's state, a playground, and the threshold's calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from charllm.core.calibration import CalibrateConfig, Calibration, load_calibration, plot_data
from charllm.core.embedding import EmbedderConfig, get_embedder
from charllm.core.replying import ReplySettings
from charllm.core.retrieval import Hit, IndexConfig, open_index
from charllm.data.errors import Text, UserError
from charllm.data.profile import load_profile
from charllm.services import jobs
from charllm.services.facts import find_facts
from charllm.services.preview import preview_prompt
from charllm.services.runs import Run, list_runs
from charllm.ui.beat import pulse
from charllm.ui.page import EMBEDDERS, Page, banner, progress_bar
from charllm.ui.runs_tab import seconds_text
from charllm.ui.words import language_of, say, t, warn


@dataclass(frozen=True)
class RetrievalPanel:
    """What the Character tab needs: a refresh after the facts have changed."""

    refresh: Callable[..., Any]
    outputs: list[Any]


# --- data ---------------------------------------------------------------------------------------


def embedder_config(kind: str, model: str, base_url: str) -> EmbedderConfig:
    data = {"kind": kind, "model": model.strip(), "base_url": base_url.strip()}
    return EmbedderConfig.from_data(data, "embedder")


def latest(page: Page, kind: str, slug: str) -> Run | None:
    """The newest run of this kind for this profile."""
    return next((r for r in list_runs(page.paths) if r.kind == kind and r.name == slug), None)


def state_html(page: Page, slug: str | None, config: EmbedderConfig, request: gr.Request) -> str:
    """The index in a sentence, or the bar of the run that is building it."""
    if not slug:
        return ""
    for kind in ("index", "calibrate"):
        run = latest(page, kind, slug)
        status = run.status() if run else None
        if status and (status.live or status.state == "queued"):
            step = say(status.progress.message.text, request)
            left = seconds_text(status.seconds_left)
            return banner(f"{step} {left}", "", progress_bar(status.progress.share))
        if status and status.state in ("failed", "crashed"):
            reason = say(status.error.text, request) if status.error else run.id if run else ""
            return banner(reason, "bad")
    try:
        profile = load_profile(page.paths, slug)
        state = open_index(page.paths, profile, get_embedder(config)).state()
    except UserError as error:
        return banner(error.in_(language_of(request)), "bad")
    words = {
        "ready": Text(
            f"Index ready: {state.facts} facts.", f"索引は最新です（事実 {state.facts} 件）。"
        ),
        "missing": Text(
            f"{state.facts} facts are not indexed yet.", f"事実 {state.facts} 件が未登録です。"
        ),
        "stale": Text(
            f"{state.changed} facts have changed since the index was built.",
            f"索引を作ったあとに {state.changed} 件の事実が変わりました。",
        ),
        "corrupt": Text(
            "The index is damaged. Rebuild it: the facts themselves are safe in facts.txt, and the "
            "damaged files are moved aside.",
            "索引が壊れています。作り直してください。事実は facts.txt に残っており、"
            "壊れたファイルは別の場所に移されます。",
        ),
    }[state.kind]
    kind = {"ready": "good", "corrupt": "bad"}.get(state.kind, "")
    return banner(say(words, request), kind)


def hits_html(hits: list[Hit], threshold: float, request: gr.Request) -> str:
    """Bars of similarity, the threshold as a line; the scale spans what is shown."""
    if not hits:
        return ""
    low = min([hit.similarity for hit in hits] + [threshold]) - 0.03
    high = max([hit.similarity for hit in hits] + [threshold]) + 0.02

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    rows = "".join(
        f'<div class="hit{" used" if hit.used else ""}"><span>{escape(hit.fact)}</span>'
        f'<span class="track"><i style="width:{at(hit.similarity):.1f}%"></i>'
        f'<em style="left:{at(threshold):.1f}%"></em></span>'
        f'<span class="value">{hit.similarity:.3f}</span></div>'
        for hit in hits
    )
    words = Text(
        f"Red line: threshold {threshold:.3f}. Facts at or over it go into the prompt.",
        f"赤い線がしきい値（{threshold:.3f}）です。これ以上の事実がプロンプトに入ります。",
    )
    return f'<div class="hits">{rows}<span class="note">{escape(say(words, request))}</span></div>'


def calibration_text(found: Calibration, request: gr.Request) -> str:
    rows = "".join(
        f"| {split} | {figures.questions} | {_rate(figures.hit_at_1)} | {_rate(figures.hit_at_3)} "
        f"| {_rate(figures.hit_rate)} | {_rate(figures.false_rate)} |\n"
        for split, figures in found.by_split.items()
    )
    head = say(
        Text(
            "| split | questions | hit@1 | hit@3 | used, right | used, wrong |",
            "| 分割 | 質問数 | hit@1 | hit@3 | 正しく使用 | 誤って使用 |",
        ),
        request,
    )
    words = Text(
        f"Threshold {found.threshold:.3f} for {found.embedder}.",
        f"{found.embedder} のしきい値は {found.threshold:.3f} です。",
    )
    return f"{say(words, request)}\n\n{head}\n|---|---|---|---|---|---|\n{rows}"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def calibration_figure(found: Calibration, request: gr.Request) -> Any:
    """Hit and false rate by threshold; its colours suit light and dark."""
    import plotly.graph_objects as go

    data = plot_data(found)
    figure = go.Figure()
    names = {
        "hit_rate": Text("right facts used", "正しい事実の使用率"),
        "false_rate": Text("wrong facts used", "誤った事実の使用率"),
    }
    colours = {"hit_rate": "#5b8a3c", "false_rate": "#b3403a"}
    for key, text in names.items():
        figure.add_scatter(
            x=data["threshold"],
            y=data[key],
            name=say(text, request),
            mode="lines",
            line={"color": colours[key], "width": 2},
        )
    figure.add_vline(x=data["chosen"], line_dash="dash", line_color="#8a8378")
    figure.update_layout(
        height=260,
        margin={"l": 48, "r": 12, "t": 12, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#8a8378", "size": 12},
        legend={"orientation": "h", "y": 1.15},
        xaxis={"title": say(Text("similarity threshold", "類似度のしきい値"), request)},
        yaxis={"range": [0, 1.02], "gridcolor": "rgba(128,128,128,.2)"},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,.2)")
    return figure


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> RetrievalPanel:
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.Markdown(t("### Retrieval", "### 検索（RAG）"))
    state = gr.HTML("", elem_id="index-state")
    with gr.Row(equal_height=True):
        kind = gr.Dropdown(EMBEDDERS, value="e5", label=t("Embedder", "埋め込みモデル"), scale=2)
        rebuild = gr.Button(t("Rebuild index", "索引を作り直す"), elem_id="rebuild", min_width=130)
        calibrate = gr.Button(
            t("Calibrate threshold", "しきい値を較正"), elem_id="calibrate", min_width=140
        )
    with gr.Accordion(t("Embedder details", "埋め込みモデルの詳細"), open=False), gr.Row():
        model = gr.Textbox("", label=t("Model or folder", "モデル名またはフォルダー"))
        url = gr.Textbox("", label=t("Address (OpenAI protocol)", "URL（OpenAI 互換）"))
    with gr.Row(equal_height=True):
        question = gr.Textbox(
            show_label=False,
            container=False,
            placeholder=t(
                "Try a question: which facts come up?", "質問すると、どの事実が見つかる？"
            ),
            scale=4,
            elem_id="playground",
        )
        look = gr.Button(t("Search", "検索"), scale=1, min_width=80, elem_id="playground-go")
    hits = gr.HTML("", elem_id="playground-hits")
    with gr.Accordion(t("The prompt", "プロンプト"), open=False):
        prompt = gr.HTML("", elem_id="playground-prompt")
    with gr.Accordion(t("Calibration", "較正の結果"), open=False):
        again = gr.Button(t("Show the latest", "最新の結果を表示"), size="sm")
        figures = gr.Markdown("", elem_id="calibration")
        plot = gr.Plot(show_label=False)
    ticker = pulse()
    chosen = [page.profile, kind, model, url]

    def show_state(slug: str | None, k: str, m: str, u: str, request: gr.Request) -> Any:
        return state_html(page, slug, embedder_config(k, m, u), request)

    def refresh(slug: str | None, request: gr.Request) -> Any:
        return state_html(page, slug, EmbedderConfig(), request)

    def show_calibration(slug: str | None, k: str, m: str, u: str, request: gr.Request) -> Any:
        if not slug:
            return ["", None]
        try:
            found = load_calibration(page.paths, slug, get_embedder(embedder_config(k, m, u)))
        except UserError as error:
            return [error.in_(language_of(request)), None]
        if found is None:
            words = Text(
                "Not calibrated yet: the embedder's built-in threshold is used.",
                "まだ較正していません。埋め込みモデルの既定のしきい値を使います。",
            )
            return [say(words, request), None]
        return [calibration_text(found, request), calibration_figure(found, request)]

    def start(what: str) -> Any:
        def handler(slug: str | None, k: str, m: str, u: str, request: gr.Request) -> Any:
            try:
                if slug:
                    config = embedder_config(k, m, u)
                    jobs.submit(
                        page.paths,
                        what,
                        slug,
                        IndexConfig(profile=slug, embedder=config)
                        if what == "index"
                        else CalibrateConfig(profile=slug, embedder=config),
                    )
                return state_html(page, slug, config, request) if slug else gr.skip()
            except UserError as error:
                warn(error, request)
                return gr.skip()

        return handler

    def search(text: str, slug: str | None, k: str, m: str, u: str, request: gr.Request) -> Any:
        try:
            if not slug or not text.strip():
                return ["", ""]
            profile = load_profile(page.paths, slug)
            settings = ReplySettings(embedder=embedder_config(k, m, u), top_k=8)
            found = find_facts(page.paths, profile, text, settings)
            used = [hit for hit in found.hits[:3] if hit.used]
            shown = preview_prompt(page.paths, profile, text, used, settings)
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), ""]
        count = "" if shown.tokens is None else f"{shown.tokens} tokens"
        view = (
            f'<span class="note">{count}</span><div class="promptview">{escape(shown.text)}</div>'
        )
        return [hits_html(found.hits, found.threshold, request), view]

    page.demo.load(show_state, chosen, state, **shared)
    page.demo.load(show_calibration, chosen, [figures, plot], **shared)
    for control in (page.profile, kind):
        control.change(show_state, chosen, state, **shared).then(
            show_calibration, chosen, [figures, plot], **shared
        )
    ticker.tick(show_state, chosen, state, **shared)
    rebuild.click(start("index"), chosen, state, **shared)
    calibrate.click(start("calibrate"), chosen, state, **shared)
    for trigger in (look.click, question.submit):
        trigger(search, [question, *chosen], [hits, prompt], show_progress="minimal")
    again.click(show_calibration, chosen, [figures, plot], **shared)
    return RetrievalPanel(refresh, [state])
