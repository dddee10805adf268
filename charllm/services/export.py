"""A conversation as files: training dialogues (JSONL, a line a column) and Markdown to read."""

from __future__ import annotations

import html
import json

from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Language
from charllm.services.store import Conversation, Reply, Store


def as_dialogues(store: Store, conversation: int) -> list[Dialogue]:
    """One dialogue a column, in the project's own format; turns without its reply are left out."""
    talk = store.conversation(conversation)
    columns: dict[int, list[tuple[str, Reply]]] = {}
    for turn in store.turns(conversation):
        for reply in store.replies(turn.id):
            if reply.text.strip() and reply.stop_reason != "error":
                columns.setdefault(reply.position, []).append((turn.question, reply))
    return [_dialogue(talk, position, rows) for position, rows in sorted(columns.items())]


def as_jsonl(store: Store, conversation: int) -> str:
    rows = [d.model_dump(mode="json") for d in as_dialogues(store, conversation)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_markdown(store: Store, conversation: int, language: Language = "en") -> str:
    """Every turn with all its columns; what was said is quoted and escaped.

    So none of it can pass as a heading or as HTML.
    """
    talk = store.conversation(conversation)
    words = ("Question", "Stopped by", "Facts") if language == "en" else ("質問", "終了", "事実")
    title = html.escape(" ".join(talk.title.split()) or talk.profile, quote=False)
    lines = [f"# {title}", "", f"`{talk.profile}`", ""]
    for turn in store.turns(conversation):
        lines += [f"## {words[0]} {turn.n}", "", *_quote(turn.question), ""]
        for reply in store.replies(turn.id):
            lines += [f"### {reply.variant}", "", *_quote(reply.text), ""]
            used = [hit["fact"] for hit in reply.facts if hit.get("used", True)]
            if used:
                lines += [
                    f"{words[2]}:",
                    *(f"- {html.escape(fact, quote=False)}" for fact in used),
                    "",
                ]
            seconds = "" if reply.seconds is None else f", {reply.seconds:.1f} s"
            lines += [f"{words[1]} `{reply.stop_reason}`, {reply.tokens} tokens{seconds}", ""]
    return "\n".join(lines)


def _dialogue(talk: Conversation, position: int, rows: list[tuple[str, Reply]]) -> Dialogue:
    messages: list[Message] = []
    for question, reply in rows:
        messages.append(Message(role="user", content=question))
        messages.append(Message(role="assistant", content=reply.text))
    last = rows[-1][1]
    meta = {
        "profile": talk.profile,
        "variant": last.variant,
        "weights": last.weights,
        "facts": [hit["fact"] for hit in last.facts if hit.get("used", True)],
    }
    return Dialogue(
        id=f"chat-{talk.id}-{position}-{last.variant}",
        messages=tuple(messages),
        source="chat",
        meta=meta,
    )


def _quote(text: str) -> list[str]:
    return [f"> {html.escape(line, quote=False)}".rstrip() for line in text.splitlines() or [""]]
