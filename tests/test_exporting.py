"""Exports of tiny random models: what is merged, what GGUF's readers get, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from small_models import SCALED, SHAPE, byte_tokenizer, qwen_tokenizer

from charllm.core.exporting import ExportConfig, run_export
from charllm.core.gguf_tokenizer import BYTE, CONTROL, NORMAL, Vocabulary, read_vocabulary
from charllm.core.training_config import TrainConfig
from charllm.core.training_readme import curves_svg, readme
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json
from charllm.data.progress import Silent, Stopped
from charllm.data.prompts import get_template, prompt_ids, prompt_text
from charllm.data.template_jinja import chat_template
from charllm.data.templates import TEMPLATES

TIED = {
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 16,
    "tie_word_embeddings": True,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("llama", {}),
    "llama-3.1": ("llama", {"rope_parameters": SCALED}),
    "mistral": ("mistral", {}),
    "gemma-2": ("gemma2", TIED),
    "gemma-3": ("gemma3_text", {**TIED, "num_hidden_layers": 6}),
    "qwen-2": ("qwen2", {}),
    "qwen-3": ("qwen3", {"head_dim": 128}),  # its reader knows no other
}
WORDS = "質問：お名前は？ 回答：小野寺絢音ですわ。ますわ。 the name is what it is"


def small_tokenizer(kind: str) -> Any:
    """Byte-level for Qwen; for the others as SentencePiece's, with bytes to fall back on."""
    if kind.startswith("qwen"):
        return qwen_tokenizer()
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    named = ["<unk>", "<s>", "</s>"]
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [AddedToken(name, special=True) for name in named]
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*special, *letters], show_progress=False
    )
    inner.train_from_iterator([WORDS] * 3, trainer)
    data = json.loads(inner.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )


def make_model(folder: Path, kind: str = "llama", shard: str = "5GB", **more: Any) -> Any:
    """A random model whose every part matters for its logits, saved in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    tokenizer = small_tokenizer(kind)
    tokenizer.save_pretrained(folder)
    rows = len(tokenizer) + 5
    config = AutoConfig.for_model(kind, **{**SHAPE, "vocab_size": rows, **more})
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            middle = 1.0 if "norm" in name and "gemma" not in kind else 0.0
            weight.normal_(middle, 0.3 if "norm" in name else 0.15)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    return load(folder)


def load(folder: Path, **more: Any) -> Any:
    """The model in float32, so that rounding on the way does not hide a difference."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()


def make_adapter(
    paths: Paths, name: str, model: Any, base: str, template: str, seed: int = 1
) -> Any:
    """An untrained LoRA with weights that matter, as a checkpoint; returns peft's model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for key, weight in tuned.named_parameters():
            if "lora_" in key:
                weight.normal_(0, 0.1).copy_(weight.bfloat16())
    folder = paths.checkpoints / name
    tuned.save_pretrained(folder)
    licence = {"name": "Llama 2 Community License", "notice": "A notice."}
    write_json(
        folder / "card.json",
        {"base": base, "template": template, "licence": licence, "label": name},
    )
    return tuned.eval()


def logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def export(paths: Paths, **options: Any) -> dict[str, Any]:
    folder = paths.workspace / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return run_export(ExportConfig(**options), Silent(), folder, paths)


# ── GGUF ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", KINDS)
def test_a_gguf_read_back_gives_the_same_logits(family: str, paths: Paths) -> None:
    """Read by transformers' own loader, in float32: the same numbers."""
    kind, more = KINDS[family]
    model = make_model(paths.models / "tiny", kind, **more)
    out = export(paths, source="tiny", to="gguf")
    loaded = load(Path(out["out"]), gguf_file=out["file"])
    if "rope_parameters" in more:  # its reader leaves them out; the test below checks them
        loaded.config.rope_parameters = model.config.rope_parameters
        loaded.model.rotary_emb = type(loaded.model.rotary_emb)(loaded.config)
    ids = [k * 7 % 200 for k in range(40)]
    expected = logits(model, ids)
    assert expected.std() > 0.1
    assert (logits(loaded, ids) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("numbers", "allowed"), [("f16", 1e-3), ("q8_0", 0.3)])
def test_coarser_numbers_stay_close(numbers: str, allowed: float, paths: Paths) -> None:
    """q8_0 rows of 48 are no whole blocks and stay in f16."""
    model = make_model(paths.models / "tiny", intermediate_size=48)
    out = export(paths, source="tiny", to="gguf", quantization=numbers)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in read_gguf(out).tensors}
    assert kinds["blk.0.attn_q.weight"] == numbers.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    ids = list(range(40))
    found = logits(load(Path(out["out"]), gguf_file=out["file"]), ids)
    difference = float((found - logits(model, ids)).abs().max())
    assert difference < allowed and (difference > 0 or numbers == "f16")


def read_gguf(out: dict[str, Any]) -> Any:
    from gguf import GGUFReader

    return GGUFReader(Path(out["out"]) / out["file"])


def test_stretched_positions_are_those_of_transformers(paths: Paths) -> None:
    """What llama.cpp divides each frequency by is what Llama 3.1's own code divides it by."""
    import numpy as np

    scaled = {**SCALED, "original_max_position_embeddings": 64}
    model = make_model(paths.models / "tiny", head_dim=64, rope_parameters=scaled)
    file = read_gguf(export(paths, source="tiny", to="gguf"))
    factors = next(t.data for t in file.tensors if t.name == "rope_freqs.weight")
    plain = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    inverse = model.model.rotary_emb.inv_freq.numpy()
    assert len(set(np.round(factors, 3))) > 2, "unchanged, blended and divided ones"
    assert np.allclose(plain / factors, inverse, rtol=1e-5)


def test_a_gguf_says_what_it_is(paths: Paths) -> None:
    """Tokens, special tokens, licence, end of turn and the template it was taught with."""
    base = make_model(paths.models / "tiny")
    make_adapter(paths, "hana", base, "tiny", "plain-ja")
    out = export(paths, source="hana", to="gguf", quantization="f16")
    fields = read_gguf(out).fields
    said = {name: fields[name].contents() for name in fields}
    assert said["general.name"] == "hana" and said["general.license"] == "llama2"
    assert said["general.description"] == "A notice."
    assert said["tokenizer.ggml.bos_token_id"] == 1
    assert said["tokenizer.ggml.eos_token_id"] == 2
    assert "質問：" in said["tokenizer.chat_template"]
    assert said["tokenizer.ggml.add_space_prefix"] is True
    assert len(said["tokenizer.ggml.tokens"]) == said["llama.vocab_size"]
    assert said["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    folder = Path(out["out"])
    assert folder == paths.workspace / "exports" / "hana-gguf"
    assert (folder / "NOTICE").read_text("utf-8") == "A notice.\n"
    assert "base_model_relation: quantized" in (folder / "README.md").read_text("utf-8")


def pieces_of(vocabulary: Vocabulary, text: str) -> list[int]:
    """SentencePiece's own rule: of all neighbours, join those whose piece scores highest."""
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    parts = list((" " if vocabulary.space_prefix else "").join(["", text]).replace(" ", "▁"))
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        known = [(vocabulary.scores[ids[j]], -k) for k, j in enumerate(joined) if j in ids]
        if not known:
            break
        at = -max(known)[1]
        parts[at : at + 2] = [joined[at]]
    found: list[int] = []
    for part in parts:
        spelled = [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
        found += [ids[part]] if part in ids else spelled
    return found


TEXTS = (
    "お名前を教えていただけますか、わたくしは小野寺絢音ですわ。",
    "The quick brown fox's 1234 jumps, over... the lazy dog!?",
    "改行\nと  二つの空白、𠮷野家 🦙 ß",
)


@pytest.mark.parametrize("name", ["llama-2", "mistral-v0.1", "gemma"])
def test_scores_join_the_same_pieces_as_the_tokenizer(
    name: str, shared: Path, base_folder: Path
) -> None:
    from tokenizers import Tokenizer

    folder = base_folder if name == "gemma" else shared / "tokenizers" / name
    rows = 262144 if name == "gemma" else 32000
    vocabulary = read_vocabulary(folder, rows)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert vocabulary.model == "llama" and len(vocabulary.tokens) == rows
    assert vocabulary.space_prefix is (name != "gemma")
    assert vocabulary.types.count(BYTE) == 256
    for text in TEXTS:
        assert pieces_of(vocabulary, text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_byte_level_tokenizer_names_its_rule(shared: Path, tmp_path: Path) -> None:
    """The same patterns as llama.cpp knows; any other pattern is refused."""
    folder = shared / "tokenizers" / "llama-3"
    vocabulary = read_vocabulary(folder, 128256)
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", "llama-bpe")
    assert len(vocabulary.merges) > 280_000 and not vocabulary.scores
    assert vocabulary.types[128000] == CONTROL and vocabulary.types[0] == NORMAL
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    split = data["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace("{1,3}", "{1,2}")
    data["model"] |= {"vocab": {"a": 0, "b": 1}, "merges": []}
    data["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(UserError, match="split text into other tokens"):
        read_vocabulary(tmp_path, 10)


def test_what_gguf_cannot_say_is_refused(paths: Paths) -> None:
    folder = paths.models / "tiny"
    make_model(folder)
    config = read_json(folder / "config.json")
    for change, words in (
        ({"model_type": "gpt_neox"}, "gpt_neox"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"vocab_size": 300}, "rows"),
    ):
        write_json(folder / "config.json", {**config, **change})
        with pytest.raises(UserError, match=words):
            export(paths, source="tiny", to="gguf")
    assert list((paths.workspace / "exports").iterdir()) == [], "nothing half done is left"


# ── merged ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_is_the_base_with_its_adapter(tied: bool, paths: Paths) -> None:
    """Against peft's own forward pass in float32, for a base of several files."""
    from safetensors.torch import load_file

    base = make_model(paths.models / "tiny", shard="20KB", tie_word_embeddings=tied)
    shards = sorted(f.name for f in (paths.models / "tiny").glob("*.safetensors"))
    before = load_all(paths.models / "tiny")
    tuned = make_adapter(paths, "hana", base, "tiny", "llama-2")
    out = export(paths, source="hana")
    folder = Path(out["out"])
    assert folder == paths.models / "hana-merged"
    assert sorted(f.name for f in folder.glob("*.safetensors")) == shards and len(shards) > 2
    index = read_json(folder / "model.safetensors.index.json")
    assert all(name in load_file(folder / file) for name, file in index["weight_map"].items())

    merged, plain = load_all(folder), {}
    for name, module in tuned.named_modules():
        if hasattr(module, "get_delta_weight"):
            key = name.removeprefix("base_model.model.") + ".weight"
            plain[key] = before[key].float() + module.get_delta_weight("default")
    assert len(plain) == 14
    for name, tensor in before.items():
        wanted = plain[name].bfloat16() if name in plain else tensor
        assert (merged[name] == wanted).all(), name
    ids = list(range(50))
    difference = logits(load(folder), ids) - logits(tuned, ids)
    assert difference.abs().max() < 0.05 * logits(tuned, ids).abs().max()
    assert 0.98 < out["arrived"] < 1.02


def load_all(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def test_a_merged_model_is_a_base_and_a_parent(paths: Paths) -> None:
    """By its name it is found as a base and by a recipe, and its tokenizer has the template."""
    from charllm.core.catalog import find_model
    from charllm.core.merging.parents import plan_merge
    from charllm.core.models import load_tokenizer, model_folder, weights_hash
    from charllm.data.files import sha256_file

    base = make_model(paths.models / "tiny")
    make_adapter(paths, "hana", base, "tiny", "vicuna")
    folder = Path(export(paths, source="hana", out="hana-16")["out"])
    assert model_folder(paths, "hana-16") == folder
    assert weights_hash(folder) == sha256_file(folder / "model.safetensors")
    recipe = paths.root / "mix.yaml"
    recipe.write_text(
        "merge_method: linear\nmodels:\n- model: hana-16\n  parameters: {weight: 0.5}\n"
        "- model: tiny\n  parameters: {weight: 0.5}\ndtype: bfloat16\n",
        "utf-8",
    )
    assert plan_merge(recipe, paths).parents[0].base == folder
    assert find_model(str(folder)).template == "tokenizer"
    tokenizer = load_tokenizer(folder)
    asked = [Message(role="system", content="S"), Message(role="user", content="お名前は？")]
    own = prompt_ids(get_template("tokenizer"), tokenizer, asked)
    assert own == prompt_ids(get_template("vicuna"), tokenizer, asked)
    assert (folder / "NOTICE").is_file()
    note = read_json(folder / "charllm.json")
    assert (note["base"], note["template"], note["to"]) == ("tiny", "vicuna", "merged")


def test_a_recipe_is_exported_as_what_it_blends(paths: Paths) -> None:
    """As a model, and as one adapter that gives the same logits."""
    from peft import PeftModel

    from charllm.core.merging.recipe import uniform_linear

    for name, seed in (("one", 1), ("two", 2)):
        make_adapter(paths, name, make_model(paths.models / "tiny"), "tiny", "llama-2", seed)
    folder = paths.checkpoints / "both"
    folder.mkdir()
    parents = [f"workspace/models/tiny+checkpoints/{name}" for name in ("one", "two")]
    recipe = uniform_linear(parents).model_copy(update={"dtype": "float32"})
    recipe.save(folder / "recipe.yaml")
    write_json(folder / "card.json", {"base": "tiny", "label": "both"})
    model = load(Path(export(paths, source="both")["out"]))
    adapter = Path(export(paths, source="both", to="adapter")["out"])
    assert "[INST]" in (adapter / "chat_template.jinja").read_text("utf-8")
    mixed = PeftModel.from_pretrained(load(paths.models / "tiny"), adapter).eval()
    ids = list(range(50))
    expected = logits(mixed, ids)
    assert (logits(model, ids) - expected).abs().max() < 0.05 * expected.abs().max()


# ── what travels with it ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "tokenizer"])
def test_a_chat_template_says_what_the_prompt_says(name: str) -> None:
    """Our ids and the Jinja text agree on several turns, whatever is typed into them."""
    template = TEMPLATES[name]
    controls = {token for token in (*template.control, template.end) if token}
    tokenizer = byte_tokenizer(
        ("<pad>", "<s>", *sorted(controls | {"</s>"})), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = chat_template(template, tokenizer.bos_token)
    said = [
        Message(role="system", content="あなたは\n「絢音」です。{{user}} \\"),
        Message(role="user", content="お名前は？ {% x %}"),
        Message(role="assistant", content=" 絢音ですわ。\n"),
        Message(role="user", content=" 'では'、\"また\"。"),
    ]
    for part in (said, said[1:], said[:2], [said[0], *said[2:]]):
        rows = [message.model_dump() for message in part]
        text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        assert text == prompt_text(template, tokenizer, part)


def test_an_adapter_has_a_card_for_the_hub(paths: Paths) -> None:
    """Front matter that the hub reads, the numbers of the card, every reply, and the curve."""
    import yaml

    folder = paths.checkpoints / "ayane-a"
    labels = {"rows": 118, "learnt_tokens": 2997, "one_end_token": 118, "end_token": "<eos>"}
    card = {**read_json(folder / "card.json"), "labels": labels}
    curve = [
        {"step": k, "epoch": k / 18, "loss": 4 / k + 1, "lr": 5e-4, "grad_norm": 1.5}
        for k in range(1, 37)
    ]
    text = readme(TrainConfig.load(folder / "train.yaml"), card, curve, "ja")
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    said = yaml.safe_load(front)
    assert said["base_model"] == "google/gemma-3-270m" and said["library_name"] == "peft"
    assert (said["license"], said["language"], said["datasets"]) == ("gemma", ["ja"], ["ayane"])
    assert card["data_hash"] in body and "118 rows" in body and "`<eos>` once" in body
    assert "4.01 → 2.72" in body and "Gemma Terms of Use" in body and "seed: 0" in body
    assert all(sample["reply"] in body for sample in card["samples"])
    steps = [line.split(" | ")[0] for line in body.splitlines() if "5.00e-04" in line]
    assert steps[0] == "| 1" and steps[-1] == "| 36" and len(steps) == 12
    drawing = ElementTree.fromstring(curves_svg(curve, card["losses"]))
    line = drawing.find("{*}polyline")
    assert line is not None and len(line.attrib["points"].split()) == 36
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights == sorted(heights), "a falling loss falls in the drawing"
    assert len(drawing.findall("{*}circle")) == 3


# ── what is refused, stopped and resumed ──────────────────────────────────────────────────────────


def test_bases_that_cannot_take_an_adapter_are_refused(paths: Paths) -> None:
    """Quantised ones, other weights than the trained ones, a service's, one with nothing to add."""
    folder = paths.models / "tiny"
    make_adapter(paths, "hana", make_model(folder), "tiny", "llama-2")
    with pytest.raises(UserError, match="without an adapter"):
        export(paths, source="tiny")
    card = read_json(paths.checkpoints / "hana" / "card.json")
    write_json(paths.checkpoints / "hana" / "card.json", {**card, "base_hash": "0" * 64})
    with pytest.raises(UserError, match="trained on other weights"):
        export(paths, source="hana")
    write_json(paths.checkpoints / "hana" / "card.json", {**card, "kind": "endpoint"})
    with pytest.raises(UserError, match="kept by the service"):
        export(paths, source="hana")
    write_json(paths.checkpoints / "hana" / "card.json", card)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "awq"}})
    with pytest.raises(UserError, match=r"quantised \(awq\).*16-bit weights of the same model"):
        export(paths, source="hana")


def test_nothing_is_overwritten_unasked(paths: Paths) -> None:
    make_adapter(paths, "hana", make_model(paths.models / "tiny"), "tiny", "llama-2")
    first = export(paths, source="hana")
    with pytest.raises(UserError, match="exists already"):
        export(paths, source="hana")
    assert export(paths, source="hana", replace=True)["bytes"] == first["bytes"]
    with pytest.raises(UserError, match="what is being exported"):
        export(paths, source="hana", out="tiny", replace=True)
    (paths.workspace / "mine").mkdir()
    (paths.workspace / "mine" / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(UserError, match="something else"):
        export(paths, source="hana", out=str(paths.workspace / "mine"), replace=True)
    assert (paths.workspace / "mine" / "letter.txt").read_text("utf-8") == "dear"


class StopAt(Silent):
    """Asks to stop once so many tensors are written, or dies there like a killed process."""

    def __init__(self, tensors: int, how: str) -> None:
        self.left, self.how = tensors, how
        self.shares: list[float] = []

    def progress(self, done: float, total: float, message: Any) -> None:
        if total:
            self.shares.append(done / total)

    def stop_requested(self) -> Any:
        self.left -= 1
        if self.left < 0 and self.how == "killed":
            raise KeyboardInterrupt
        return "cancel" if self.left < 0 else ""


def test_a_stopped_export_leaves_nothing(paths: Paths) -> None:
    make_adapter(paths, "hana", make_model(paths.models / "tiny"), "tiny", "llama-2")
    folder = paths.workspace / "run"
    folder.mkdir(parents=True)
    stopping = StopAt(5, "cancel")
    with pytest.raises(Stopped):
        run_export(ExportConfig(source="hana"), stopping, folder, paths)
    assert stopping.shares == sorted(stopping.shares) and 0 < stopping.shares[-1] < 1
    assert [f.name for f in paths.models.iterdir()] == ["tiny"]


def test_a_killed_export_leaves_nothing_when_resumed(paths: Paths) -> None:
    make_adapter(paths, "hana", make_model(paths.models / "tiny"), "tiny", "llama-2")
    folder = paths.workspace / "run"
    folder.mkdir(parents=True)
    torn = paths.models / ".hana.torn"  # what a process that is killed cannot remove
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    write_json(folder / "unfinished.json", str(torn))
    run_export(ExportConfig(source="hana"), Silent(), folder, paths)
    assert sorted(f.name for f in paths.models.iterdir()) == ["hana-merged", "tiny"]


# ── the embedded base ─────────────────────────────────────────────────────────────────────────────


def test_the_shipped_adapter_in_the_embedded_base(paths: Paths, base_folder: Path) -> None:
    """ayane-a merged gives peft's logits within what rounding to bfloat16 may change."""
    import torch
    from peft import PeftModel

    paths.models.mkdir(parents=True)
    (paths.models / base_folder.name).symlink_to(base_folder)
    out = export(paths, source="ayane-a")
    assert out["arrived"] > 0.97
    ids = [2, *range(1000, 1020)]
    tuned = PeftModel.from_pretrained(load(base_folder), paths.checkpoints / "ayane-a").eval()
    expected = logits(tuned, ids)
    plain = logits(tuned.unload(), ids)
    merged = load(Path(out["out"]))
    found = logits(merged, ids)
    assert (found - expected).square().mean() < 0.01 * (plain - expected).square().mean()
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9
    assert merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()
    assert next(merged.parameters()).dtype == torch.float32
    text = (Path(out["out"]) / "README.md").read_text("utf-8")
    assert "license: gemma" in text and "Gemma Terms of Use" in text
