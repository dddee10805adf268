"""What a stored reply's variant was asked with, as messages, found again in its stored prompt.

The store keeps the exact text that a model was given. A message is given back only if it stands
in that text word for word; so what comes out was sent, or is left out. It does not know templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from charllm.data.dialogue import Message
from charllm.data.profile import Profile
from charllm.data.prompts import build_messages
from charllm.services.store import Reply

_HEADING = re.compile(r"(?:^|\n\n)\[(system|user|assistant)\]\n")

Exchange = tuple[str, Sequence[str]]
"""An earlier question and every answer that its column ever showed."""


def sent_messages(
    profile: Profile | None, question: str, reply: Reply, earlier: Sequence[Exchange]
) -> list[Message]:
    """System message, history and question as they were sent; the question at least.

    ``profile`` None (it was deleted) leaves the system message out, as does a profile whose system
    prompt has changed since. ``earlier`` is in order of time.
    """
    asked = Message(role="user", content=question)
    written = _written(reply.prompt)
    if written and written[-1] == asked:
        return written
    end = reply.prompt.rfind(question)
    if end < 0:
        return [asked]
    system = _system(profile, question, reply) if profile else None
    begin = reply.prompt.find(system) + len(system) if system else 0
    head = [Message(role="system", content=system)] if system else []
    return [*head, *_history(reply.prompt[begin:end], earlier), asked]


def _written(prompt: str) -> list[Message]:
    """The messages of a prompt that went to an endpoint; none where it has another form."""
    if not _HEADING.match(prompt):
        return []
    pieces = _HEADING.split(prompt)[1:]
    found = [
        Message.model_validate({"role": role, "content": text})
        for role, text in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    talk = [message.role for message in found if message.role != "system"]
    in_turn = all(role == ("user", "assistant")[i % 2] for i, role in enumerate(talk))
    return found if in_turn and len(talk) >= len(found) - 1 else []


def _system(profile: Profile, question: str, reply: Reply) -> str | None:
    """The profile's system prompt that stands in the reply's prompt."""
    facts = [hit["fact"] for hit in reply.facts if hit.get("used", True)]
    for language in dict.fromkeys((profile.prompt_language, *profile.system_prompts, "ja", "en")):
        first = build_messages(profile, question, facts=facts, language=language)[0]
        if first.role == "system" and first.content in reply.prompt:
            return first.content
    return None


def _history(text: str, earlier: Sequence[Exchange]) -> list[Message]:
    """The latest exchanges that stand in ``text`` one after another, back to one that does not."""
    found: list[Message] = []
    for question, answers in reversed(earlier):
        places = ((text.rfind(a.strip()), a) for a in answers if a.strip())
        place, answer = max(places, default=(-1, ""))
        begin = text.rfind(question, 0, max(place, 0))
        if begin < 0:
            break
        found[:0] = [
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ]
        text = text[:begin]
    return found
