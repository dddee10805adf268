"""One question to one variant, without the dashboard: the command line and notebooks ask here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from charllm.core.replying import ReplySettings, check_question, prepare, prepare_messages
from charllm.core.retrieval import Hit
from charllm.core.variants import Variant, find_variant
from charllm.data.config import Paths
from charllm.data.errors import Text
from charllm.data.profile import Profile, load_profile
from charllm.services import lease
from charllm.services.facts import find_facts

ASKING = Text("a question from the command line", "コマンドラインからの質問")
PATIENCE = 10.0
"""Seconds to wait for the accelerator; an idle dashboard gives it back within one."""


def ask(
    paths: Paths,
    variant_name: str,
    text: str,
    slug: str,
    settings: ReplySettings | None = None,
) -> dict[str, Any]:
    """One answer of one variant without the dashboard: what ``chat`` prints.

    ``UserError`` also where a run has the accelerator and does not end within ``PATIENCE``.
    """
    from charllm.core.generation import generate_all
    from charllm.core.replying import Resident

    question = check_question(text)
    profile = load_profile(paths, slug)
    variant = find_variant(paths, slug, variant_name)
    settings = settings or ReplySettings()
    found = find_facts(paths, profile, question, settings) if variant.rag else None
    if variant.base_url:
        return _ask_endpoint(profile, variant, question, found.hits if found else [], settings)
    borrowed = lease.Lease(paths, ASKING)
    try:
        borrowed.acquire(PATIENCE)
        resident = Resident(paths, variant.model, variant.quantization)
        prepared = prepare(
            resident,
            profile,
            variant,
            question,
            found.hits if found else [],
            settings,
            column="A",
            threshold=found.threshold if found else None,
        )
        done = generate_all(resident.adapters, resident.tokenizer, [prepared.request])[0]
    finally:
        borrowed.release()
    return {
        "reply": done.text,
        "stopped": done.reason,
        "facts": [asdict(hit) for hit in prepared.hits],
        "prompt": prepared.prompt,
        "tokens": {"prompt": done.prompt_tokens, "reply": len(done.token_ids)},
        "weights": resident.fingerprint(variant, prepared.request.scales),
    }


def _ask_endpoint(
    profile: Profile,
    variant: Variant,
    question: str,
    hits: Sequence[Hit],
    settings: ReplySettings,
) -> dict[str, Any]:
    from charllm.core.endpoint import Finish, chat_stream, server_name

    messages = prepare_messages(profile, variant, question, hits, settings)
    text, finish = "", None
    for piece in chat_stream(messages, variant.model, settings.preset, base_url=variant.base_url):
        if isinstance(piece, Finish):
            finish = piece
        else:
            text += piece
    return {
        "reply": text,
        "stopped": finish.reason if finish else "",
        "facts": [asdict(hit) for hit in hits],
        "prompt": "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages),
        "tokens": {
            "prompt": finish.prompt_tokens if finish else None,
            "reply": finish.reply_tokens if finish else None,
        },
        "weights": f"{variant.model} @ {server_name(variant.base_url)}",
    }
