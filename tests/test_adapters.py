"""Adapters by row: equal to peft, equal to dense merges, and refusals that name the field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from charllm.core.merging.adapters import AdapterModel
from charllm.data.errors import UserError

PROMPT = torch.tensor([[5, 17, 33, 4, 90, 61, 7, 12]])


def tiny_model(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**fields, **changes})).eval()


def save_adapter(folder: Path, seed: int, model: Any = None, **config: Any) -> Any:
    """A random adapter in peft's own format; the peft model it was saved from."""
    from peft import LoraConfig, get_peft_model

    fields = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}
    peft = get_peft_model(model or tiny_model(), LoraConfig(**{**fields, **config}))
    torch.manual_seed(seed)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    peft.save_pretrained(str(folder))
    return peft.eval()


def dense_deltas(peft: Any) -> dict[str, torch.Tensor]:
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module.get_delta_weight("default").detach()
        for name, module in peft.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = PROMPT) -> torch.Tensor:
    return model(input_ids=ids).logits


@torch.no_grad()
def row_logits(engine: AdapterModel, rows: list[Any], ids: torch.Tensor = PROMPT) -> torch.Tensor:
    with engine.selected(rows) as model:
        return model(input_ids=ids.expand(len(rows), -1)).logits


@pytest.fixture
def two(tmp_path: Path) -> tuple[AdapterModel, Any, Any]:
    """An engine with adapters a (r 4) and b (r 2 on attention only), and their peft models."""
    a = save_adapter(tmp_path / "a", 1)
    b = save_adapter(tmp_path / "b", 2, r=2, target_modules=["q_proj", "v_proj"])
    engine = AdapterModel(tiny_model(), base_hash="base")
    engine.load("a", tmp_path / "a")
    engine.load("b", tmp_path / "b")
    return engine, a, b


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
        {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]},
    ],
)
def test_single_adapter_equals_peft(tmp_path: Path, config: dict[str, Any]) -> None:
    peft = save_adapter(tmp_path / "a", 1, **config)
    engine = AdapterModel(tiny_model())
    engine.load("a", tmp_path / "a")
    result = row_logits(engine, [engine.row({"a": 1.0})])
    assert (result - logits(tiny_model())).abs().max() > 0.1  # the adapter does something
    torch.testing.assert_close(result, logits(peft), atol=1e-4, rtol=1e-5)


def test_merge_row_equals_dense_merge(two: tuple[AdapterModel, Any, Any]) -> None:
    engine, a, b = two
    dense = tiny_model()
    weights = {"a": 0.7, "b": -0.4}
    for peft, weight in ((a, 0.7), (b, -0.4)):
        for path, delta in dense_deltas(peft).items():
            dense.get_submodule(path).weight.data += weight * delta
    merged = row_logits(engine, [engine.row(weights)])
    torch.testing.assert_close(merged, logits(dense), atol=1e-4, rtol=1e-5)


def test_layerwise_weights(two: tuple[AdapterModel, Any, Any]) -> None:
    engine, a, b = two
    dense = tiny_model()
    weights = {"a": [0.0, 0.5, 1.0], "b": [0.9, 0.1, 0.0]}
    for name, peft in (("a", a), ("b", b)):
        for path, delta in dense_deltas(peft).items():
            layer = int(path.split(".")[2])
            dense.get_submodule(path).weight.data += weights[name][layer] * delta
    merged = row_logits(engine, [engine.row(weights)])
    torch.testing.assert_close(merged, logits(dense), atol=1e-4, rtol=1e-5)
    with pytest.raises(UserError, match=r"2 weights .* 3 layers"):
        engine.row({"a": [0.5, 0.5]})


def test_mixed_batch_equals_single_rows_and_base_is_bit_exact(
    two: tuple[AdapterModel, Any, Any],
) -> None:
    engine, *_ = two
    rows = [None, engine.row({"a": 1}), engine.row({}), engine.row({"a": 0.5, "b": 0.5})]
    mixed = row_logits(engine, rows)
    for at, row in enumerate(rows):
        torch.testing.assert_close(mixed[at], row_logits(engine, [row])[0], atol=1e-4, rtol=1e-5)
    base = logits(tiny_model(), PROMPT.expand(4, -1))
    assert torch.equal(mixed[0], base[0]) and torch.equal(mixed[2], base[2])
    assert torch.equal(logits(engine.model), logits(tiny_model()))  # nothing is left selected


def test_zero_row_is_bit_exact_in_bfloat16(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", 1)
    engine = AdapterModel(tiny_model().to(torch.bfloat16))
    engine.load("a", tmp_path / "a")
    mixed = row_logits(engine, [None, engine.row({"a": 1.0})])
    base = logits(tiny_model().to(torch.bfloat16), PROMPT.expand(2, -1))
    assert torch.equal(mixed[0], base[0]) and not torch.equal(mixed[1], base[1])


def test_rows_drop_repeat_and_reorder(two: tuple[AdapterModel, Any, Any]) -> None:
    engine, *_ = two
    a, mix = engine.row({"a": 1.0}), engine.row({"a": 0.5, "b": 0.5})
    expected = row_logits(engine, [mix, None, mix])
    engine.select([None, a, mix])
    engine.keep([2, 0, 2])
    with torch.no_grad():
        kept = engine.model(input_ids=PROMPT.expand(3, -1)).logits
    torch.testing.assert_close(kept, expected)
    engine.keep([1])
    assert torch.equal(logits(engine.model), logits(tiny_model()))
    engine.clear()


def test_parts_of_one_sequence(two: tuple[AdapterModel, Any, Any]) -> None:
    """Tokens that see only themselves: each gets the weights of its part."""
    engine, *_ = two
    mask = torch.full((8, 8), float("-inf")).fill_diagonal_(0)[None, None]
    rows = [None, engine.row({"a": 1.0}), None, engine.row({"a": 0.5, "b": 0.5})]
    with torch.no_grad():
        engine.select(rows, [2, 1, 2, 3])
        packed = engine.model(input_ids=PROMPT, attention_mask=mask).logits[0]
        spread = [row for row, n in zip(rows, [2, 1, 2, 3], strict=True) for _ in range(n)]
        engine.select(spread)
        ids, places = PROMPT.T, torch.arange(8)[:, None]
        apart = engine.model(input_ids=ids, position_ids=places).logits[:, 0]
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-5)
    with pytest.raises(AssertionError, match="is not the batch"):
        logits(engine.model)
    engine.clear()


def test_fingerprint_names_what_runs(two: tuple[AdapterModel, Any, Any], tmp_path: Path) -> None:
    engine, *_ = two
    row = engine.row({"a": 0.5, "b": 0.5})
    rows = (None, row, engine.row({"a": 1}), engine.row({"b": 1}))
    prints = [engine.fingerprint(r) for r in rows]
    assert len(set(prints)) == 4
    assert engine.fingerprint(engine.row({"b": 0.5, "a": 0.5})) == prints[1]
    assert engine.fingerprint(engine.row({"a": 0.0})) == prints[0]
    engine.load("a", tmp_path / "b")
    assert engine.fingerprint(row) != prints[1]
    assert AdapterModel(tiny_model(), "other").fingerprint(None) != prints[0]


def test_replaced_and_unloaded(two: tuple[AdapterModel, Any, Any], tmp_path: Path) -> None:
    engine, _, b = two
    engine.load("a", tmp_path / "b")
    result = row_logits(engine, [engine.row({"a": 1.0})])
    torch.testing.assert_close(result, logits(b), atol=1e-4, rtol=1e-5)
    engine.unload("a")
    assert engine.names == ["b"]
    with pytest.raises(UserError, match="'a' is not loaded"):
        engine.row({"a": 1.0})


def test_four_bit_base(tmp_path: Path) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = tiny_model(hidden_size=64)
    save_adapter(tmp_path / "a", 1, tiny_model(hidden_size=64))
    for layer in model.model.layers:
        old = layer.mlp.up_proj
        new = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32)
        new.load_state_dict({"weight": old.weight.data})
        layer.mlp.up_proj = new.to("cpu")
    logits(model.eval())  # on some processors the first forward pass repacks the weights
    base = logits(model, PROMPT.expand(2, -1))
    engine = AdapterModel(model)
    engine.load("a", tmp_path / "a")
    mixed = row_logits(engine, [None, engine.row({"a": 1.0})])
    assert torch.equal(mixed[0], base[0])
    assert (mixed[1] - base[0]).abs().max() > 0.1


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"),
        ("peft_type", "IA3"),
    ],
)
def test_refuses_what_is_not_plain_lora(tmp_path: Path, field: str, value: Any) -> None:
    save_adapter(tmp_path / "a", 1)
    edit_config(tmp_path / "a", **{field: value})
    engine = AdapterModel(tiny_model())
    with pytest.raises(UserError, match=field) as caught:
        engine.load("a", tmp_path / "a")
    assert field in caught.value.in_("ja")
    assert engine.names == []


def test_refuses_real_dora_and_trained_embeddings(tmp_path: Path) -> None:
    save_adapter(tmp_path / "dora", 1, use_dora=True)
    save_adapter(tmp_path / "embeddings", 1, target_modules=["q_proj", "embed_tokens"])
    save_adapter(tmp_path / "head", 1, modules_to_save=["lm_head"])
    for name, field in (
        ("dora", "use_dora"),
        ("embeddings", "embed_tokens"),
        ("head", "modules_to_save"),
    ):
        with pytest.raises(UserError, match=field):
            AdapterModel(tiny_model()).load(name, tmp_path / name)
    edit_config(tmp_path / "head", modules_to_save=None)  # the tensors still tell
    with pytest.raises(UserError, match="lm_head"):
        AdapterModel(tiny_model()).load("head", tmp_path / "head")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": 48, "head_dim": 8}, r"hidden_size \(.*\) is 32 .* 48"),
        ({"intermediate_size": 96}, "intermediate_size"),
        ({"num_hidden_layers": 2}, "num_hidden_layers"),
        ({"num_key_value_heads": 4}, r"num_key_value_heads .* is 16 .* 32"),
    ],
)
def test_refuses_another_base(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    save_adapter(tmp_path / "a", 1)
    engine = AdapterModel(tiny_model(**changes))
    with pytest.raises(UserError, match=field):
        engine.load("a", tmp_path / "a")
    assert engine.names == []


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    engine = AdapterModel(tiny_model())
    with pytest.raises(UserError, match="gone does not exist"):
        engine.load("a", tmp_path / "gone")
    save_adapter(tmp_path / "a", 1)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        broken = tmp_path / f"without-{name}"
        shutil.copytree(tmp_path / "a", broken)
        (broken / name).unlink()
        with pytest.raises(UserError, match=name):
            engine.load("a", broken)
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        engine.load("a", tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        engine.load("a", tmp_path / "a")
