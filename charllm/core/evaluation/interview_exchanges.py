"""What a run's folder holds of questions and replies, as the exchanges that are judged.

The plan of the single questions and of the talks is kept with it, so that a run that is resumed, or
judged again a year later, asks and judges the same things.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from charllm.core.evaluation.five import Exchange
from charllm.core.evaluation.five_questions import FOLLOW_UP
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_turns import Talk, Turn, plan_talks, read_turns, remembered
from charllm.core.evaluation.planned import Planned, open_plan, plan_evaluation, read_plan
from charllm.core.evaluation.replies import Asking
from charllm.core.evaluation.reply_records import Reply, read_replies
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Reporter

CONFIG = "interview.json"


@dataclass(frozen=True)
class Plan:
    """``planned``: character, variants, the whole set and its facts; ``talks`` are to be held."""

    config: InterviewConfig
    planned: Planned
    talks: tuple[Talk, ...]

    @property
    def asking(self) -> Asking:
        """The single questions: all of the set but the follow-ups."""
        alone = tuple(one for one in self.planned.queries if FOLLOW_UP not in one.tags)
        return replace(self.planned.asking, queries=alone if self.config.single else ())

    @property
    def singles(self) -> int:
        """Replies to single questions, in all."""
        return len(self.planned.variants) * len(self.asking.queries)

    @property
    def turns(self) -> int:
        """Turns, in all."""
        return len(self.planned.variants) * len(self.talks) * self.config.turns


def plan_interviews(config: InterviewConfig, paths: Paths) -> Plan:
    """Everything but the facts. ``UserError`` for a set that is missing or has faults, or a variant
    that is not there."""
    path = paths.queries / f"{config.asking.queries}.jsonl"
    if not path.is_file():
        raise UserError(
            f"There is no query set {path}. Make one from the profile: "
            f"python -m charllm questions {config.profile}",
            f"質問セット {path} がありません。プロファイルから作れます: "
            f"python -m charllm questions {config.profile}",
        )
    return _plan(config, plan_evaluation(config.asking, paths))


def open_interviews(
    config: InterviewConfig, paths: Paths, folder: Path, reporter: Reporter
) -> Plan:
    """The plan that the folder keeps, or a new one with its facts, kept from now on."""
    if (folder / CONFIG).exists():
        return read_interviews(folder)
    plan_interviews(config, paths)
    planned = open_plan(config.asking, paths, folder, reporter)
    write_json(folder / CONFIG, config.model_dump(mode="json"))
    return _plan(config, planned)


def read_interviews(folder: Path) -> Plan:
    """``UserError`` where the run has not got as far as a plan."""
    planned = read_plan(folder)
    path = folder / CONFIG
    config = InterviewConfig.from_data(read_json(path), str(path))
    return _plan(config, planned)


def read_exchanges(folder: Path, plan: Plan) -> list[Exchange]:
    """All that was asked so far, single questions first, variants in the plan's order."""
    order = {variant.name: place for place, variant in enumerate(plan.planned.variants)}
    found = [
        *_singles(read_replies(folder), plan),
        *_turns(read_turns(folder), plan),
    ]
    return sorted(found, key=lambda one: (one.part != "single", order[one.variant]))


def _plan(config: InterviewConfig, planned: Planned) -> Plan:
    talks = plan_talks(planned.queries, config.talks, config.turns, config.seed)
    return Plan(config, planned, talks)


def _singles(replies: Sequence[Reply], plan: Plan) -> Iterator[Exchange]:
    queries = {query.id: query for query in plan.planned.queries}
    for reply in replies:
        query = queries[reply.query]
        yield Exchange(
            id=reply.task.key,
            variant=reply.variant,
            part="single",
            unit=query.id,
            question=query.text,
            reply=reply.text,
            stop_reason=reply.stop_reason,
            gold=query.gold,
            tags=query.tags,
            failed=reply.failed,
        )


def _turns(turns: Sequence[Turn], plan: Plan) -> Iterator[Exchange]:
    queries = {query.id: query for query in plan.planned.queries}
    talks: dict[tuple[str, int], list[Turn]] = defaultdict(list)
    for turn in turns:
        talks[turn.variant, turn.talk].append(turn)
    for said in talks.values():
        said.sort(key=lambda one: one.turn)
        for place, turn in enumerate(said):
            query = queries.get(turn.query)
            yield Exchange(
                id=turn.place.key,
                variant=turn.variant,
                part="talk",
                unit=f"talk-{turn.talk:03d}",
                question=turn.question,
                reply=turn.text,
                stop_reason=turn.stop_reason,
                turn=turn.turn,
                gold=query.gold if query else (),
                tags=query.tags if query else (),
                history=remembered(said[:place]),
                free=turn.asked_by == "model",
                failed=turn.failed,
            )
