"""What an interview run will take, told before it starts: replies, calls, tokens, money, time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from charllm.core.evaluation.five import Exchange, Key, asked_about
from charllm.core.evaluation.interview_config import InterviewConfig
from charllm.core.evaluation.interview_exchanges import (
    Plan,
    plan_interviews,
    read_exchanges,
    read_interviews,
)
from charllm.core.evaluation.interview_judging import by_rubric, reads_rubrics
from charllm.core.evaluation.interview_turns import Place
from charllm.core.evaluation.interviewers import Situation, prompt_for
from charllm.core.judging.judges import JudgeConfig, open_judge, price_for
from charllm.core.judging.prices import tokens_about
from charllm.core.judging.quality_marks import mark_of
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.profile import Profile


def quote_interview(config: InterviewConfig, paths: Paths) -> dict[str, Any]:
    """What a run will take, before it starts: replies, the interviewer's calls, the judge's.

    Both are quoted on replies of the length that the profile asks for.
    """
    plan = plan_interviews(config, paths)
    names = [one.name for one in plan.planned.variants]
    exchanges = list(_imagined(plan, names[0]))  # the others' are imagined to be the same
    judges: list[dict[str, Any]] = []
    if config.judge is not None:
        judges = [
            _judge_quote(plan, paths, config.judge, key, exchanges, times=len(names))
            for key in config.criteria
        ]
    return {
        "variants": names,
        "queries": len(plan.planned.queries),
        "single": plan.singles,
        "turns": plan.turns,
        "longest": (plan.singles + plan.turns) * config.preset.max_new_tokens,
        "interviewer": _interviewer_quote(plan, exchanges, times=len(names)),
        "judges": judges,
        "remarks": [f"{line}: {text.en}" for line, text in plan.planned.remarks],
    }


def quote_judging(
    folder: Path, judge: JudgeConfig, criteria: Sequence[Key], paths: Paths
) -> list[dict[str, Any]]:
    """What judging the kept replies takes, a line a criterion; what is known already is cached.

    ``UserError`` where the judge reads no rubric, or the run has not begun to ask.
    """
    reads_rubrics(judge)
    plan = read_interviews(folder)
    exchanges = read_exchanges(folder, plan)
    return [_judge_quote(plan, paths, judge, key, exchanges) for key in criteria]


def _imagined(plan: Plan, variant: str) -> Iterator[Exchange]:
    """The exchanges that a variant will have, with a line of the character for every reply."""
    said = _line(plan.planned.profile)
    free = plan.config.interviewer.kind != "list"
    for query in plan.asking.queries:
        yield Exchange(
            id=f"{variant}/{query.id}/0",
            variant=variant,
            part="single",
            unit=query.id,
            question=query.text,
            reply=said,
            stop_reason="end",
            gold=query.gold,
            tags=query.tags,
        )
    for talk in plan.talks:
        history: tuple[Message, ...] = ()
        for turn, query in enumerate(talk.questions, 1):
            yield Exchange(
                id=Place(variant, talk.number, turn).key,
                variant=variant,
                part="talk",
                unit=f"talk-{talk.number:03d}",
                question=query.text,
                reply=said,
                stop_reason="end",
                turn=turn,
                gold=() if free and turn > 1 else query.gold,
                tags=query.tags,
                history=history,
                free=free and turn > 1,
            )
            asked = Message(role="user", content=query.text)
            history += (asked, Message(role="assistant", content=said))


def _line(profile: Profile) -> str:
    lines = [example.reply for example in profile.examples]
    return lines[0] if lines else "あ" * profile.reply_length


def _interviewer_quote(plan: Plan, exchanges: Sequence[Exchange], times: int) -> dict[str, Any]:
    """Calls and tokens of the interviewer, who asks all this so many ``times``; money is None where
    no price is known."""
    config = plan.config.interviewer
    asked = [one for one in exchanges if one.free]
    prompts = (
        prompt_for(plan.planned.profile, Situation("memorisation", one.history, 0)) for one in asked
    )
    tokens_in = times * sum(tokens_about(m.content) for prompt in prompts for m in prompt)
    tokens_out = times * len(asked) * config.max_tokens // 2
    money: float | None = 0.0
    if config.kind == "endpoint":
        as_judge = JudgeConfig(
            kind="endpoint",
            model=config.model,
            base_url=config.base_url,
            price_in=config.price_in,
            price_out=config.price_out,
        )
        money = price_for(as_judge).cost(tokens_in, 0, tokens_out)
    return {
        "kind": config.kind,
        "model": config.model,
        "calls": times * len(asked),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "money": money,
    }


def _judge_quote(
    plan: Plan,
    paths: Paths,
    config: JudgeConfig,
    key: Key,
    exchanges: Sequence[Exchange],
    times: int = 1,
) -> dict[str, Any]:
    """What a judge takes by one criterion, where it reads all this so many ``times``."""
    profile = plan.planned.profile
    with closing(open_judge(paths, profile, by_rubric(config, key))) as judge:
        quote = judge.quote([one.item() for one in asked_about(key, exchanges)])
        mark = mark_of(paths, profile.slug, judge)
        return {
            "criterion": key,
            "judge": judge.id,
            "rubric": judge.rubric,
            "calls": times * quote.calls,
            "cached": times * quote.cached,
            "tokens_in": times * quote.tokens_in,
            "tokens_out": times * quote.tokens_out,
            "money": None if quote.money is None else times * quote.money,
            "seconds": None if quote.seconds is None else times * quote.seconds,
            "quality": mark.as_json() if mark else None,
        }
