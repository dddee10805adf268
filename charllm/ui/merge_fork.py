"""Fork the evolution that is followed: after which generation, with which seed and budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.services import jobs
from charllm.services.merge_fork import Forkable, fork_run, forkable
from charllm.ui.judge_html import SHARED, run_among
from charllm.ui.page import Page, banner
from charllm.ui.words import language_of, say, t, warn

NOT_YET = Text(
    "There is nothing to fork yet: wait for the first generation.",
    "まだ分岐できません。最初の世代が終わるまでお待ちください。",
)


def told_html(found: Forkable | None, request: gr.Request) -> str:
    """What a fork of this run does, and whether its report could still be an honest one."""
    if found is None:
        return banner(say(NOT_YET, request), "bad")
    what = Text(
        f"{found.generations} generations of {found.population}. A fork keeps what was scored up "
        "to the generation you choose and goes on with another seed. 0 keeps the baselines only.",
        f"{found.generations} 世代（各 {found.population} 候補）あります。選んだ世代までの採点を"
        "引き継ぎ、別のシードで続きます。0 を選ぶと比較対象の採点だけを引き継ぎます。",
    )
    if not found.opened:
        return banner(say(what, request))
    opened = Text(
        f"The report questions have been opened {found.opened} time(s) already. The fork's report "
        "opens them again: a second look is a second chance to be lucky, its intervals do not know "
        "that, and its report will say so.",
        f"報告用の質問はすでに {found.opened} 回使われています。分岐した探索の報告でもう一度使うと"
        "偶然良く見える機会が増えますが、信頼区間には表れません（報告にその旨が残ります）。",
    )
    return banner(say(what, request)) + banner(say(opened, request), "bad")


def build(
    page: Page, current: gr.Textbox, look: Callable[..., Any], has: gr.Textbox, shown: list[Any]
) -> None:
    """A fold below the run ``current``; ``look`` shows a run in the components ``shown``."""
    with gr.Accordion(t("Fork", "分岐する"), open=False, elem_id="merge-fork") as fold:
        told = gr.HTML("", apply_default_css=False, elem_id="merge-fork-told")
        with gr.Row(elem_id="merge-fork-row"):
            generation = gr.Number(
                0,
                label=t("After generation", "この世代のあと"),
                precision=0,
                minimum=0,
                min_width=130,
                elem_id="merge-fork-generation",
            )
            seed = gr.Number(
                0,
                label=t("Seed", "シード"),
                precision=0,
                minimum=0,
                min_width=110,
                elem_id="merge-fork-seed",
            )
            candidates = gr.Number(
                0,
                label=t("Candidates in all", "候補の総数"),
                precision=0,
                minimum=1,
                min_width=130,
                elem_id="merge-fork-candidates",
            )
            go = gr.Button(t("Fork", "分岐する"), scale=0, min_width=120, elem_id="merge-fork-go")

    def on_open(run_id: str, request: gr.Request) -> list[Any]:
        run = run_among(page.paths, "evolve", run_id)
        try:
            found = forkable(run) if run else None
        except UserError as error:
            return [banner(error.in_(language_of(request)), "bad"), *[gr.skip()] * 3, _go(None)]
        if found is None:
            return [told_html(None, request), *[gr.skip()] * 3, _go(None)]
        values = (found.generations, found.seed, found.candidates)
        return [told_html(found, request), *values, _go(found)]

    def on_fork(
        run_id: str,
        has_: str,
        generation_: int | None,
        seed_: int | None,
        candidates_: int | None,
        request: gr.Request,
    ) -> list[Any]:
        run = run_among(page.paths, "evolve", run_id)
        if run is None or generation_ is None or seed_ is None or candidates_ is None:
            return [gr.skip()] * (len(shown) + 1)
        try:
            made = fork_run(page.paths, run, generation_, seed_, candidates_)
            jobs.tick(page.paths)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * (len(shown) + 1)
        return [gr.Accordion(open=False), *look(made.id, has_, request)]

    fold.expand(on_open, current, [told, generation, seed, candidates, go], **SHARED)
    go.click(on_fork, [current, has, generation, seed, candidates], [fold, *shown], **SHARED)


def _go(found: Forkable | None) -> gr.Button:
    return gr.Button(interactive=found is not None)
