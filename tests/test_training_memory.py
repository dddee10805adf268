"""The memory quote: compared with peaks that were measured, and what it proposes."""

from __future__ import annotations

from typing import Any

import pytest

from charllm.core import training_memory
from charllm.core.catalog import ModelInfo
from charllm.core.training_config import TrainConfig
from charllm.core.training_memory import BatchShape, batch_shape, explained_memory, parts, quote
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.prompts import Row

LLAMA_2 = {"layers": 32, "hidden": 4096, "ffn": 11008, "kv": 4096, "vocab": 32000}
LLAMA_3 = {"layers": 32, "hidden": 4096, "ffn": 14336, "kv": 1024, "vocab": 128256}
QWEN = {"layers": 28, "hidden": 1536, "ffn": 8960, "kv": 256, "vocab": 151936, "tied": True}
# Peaks of whole runs on an H200, by benchmarks/train_memory.py: settings, tokens of the largest
# batch, tokens learnt in it, GB.
MEASURED: list[tuple[dict[str, Any], int, dict[str, Any], int, int, float]] = [
    (LLAMA_2, 6_738_415_616, {}, 1926, 573, 16.17),
    (LLAMA_2, 6_738_415_616, {}, 2600, 271, 20.12),
    (LLAMA_2, 6_738_415_616, {"gradient_checkpointing": True}, 2600, 271, 7.32),
    (LLAMA_3, 8_030_261_248, {}, 1926, 573, 19.64),
    (QWEN, 1_543_714_304, {"quantization": "none"}, 2825, 836, 14.02),
]


def config(**changes: Any) -> TrainConfig:
    fields = {"name": "x", "profile": "ayane", "dataset": "ayane", "r": 16, "quantization": "nf4"}
    return TrainConfig.model_validate({**fields, **changes})


@pytest.mark.parametrize(("shape", "count", "settings", "tokens", "learnt", "peak"), MEASURED)
def test_quotes_are_within_a_tenth_of_measured_peaks(
    shape: dict[str, Any],
    count: int,
    settings: dict[str, Any],
    tokens: int,
    learnt: int,
    peak: float,
) -> None:
    names = {"id": "m", "label": "m", "family": "f", "template": "llama-2", "license": "x"}
    info = ModelInfo.model_validate({**names, **shape, "parameters": count})
    made = parts(config(**settings), info, BatchShape(tokens, learnt), "cuda")
    assert 0.9 < sum(made.values()) / peak < 1.1, made


def test_the_largest_batch_is_found_in_the_order_in_which_rows_are_dealt() -> None:
    rows = [Row([7] * n + [1, 2, 3], [-100] * n + [-100, 2, 3]) for n in (10, 30, 50, 20)]
    plain = config(batch_size=2, share_prefix=False, epochs=40)
    assert batch_shape(plain, rows) == BatchShape(2 * 53, 4)
    # All in one batch: ten tokens are common, then the rests of 3, 23, 43 and 13.
    assert batch_shape(config(batch_size=4), rows) == BatchShape(10 + 3 + 23 + 43 + 13, 8)
    assert batch_shape(config(batch_size=3, max_length=100), None).tokens == 300


def test_what_does_not_fit_comes_with_settings_that_do(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_memory, "_device", lambda: ("cuda", 24.0))
    wide = config(base="Llama-3.1-8B-EZO-1.1-it", batch_size=64, quantization="none")
    made = quote(wide, paths)
    assert not made.fits and made.measures
    for fit in made.measures:
        again = quote(wide.model_copy(update=fit.changes), paths)
        assert again.fits and again.total_gb == fit.total_gb
        rows = again.tokens / wide.max_length * fit.changes.get("accumulate", 1)
        assert rows == 64, "what is learnt in a step must stay the same"
    assert any("quantization" in fit.changes for fit in made.measures)
    assert quote(config(base="gemma-3-270m", batch_size=2), paths).fits


def test_out_of_memory_names_the_setting_to_change(paths: Paths) -> None:
    import torch

    small = config(base="gemma-3-270m", quantization="none", batch_size=8)
    for error in (
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ):
        told = pytest.raises(UserError, match="batch_size: 4, accumulate: 2")
        with told, explained_memory(small, paths, None):
            raise error
    with pytest.raises(RuntimeError, match="else"), explained_memory(small, paths, None):
        raise RuntimeError("something else")
