"""Judge quality: the check of the chosen judge, its start and progress, and every report."""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.core.judging.quality import QualityConfig
from charllm.core.judging.quality_marks import latest
from charllm.data.errors import UserError
from charllm.services import jobs
from charllm.services.judge_choice import check_key, load_choice, mark_for, title
from charllm.ui.beat import pulse
from charllm.ui.judge_html import (
    LAST,
    SHARED,
    Panel,
    empty,
    mark_html,
    one_of,
)
from charllm.ui.page import Page, banner
from charllm.ui.quality_html import (
    NO_REPORT,
    newest,
    progress_html,
    report_choices,
    report_html,
)
from charllm.ui.words import language_of, t, warn

PAIRS = 12
"""Of each kind: with fewer, a rubric that measures little leaves too few pairs to the judge."""


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    gr.Markdown(t("### Can this judge be trusted?", "### このジャッジは信頼できるか"))
    mark = gr.HTML("", elem_id="quality-mark")
    with gr.Row(equal_height=True):
        per_kind = gr.Slider(
            2,
            50,
            PAIRS,
            step=1,
            label=t("Pairs of each kind", "種類ごとの組の数"),
            elem_id="quality-pairs",
            scale=3,
        )
        start = gr.Button(
            t("Check this judge", "このジャッジを検査する"),
            variant="primary",
            elem_id="quality-start",
            scale=1,
        )
        stop = gr.Button(t("Stop", "中止"), elem_id="quality-stop", scale=0, visible=False)
    progress = gr.HTML("", elem_id="quality-progress")
    chosen = gr.Dropdown([], label=t("Report", "検査の結果"), elem_id="quality-chosen")
    report = gr.HTML("", elem_id="quality-report")
    seen = gr.Textbox("", visible=False)
    ticker = pulse()
    outputs = [chosen, report, mark, progress, stop, seen]

    def state(slug: str | None, request: gr.Request) -> list[Any]:
        """The run's progress, and what tells that it has gone another step."""
        run = newest(page.paths, slug) if slug else None
        status = run.status() if run else None
        live = status is not None and (status.live or status.state == "queued")
        known = f"{run.id} {status.state}" if run and status else ""
        return [progress_html(run, request), gr.Button(visible=live), known]

    def shown(slug: str | None, key: str | None, request: gr.Request) -> str:
        if not slug or not key:
            return empty(NO_REPORT, request)
        judge, rubric, version = key.split("\n")
        quality = latest(page.paths, slug, judge, rubric, version)
        return report_html(quality, request) if quality else empty(NO_REPORT, request)

    def judge_mark(slug: str | None, request: gr.Request) -> tuple[str, str | None]:
        """The chosen judge with its mark, and the report that the mark is from."""
        if not slug:
            return "", None
        try:
            config = load_choice(page.paths)
            mark_ = mark_for(page.paths, slug, config)
        except UserError as error:
            return banner(error.in_(language_of(request)), "bad"), None
        key = "\n".join((mark_.judge, mark_.rubric, mark_.version)) if mark_ else None
        return mark_html(mark_, title(config), request), key

    def look(slug: str | None, key: str | None, request: gr.Request) -> Any:
        """All there is but the chosen judge's mark, which may take seconds to find."""
        reports = report_choices(page.paths, slug, request) if slug else []
        current = one_of(key, reports)
        listed = gr.Dropdown(reports, value=current, visible=bool(reports))
        return [listed, shown(slug, current, request), gr.skip(), *state(slug, request)]

    def look_closely(slug: str | None, key: str | None, request: gr.Request) -> Any:
        """With the chosen judge's mark, and its report where there is one."""
        words, own = judge_mark(slug, request)
        seen_ = look(slug, own or key, request)
        return [*seen_[:2], words, *seen_[3:]]

    def tick(slug: str | None, key: str | None, before: str, request: gr.Request) -> Any:
        """Only the progress, until the run begins or ends."""
        now = state(slug, request)
        if now[-1] != before:
            return look_closely(slug, key, request)
        return [gr.skip(), gr.skip(), gr.skip(), *now]

    def begin(slug: str | None, pairs: float, request: gr.Request) -> Any:
        try:
            run = newest(page.paths, slug) if slug else None
            if slug and (run is None or run.status().ended_):
                judge = load_choice(page.paths)
                check_key(judge)
                asked = {"profile": slug, "judge": judge, "per_kind": int(pairs)}
                config = QualityConfig.from_data(asked, "quality")
                jobs.submit(page.paths, "quality", slug, config)
        except UserError as error:
            warn(error, request)
        return state(slug, request)

    def end(slug: str | None, request: gr.Request) -> Any:
        run = newest(page.paths, slug) if slug else None
        if run is not None and not run.status().ended_:
            jobs.stop(page.paths, run, "cancel")
        return state(slug, request)

    current = [page.profile, chosen]
    page.profile.change(look, current, outputs, **LAST)
    page.tab.select(look_closely, current, outputs, **SHARED)
    ticker.tick(tick, [*current, seen], outputs, **SHARED)
    chosen.input(shown, current, report, **LAST)
    start.click(begin, [page.profile, per_kind], [progress, stop, seen], **SHARED)
    stop.click(end, page.profile, [progress, stop, seen], **SHARED)
    return Panel(look, current, outputs)
