"""Verbs that look into variants: what RAG does for one, what a character's training made it forget.

Both print Markdown, or every figure with ``--json``.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.data.config import Paths
from charllm.data.errors import Text, UserError, current_language
from charllm.data.progress import Silent
from charllm.services.following import Ended, run_kind
from charllm.services.runs import Run, find_run, list_runs

if TYPE_CHECKING:
    from charllm.core.evaluation.planned import Planned
    from charllm.core.variants import Variant
    from charllm.services.evaluate_rag import Swept

FORGETTING = Text("general questions from the command line", "コマンドラインからの一般問題")
PATIENCE = 10.0
"""Seconds to wait for the accelerator; an idle dashboard gives it back within one."""


class _Told(Silent):
    """Says on stderr what is being done, once for each matter."""

    def __init__(self) -> None:
        self._said = ""

    def progress(self, done: float, total: float, message: Text) -> None:
        words = message.in_(current_language())
        if words != self._said:
            print(words, file=sys.stderr, flush=True)
            self._said = words


# RAG


def rag_report(paths: Paths, options: Namespace) -> Any:
    """From the newest evaluation that asked the pair; where there is none, one is run first.

    ``--plot`` writes the curves as a page of their own besides.
    """
    from charllm.core.evaluation.rag_page import rag_json, rag_page
    from charllm.core.evaluation.rag_report import pair_of
    from charllm.core.evaluation.rag_report import rag_report as report_of
    from charllm.core.evaluation.reply_records import read_replies
    from charllm.core.variants import list_variants
    from charllm.data.profile import load_profile
    from charllm.services.evaluate_rag import swept

    load_profile(paths, options.slug)  # a wrong name is told before anything is asked
    plot = _plot_file(options.plot)
    name = options.variant or _first_choice(paths, options.slug)
    found = _evaluated(paths, options, name)
    if found is None:
        pair = pair_of(list_variants(paths, options.slug), name)
        ended = _ask(paths, options.slug, pair)
        if isinstance(ended, Ended):
            return ended
        found = _read(find_run(paths, ended["run"]), options.slug)
        assert found is not None
    run, planned = found
    pair = pair_of(planned.variants, name)
    report = report_of(
        planned.profile,
        pair,
        planned.queries,
        planned.facts,
        read_replies(run.folder),
        planned.config.seed,
    )
    settings = swept(paths, planned, _Told())
    if plot is not None:
        _write_plot(plot, settings, planned.profile.name)
    if options.json:
        in_use = {"threshold": settings.now.threshold, "k": settings.now.k}
        return {"run": run.id, "in_use": in_use, **rag_json(report, settings.curves)}
    return rag_page(report, settings.curves, current_language())


def _plot_file(name: str) -> Path | None:
    """Where the curves go, None where nobody asked; ``UserError`` for another form than HTML."""
    if not name:
        return None
    path = Path(name)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"--plot {name}: the plot is written as a page. Give a name that ends in .html.",
            f"--plot {name}: グラフは HTML で書き出します。.html で終わる名前を指定してください。",
        )
    return path


def _write_plot(path: Path, found: Swept, character: str) -> None:
    from charllm.core.evaluation.rag_plot import sweep_page
    from charllm.data.files import write_text

    title = Text(
        f"Retrieval of {character}: threshold and number of facts",
        f"{character} の検索：しきい値と事実の数",
    )
    language = current_language()
    write_text(path, sweep_page(found.curves, found.now, title.in_(language), language))


def _first_choice(paths: Paths, slug: str) -> str:
    """What the chat offers first of the trained and merged ones, else the base with RAG."""
    from charllm.core.evaluation.study_table import study_variants

    return study_variants(paths, slug)[-1]


def _ask(paths: Paths, slug: str, pair: tuple[Variant, Variant]) -> Any:
    """Replies of both to the report questions; no judge is asked."""
    names = [one.name for one in reversed(pair)]
    config = {"name": f"rag-{slug}", "profile": slug, "variants": names, "judges": []}
    return run_kind(paths, "evaluate", config, name=f"rag-{pair[0].name}")


def _evaluated(paths: Paths, options: Namespace, name: str) -> tuple[Run, Planned] | None:
    """The run that was named, or the newest that has replies of the pair."""
    if options.run:
        run = find_run(paths, options.run)
        found = _read(run, options.slug)
        if found is None:
            raise UserError(
                f"{run.id} is no evaluation of {options.slug} that has begun to ask.",
                f"{run.id} は {options.slug} の評価ではないか、まだ質問を始めていません。",
            )
        return found
    for run in list_runs(paths):
        found = _read(run, options.slug)
        if found is not None and _has_pair(found[1].variants, name) and run.result():
            return found
    return None


def _read(run: Run, slug: str) -> tuple[Run, Planned] | None:
    """A run with its plan, None where it is no evaluation of this character or has no plan yet."""
    from charllm.core.evaluation.planned import PLAN, read_plan

    if run.kind != "evaluate" or not (run.folder / PLAN).is_file():
        return None
    try:
        planned = read_plan(run.folder)
    except UserError:  # of an older version: it is passed over like any other run
        return None
    return (run, planned) if planned.profile.slug == slug else None


def _has_pair(variants: tuple[Variant, ...], name: str) -> bool:
    from charllm.core.evaluation.rag_report import pair_of

    try:
        pair_of(variants, name)
    except UserError:
        return False
    return True


# Forgetting


def forgetting(paths: Paths, options: Namespace) -> Any:
    """General questions and held-out lines, before and after: each variant beside its base."""
    from charllm.core.evaluation import forgetting as core
    from charllm.core.evaluation.forgetting_models import chosen_variants, held_out_lines, measure
    from charllm.core.evaluation.general_questions import load_general
    from charllm.core.evaluation.tables import markdown
    from charllm.data.files import plain
    from charllm.data.profile import load_profile
    from charllm.services.lease import Lease

    profile = load_profile(paths, options.slug)
    variants = chosen_variants(paths, options.slug, _names(options.variants))
    questions = load_general(paths, _names(options.sets))
    lines = held_out_lines(paths, profile, variants, options.lines)
    borrowed = Lease(paths, FORGETTING)
    try:
        borrowed.acquire(PATIENCE)
        found = measure(paths, profile, variants, questions, lines.dialogues, _Told())
    finally:
        borrowed.release()
    report = core.forgetting_report(found, questions)
    said = core.told(report, questions) + ([lines.remark] if lines.remark else [])
    language = current_language()
    if options.json:
        return {
            "profile": options.slug,
            "questions": len(questions),
            "chance": core.chance_level(questions),
            "lines": [one.id for one in lines.dialogues],
            "models": [plain(one) for one in report],
            "told": [text.as_json() for text in said],
        }
    table = core.forgetting_table(report)
    words = "".join(f"- {text.in_(language)}\n" for text in said)
    return f"# {table.title.in_(language)}\n\n{words}\n{markdown(table, language)}"


def _names(text: str) -> list[str]:
    return [name for name in (piece.strip() for piece in text.split(",")) if name]
