"""The rows of a training run, token by token, before it starts.

Rows are prepared once for each state of data and settings; nothing is loaded but the tokenizer.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from charllm.core.training_config import TrainConfig
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path
from charllm.data.errors import UserError
from charllm.data.settings import settings_of

if TYPE_CHECKING:
    from charllm.core.training_data import Material
    from charllm.data.prompts import Row

PAGE = 8
"""Rows of a page."""
KEPT = 2
"""Prepared materials that are remembered."""
LONGEST = 131_072
"""Tokens up to which rows are shown that are too long to be trained on."""
_ROW_GROUPS = ("what", "data")
"""Groups whose settings decide what the rows are."""
_NOT_ROWS = ("name", "backend", "base_url", "label_en", "label_ja", "replace")


class _Materials:
    """Prepared rows by the settings and files they were made of; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Material | UserError] = OrderedDict()

    def of(self, config: TrainConfig, paths: Paths) -> Material:
        from charllm.core.training_data import prepare

        key = _row_key(config, paths)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                try:
                    found = prepare(config, paths)
                except UserError as error:
                    found = error
                self._known[key] = found
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        if isinstance(found, UserError):
            raise UserError(*found.text)
        return found


_materials = _Materials()


def _row_key(config: TrainConfig, paths: Paths) -> str:
    """The settings that decide the rows, and the times of the files they are read from."""
    others = {one.name for one in settings_of(TrainConfig) if one.group not in _ROW_GROUPS} | set(
        _NOT_ROWS
    )
    files = [dataset_path(paths, config.dataset), *(paths.profiles / config.profile).glob("*")]
    stamps = sorted((str(file), file.stat().st_mtime_ns) for file in files if file.is_file())
    settings = config.model_dump(mode="json", exclude=others - {"keep"})
    return json.dumps([str(paths.root), settings, stamps])


def material_or_longer(
    config: TrainConfig, paths: Paths
) -> tuple[Material | None, UserError | None]:
    """The rows and why they cannot be trained on; rows that are too long can still be shown."""
    try:
        return _materials.of(config, paths), None
    except UserError as error:
        longer = config.model_copy(update={"max_length": LONGEST})
        try:
            return _materials.of(longer, paths), error
        except UserError:  # what is wrong is not the length, or no base is so long
            return None, error


def rows_page(config: TrainConfig, paths: Paths, held_out: bool, page: int) -> dict[str, Any]:
    """One page of rows, token by token: ``{"page", "pages", "rows": [{"id", "tokens", "learnt",
    "over", "parts"}]}``, pages from 0; a page that is not there becomes the nearest one that is.

    ``parts`` are runs ``{"kind", "tokens": [[text, id]…]}`` of kind "shared" (the beginning that
    all rows have in common), "prompt", "learnt" or "end".
    """
    from charllm.core.training_shared import common_prefix

    material, _ = material_or_longer(config, paths)
    if material is None:
        return {"page": 0, "pages": 0, "rows": []}
    rows = material.held_out_rows if held_out else material.rows
    pages = -(-len(rows) // PAGE)
    page = max(0, min(page, pages - 1))
    names = _row_names(config, material, held_out)
    shared = common_prefix(material.rows)
    shown = [
        {
            "id": names[place],
            "tokens": len(rows[place].input_ids),
            "learnt": sum(label != -100 for label in rows[place].labels),
            "over": len(rows[place].input_ids) > config.max_length,
            "parts": row_parts(rows[place], material, shared),
        }
        for place in range(page * PAGE, min(len(rows), (page + 1) * PAGE))
    ]
    return {"page": page, "pages": pages, "rows": shown}


def _row_names(config: TrainConfig, material: Material, held_out: bool) -> list[str]:
    """The dialogue each row was made of; those that show facts come several times."""
    from charllm.core.training_data import choose_facts

    part, draws = (material.held_out, 1) if held_out else (material.dialogues, config.fact_draws)
    examples = choose_facts(part, material.profile, config.rag_share, config.split_seed, draws)
    return [example.dialogue.id for example in examples]


def row_parts(row: Row, material: Material, shared: int) -> list[dict[str, Any]]:
    """A row's tokens in runs of one kind. ``shared``: tokens that all rows begin with."""
    first = next(place for place, label in enumerate(row.labels) if label != -100)
    texts = token_texts(material.tokenizer, row.input_ids)
    pairs = [[text, token] for text, token in zip(texts, row.input_ids, strict=True)]
    same = min(shared, first)
    runs = {
        "shared": pairs[:same],
        "prompt": pairs[same:first],
        "learnt": pairs[first:-1],
        "end": pairs[-1:],
    }
    return [{"kind": kind, "tokens": tokens} for kind, tokens in runs.items() if tokens]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's part of the text. The parts joined are the text; a character of several tokens
    stands with its last one."""
    from charllm.core.decoding_text import TextStream

    stream, texts = TextStream(tokenizer), []
    for token in ids:
        stream.push(token)
        texts.append(stream.take())
    texts[-1] += stream.finish()
    return texts
