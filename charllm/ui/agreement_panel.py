"""Agreement: how well each judge agrees with people, what calibrating gains, judgements in and out.

It only shows; what is computed comes from the desk's service.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from charllm.core.judging import calibrated
from charllm.core.judging.agreement import agreement
from charllm.data.errors import Text, UserError
from charllm.data.files import write_text
from charllm.services.desk import (
    SCALE,
    SEED,
    JudgeAgreement,
    Who,
    agreements,
    pairs_for,
    people_agreement,
    rated_rows,
)
from charllm.services.judge_pairs import judge_pairs
from charllm.services.store_rows import PERSON
from charllm.ui import judgements_io
from charllm.ui.agreement_html import (
    agreement_csv,
    detail_html,
    judges_html,
    overview_html,
    people_html,
)
from charllm.ui.calibrated_html import calibrated_html
from charllm.ui.desk_html import SEPARATOR, judge_name, source_choices
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.judge_html import LAST, SHARED, Panel, one_of
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t

EVERYWHERE = ""
FORGOTTEN = Text(
    "The calibration is gone: the embedded judge scores as before.",
    "較正を取り消しました。内蔵ジャッジは元どおりに採点します。",
)


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> Panel:
    store = page.chat.store
    with gr.Row(equal_height=True):
        gr.Markdown(t("### Judges against hand scores", "### 手採点とジャッジの一致度"))
        source = gr.Dropdown(
            [], show_label=False, container=False, elem_id="agreement-source", min_width=260
        )
        as_csv = gr.Button("CSV", size="sm", scale=0, min_width=80, elem_id="agreement-csv")
        as_json = gr.Button("JSON", size="sm", scale=0, min_width=80, elem_id="agreement-json")
    download = made_file()
    overview = gr.HTML("", elem_id="agreement-overview")
    chosen = gr.Dropdown([], label=t("In detail", "詳しく見る"), elem_id="agreement-judge")
    detail = gr.HTML("", elem_id="agreement-detail")
    gr.Markdown(t("### People against each other", "### 採点者どうしの一致度"))
    people = gr.HTML("", elem_id="agreement-people")
    gr.Markdown(t("### Judges against each other", "### ジャッジどうしの一致度"))
    judges = gr.HTML("", elem_id="agreement-judges")
    gr.Markdown(t("### Calibrate the embedded judge", "### 内蔵ジャッジを較正する"))
    with gr.Row(equal_height=True):
        rubric = gr.Dropdown(
            [],
            label=t("Hand scores by", "手採点の基準"),
            elem_id="calibrate-rubric",
            scale=2,
        )
        fit = gr.Button(
            t("Calibrate on the hand scores", "手採点で較正する"),
            variant="primary",
            elem_id="calibrate-fit",
        )
        insist = gr.Button(
            t("Use it anyway", "効果がなくても使う"), visible=False, elem_id="calibrate-force"
        )
        drop = gr.Button(
            t("Forget it", "較正を取り消す"), visible=False, elem_id="calibrate-forget"
        )
    said = gr.HTML("", elem_id="calibrate-said")
    made = gr.HTML("", elem_id="calibrate-made")
    with gr.Accordion(
        t("Judgements in and out", "採点の読み込みと書き出し"), open=False, elem_id="verdicts"
    ):
        judge, taken = judgements_io.build(page)

    def checked(slug: str | None, source_: str | None) -> list[JudgeAgreement]:
        """Every judge; those with most hand scores first."""
        found = agreements(store, slug, source_ or None) if slug else []
        return sorted(found, key=lambda row: -row.agreement.n)

    def shown(
        slug: str | None, source_: str | None, key: str | None, request: gr.Request
    ) -> list[Any]:
        """Everything about agreement; nothing about calibration."""
        rows = checked(slug, source_)
        known = [row for row in rows if row.agreement.n + row.agreement.unscored]
        names = [
            (
                f"{judge_name(row.who.judge, request)} · {row.who.rubric} {row.who.version}",
                SEPARATOR.join(row.who),
            )
            for row in known
        ]
        current = one_of(key, names)
        rubrics = dict.fromkeys(row.who.rubric for row in rows)
        both = [
            (name, *row)
            for name in rubrics
            for row in (people_agreement(store, slug, name, source_ or None) if slug else [])
        ]
        return [
            overview_html(known, request),
            gr.Dropdown(names, value=current, visible=bool(names)),
            detail_of(slug, source_, current, request),
            people_html(both, request),
            judges_html(judge_pairs(store, slug, source_ or None) if slug else [], request),
        ]

    def detail_of(
        slug: str | None, source_: str | None, key: str | None, request: gr.Request
    ) -> str:
        if not slug or not key:
            return ""
        who = Who(*key.split(SEPARATOR))
        pairs = pairs_for(store, slug, who.judge, who.rubric, source_ or None, who.version)
        return detail_html(agreement(pairs, SCALE, SEED), pairs, request)

    def calibration(slug: str | None, request: gr.Request, words: str = "") -> list[Any]:
        """What is stored, and what can be done with it."""
        found = calibrated.load_calibrated(page.paths, slug) if slug else None
        unused = found is not None and not found.applies
        return [
            words,
            calibrated_html(found, request),
            gr.Button(visible=unused),
            gr.Button(visible=found is not None),
        ]

    def look(
        slug: str | None,
        source_: str | None,
        key: str | None,
        rubric_: str | None,
        request: gr.Request,
    ) -> Any:
        """All there is, lists of choices included."""
        every = (say(Text("all replies", "すべての返答"), request), EVERYWHERE)
        sources = [every, *(source_choices(page.paths, store, slug, request) if slug else [])]
        source_ = one_of(source_, sources)
        counts = store.judges(slug) if slug else []
        by_hand = dict.fromkeys(row.rubric for row in counts if row.judge.startswith(PERSON))
        rubrics = [(name, name) for name in by_hand]
        names = judgements_io.judge_choices(counts, request)
        return [
            gr.Dropdown(sources, value=source_),
            *shown(slug, source_, key, request),
            gr.Dropdown(rubrics, value=one_of(rubric_, rubrics)),
            gr.Dropdown(names, value=EVERYWHERE),
            *calibration(slug, request),
        ]

    def calibrate(what: str) -> Any:
        def handler(slug: str | None, rubric_: str | None, request: gr.Request) -> Any:
            if not slug:
                return calibration(slug, request)
            words = ""
            try:
                if what == "fit":
                    rows = rated_rows(store, slug, rubric_ or "")
                    calibrated.fit_calibrated(page.paths, slug, rows, SEED, rubric=rubric_ or "")
                elif what == "insist":
                    calibrated.force(page.paths, slug)
                else:
                    calibrated.forget(page.paths, slug)
                    words = banner(say(FORGOTTEN, request))
            except UserError as error:
                words = banner(error.in_(language_of(request)), "bad")
            return calibration(slug, request, words)

        return handler

    def handed(what: str) -> Any:
        def handler(slug: str | None, source_: str | None) -> Any:
            if not slug:
                return None
            rows = checked(slug, source_)
            text = agreement_csv(rows)
            if what == "json":
                text = json.dumps([r.as_json() for r in rows], ensure_ascii=False, indent=2) + "\n"
            path = page.paths.workspace / "exports" / f"{slug}-agreement.{what}"
            write_text(path, text)
            return str(path)

        return handler

    seen = [page.profile, source, chosen, rubric]
    told = [said, made, insist, drop]
    parts = [overview, chosen, detail, people, judges]
    outputs = [source, *parts, rubric, judge, *told]
    page.profile.change(look, seen, outputs, **LAST)
    taken.change(look, seen, outputs, **SHARED)
    source.input(shown, seen[:3], parts, **LAST)
    chosen.input(detail_of, seen[:3], detail, **LAST)
    for button, what in ((fit, "fit"), (insist, "insist"), (drop, "forget")):
        button.click(
            calibrate(what),
            [page.profile, rubric],
            told,
            show_progress="minimal",
            api_visibility="private",
        )
    for button, what in ((as_csv, "csv"), (as_json, "json")):
        saved_after(button.click(handed(what), seen[:2], download, **SHARED), download)
    return Panel(look, seen, outputs)
