"""The stage ``evaluate``: variants asked, replies kept, judges heard, figures and tables written.

Run it with ``python -m charllm evaluate CONFIG``. It resumes from its folder after a kill; stopped
with "save" it reports what is there. How a reply comes about, what a judge is and how a mean gets
its interval is in the modules that it calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.planned import Planned, open_plan, plan_evaluation, read_plan
from charllm.core.evaluation.replies import generate_replies
from charllm.core.evaluation.reply_records import read_replies
from charllm.core.evaluation.report import as_json, read_evaluation, write_report
from charllm.core.evaluation.scoring_replies import items_of, judge_replies
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.records import Item, Judge
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.files import read_json
from charllm.data.progress import Paused, Reporter

if TYPE_CHECKING:
    from charllm.core.judging.quality_marks import Mark

BUDGET = "budget.json"
"""In the run's folder: what its judges may spend from the next start on."""
PREPARING = Text("preparing the judges", "ジャッジを準備しています")


def run_evaluate(
    config: EvaluateConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Replies, then each judge, then the report, whose figures are returned.

    Judges that are missing or may not decide are found out before anything is generated
    (``UserError``). ``Stopped`` when cancelled, ``Paused`` where a judge's budget or quota is used
    up: everything stays, and the report of the part that there is is written.
    """
    planned = open_plan(config, paths, folder, reporter)
    with ExitStack() as stack:
        reporter.progress(0, planned.wanted, PREPARING)
        panel = [_open(stack, paths, planned, one, insist=config.insist) for one in config.judges]
        with _reporting(folder):
            if generate_replies(planned.asking, paths, folder, reporter):
                items = items_of(read_replies(folder), planned.queries)
                budget = _budget(folder, config)
                for judge, one, mark in panel:
                    if not judge_replies(folder, judge, one, mark, items, reporter, budget):
                        break
    return _reported(folder)


def judge_again(
    folder: Path,
    judge: JudgeConfig,
    reporter: Reporter,
    paths: Paths,
    *,
    budget: Budget | None = None,
    insist: bool = False,
) -> dict[str, Any]:
    """Have another judge, or the same with more samples, judge what an evaluation has kept.

    Nothing is generated, and no other judge's records change. Errors as ``run_evaluate``.
    """
    planned = read_plan(folder)
    items = items_of(read_replies(folder), planned.queries)
    with ExitStack() as stack, _reporting(folder):
        reporter.progress(0, max(1, len(items)), PREPARING)
        opened, _, mark = _open(stack, paths, planned, judge, insist=insist)
        judge_replies(folder, opened, judge, mark, items, reporter, budget or Budget())
    return _reported(folder)


def partial(folder: Path) -> dict[str, Any]:
    """The figures of what a run has so far, whatever state it is in; nothing is written.

    ``complete`` and ``told`` say how much is missing.
    """
    return as_json(read_evaluation(folder))


def quote_evaluate(config: EvaluateConfig, paths: Paths) -> dict[str, Any]:
    """What an evaluation will take, before it starts: replies, and what each judge asks for them.

    Judges are quoted on replies of the length that the profile asks for.
    """
    planned = plan_evaluation(config, paths)
    items = _imagined(planned)
    return {
        "variants": [one.name for one in planned.variants],
        "queries": len(planned.queries),
        "replies": planned.wanted,
        "longest": planned.wanted * config.preset.max_new_tokens,
        "judges": [_quote(planned, paths, judge, items) for judge in config.judges],
        "remarks": [f"{line}: {text.en}" for line, text in planned.remarks],
    }


def _open(
    stack: ExitStack, paths: Paths, planned: Planned, config: JudgeConfig, *, insist: bool
) -> tuple[Judge, JudgeConfig, Mark]:
    """The judge, closed with the stack, and the mark with which it may decide."""
    from charllm.core.judging.quality_marks import require

    judge = stack.enter_context(closing(open_judge(paths, planned.profile, config)))
    return judge, config, require(paths, planned.profile.slug, judge, insist=insist)


@contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    """Where the work pauses, its part is reported: a run that stays paused is of use as well."""
    try:
        yield
    except Paused:
        _reported(folder)
        raise


def _reported(folder: Path) -> dict[str, Any]:
    return write_report(folder, read_evaluation(folder))


def _budget(folder: Path, config: EvaluateConfig) -> Budget:
    """What each judge may spend: the configuration's, or what was allowed before a resume."""
    path = folder / BUDGET
    return Budget.from_data(read_json(path), str(path)) if path.exists() else config.budget


def _imagined(planned: Planned) -> list[Item]:
    """The items that the run will have, with lines of the character for replies."""
    lines = [example.reply for example in planned.profile.examples]
    lines = lines or ["あ" * planned.profile.reply_length]
    return [
        Item(f"{variant.name}/{query.id}/{repeat}", query.text, lines[0], "end", gold=query.gold)
        for variant in planned.variants
        for query in planned.queries
        for repeat in range(planned.config.repeats)
    ]


def _quote(
    planned: Planned, paths: Paths, config: JudgeConfig, items: Sequence[Item]
) -> dict[str, Any]:
    from charllm.core.judging.quality_marks import mark_of

    with closing(open_judge(paths, planned.profile, config)) as judge:
        quote = judge.quote(items)
        mark = mark_of(paths, planned.profile.slug, judge)
        return {
            "judge": judge.id,
            "rubric": judge.rubric,
            "calls": quote.calls,
            "tokens_in": quote.tokens_in,
            "tokens_out": quote.tokens_out,
            "money": quote.money,
            "seconds": quote.seconds,
            "quality": mark.as_json() if mark else None,
        }
