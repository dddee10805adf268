"""The prompt by which a judge compares two replies; its verdict is a number of one sign.

1 and 2 name the better reply, 0 says that neither is: so the strict parser of scores reads
verdicts too. The rubric gives the criterion; its levels are for single replies and not shown.
Replies are data, fenced with a number that depends on both of them.
"""

from __future__ import annotations

from typing import Any

from charllm.core.evaluation.matches import TIE
from charllm.core.judging.prompting import WORDS, about, fenced
from charllm.core.judging.records import Item
from charllm.core.judging.rubric import Rubric
from charllm.data.dialogue import Message
from charllm.data.errors import Text
from charllm.data.files import sha256
from charllm.data.profile import Profile

REVISION = "pair-1"
"""Goes up with every change of the words below: verdicts of another prompt are others."""
SCALE = (0, 2)
"""What a verdict may be."""

PAIR_WORDS: dict[str, Text] = {
    "role": Text(
        "Two language models each gave a reply as the same character. You decide which of the two "
        "is better by one criterion. You are strict, fair and brief.",
        "二つの言語モデルが、同じキャラクターとして同じ発言に答えました。一つの評価基準で、"
        "どちらの返答が優れているかを決めます。厳しく、公平に、簡潔に判断してください。",
    ),
    "fair": Text(
        "Which reply stands first means nothing. Being longer is no merit in itself. Judge by the "
        "criterion alone.",
        "どちらが先に書かれているかに意味はありません。長いこと自体は長所ではありません。"
        "評価基準だけで判断してください。",
    ),
    "steps": Text(
        "1. Name what speaks for and against reply 1 by the criterion.\n"
        "2. Do the same for reply 2.\n"
        "3. Decide. Say 0 only where you would not prefer either.",
        "1. 評価基準に照らして、返答1の良い点と悪い点を挙げる。\n"
        "2. 返答2についても同じように挙げる。\n"
        "3. どちらが優れているかを決める。0 は、本当に優劣がつかないときだけ選ぶ。",
    ),
    "meaning": Text(
        "The verdict: 1 = reply 1 is better, 2 = reply 2 is better, 0 = neither is better.",
        "判定の数字: 1 = 返答1が優れている、2 = 返答2が優れている、0 = 優劣がつかない。",
    ),
    "json": Text(
        'Answer with one JSON object: "reasons", your reasoning by the steps in two or three '
        'sentences; then "score", the verdict (0, 1 or 2).',
        "JSON オブジェクト一つで答えてください。reasons に手順に沿った理由を日本語で2〜3文書き、"
        "続けて score に判定の数字（0、1、2 のどれか）を書いてください。",
    ),
    "text": Text(
        "First write your reasoning by the steps. Then write the verdict (0, 1 or 2) alone on the "
        "last line.",
        "まず手順に沿って理由を日本語で書いてください。最後の行には、判定の数字（0、1、2 の"
        "どれか）だけを書いてください。",
    ),
    "reply": Text("Reply {n}", "返答{n}"),
}


class PairPrompts:
    """The prompts of one rubric for one character, in the profile's language."""

    def __init__(self, rubric: Rubric, profile: Profile) -> None:
        self.rubric = rubric
        self.profile = profile
        self._standing = {
            as_json: Message(role="system", content=self._rules(as_json))
            for as_json in (True, False)
        }

    def messages(self, first: Item, second: Item, *, as_json: bool) -> tuple[Message, Message]:
        """The system message, the same for every pair, and the two replies in this order."""
        asked = Message(role="user", content=self._exchange(first, second))
        return self._standing[as_json], asked

    def beginning(self, *, as_json: bool) -> str:
        """A short name for what all prompts begin with, for servers that cache prompts."""
        return sha256(self._standing[as_json].content.encode())[:32]

    def _say(self, key: str) -> str:
        words = PAIR_WORDS.get(key) or WORDS[key]
        return words.in_(self.profile.language)

    def _rules(self, as_json: bool) -> str:
        language = self.profile.language
        parts = [self._say("role"), self._say("data"), about(self.profile, language)]
        if "example" in self.rubric.needs and self.profile.examples:
            talk = "\n".join(
                f"{self._say('user')}: {example.user}\n{self.profile.name}: {example.reply}"
                for example in self.profile.examples[:4]
            )
            parts.append(f"# {self._say('example')}\n{talk}")
        parts += [
            f"# {self._say('criterion')}\n{self.rubric.criterion.in_(language)}",
            self._say("fair"),
            f"# {WORDS['steps'].in_(language)}\n{self._say('steps')}",
            self._say("meaning"),
            self._say("json" if as_json else "text"),
        ]
        return "\n\n".join(parts)

    def _exchange(self, first: Item, second: Item) -> str:
        # The number in the fences depends on both replies: neither writer can know it.
        both = Item(id="", query=first.query, reply=f"{first.reply}\0{second.reply}")
        parts = []
        if first.history:
            who = {"user": self._say("user"), "assistant": self.profile.name}
            talk = "\n".join(f"{who.get(m.role, m.role)}: {m.content}" for m in first.history)
            parts.append(f"# {self._say('history')}\n{fenced(talk, 'talk', both)}")
        query = first.query or self._say("none")
        parts.append(f"# {self._say('question')}\n{fenced(query, 'query', both)}")
        if "gold" in self.rubric.needs:
            gold = "\n".join(f"- {fact}" for fact in first.gold)
            parts.append(f"# {self._say('gold')}\n{gold}")
        for n, item in enumerate((first, second), 1):
            heading = self._say("reply").format(n=n)
            parts.append(f"# {heading}\n{fenced(item.reply, f'reply-{n}', both)}")
        return "\n\n".join(parts)


def schema() -> dict[str, Any]:
    """The JSON schema of a verdict; reasons come before it, because order matters."""
    return {
        "type": "object",
        "properties": {
            "reasons": {"type": "string"},
            "score": {"type": "integer", "enum": list(range(SCALE[0], SCALE[1] + 1))},
        },
        "required": ["reasons", "score"],
        "additionalProperties": False,
    }


def named(verdict: float | None, first: str, second: str) -> str:
    """Who won: ``first`` or ``second`` (as they were shown), ``TIE``, or "" for no verdict."""
    return "" if verdict is None else {0: TIE, 1: first, 2: second}[int(verdict)]
