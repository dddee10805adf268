"""Which judge is chosen, for every page and browser alike, and one reply judged by it to look at.

The choice lies in ``workspace/judge.yaml``; keys never do (``core.endpoint`` keeps them for the
session). It does not know how a judge works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from charllm.core.endpoint import client, server_name
from charllm.core.judging.gate import Finding, Gate
from charllm.core.judging.judges import JudgeConfig, open_judge
from charllm.core.judging.prices import WITHDRAWN
from charllm.core.judging.prompting import judge_messages
from charllm.core.judging.quality_marks import Mark, mark_of, require
from charllm.core.judging.records import Item, Record
from charllm.core.judging.rubric import load_rubric
from charllm.core.judging.score import HIGHEST, LOWEST
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text
from charllm.data.profile import Profile, load_profile
from charllm.services.lease import Lease

LOCAL_SERVER = "http://127.0.0.1:8000/v1"


def choice_path(paths: Paths) -> Path:
    return paths.workspace / "judge.yaml"


def load_choice(paths: Paths) -> JudgeConfig:
    """The chosen judge, the embedded one until another is chosen.

    ``UserError`` names the file where it was changed by hand and is no longer valid.
    """
    path = choice_path(paths)
    return JudgeConfig.load(path) if path.is_file() else JudgeConfig()


def save_choice(paths: Paths, config: JudgeConfig) -> None:
    """Keep the choice if it differs from the one that is kept."""
    path = choice_path(paths)
    if not path.is_file() or path.read_text(encoding="utf-8") != config.to_yaml():
        config.save(path)


def title(config: JudgeConfig) -> Text:
    """The choice in a few words."""
    if config.kind == "embedded":
        return Text("the embedded judge", "内蔵ジャッジ")
    where = server_name(config.base_url) if config.kind == "endpoint" else ""
    name = f"{config.model or '?'} @ {where}" if where else config.model or "?"
    return Text(f"{name}, rubric {config.rubric}", f"{name}（ルーブリック {config.rubric}）")


def scale_of(paths: Paths, config: JudgeConfig) -> tuple[int, int]:
    """The lowest and the highest level that the judge gives."""
    if config.kind == "embedded":
        return int(LOWEST), int(HIGHEST)
    return load_rubric(paths, config.rubric).scale


def check_key(config: JudgeConfig) -> None:
    """``UserError`` where OpenAI itself is to judge and no key is known; nothing is asked."""
    if config.kind == "endpoint":
        client(config.base_url)


def withdrawal(config: JudgeConfig) -> Text | None:
    """What to know about the chosen model's end, None where none is announced."""
    name = config.model.rpartition("/")[2]
    days = (
        day for model, day in WITHDRAWN.items() if name == model or name.startswith(f"{model}-2")
    )
    day = next(days, None)
    if config.kind != "endpoint" or day is None:
        return None
    return Text(
        f"{config.model} is withdrawn on {day}: its scores cannot be repeated after that. "
        "Scores of two judges are not comparable.",
        f"{config.model} は {day} に提供が終わります。以後は同じ採点を再現できません。"
        "別のジャッジのスコアとは比べられません。",
    )


def mark_for(paths: Paths, slug: str, config: JudgeConfig) -> Mark | None:
    """How this judge has done in its check on this character, None where it was never checked."""
    judge = open_judge(paths, load_profile(paths, slug), config)
    try:
        return mark_of(paths, slug, judge)
    finally:
        judge.close()


def require_fit(paths: Paths, slug: str, config: JudgeConfig, *, insist: bool) -> Mark:
    """The judge's mark; ``UserError`` where it has not passed its check and nobody insists."""
    judge = open_judge(paths, load_profile(paths, slug), config)
    try:
        return require(paths, slug, judge, insist=insist)
    finally:
        judge.close()


@dataclass(frozen=True)
class Trial:
    """One reply as the judge sees it. ``prompt`` is what a model is asked, () for the embedded one.

    ``found``: why the gate stops the reply; the judge is not asked then. A record a sample.
    """

    found: tuple[Finding, ...]
    records: tuple[Record, ...]
    prompt: tuple[Message, ...]
    scale: tuple[int, int]


def try_out(paths: Paths, slug: str, config: JudgeConfig, item: Item) -> Trial:
    """Judge one reply. ``UserError`` where the judge cannot be asked.

    A local model waits for the accelerator for a second; ``Busy`` says who has it.
    """
    profile = load_profile(paths, slug)
    found = tuple(Gate(profile).check(item.reply, query=item.query, stop_reason=item.stop_reason))
    with _accelerator(paths, config):
        judge = open_judge(paths, profile, config)
        try:
            records = tuple(judge.judge([item], lambda: False))
            return Trial(found, records, _prompt(paths, profile, config, item), judge.scale)
        finally:
            judge.close()


@contextmanager
def _accelerator(paths: Paths, config: JudgeConfig) -> Iterator[None]:
    """Held while a model of this machine judges; nothing for the other judges."""
    if config.kind != "local":
        yield
        return
    held = Lease(paths, Text("a reply is being judged", "返答の採点"))
    try:
        held.acquire()
        yield
    finally:
        held.release()


def _prompt(paths: Paths, profile: Profile, config: JudgeConfig, item: Item) -> tuple[Message, ...]:
    if config.kind == "embedded":
        return ()
    rubric = load_rubric(paths, config.rubric)
    return judge_messages(
        rubric, profile, item, as_json=rubric.format == "json" and config.kind != "local"
    )
