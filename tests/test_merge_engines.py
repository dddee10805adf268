"""The engines: what a candidate's model says, against the merge written to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import byte_tokenizer
from test_merge_methods import LAYERS, candidate, make_family, open_dense, steps_apart
from test_merging import make_adapter, make_llama

from charllm.core.generation import GenerationPreset, Request, generate_all
from charllm.core.merging import kernels
from charllm.core.merging.adapter_engine import AdapterEngine
from charllm.core.merging.blend import MergeConfig, run_merge
from charllm.core.merging.coefficients import Coefficients, even, hops, layer_groups
from charllm.core.merging.dense import DenseEngine
from charllm.core.merging.engines import open_engine
from charllm.core.merging.layers_engine import LayersEngine
from charllm.core.merging.planning import Memory, plan
from charllm.core.merging.recipe import MergeRecipe
from charllm.core.merging.sources import ModelFiles
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json
from charllm.data.progress import Silent

TOKENS = torch.tensor([[1, 5, 9, 2, 33, 4]])
PLENTY = Memory("cpu", 64.0, 64.0)


def merged(paths: Paths, recipe: MergeRecipe, engine: str = "resident") -> Any:
    """The recipe's result, written and loaded again, in float32."""
    from transformers import AutoModelForCausalLM

    recipe.save(paths.root / "recipe.yaml")
    out = str(paths.workspace / f"out-{engine}")
    config = MergeConfig(recipe="recipe.yaml", out=out, engine=engine)  # type: ignore[arg-type]
    run_merge(config, Silent(), paths.root, paths)
    return AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "qwen2", "gemma2"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp(request.param)
    paths = Paths(folder, folder / "workspace")
    make_family(paths.models, request.param, torch.float32)
    return paths


def test_a_scale_that_no_weight_can_hold_is_refused(family: Paths) -> None:
    engine = LayersEngine({name: float_model(family.models / name) for name in ("one", "two")})
    genome = hops([(0, 0, 1.0), (1, 1, 0.8)])
    if hasattr(engine.model.model.layers[0], "post_feedforward_layernorm"):
        with pytest.raises(UserError, match="scales of 1"):
            engine.recipe(genome)
    else:
        assert len(engine.recipe(genome).slices or ()) == 2


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("llama")
    paths = Paths(folder, folder / "workspace")
    make_family(paths.models, "llama")
    base = paths.models / "base"
    for name in ("base", "one", "two"):
        byte_tokenizer(size=300).save_pretrained(paths.models / name)
    make_adapter(base, paths.checkpoints / "a", seed=3)
    make_adapter(base, paths.checkpoints / "b", seed=4)
    return paths


ADAPTERS = ["base+checkpoints/a", "base+checkpoints/b"]


def float_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_adapter_rows_are_the_dense_merge(llama: Paths, method: str) -> None:
    folders = {name: llama.checkpoints / name[-1] for name in ADAPTERS}
    engine = AdapterEngine(float_model(llama.models / "base"), folders, 2, base="base")
    assert engine.groups == ["layers 0-1", "layers 2-2"]
    weights = {"layers 0-1": (0.9, 0.1), "layers 2-2": (0.25, 0.5)}
    extra = {"lambda": 0.7} if method == "task_arithmetic" else {}
    genome = Coefficients(method, weights, extra)
    effect = engine.apply(genome)
    assert effect.asked == effect.effective and not effect.warn
    with engine.model.selected([effect.scales]) as model:  # type: ignore[list-item]
        mine = logits(model)
    recipe = engine.recipe(genome, "float32")
    assert recipe.base_model == ("base" if method == "task_arithmetic" else None)
    assert torch.allclose(mine, logits(merged(llama, recipe)), atol=1e-4)
    assert not torch.allclose(mine, logits(engine.model.model), atol=1e-2)


def test_a_generation_of_rows_in_one_batch_says_the_same(llama: Paths) -> None:
    tokenizer = byte_tokenizer(size=300)
    base = make_llama(llama.models / "wordy", seed=9, vocab_size=len(tokenizer))
    folders = {}
    for seed in (1, 2):
        name = f"wordy-{seed}"
        folders[name] = make_adapter(base, llama.checkpoints / name, seed=seed)
    engine = AdapterEngine(float_model(base), folders, 2)
    preset = GenerationPreset(max_new_tokens=8, repetition_guard=False)
    shares = (0.0, 0.3, 0.7, 1.0)
    requests = []
    for number, share in enumerate(shares):
        weights = {"layers 0-1": (1 - share, share), "layers 2-3": (share, 1 - share)}
        scales = engine.apply(Coefficients("linear", weights)).scales
        requests.append(Request(str(number), [5, 6, 7 + number % 2], scales, preset))
    together = [done.token_ids for done in generate_all(engine.model, tokenizer, requests)]
    alone = [generate_all(engine.model, tokenizer, [one])[0].token_ids for one in requests]
    assert together == alone and len(set(map(tuple, together))) > 1


PATHS = {
    "same depth": [(0, 0, 1.0), (1, 1, 1.0), (1, 2, 1.0)],
    "stacked": [(0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0), (1, 2, 1.0)],
    "backwards": [(1, 2, 1.0), (0, 0, 1.0), (0, 0, 1.0), (1, 1, 1.0)],
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_over_layers_are_the_passthrough_merge(family: Paths, path: str) -> None:
    engine = LayersEngine({name: float_model(family.models / name) for name in ("one", "two")})
    assert torch.equal(logits(engine.model), logits(float_model(family.models / "one")))
    genome = hops(PATHS[path])
    engine.apply(genome)
    mine = logits(engine.model)
    recipe = engine.recipe(genome, "float32")
    assert torch.allclose(mine, logits(merged(family, recipe)), atol=1e-6)
    assert torch.allclose(mine, logits(merged(family, recipe, "mergekit")), atol=1e-6)
    engine.apply(hops([(0, k, 1.0) for k in range(LAYERS)]))
    assert torch.equal(logits(engine.model), logits(float_model(family.models / "one")))


def test_repeated_layers_have_their_own_cache(family: Paths) -> None:
    engine = LayersEngine({name: float_model(family.models / name) for name in ("one", "two")})
    engine.apply(hops([(0, 0, 1.0), (1, 1, 0.8), (1, 1, 1.1), (0, 1, 1.0), (0, 2, 1.0)]))
    with torch.inference_mode():
        whole = engine.model(TOKENS).logits[:, -1]
        first = engine.model(TOKENS[:, :4], use_cache=True)
        rest = engine.model(TOKENS[:, 4:], past_key_values=first.past_key_values)
    assert torch.allclose(rest.logits[:, -1], whole, atol=1e-4)


def test_scales_are_written_where_a_norm_undoes_them(llama: Paths) -> None:
    engine = LayersEngine({name: float_model(llama.models / name) for name in ("one", "two")})
    genome = hops([(0, 0, 1.0), (1, 0, 0.5), (1, 1, 1.6), (0, 2, 0.9)])
    engine.apply(genome)
    recipe = engine.recipe(genome, "float32")
    mine = logits(engine.model)
    for name in ("resident", "mergekit"):
        assert torch.allclose(mine, logits(merged(llama, recipe, name)), atol=2e-3)
    engine.apply(hops([(p, k, 1.0) for p, k in ((0, 0), (1, 0), (1, 1), (0, 2))]))
    assert not torch.allclose(mine, logits(engine.model), atol=2e-2)
    with pytest.raises(UserError, match="above 0"):
        engine.recipe(hops([(0, 0, 0.0)]))


def test_parents_read_from_their_files_blend_the_same(llama: Paths) -> None:
    for method in ("linear", "slerp", "ties", "dare_ties"):
        beside, mapped = (open_dense(llama, method, where=w) for w in ("device", "mapped"))
        effects = [engine.apply(candidate(method)) for engine in (beside, mapped)]
        for one, two in zip(beside.model.parameters(), mapped.model.parameters(), strict=True):
            assert torch.equal(one, two)
        assert effects[0].effective == effects[1].effective


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["device", "pinned", "mapped"])
def test_a_gpu_blends_the_same(llama: Paths, where: str) -> None:
    """Fused on the GPU, streamed or not, against the plain computation on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    from transformers import AutoModelForCausalLM

    for method in ("linear", "slerp", "task_arithmetic", "ties", "dare_ties"):
        names = ["one", "two"] if method in ("linear", "slerp") else ["base", "one", "two"]
        sources: Any = {name: ModelFiles(llama.models / name) for name in names}
        model: Any = AutoModelForCausalLM.from_pretrained(llama.models / "one", dtype="bfloat16")
        engine = DenseEngine(model.cuda(), sources, 2, "base" * (len(names) == 3), where)  # type: ignore[arg-type]
        plain = open_dense(llama, method)
        effects = [one.apply(candidate(method)) for one in (engine, plain)]
        for mine, theirs in zip(engine.model.parameters(), plain.model.parameters(), strict=True):
            assert steps_apart(mine.detach().cpu(), theirs.detach()).max() <= 1
        assert effects[0].effective == pytest.approx(effects[1].effective, abs=1e-3)


def test_fused_kernels_compute_the_same() -> None:
    """Compiled and plain, over more blocks than one plain piece holds."""
    if not kernels.can_compile(torch.device("cpu")):
        pytest.skip("no C++ compiler here: kernels run uncompiled")
    torch.manual_seed(0)
    xs = [torch.randn(600, kernels.BLOCK).to(torch.bfloat16) for _ in range(2)]
    shared = torch.tensor([0.3, 0.7]).view(2, 1, 1)
    outs = [torch.empty_like(xs[0]) for _ in range(2)]
    for compiled, out in zip((True, False), outs, strict=True):
        kernels.run(kernels.add_weighted, out, xs, shared, compiled=compiled)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[1], (0.3 * xs[0].float() + 0.7 * xs[1].float()).to(torch.bfloat16))


@pytest.mark.parametrize(("difference", "bent"), [(0.003, True), (0.5, False)])
def test_rounding_bends_close_parents(tmp_path: Path, difference: float, bent: bool) -> None:
    """The sampled effective share is the one of all weights."""
    from transformers import AutoModelForCausalLM

    paths = Paths(tmp_path, tmp_path / "workspace")
    make_llama(paths.models / "one", seed=1, hidden_size=64)
    near: Any = AutoModelForCausalLM.from_pretrained(paths.models / "one", dtype=torch.float32)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.mul_(1 + difference * torch.randn_like(parameter))
    near.to(torch.bfloat16).save_pretrained(paths.models / "two")
    engine = open_dense(paths, "linear")
    effect = engine.apply(Coefficients("linear", dict.fromkeys(engine.groups, (0.63, 0.37))))
    live = {name: p.detach() for name, p in engine.model.named_parameters()}
    moved = asked = 0.0
    for name in engine.layout.places:
        if ".layers.0." in name or ".layers.1." in name:
            one, two = (ModelFiles(paths.models / n).get(name).double() for n in ("one", "two"))
            moved += float(((live[name].double() - one) * (two - one)).sum())
            asked += float(((two - one) ** 2).sum())
    assert effect.asked["layers 0-1"] == pytest.approx(0.37)
    assert effect.effective["layers 0-1"] == pytest.approx(moved / asked, abs=0.02)
    assert effect.warn == bent == (effect.warning is not None)
    assert (moved / asked < 0.25) == bent


def test_three_parents_and_a_base(llama: Paths) -> None:
    sources: Any = {n: ModelFiles(llama.models / n) for n in ("base", "one", "two")}
    engine = DenseEngine(float_model(llama.models / "one"), sources, 2, compiled=False)
    assert engine.parents == ["base", "one", "two"]
    engine.apply(even("linear", engine.groups, 3))
    names = "model.layers.1.mlp.up_proj.weight"
    mean = sum(ModelFiles(llama.models / n).get(names).float() for n in sources) / 3
    assert torch.allclose(dict(engine.model.named_parameters())[names], mean, atol=1e-6)
    with pytest.raises(UserError, match="needs a base model"):
        engine.apply(even("ties", engine.groups, 3))
    with pytest.raises(UserError, match="3 finite weights"):
        engine.apply(even("linear", engine.groups, 2))
    with pytest.raises(UserError, match="layer groups: head"):
        engine.apply(even("linear", engine.groups[:-1], 3))
    with pytest.raises(UserError, match="add up to zero"):
        engine.apply(Coefficients("linear", dict.fromkeys(engine.groups, (1.0, -1.0, 0.0))))


def test_the_plan_follows_memory_and_parents(llama: Paths) -> None:
    names = ["workspace/models/one", "workspace/models/two"]
    size = 2 * sum(p.numel() for p in float_model(llama.models / "one").parameters()) / 1e9
    found = plan(llama, names, memory=PLENTY)
    assert (found.engine, found.where, found.fits) == ("dense", "device", True)
    assert found.weights_gb == pytest.approx(size, abs=1e-3)
    small = Memory("cuda", 0.9, 64.0)
    big = plan(llama, names, memory=Memory("cuda", 64.0, 64.0))
    assert big.where == "device" and big.device == "cuda"
    assert not plan(llama, names, memory=small).fits
    with pytest.raises(UserError, match=r"0\.9 GB free"):
        plan(llama, names, memory=small).require()
    with_base = plan(llama, names, "ties", "workspace/models/base", memory=PLENTY)
    assert with_base.engine == "dense" and with_base.base is not None
    rows = plan(llama, ["checkpoints/a", "checkpoints/b"], memory=PLENTY, near=llama.models)
    assert rows.engine == "adapter" and "one batch" in rows.reasons[0].en
    assert plan(llama, names, "passthrough", memory=PLENTY).engine == "layers"
    mixed = [names[0], "checkpoints/a"]
    assert plan(llama, mixed, memory=PLENTY, near=llama.models).engine == "dense"
    other = plan(llama, names, "nuslerp", memory=PLENTY)
    assert other.engine == "mergekit" and "slower" in other.reasons[0].en
    for method, base in (("ties", ""), ("linear", "workspace/models/base"), ("slerp", names[0])):
        with pytest.raises(UserError):
            plan(llama, names, method, base, memory=PLENTY)
    with pytest.raises(UserError, match="exactly two"):
        plan(llama, [*names, "workspace/models/base"], "slerp", memory=PLENTY)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_two_full_7b_fit_a_24_gb_card(tmp_path: Path, device: str) -> None:
    """From configs and headers alone: no weight is there to read."""
    paths = Paths(tmp_path, tmp_path / "workspace")
    for name in ("one", "two"):
        fake_checkpoint(paths.models / name, 32, 4096, 11008, 32000)
    found = plan(paths, ["one", "two"], memory=Memory(device, 23.5, 60.0))  # type: ignore[arg-type]
    assert found.engine == "dense" and found.fits
    assert found.where == ("pinned" if device == "cuda" else "mapped")
    assert 13.4 < found.weights_gb < 13.6 and found.total_gb < 23.5
    scarce = plan(paths, ["one", "two"], memory=Memory("cuda", 23.5, 16.0))
    assert scarce.where == "mapped" and scarce.fits


def fake_checkpoint(folder: Path, layers: int, hidden: int, inner: int, vocabulary: int) -> None:
    """config.json and a safetensors header whose data is a hole in a sparse file."""
    import json

    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    shapes["lm_head.weight"] = (vocabulary, hidden)
    for k in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"model.layers.{k}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj", "down_proj"):
            shapes[f"model.layers.{k}.mlp.{name}.weight"] = (inner, hidden)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    folder.mkdir(parents=True)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    write_json(
        folder / "config.json",
        {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": hidden},
    )


def test_the_failing_pair_is_named_before_anything_loads(tmp_path: Path) -> None:
    """Llama-3-8B and Gemma-2-9B, from their config.json alone."""
    paths = Paths(tmp_path, tmp_path / "workspace")
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    }
    gemma = {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "head_dim": 256,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "vocab_size": 256000,
    }
    for name, config in (("Llama-3-8B", llama), ("Gemma-2-9B", gemma)):
        (paths.models / name).mkdir(parents=True)
        write_json(paths.models / name / "config.json", config)
    with pytest.raises(UserError) as caught:
        plan(paths, ["Llama-3-8B", "Gemma-2-9B"], memory=PLENTY)
    for part in ("model_type", "llama", "gemma2", "num_hidden_layers", "32", "42", "vocab_size"):
        assert part in caught.value.text.en and part in caught.value.text.ja
    assert "intermediate_size" not in caught.value.text.en


def test_an_engine_opens_as_planned(llama: Paths) -> None:
    engine = open_engine(plan(llama, ["one", "two"], memory=PLENTY), 2, compiled=False)
    effect = engine.apply(even("linear", engine.groups, 2))
    assert effect.scales is None and effect.seconds < 5
    engine.close()
    finer = open_engine(plan(llama, ["one", "two"], memory=PLENTY), 2, False, "float16")
    finer.apply(even("linear", finer.groups, 2))
    assert next(finer.model.parameters()).dtype == torch.float16
    mixed = plan(llama, ["one", "base+checkpoints/a"], "slerp", memory=PLENTY)
    engine = open_engine(mixed, 2, compiled=False)
    engine.apply(Coefficients("slerp", dict.fromkeys(engine.groups, (0.0, 1.0))))
    tuned = merged(
        llama,
        MergeRecipe(
            merge_method="linear",
            dtype="bfloat16",
            models=({"model": "base+checkpoints/a", "parameters": {"weight": 1}},),  # type: ignore[arg-type]
        ),
    )
    parameters = dict(engine.model.named_parameters())
    for name, parameter in tuned.named_parameters():
        assert torch.allclose(parameters[name].float(), parameter, rtol=2**-7), name
    slow = open_engine(plan(llama, ["one", "two"], "nuslerp", memory=PLENTY), 2)
    slow.apply(even("nuslerp", slow.groups, 2))
    stack = open_engine(plan(llama, ["one", "two"], "passthrough", memory=PLENTY))
    stack.apply(hops([(0, 0, 1.0), (1, 2, 1.0)]))
    assert stack.model(TOKENS).logits.isfinite().all()


def test_layer_groups_cover_every_layer_once() -> None:
    groups = layer_groups(18, 4)
    assert [name for name, _ in groups] == [
        "embeddings",
        *("layers 0-3", "layers 4-7", "layers 8-11", "layers 12-15", "layers 16-17"),
        "head",
    ]
    assert [layer for _, layers in groups for layer in layers] == list(range(18))
    with pytest.raises(UserError):
        layer_groups(4, 0)


def test_numbers_of_a_method_by_group_and_parent() -> None:
    genome = Coefficients(
        "ties", {"a": (1.0, 1.0)}, {"density": 0.5, "density@a": 0.4, "density#1": 0.3}
    )
    assert genome.number("density", 1.0) == 0.5
    assert genome.number("density", 1.0, "a", 0) == 0.4
    assert genome.number("density", 1.0, "b", 1) == 0.3
    assert genome.number("lambda", 1.0, "a") == 1.0
