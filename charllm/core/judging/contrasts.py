"""Contrast pairs: two replies to one question of which everybody knows the better one.

They are made from the character's own dialogues, the same for the same seed, and read from
``datasets/contrasts/<slug>.jsonl`` where users write their own: ``{"query", "better", "worse"}``
and, if they like, ``"kind"`` and ``"gold"``. A judge that orders them wrongly is not to be trusted
with anything less plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from pydantic import Field

from charllm.core.judging import spoiling
from charllm.core.judging.spoiling import Exchange, Spoiler, World
from charllm.data.config import Config, Paths
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, json_lines
from charllm.data.profile import Profile
from charllm.data.queries import Query
from charllm.data.text import normal_form

OWN = "own"
"""The kind of a user's pair that names none."""
_MIN_REPLY = 6
"""Letters: what is shorter ("ふふ") is as good once as five times, in any words."""


@dataclass(frozen=True)
class Contrast:
    """One pair. ``equal_is_right``: the worse side must only not come out above the better one."""

    kind: str
    query: str
    better: str
    worse: str
    gold: tuple[str, ...] = ()

    @property
    def equal_is_right(self) -> bool:
        return self.kind in EQUAL_IS_RIGHT


class Kind(NamedTuple):
    """A way of being worse: its name in words, and what makes a worse reply of a good one."""

    label: Text
    spoil: Spoiler


KINDS: dict[str, Kind] = {
    "runaway": Kind(Text("runaway with template markup", "記号混じりの暴走"), spoiling.runaway),
    "stripped": Kind(Text("the same without its markup", "記号を除いた暴走"), spoiling.stripped),
    "loop": Kind(Text("loop", "繰り返し"), spoiling.loop),
    "leak": Kind(Text("template leak", "テンプレートの混入"), spoiling.leak),
    "second_turn": Kind(Text("a second turn", "余分な発言"), spoiling.second_turn),
    "as_ai": Kind(Text("speaks as an AI", "AIとしての発言"), spoiling.as_ai),
    "order": Kind(Text("orders a high score", "高得点を命じる"), spoiling.order),
    "style": Kind(Text("without the character's style", "口調をなくした文"), spoiling.plain),
    "fact": Kind(Text("a wrong fact", "事実の誤り"), spoiling.wrong_fact),
    "echo": Kind(Text("echo of the question", "質問のおうむ返し"), spoiling.echo),
    "off_topic": Kind(Text("answers another question", "的外れな返事"), spoiling.off_topic),
    "dump": Kind(Text("recites the profile", "設定の羅列"), spoiling.dump),
    "filler": Kind(Text("padded with filler", "水増し"), spoiling.filler),
}
EQUAL_IS_RIGHT = frozenset({"filler"})


class ContrastRow(Config):
    """A pair as users write it."""

    query: str = Field(min_length=1)
    better: str = Field(min_length=1)
    worse: str = Field(min_length=1)
    kind: str = Field(default=OWN, min_length=1, max_length=40)
    gold: tuple[str, ...] = ()


def contrast_pairs(
    profile: Profile,
    dialogues: Sequence[Dialogue],
    queries: Sequence[Query],
    seed: int,
    per_kind: int = 8,
) -> list[Contrast]:
    """Up to ``per_kind`` pairs of every kind, the same for the same seed; [] without dialogues.

    ``queries`` of the search split lend their questions to pairs of the kind "fact", where a
    dialogue rests on exactly their gold facts; the other splits are left alone.
    """
    said = exchanges(dialogues)
    world = World(profile, said)
    asked = [*said, *_asked_again(said, queries)]
    return [
        contrast
        for kind in KINDS
        for contrast in _pairs(kind, world, asked if kind == "fact" else said, seed, per_kind)
    ]


def exchanges(dialogues: Sequence[Dialogue]) -> list[Exchange]:
    """The first question and its reply of each dialogue: what can be read without a history."""
    found: dict[tuple[str, str], Exchange] = {}
    for dialogue in dialogues:
        talk = [m for m in dialogue.messages if m.role != "system"]
        if len(talk) < 2 or (talk[0].role, talk[1].role) != ("user", "assistant"):
            continue
        query, reply = talk[0].content.strip(), talk[1].content.strip()
        if query and len(normal_form(reply)) >= _MIN_REPLY:
            topic = dialogue.meta.get("topic")
            gold = dialogue.facts if len(talk) == 2 else ()
            topic = topic if isinstance(topic, str) else ""
            found.setdefault((query, reply), Exchange(query, reply, gold, topic))
    return list(found.values())


def contrast_path(paths: Paths, slug: str) -> Path:
    """Where a user's pairs for a character are looked for."""
    return paths.datasets / "contrasts" / f"{check_slug(slug, 'profile name')}.jsonl"


def load_contrasts(path: Path) -> list[Contrast]:
    """A user's pairs, [] where the file is missing; ``UserError`` names file, line and field."""
    if not path.is_file():
        return []
    found = []
    for number, data in json_lines(path):
        row = ContrastRow.from_data(data, f"{path}, line {number}")
        if row.better.strip() == row.worse.strip():
            raise UserError(
                f"{path}, line {number}: better and worse are the same text.",
                f"{path} の {number} 行目: better と worse が同じ文です。",
            )
        found.append(Contrast(row.kind, row.query, row.better, row.worse, row.gold))
    return found


def _pairs(
    kind: str, world: World, said: Sequence[Exchange], seed: int, count: int
) -> list[Contrast]:
    # A seed of its own for every kind: a new kind leaves the pairs of the others as they were.
    random = Random(f"{seed}:{kind}")
    found: list[Contrast] = []
    for it in random.sample(said, len(said)):
        if len(found) == count:
            break
        worse = KINDS[kind].spoil(world, random, it)
        if worse.strip() not in ("", it.reply):
            found.append(Contrast(kind, it.query, it.reply, worse, it.gold))
    return found


def _asked_again(said: Sequence[Exchange], queries: Sequence[Query]) -> list[Exchange]:
    replies = {frozenset(it.gold): it for it in said if it.gold}
    again = []
    for query in queries:
        it = replies.get(frozenset(query.gold))
        if it and query.split == "search":
            again.append(it._replace(query=query.text))
    return again
