"""The models charllm knows: family, template, licence, shape, and what memory they need.

Figures come from the models' own cards and configurations. A model that is not listed can be used
by its hub id or folder; its shape is then read from its config.json (``described``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from charllm.data.config import Config
from charllm.data.errors import Language, UserError

EMBEDDED = "gemma-3-270m"

Task = Literal["chat", "lora", "qlora", "merge-adapter", "merge-dense"]
TASKS: tuple[Task, ...] = ("chat", "lora", "qlora", "merge-adapter", "merge-dense")

GEMMA = "Gemma Terms of Use"
LLAMA_2 = "Llama 2 Community License"
LLAMA_3 = "Llama 3 Community License"
LLAMA_3_1 = "Llama 3.1 Community License"
APACHE = "Apache-2.0"


class ModelInfo(Config):
    """One model. ``pad`` says which token pads: the tokenizer's own, or its end token's twin.

    Sizes: ``parameters`` in all; ``layers`` × ``hidden``; ``ffn`` the feed-forward width;
    ``kv`` the width of one layer's keys (= of its values); ``vocab`` rows of the embedding.
    """

    id: str
    label: str
    family: str
    template: str
    license: str
    parameters: int = Field(gt=0)
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    ffn: int = Field(gt=0)
    kv: int = Field(gt=0)
    vocab: int = Field(gt=0)
    tied: bool = False
    weight_bytes: float = 2.0
    """Bytes that a weight of the layers takes as it is published; 2 is 16 bits."""
    source: Literal["embedded", "hub", "folder"] = "hub"
    hub_id: str = ""
    pad: Literal["own", "eos", "unk"] = "own"
    trainable: bool = True
    japanese: bool = True
    study: bool = False
    note_en: str = ""
    note_ja: str = ""


def _llama2(id_: str, label: str, *, template: str = "llama-2", japanese: bool = True) -> ModelInfo:
    return ModelInfo(
        id=id_.split("/")[1],
        label=label,
        family="llama-2",
        template=template,
        license=LLAMA_2,
        parameters=6_738_415_616,
        layers=32,
        hidden=4096,
        ffn=11008,
        kv=4096,
        vocab=32000,
        hub_id=id_,
        pad="unk",
        japanese=japanese,
        study=True,
    )


def _llama3(id_: str, label: str, license_: str, *, study: bool = True) -> ModelInfo:
    return ModelInfo(
        id=id_.split("/")[1],
        label=label,
        family="llama-3",
        template="llama-3",
        license=license_,
        parameters=8_030_261_248,
        layers=32,
        hidden=4096,
        ffn=14336,
        kv=1024,
        vocab=128256,
        hub_id=id_,
        pad="eos",
        study=study,
    )


def _mistral(id_: str, label: str, template: str) -> ModelInfo:
    return ModelInfo(
        id=id_.split("/")[1],
        label=label,
        family="mistral",
        template=template,
        license=APACHE,
        parameters=7_241_732_096,
        layers=32,
        hidden=4096,
        ffn=14336,
        kv=1024,
        vocab=32000,
        hub_id=id_,
        pad="unk",
        study=True,
    )


def _gemma2(
    id_: str, label: str, size: Literal["2b", "9b"], *, study: bool = False, japanese: bool = True
) -> ModelInfo:
    small = size == "2b"
    return ModelInfo(
        id=id_.split("/")[1],
        label=label,
        family="gemma-2",
        template="gemma",
        license=GEMMA,
        parameters=2_614_341_888 if small else 9_241_705_984,
        layers=26 if small else 42,
        hidden=2304 if small else 3584,
        ffn=9216 if small else 14336,
        kv=1024 if small else 2048,
        vocab=256000,
        tied=True,
        hub_id=id_,
        japanese=japanese,
        study=study,
    )


def _qwen3(size: str, parameters: int, layers: int, hidden: int, ffn: int, tied: bool) -> ModelInfo:
    return ModelInfo(
        id=f"Qwen3-{size}",
        label=f"Qwen3 {size}",
        family="qwen-3",
        template="qwen-3",
        license=APACHE,
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        kv=1024,
        vocab=151936,
        tied=tied,
        hub_id=f"Qwen/Qwen3-{size}",
    )


_AWQ = _llama3("elyza/Llama-3-ELYZA-JP-8B-AWQ", "Llama-3-ELYZA-JP-8B (AWQ)", LLAMA_3)

CATALOG: tuple[ModelInfo, ...] = (
    ModelInfo(
        id=EMBEDDED,
        label="Gemma 3 270M",
        family="gemma-3",
        template="plain-ja",
        license=GEMMA,
        parameters=268_098_176,
        layers=18,
        hidden=640,
        ffn=2048,
        kv=256,
        vocab=262144,
        tied=True,
        source="embedded",
        note_en="Comes with charllm; a base model without a chat template. Small: it takes on a "
        "voice and repeats facts from the prompt, little more.",
        note_ja="charllm に付属する、チャットテンプレートのないベースモデルです。小さいため、"
        "口調をまねてプロンプト中の事実を繰り返す程度のことしかできません。",
    ),
    _llama2("elyza/ELYZA-japanese-Llama-2-7b-instruct", "ELYZA-japanese-Llama-2-7b-instruct"),
    _llama2("lmsys/vicuna-7b-v1.5", "Vicuna 7B v1.5", template="vicuna", japanese=False),
    _llama3("AXCXEPT/Llama-3.1-8B-EZO-1.1-it", "Llama-3.1-8B-EZO-1.1-it", LLAMA_3_1),
    _llama3("elyza/Llama-3-ELYZA-JP-8B", "Llama-3-ELYZA-JP-8B", LLAMA_3),
    _AWQ.model_copy(
        update={
            "trainable": False,
            # 4 bits a weight, a 16-bit scale and a 4-bit zero for each 128 of them
            "weight_bytes": (4 + 20 / 128) / 8,
            "note_en": "AWQ weights are for inference: train and merge the 16-bit model instead.",
            "note_ja": "AWQ の重みは推論専用です。学習とマージには16ビット版を使ってください。",
        }
    ),
    _gemma2("AXCXEPT/EZO-Common-9B-gemma-2-it", "EZO-Common-9B-gemma-2-it", "9b", study=True),
    _gemma2("google/gemma-2-2b-jpn-it", "Gemma 2 2B JPN", "2b", study=True),
    _llama2("stabilityai/japanese-stablelm-instruct-beta-7b", "Japanese StableLM Instruct Beta 7B"),
    _mistral(
        "stabilityai/japanese-stablelm-instruct-gamma-7b",
        "Japanese StableLM Instruct Gamma 7B",
        "instruction-ja",
    ),
    _mistral("augmxnt/shisa-gamma-7b-v1", "Shisa Gamma 7B v1", "llama-2"),
    _qwen3("0.6B", 596_049_920, 28, 1024, 3072, True),
    _qwen3("1.7B", 1_720_574_976, 28, 2048, 6144, True),
    _qwen3("4B", 4_022_468_096, 36, 2560, 9728, True),
    _qwen3("8B", 8_190_735_360, 36, 4096, 12288, False),
    ModelInfo(
        id="gemma-3-1b-it",
        label="Gemma 3 1B",
        family="gemma-3",
        template="gemma",
        license=GEMMA,
        parameters=999_885_952,
        layers=26,
        hidden=1152,
        ffn=6912,
        kv=256,
        vocab=262144,
        tied=True,
        hub_id="google/gemma-3-1b-it",
    ),
    _gemma2("google/gemma-2-9b-it", "Gemma 2 9B", "9b"),
    _gemma2("rinna/gemma-2-baku-2b-it", "Gemma 2 Baku 2B", "2b"),
    ModelInfo(
        id="llm-jp-3-1.8b-instruct",
        label="LLM-jp-3 1.8B Instruct",
        family="llm-jp",
        template="tokenizer",
        license=APACHE,
        parameters=1_867_614_208,
        layers=24,
        hidden=2048,
        ffn=7168,
        kv=2048,
        vocab=99584,
        hub_id="llm-jp/llm-jp-3-1.8b-instruct",
    ),
    ModelInfo(
        id="TinySwallow-1.5B-Instruct",
        label="TinySwallow 1.5B Instruct",
        family="qwen-2",
        template="chatml",
        license=APACHE,
        parameters=1_543_714_304,
        layers=28,
        hidden=1536,
        ffn=8960,
        kv=256,
        vocab=151936,
        tied=True,
        hub_id="SakanaAI/TinySwallow-1.5B-Instruct",
    ),
    _llama3(
        "tokyotech-llm/Llama-3.1-Swallow-8B-Instruct-v0.3",
        "Llama 3.1 Swallow 8B Instruct v0.3",
        f"{LLAMA_3_1}, {GEMMA}",
        study=False,
    ),
)


def find_model(name: str) -> ModelInfo:
    """The entry for an id, a hub id or a model's folder; ``UserError`` for anything else.

    A model that is not listed is described by its own configuration: in its folder, or in the
    hub's cache once it was fetched.
    """
    for model in CATALOG:
        if name and name in (model.id, model.hub_id):
            return model
    from charllm.core.described import describe, fetched

    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        folder = fetched(name) or folder
    if (folder / "config.json").is_file():
        return describe(folder, name)
    known = ", ".join(model.id for model in CATALOG)
    raise UserError(
        f"There is no model {name!r}. Name one of the catalog, a model's folder, or the hub id of "
        f"a model that was fetched. The catalog: {known}.",
        f"「{name}」というモデルはありません。カタログの名前、モデルのフォルダー、または取得済みの"
        f"ハブの ID を指定してください。カタログ: {known}。",
    )


def template_name(info: ModelInfo, language: Language) -> str:
    """The template for a character's language: the plain one is written in that language."""
    if info.template.startswith("plain-"):
        return f"plain-{language}"
    return info.template


class MemoryEstimate(Config):
    """Memory by part in GB (10⁹ bytes), for one accelerator."""

    task: Task
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def memory_estimate(
    info: ModelInfo,
    task: Task,
    *,
    rows: int = 4,
    length: int = 512,
    rank: int = 16,
    parents: int = 2,
    quantization: Literal["none", "nf4"] = "none",
    checkpointing: bool | None = None,
) -> MemoryEstimate:
    """An estimate from the model's shape; ``rows`` sequences of ``length`` tokens at once.

    - 16-bit weights take 2 bytes each. In NF4 with double quantisation (``quantization``; always
      for "qlora") those of the layers take 0.516: 4 bits, an 8-bit scale per 64 and a 32-bit one
      per 256 of these (QLoRA, arXiv 2305.14314); embeddings and head stay in 16 bits.
    - The cache of a token is 2 · layers · kv values of 2 bytes.
    - A LoRA of rank r has r · (in + out) parameters a linear layer. Trained, each takes 16 bytes:
      weight, gradient and two moments in fp32. As a parent it takes 2.
    - Activations take 48 · hidden bytes a layer and token: 34 by arXiv 2205.05198 without its
      attention matrix, the rest fitted to a measured 7B (66.9 GB at 32 rows of 300 tokens). With
      ``checkpointing`` (None: for "qlora" only) 2 · hidden a layer, and one layer in full.
    - Logits take 2 + 4 bytes an entry (bf16 and fp32): for all tokens in training, else for one
      position a row.
    - "merge-dense" holds the parents and the live model; 1 GB is added for the runtime.

    ``UserError`` where weights are published for inference only and the task is another one.
    """
    if task != "chat" and not info.trainable:
        raise UserError(
            f"{info.label} is published for inference only: it can be asked, but neither trained "
            "nor merged. Take its 16-bit form.",
            f"{info.label} は推論専用の形式です。質問はできますが、学習とマージはできません。"
            "16ビット版を使ってください。",
        )
    embedding = info.vocab * info.hidden * (1 if info.tied else 2)
    inner = info.parameters - embedding
    tokens = rows * length
    trains = task in ("lora", "qlora")
    nf4 = quantization == "nf4" or task == "qlora"
    weights = 2.0 * embedding + (0.516 if nf4 else info.weight_bytes) * inner
    parts = {"weights": weights * (parents + 1 if task == "merge-dense" else 1)}
    if trains:
        parts["adapter and optimizer"] = 16.0 * lora_parameters(info, rank)
        saves = task == "qlora" if checkpointing is None else checkpointing
        layer = 48.0 * info.hidden * tokens
        parts["activations"] = (
            2.0 * info.hidden * tokens * info.layers + layer if saves else layer * info.layers
        )
    else:
        parts["cache"] = 4.0 * info.layers * info.kv * tokens
    if task == "merge-adapter":
        parts["adapters"] = 2.0 * lora_parameters(info, rank) * parents
    parts["logits"] = 6.0 * info.vocab * (tokens if trains else rows)
    parts["runtime"] = 1e9
    return MemoryEstimate(task=task, parts={k: round(v / 1e9, 3) for k, v in parts.items()})


def lora_parameters(info: ModelInfo, rank: int) -> int:
    """Of all linear layers; queries and outputs counted as hidden × hidden."""
    square, keys = 4 * info.hidden, 2 * (info.hidden + info.kv)
    return rank * info.layers * (square + keys + 3 * (info.hidden + info.ffn))
