"""Looking before training: the rows as tokens, what is learnt of them, and what it will take.

What a start would refuse is found here first, and a base that is not on this machine is never
fetched for a look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.catalog import CATALOG, EMBEDDED
from charllm.core.training_config import TrainConfig
from charllm.data import collection
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue
from charllm.data.errors import UserError
from charllm.services.dataset_view import report_of
from charllm.services.train_forms import config_of, train_runs
from charllm.services.train_rows import material_or_longer
from charllm.services.train_view import TrainView

if TYPE_CHECKING:
    from charllm.core.training_data import Material

_views = TrainView()


@dataclass(frozen=True)
class Look:
    """What was found. ``problem``: why a run would not start, or why there is nothing to see.

    ``blocks``: whether a start would be refused. ``memory`` and ``totals`` are empty where they
    cannot be told; ``seconds`` None where no run on this base has been timed here.
    """

    config: TrainConfig
    problem: UserError | None
    blocks: bool
    totals: dict[str, Any]
    memory: dict[str, Any]
    seconds: float | None
    rows: tuple[int, int]
    """Rows to train on, and held-out rows."""


def look(config: TrainConfig, paths: Paths) -> Look:
    """Everything that can be known of the run before it starts; loads no weights."""
    if config.backend == "openai":
        return _look_remote(config, paths)
    problem = _refused(config, paths)
    if not base_ready(config.base, paths):
        return _without_rows(config, paths, problem)
    material, found = material_or_longer(config, paths)
    problem = problem or found
    if material is None:
        return Look(config, problem, True, {}, _memory(config, paths, None), None, (0, 0))
    return Look(
        config,
        problem,
        problem is not None,
        totals(config, paths, material),
        _memory(config, paths, material),
        _seconds(config, paths, material),
        (len(material.rows), len(material.held_out_rows)),
    )


def base_ready(base: str, paths: Paths) -> bool:
    """Whether the base is on this machine; a folder that is gone is not."""
    from charllm.core.model_files import is_ready

    return is_ready(paths, base)


def base_words(base: str, paths: Paths) -> UserError | None:
    """How to get a base that is not on this machine; None where it is."""
    if base_ready(base, paths):
        return None
    if base == EMBEDDED:
        return UserError(
            "The embedded base is not prepared yet. Prepare it in the Models tab (half a minute, "
            "once).",
            "内蔵ベースモデルの準備がまだです。「モデル」タブで準備してください（最初の一度だけ、"
            "30 秒ほどかかります）。",
        )
    known = next((one for one in CATALOG if base in (one.id, one.hub_id)), None)
    hub = known.hub_id if known else base
    if Path(base).expanduser().is_absolute() or not hub:
        return UserError(
            f"There is no whole model at {base}. Enter a folder with config.json, tokenizer and "
            "safetensors, or choose one of the list.",
            f"{base} に使えるモデルがありません。config.json、トークナイザー、safetensors の"
            "そろったフォルダーを指定するか、一覧から選んでください。",
        )
    return UserError(
        f"{hub} is not on this machine. The run would fetch it first; to look at the rows before, "
        f"fetch it with `hf download {hub}`, or enter the folder where it lies.",
        f"{hub} はこのマシンにありません。実行すると最初に取得します。先に行を確認するには、"
        f"`hf download {hub}` で取得するか、モデルのあるフォルダーを指定してください。",
    )


def _without_rows(config: TrainConfig, paths: Paths, problem: UserError | None) -> Look:
    """A base that is not here: a hub's model can be started, the run fetches it; others not."""
    fetched = config.base != EMBEDDED and not Path(config.base).expanduser().is_absolute()
    blocks = problem is not None or not fetched
    words = problem or base_words(config.base, paths)
    return Look(config, words, blocks, {}, _memory(config, paths, None), None, (0, 0))


def _refused(config: TrainConfig, paths: Paths) -> UserError | None:
    """What a start refuses before it reads the data; fetches nothing."""
    from charllm.core.training_start import check_start

    # Of a base that is not here no file can be looked at; nor is any of a service's.
    ready = base_ready(config.base, paths)
    try:
        check_start(config if ready else config.model_copy(update={"backend": "openai"}), paths)
    except UserError as error:
        return error
    return None


def totals(config: TrainConfig, paths: Paths, material: Material) -> dict[str, Any]:
    """Counts of rows and tokens, the longest row, rows over the limit, and leaks.

    ``leaks``: held-out dialogues that read like one that is trained on. ``queries``: dialogues
    that are trained on and ask what a query set asks. Pairs ``(id, other id)``.
    """
    from charllm.core.training_data import leaks
    from charllm.core.training_shared import common_prefix

    lengths = [len(row.input_ids) for row in material.rows]
    both = [*material.rows, *material.held_out_rows]
    return {
        "dialogues": len(material.dialogues),
        "rows": len(lengths),
        "held_out": len(material.held_out_rows),
        "tokens": sum(lengths),
        "learnt": material.learnt,
        "longest": max(len(row.input_ids) for row in both),
        "max_length": config.max_length,
        "over": sum(len(row.input_ids) > config.max_length for row in both),
        "prefix": common_prefix(material.rows),
        "template": material.template.name,
        "leaks": leaks(material.dialogues, material.held_out),
        "queries": _query_leaks(config, paths, material.dialogues),
    }


def _query_leaks(
    config: TrainConfig, paths: Paths, dialogues: Sequence[Dialogue]
) -> list[tuple[str, str]]:
    trained = {dialogue.id for dialogue in dialogues}
    report = report_of(paths, collection.load(paths, config.dataset))
    return [(id, query) for id, query, _ in report.leaks if id in trained]


# --- what it takes ------------------------------------------------------------------------------


def _memory(config: TrainConfig, paths: Paths, material: Material | None) -> dict[str, Any]:
    """The memory quote as plain data; {} where the base's shape is not known."""
    from charllm.core.training_memory import quote

    try:
        made = quote(config, paths, material)
    except UserError:  # a base that is not known is told of elsewhere
        return {}
    return {
        "device": made.device,
        "parts": made.parts,
        "total_gb": made.total_gb,
        "available_gb": made.available_gb,
        "fits": made.fits,
        "measures": [
            {"changes": dict(fit.changes), "total_gb": fit.total_gb} for fit in made.measures
        ],
    }


def _seconds(config: TrainConfig, paths: Paths, material: Material) -> float | None:
    """Time to train, from the newest run on this base that has been timed on this machine."""
    for run in train_runs(paths):
        try:
            base = config_of(run).base
            speed = _views.of(run).speed
        except UserError:  # a damaged folder, or settings of an older charllm
            continue
        if base == config.base and speed:
            tokens = sum(len(row.input_ids) for row in material.rows) * config.epochs
            return float(tokens / speed)
    return None


def _look_remote(config: TrainConfig, paths: Paths) -> Look:
    """A fine-tuning service: what would be sent, and roughly billed."""
    from charllm.core.training_remote_data import remote_quote
    from charllm.core.training_start import check_start

    try:
        check_start(config, paths)
        sent = remote_quote(config, paths)
    except UserError as error:
        return Look(config, error, True, {}, {}, None, (0, 0))
    return Look(config, None, False, {"remote": sent._asdict()}, {}, None, (0, 0))
