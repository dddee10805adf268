"""What is judged, what comes out, and what every judge can do: Item, Record, Quote, Judge.

A record is one verdict of one judge by one rubric on one item, with its evidence; a reply that no
verdict could be had for is *unscored, with the reason*, never 0. How a judge works is not here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Text


@dataclass(frozen=True)
class Item:
    """One reply to judge. ``history`` is the talk before the query; ``gold`` the facts it needs.

    ``stop_reason`` is generation's, "" where unknown (a line that a person wrote).
    """

    id: str
    query: str
    reply: str
    stop_reason: str = ""
    history: tuple[Message, ...] = ()
    gold: tuple[str, ...] = ()
    topic: str = ""

    @classmethod
    def of(cls, dialogue: Dialogue) -> Item:
        """The last reply of a training dialogue, with what was said before it."""
        talk = [m for m in dialogue.messages if m.role != "system"]
        before = talk[:-2] if len(talk) > 1 and talk[-2].role == "user" else talk[:-1]
        topic = dialogue.meta.get("topic")
        return cls(
            id=dialogue.id,
            query=dialogue.question,
            reply=dialogue.reply,
            history=tuple(before),
            gold=dialogue.facts,
            topic=topic if isinstance(topic, str) else "",
        )


@dataclass(frozen=True)
class Record:
    """One verdict. ``score`` is on the rubric's scale, or None with the reason in ``unscored``.

    ``gate`` holds the codes for which the reply was not judged at all (its score is the lowest
    level); ``parts`` what the score is made of, each in [0, 1]; ``levels`` the probability of each
    level where the judge tells it. ``calls`` are the answers that a model gave for it, whether or
    not it told how many tokens they took; two where the first could not be read. ``cost`` is in US
    dollars, None where no price is known; a verdict from the cache (``cached``) has cost nothing
    this time.
    """

    item: str
    judge: str
    rubric: str
    version: str
    score: float | None
    unscored: Text | None = None
    sample: int = 0
    gate: tuple[str, ...] = ()
    parts: Mapping[str, float | None] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    rationale: str = ""
    flaws: tuple[str, ...] = ()
    prompt_hash: str = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0
    seconds: float = 0.0
    cached: bool = False

    def as_json(self) -> dict[str, Any]:
        """Every field as JSON takes it; ``from_json`` gives the same record again."""
        data = asdict(self)
        return {**data, "unscored": self.unscored.as_json() if self.unscored else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        why = data.get("unscored")
        asked = bool(data["tokens_in"] or data["tokens_out"]) and not data["cached"]
        fixed = {
            "calls": data.get("calls", int(asked)),  # files of before it was counted
            "unscored": Text(why["en"], why["ja"]) if why else None,
            "gate": tuple(data["gate"]),
            "flaws": tuple(data["flaws"]),
        }
        return cls(**{**data, **fixed})

    def __post_init__(self) -> None:
        if (self.score is None) == (self.unscored is None):
            raise ValueError(f"either a score or a reason why there is none: {self}")


@dataclass(frozen=True)
class Quote:
    """What judging will take, before it starts.

    ``calls`` go to the judge; ``cached`` and ``gated`` replies cost nothing. Tokens are estimates;
    ``money`` is in US dollars, None where no price is known; ``seconds`` None where unknown.
    """

    items: int
    calls: int
    cached: int
    gated: int
    tokens_in: int = 0
    tokens_out: int = 0
    money: float | None = 0.0
    seconds: float | None = None
    note: Text | None = None


class Judge(Protocol):
    """Any judge: the embedded one, a model behind an endpoint, a local chat model."""

    @property
    def id(self) -> str:
        """Who judges, for ever the same words for the same judge."""

    @property
    def rubric(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def scale(self) -> tuple[int, int]:
        """The lowest and the highest level."""

    def quote(self, items: Sequence[Item]) -> Quote: ...

    def judge(self, items: Sequence[Item], stop: Callable[[], bool]) -> Iterator[Record]:
        """Records as they are ready, one for each item and sample, in any order.

        ``stop`` is asked between calls; once it is true nothing new is begun, and what is under
        way is waited for and yielded (it may have been paid). ``UserError`` ends the judging where
        going on is useless (no key, quota used up, unknown model); all that was yielded stays.
        """

    def close(self) -> None: ...


def mean_scores(records: Iterable[Record]) -> dict[str, float | None]:
    """For each item the mean of its samples' scores, None where no sample has one."""
    scores: dict[str, list[float]] = defaultdict(list)
    for record in records:
        scores[record.item].extend([] if record.score is None else [record.score])
    return {item: sum(got) / len(got) if got else None for item, got in scores.items()}
