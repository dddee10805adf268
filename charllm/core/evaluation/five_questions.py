"""The question set of Character-LLM's five, made from a profile: the same set for the same seed.

Name and age first (the study's form), then a question for each fact with the fact as gold, then
values, personality, and traps: questions that take for granted what the character cannot know.
Words that are not the profile's own come from ``datasets/interview.yaml``, which is meant to be
edited, as is the set itself. ``python -m charllm questions SLUG`` writes it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from charllm.core.evaluation.five_facts import Asked, is_age, is_name, questions_for
from charllm.data.config import Config, Paths, load_yaml
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import check_slug, write_json_lines
from charllm.data.profile import Profile
from charllm.data.queries import Query
from charllm.data.text import normal_form

FOLLOW_UP = "follow-up"
"""The tag of what can only be asked within a talk."""
LOOSE = "loose"
"""The tag of a question that may name a part of its own answer: worth a look."""
TRAPS_A_KIND = 3

TrapKind = Literal["anachronism", "other_world", "invention", "knowledge"]

_NAME = {"ja": "お名前を教えてください。", "en": "Tell me your name, please."}
_AGE = {"ja": "おいくつですか。", "en": "What age are you?"}


class Trap(Config):
    """``unless``: words that make it no trap for a profile in which they stand."""

    ask: str = Field(min_length=1)
    unless: tuple[str, ...] = ()

    def fits(self, known: str) -> bool:
        return not any(word.casefold() in known for word in self.unless)


class Stock(Config):
    """What ``datasets/interview.yaml`` holds, by language."""

    traps: dict[TrapKind, dict[Language, tuple[Trap, ...]]]
    values: dict[Language, tuple[str, ...]]
    personality: dict[Language, tuple[str, ...]]
    follow_up: dict[Language, tuple[str, ...]]


def stock_path(paths: Paths) -> Path:
    return paths.datasets / "interview.yaml"


def load_stock(paths: Paths) -> Stock:
    """``UserError`` names the file and the field that is missing or wrong."""
    path = stock_path(paths)
    return Stock.from_data(load_yaml(path), str(path))


def default_set(slug: str) -> str:
    """What a character's set is called."""
    return f"{slug}-five"


def make_questions(
    profile: Profile, stock: Stock, seed: int = 0, traps: int = TRAPS_A_KIND
) -> list[Query]:
    """The set, every question once. ``traps`` of each kind at most, drawn by ``seed``.

    ``UserError`` where the profile has no facts: there is nothing to remember.
    """
    if not profile.facts:
        raise UserError(
            f"{profile.name} has no facts to ask about. Add some to profiles/{profile.slug}/"
            "facts.txt (one a line), or in the Character tab.",
            f"{profile.name} には質問のもとになる事実がありません。「キャラクター」タブか "
            f"profiles/{profile.slug}/facts.txt に1行ずつ書いてください。",
        )
    language, made = profile.language, _Set(profile.slug)
    for fact in profile.facts:
        if is_name(fact, profile.name, language):
            made.add(_NAME[language], ("name", "fact"), (fact,))
        if is_age(fact, language):
            made.add(_AGE[language], ("age", "fact"), (fact,))
    for fact in profile.facts:
        made.ask_fact(questions_for(fact, language), fact)
    for tag, lines in (("values", stock.values), ("personality", stock.personality)):
        for line in lines.get(language, ()):
            made.add(_named(line, profile), (tag,))
    for kind, trap in _drawn(profile, stock, seed, traps):
        made.add(_named(trap.ask, profile), ("trap", kind))
    for line in stock.follow_up.get(language, ()):
        made.add(_named(line, profile), (FOLLOW_UP,))
    return made.queries


def write_questions(
    paths: Paths, profile: Profile, out: str, queries: Sequence[Query], *, replace: bool
) -> Path:
    """``datasets/queries/<out>.jsonl``; ``UserError`` where there is one that was not to go."""
    path = paths.queries / f"{check_slug(out, 'query set name')}.jsonl"
    if path.exists() and not replace:
        raise UserError(
            f"{path} exists already, perhaps with your edits. Add --replace, or --out NAME.",
            f"{path} はすでにあります（編集済みかもしれません）。上書きするには --replace を、"
            "別の名前にするには --out NAME を付けてください。",
        )
    write_json_lines(path, [query.model_dump(mode="json") for query in queries])
    return path


def counted(queries: Iterable[Query]) -> dict[str, int]:
    """How many questions have each tag, in the order in which the tags come."""
    return dict(Counter(tag for query in queries for tag in query.tags))


def drawn_too_few(queries: Sequence[Query]) -> Text | None:
    """A word where hallucination could hardly be measured with this set."""
    traps = sum("trap" in query.tags for query in queries)
    if traps >= TRAPS_A_KIND:
        return None
    return Text(
        f"Only {traps} trap questions fit this profile: add some by hand.",
        f"このプロファイルに合うひっかけ質問は {traps} 問だけです。手で書き足してください。",
    )


class _Set:
    """Questions as they are added; the same question is never there twice."""

    def __init__(self, slug: str) -> None:
        self.slug = slug
        self.queries: list[Query] = []
        self._place: dict[str, int] = {}

    def add(self, text: str, tags: tuple[str, ...], gold: tuple[str, ...] = ()) -> bool:
        """False where the question is there already; its tags and gold then stay as they are."""
        key = normal_form(text) or text
        if key in self._place:
            return False
        self._place[key] = len(self.queries)
        number = f"{self.slug}-five-{len(self.queries) + 1:03d}"
        self.queries.append(Query(id=number, text=text, split="report", tags=tags, gold=gold))
        return True

    def ask_fact(self, asked: Sequence[Asked], fact: str) -> None:
        """The first question that is not there yet; where all are, the fact joins the gold of the
        last one, for it answers that question as well."""
        for one in asked:
            if self.add(one.text, ("fact", LOOSE) if one.loose else ("fact",), (fact,)):
                return
        place = self._place[normal_form(asked[-1].text) or asked[-1].text]
        known = self.queries[place]
        self.queries[place] = known.model_copy(update={"gold": (*known.gold, fact)})


def _drawn(profile: Profile, stock: Stock, seed: int, most: int) -> Iterable[tuple[TrapKind, Trap]]:
    """Traps whose words the profile does not know, at most so many of a kind."""
    known = "\n".join([profile.name, profile.persona, profile.greeting, *profile.facts]).casefold()
    for kind, by_language in stock.traps.items():
        fitting = [one for one in by_language.get(profile.language, ()) if one.fits(known)]
        random.Random(f"{seed}:{kind}").shuffle(fitting)
        yield from ((kind, one) for one in fitting[:most])


def _named(line: str, profile: Profile) -> str:
    return line.replace("{name}", profile.name)


def questions_json(path: Path, queries: Sequence[Query]) -> dict[str, Any]:
    """What the command line prints: where the set lies and what is in it."""
    remark = drawn_too_few(queries)
    return {
        "file": str(path),
        "questions": len(queries),
        "tags": counted(queries),
        "loose": [query.text for query in queries if LOOSE in query.tags],
        "told": [remark.as_json()] if remark else [],
    }
