"""What the tests of the Evaluate tab share: an evaluation's folder without a model that ran.

Plan, replies, verdicts and report are written by the project's own functions; only the words of
the replies and the judge's opinion of them are made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.kept_lines import append_lines
from charllm.core.evaluation.planned import open_plan
from charllm.core.evaluation.replies import REPLIES
from charllm.core.evaluation.reply_records import Reply
from charllm.core.evaluation.report import read_evaluation, write_report
from charllm.core.evaluation.scoring_replies import items_of, judge_replies
from charllm.core.filtering import Budget
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.quality_marks import require
from charllm.core.judging.records import Item, Quote, Record
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.files import write_json_lines
from charllm.data.progress import Silent
from charllm.data.queries import load_queries
from charllm.services.runs import Run, create_run

VARIANTS = ("plain", "taught")
EVIL = "<img src=x onerror='window.owned=1'>${window.owned=2}{{window.owned=3}}"


class Opinion:
    """A judge of the project's own protocol whose scores are a function of the item."""

    id, version, scale = "opinion", "1", (1, 7)

    def __init__(self, rubric: str, score: Callable[[Item], float | None]) -> None:
        self.rubric, self._score = rubric, score

    def quote(self, items: Sequence[Item]) -> Quote:
        return Quote(len(items), 0, 0, 0)

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        for item in items:
            score = self._score(item)
            why = Text("no verdict", "判定なし") if score is None else None
            said = (item.id, self.id, self.rubric, self.version, score, why)
            yield Record(*said, rationale=f"because of {item.id}")

    def close(self) -> None:
        pass


def few_queries(paths: Paths, count: int, name: str = "few") -> None:
    """A query set of the character's first report questions."""
    queries = load_queries(paths.queries / "ayane.jsonl", "report")[:count]
    write_json_lines(paths.queries / f"{name}.jsonl", [q.model_dump(mode="json") for q in queries])


def config_with(**changes: object) -> EvaluateConfig:
    """Two variants of the embedded base without facts; no model is loaded for them."""
    variants = [{"name": name, "label_en": name, "label_ja": name} for name in VARIANTS]
    fields = {"name": "made", "profile": "ayane", "queries": "few", "variants": variants}
    return EvaluateConfig.from_data({**fields, "insist": True, **changes}, "the test")


def asked_run(paths: Paths, config: EvaluateConfig, said: Callable[[str, int], str]) -> Run:
    """A run whose replies are kept: ``said(variant, place of the query)``; nobody has judged."""
    run = create_run(paths, "evaluate", config.name, config)
    planned = open_plan(config, paths, run.folder, Silent())
    rows = [
        Reply(
            variant=variant.name,
            query=query.id,
            repeat=repeat,
            text=said(variant.name, place),
            stop_reason="end",
            prompt=f"質問: {query.text}\n回答: {EVIL}",
            facts=({"fact": EVIL, "similarity": 0.81, "used": True},),
            weights="made",
            tokens=9,
        ).as_json()
        for place, query in enumerate(planned.queries)
        for variant in planned.variants
        for repeat in range(config.repeats)
    ]
    append_lines(run.folder / REPLIES, rows)
    return run


def judged_by(paths: Paths, run: Run, rubric: str, score: Callable[[Item], float | None]) -> None:
    """Let an opinion judge all replies of a run, without a report of it."""
    evaluation = read_evaluation(run.folder)
    judge = Opinion(rubric, score)
    mark = require(paths, "ayane", judge, insist=True)
    items = items_of(evaluation.replies, evaluation.planned.queries)
    config = JudgeConfig(kind="endpoint", model="opinion", rubric=rubric)
    judge_replies(run.folder, judge, config, mark, items, Silent(), Budget())


def ended(run: Run, state: str = "done", stopped: str = "") -> Run:
    """The run as its process would have left it."""
    status = run.stored_status()
    run.write_status(
        status.model_copy(update={"state": state, "started": 1.0, "ended": 2.0, "stopped": stopped})
    )
    return run


def reported(run: Run) -> Run:
    write_report(run.folder, read_evaluation(run.folder))
    return run


def longer_is_better(item: Item) -> float | None:
    """Between 1 and 7, by length; nothing on a reply that says nothing."""
    return None if not item.reply else min(7.0, 1.0 + len(item.reply) / 5)
