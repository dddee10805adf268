"""What a mixture of adapters is on a resident base, and what it is asked: rows and requests."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.generation import Request
from charllm.core.merging.coefficients import Coefficients
from charllm.core.replying import ReplySettings, prepare_messages
from charllm.core.variants import Variant, load_checkpoint
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.profile import Profile
from charllm.services.mixer import Board
from charllm.services.mixer_asked import Asked

if TYPE_CHECKING:
    from charllm.core.merging.adapters import Row
    from charllm.core.replying import Resident


def request_for(tokenizer: Any, model: str, asked: Asked, profile: Profile) -> Request:
    """What both are asked; the prompt is the chat's for this base."""
    from charllm.core.catalog import find_model, template_name
    from charllm.data.prompts import end_ids, get_template, prompt_ids

    variant = Variant(name="mixer", label_en="", label_ja="", model=model, rag=asked.rag)
    settings = ReplySettings(preset=asked.preset)
    messages = prepare_messages(profile, variant, asked.question, asked.hits, settings)
    template = get_template(template_name(find_model(model), profile.language))
    return Request(
        column="mix",
        prompt_ids=prompt_ids(template, tokenizer, messages),
        preset=asked.preset,
        end_ids=end_ids(template, tokenizer),
        stop_strings=template.stop_strings,
    )


def base_of(paths: Paths, board: Board) -> str:
    """The base as the chat names it, so that both share one model in memory."""
    for parent in board.plan.parents:
        if parent.adapter is not None and parent.adapter.parent == paths.checkpoints.resolve():
            return load_checkpoint(paths, parent.adapter.name).model
    return model_name(board.plan.parents[0].base)


def model_name(home: Path) -> str:
    """A model's id in the catalog, or its folder."""
    from charllm.core.catalog import find_model

    try:
        find_model(home.name)
    except UserError:
        return str(home)
    return home.name


def load_parents(paths: Paths, resident: Resident, board: Board) -> list[str | None]:
    """Each parent's adapter by its name in ``resident``, loaded; None is the base itself."""
    names: list[str | None] = []
    for parent in board.plan.parents:
        if parent.adapter is None:
            names.append(None)
        else:
            name = parent.adapter.name
            resident.row(Variant(name=name, label_en="", label_ja="", checkpoint=name))
            names.append(name)
    return names


def row_of(
    resident: Resident, board: Board, names: Sequence[str | None], mixed: Coefficients
) -> Row:
    """The batch row of a mixture: a coefficient for each adapter and decoder layer."""
    by_layer = {
        layer: mixed.weights[group] for group, inside in board.layers.items() for layer in inside
    }
    return resident.adapters.row(
        {
            name: [by_layer[layer][k] for layer in sorted(by_layer)]
            for k, name in enumerate(names)
            if name is not None
        }
    )


def key_of(weights: str, request: Request) -> str:
    """Names a reply that would come out the same again."""
    text = f"{weights} {request.prompt_ids} {request.preset.model_dump_json()}"
    return sha256(text.encode()).hexdigest()
