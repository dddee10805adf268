"""One judge, a criterion at a time: whether it may decide, and its verdicts, under one budget.

Each criterion's verdicts are kept like an evaluation's (``scoring_replies``), so that a kill costs
no paid one. Which exchanges a criterion is judged on is decided in ``five``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.five import CRITERIA, Key, asked_about
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_exchanges import Plan, read_exchanges
from charllm.core.evaluation.scoring_replies import judge_replies, read_judged
from charllm.core.filtering import Budget, Spend
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.records import Judge
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import read_json
from charllm.data.progress import Reporter, StopRequest

if TYPE_CHECKING:
    from charllm.core.judging.quality_marks import Mark

BUDGET = "budget.json"
"""In the run's folder: what its judge may spend from the next start on."""


def marks_of(
    plan: Plan,
    paths: Paths,
    judge: JudgeConfig | None,
    criteria: Sequence[Key],
    *,
    insist: bool,
) -> dict[Key, Mark]:
    """How the judge does by each criterion's rubric; ``UserError`` where it may not decide or reads
    no rubric."""
    from charllm.core.judging.quality_marks import require

    if judge is None:
        return {}
    reads_rubrics(judge)
    profile, marks = plan.planned.profile, {}
    for key in criteria:
        with closing(open_judge(paths, profile, by_rubric(judge, key))) as opened:
            marks[key] = require(paths, profile.slug, opened, insist=insist)
    return marks


def judge_talks(
    plan: Plan,
    paths: Paths,
    folder: Path,
    reporter: Reporter,
    judge: JudgeConfig | None,
    marks: dict[Key, Mark],
    budget: Budget,
) -> bool:
    """Every criterion in turn; False where a stop was asked for first."""
    if judge is None:
        return True
    exchanges = read_exchanges(folder, plan)
    asked = {key: [one.item() for one in asked_about(key, exchanges)] for key in marks}
    whole = _Whole(reporter, sum(len(items) for items in asked.values()))
    for key, items in asked.items():
        config = by_rubric(judge, key)
        with closing(open_judge(paths, plan.planned.profile, config)) as opened:
            left = _left(budget, _spent(folder, opened))
            whole.label = CRITERIA[key].label
            if not judge_replies(folder, opened, config, marks[key], items, whole, left):
                return False
        whole.before += len(items)
    return True


class _Whole:
    """Tells a criterion's progress as part of all criteria's; everything else goes through."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self.reporter, self.total, self.before = reporter, total, 0
        self.label = Text("", "")

    def progress(self, done: float, total: float, message: Text) -> None:
        named = Text(
            f"{self.label.en}: {message.en}",
            f"{self.label.ja}：{message.ja}",
        )
        self.reporter.progress(self.before + done, self.total, named)

    def event(self, kind: str, **data: Any) -> None:
        self.reporter.event(kind, **data)

    def log(self, line: str) -> None:
        self.reporter.log(line)

    def stop_requested(self) -> StopRequest:
        return self.reporter.stop_requested()


def reads_rubrics(judge: JudgeConfig) -> None:
    """``UserError`` for the embedded judge, which knows no criterion but its own."""
    if judge.kind == "embedded":
        raise UserError(
            "The embedded judge reads no rubric, and its style measure is in the report already. "
            "Name a model that reads: --model NAME (an endpoint's) or --local --model NAME.",
            "内蔵ジャッジはルーブリックを読まず、口調の指標はすでに結果に入っています。文章を読む"
            "モデルを --model NAME（エンドポイント）か --local --model NAME で指定してください。",
        )


def by_rubric(judge: JudgeConfig, key: Key) -> JudgeConfig:
    """The judge with a criterion's rubric."""
    return judge.model_copy(update={"rubric": CRITERIA[key].rubric})


def _spent(folder: Path, judge: Judge) -> Spend:
    """What this judge's other criteria have cost so far."""
    spend = Spend()
    for judged in read_judged(folder):
        if judged.ruler.judge == judge.id and judged.ruler.rubric != judge.rubric:
            for record in judged.records:
                spend.add(record)
    return spend


def _left(budget: Budget, spent: Spend) -> Budget:
    """What one criterion may spend of a budget that all share."""
    calls, tokens, money = budget.calls, budget.tokens, budget.money
    used = spent.tokens_in + spent.tokens_out
    return Budget(
        calls=None if calls is None else max(0, calls - spent.calls),
        tokens=None if tokens is None else max(0, tokens - used),
        money=None if money is None else max(0.0, money - spent.money),
    )


def budget_of(folder: Path, config: InterviewConfig) -> Budget:
    """What the judge may spend: the configuration's, or what was allowed before a resume."""
    path = folder / BUDGET
    return Budget.from_data(read_json(path), str(path)) if path.exists() else config.budget
