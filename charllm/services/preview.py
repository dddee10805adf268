"""How a prompt will look, without loading a model: only its tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charllm.core.catalog import EMBEDDED, find_model, template_name
from charllm.core.models import is_ready, model_folder, shared_tokenizer
from charllm.core.replying import ReplySettings, prepare_messages
from charllm.core.retrieval import Hit
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile
from charllm.data.prompts import (
    IGNORED,
    Template,
    build_messages,
    get_template,
    learnt_spans,
    prompt_ids,
    prompt_text,
)

MAX_TOKENS = 100_000
"""No row is too long to be looked at."""

_alone = threading.Lock()
"""Encoding switches settings of the one tokenizer that all pages' threads share here."""


@dataclass(frozen=True)
class Preview:
    """The prompt as the model gets it; ``tokens`` is None while the model is not prepared."""

    text: str
    tokens: int | None


def preview_prompt(
    paths: Paths, profile: Profile, question: str, hits: Sequence[Hit], settings: ReplySettings
) -> Preview:
    """The embedded model's prompt with retrieval; its messages alone while it is not prepared."""
    variant = Variant(name="preview", label_en="", label_ja="", rag=True)
    messages = prepare_messages(profile, variant, question, hits, settings)
    if not is_ready(paths, EMBEDDED):
        return Preview("\n\n".join(f"[{m.role}]\n{m.content}" for m in messages), None)
    template = get_template(template_name(find_model(EMBEDDED), profile.language))
    with _alone:
        tokenizer = shared_tokenizer(model_folder(paths, EMBEDDED))
        ids = prompt_ids(template, tokenizer, messages)
        return Preview(prompt_text(template, tokenizer, messages), len(ids))


@dataclass(frozen=True)
class RowPreview:
    """A training row in pieces of text, each learnt or not.

    ``tokens`` and ``learnt`` count tokens; None where the model's tokenizer is not at hand, and
    the pieces are the template's plain text. ``problem``: why no row can be made of the dialogue.
    """

    id: str
    spans: list[tuple[str, bool]]
    tokens: int | None = None
    learnt: int | None = None
    problem: Text | None = None


def preview_rows(
    paths: Paths, profile: Profile, dialogues: Sequence[Dialogue], model: str = EMBEDDED
) -> list[RowPreview]:
    """The rows as ``model`` is trained on them, without retrieved facts."""
    info = find_model(model)
    template = get_template(template_name(info, profile.language))
    if not is_ready(paths, model):
        return [_plain_row(template, profile, dialogue) for dialogue in dialogues]
    with _alone:
        tokenizer = shared_tokenizer(model_folder(paths, model))
        return [_token_row(template, tokenizer, profile, dialogue) for dialogue in dialogues]


def _token_row(
    template: Template, tokenizer: Any, profile: Profile, dialogue: Dialogue
) -> RowPreview:
    from charllm.core.training_data import Example, build_rows

    try:
        example = Example(dialogue, None)
        row = build_rows([example], profile, template, tokenizer, max_length=MAX_TOKENS)[0]
    except UserError as error:
        return RowPreview(dialogue.id, [], problem=error.text)
    learnt = sum(label != IGNORED for label in row.labels)
    return RowPreview(dialogue.id, learnt_spans(row, tokenizer), len(row.input_ids), learnt)


def _plain_row(template: Template, profile: Profile, dialogue: Dialogue) -> RowPreview:
    """As the template writes it; a template that only the tokenizer knows is shown by roles."""
    talk = [m for m in dialogue.messages if m.role != "system"]
    messages = [*build_messages(profile, "", facts=None)[:-1], *talk[:-1]]
    if template.name == "tokenizer":
        text = "".join(f"[{m.role}]\n{m.content}\n" for m in messages) + "[assistant]\n"
    else:
        text = plain_prompt(template, messages)
    return RowPreview(
        dialogue.id,
        [(text, False), (f"{template.lead}{dialogue.reply.strip()}{template.end}", True)],
    )


def plain_prompt(template: Template, messages: Sequence[Message]) -> str:
    """The prompt's text as the template writes it, control tokens by their names."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    text = ""
    if system and template.system:
        text, system = _filled(template.system, system), ""
    for message in (m for m in messages if m.role != "system"):
        if message.role == "user":
            said = message.content
            if system:
                said = template.fold.replace("{user}", said).replace("{system}", system)
                system = ""
            text += _filled(template.user, said) + _filled(template.assistant, "")
        else:
            text += template.lead + message.content.strip() + template.end
            text += _filled(template.after_reply, "")
    return text + template.opening


def _filled(pieces: Sequence[str], text: str) -> str:
    return "".join(piece.replace("{text}", text) for piece in pieces)
