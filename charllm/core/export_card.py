"""What travels with an export: its card, its licence notice, and the chat template it was taught.

A model that answers elsewhere is asked as it was trained: where the training used one of our
templates, the tokenizer gets it as its chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.model_files import CARD
from charllm.core.models import shared_tokenizer
from charllm.core.training_card import licence
from charllm.core.training_readme import hub_id, licence_fields
from charllm.data.config import dump_yaml
from charllm.data.errors import Text
from charllm.data.files import read_json, write_json, write_text
from charllm.data.template_jinja import chat_template
from charllm.data.templates import get_template

if TYPE_CHECKING:
    from charllm.core.export_source import Source

_NOTICES = ("NOTICE", "NOTICE.txt", "LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md")
"""Files of a base that its terms ask to be passed on."""


def template_text(source: Source) -> str | None:
    """The Jinja text of the template that the weights were taught with; None: the base's own."""
    if source.template in ("", "tokenizer"):
        return None
    return chat_template(get_template(source.template), _beginning_token(source.base))


def _beginning_token(folder: Path) -> str | None:
    """From the tokenizer's settings where they name it: a large vocabulary takes long to load."""
    file = folder / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    if "bos_token" in settings:
        found = settings["bos_token"]
        return found["content"] if isinstance(found, dict) else found
    token: str | None = shared_tokenizer(folder).bos_token
    return token


def carried_template(source: Source, work: Path) -> None:
    """Put the template beside the tokenizer in ``work``, in place of one that it may have."""
    text = template_text(source)
    if text is None:
        return
    write_text(work / "chat_template.jinja", text)
    file = work / "tokenizer_config.json"
    if file.is_file():
        kept = {k: v for k, v in read_json(file).items() if k != "chat_template"}
        write_json(file, kept)


def write_card(to: str, source: Source, work: Path, name: str, more: Mapping[str, Any]) -> None:
    """``charllm.json`` for programs, ``README.md`` for people, and the terms that come along."""
    terms = source_licence(source)
    for notice in _NOTICES:
        if (source.base / notice).is_file():
            write_text(work / notice, (source.base / notice).read_text("utf-8"))
    if terms["notice"] and not (work / "NOTICE").is_file():
        write_text(work / "NOTICE", terms["notice"] + "\n")
    kept = ("base_hash", "data_hash", "profile", "template", "parents")
    card = {
        "exported_from": source.name,
        "to": to,
        "base": base_name(source),
        **{key: source.card[key] for key in kept if source.card.get(key)},
        "licence": terms,
        "versions": {package: version(package) for package in ("torch", "transformers", "gguf")},
        **more,
    }
    write_json(work / CARD, card)
    write_text(work / "README.md", _readme(to, name, card))


def base_name(source: Source) -> str:
    """What the base is called: in the checkpoint's card, else by its folder."""
    return str(source.card.get("base") or source.base.name)


def source_licence(source: Source) -> dict[str, str]:
    """The checkpoint's terms; of a model without a card, those of its own export or the catalog."""
    for noted in (source.card.get("licence"), _exported(source.base).get("licence")):
        if isinstance(noted, dict) and noted.get("name"):
            return {"name": str(noted["name"]), "notice": str(noted.get("notice", ""))}
    return licence(base_name(source))


def _exported(folder: Path) -> dict[str, Any]:
    file = folder / CARD
    return read_json(file) if file.is_file() else {}


_WHAT = {
    "merged": Text(
        "The base's 16-bit weights with the adapter added in float32 and rounded once.",
        "16ビットのベースに、アダプターを float32 で足して一度だけ丸めたモデルです。",
    ),
    "adapter": Text("A LoRA adapter in peft's format.", "peft 形式の LoRA アダプターです。"),
    "gguf": Text("One GGUF file for llama.cpp.", "llama.cpp 用の GGUF ファイルです。"),
}

_USE = {
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")  # this folder / このフォルダー
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="bfloat16")
```""",
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")  # this folder / このフォルダー
model = AutoModelForCausalLM.from_pretrained("{base}", dtype="bfloat16")
model = PeftModel.from_pretrained(model, "{name}")
```""",
    "gguf": """```sh
llama-server -m {file} --jinja
```""",
}


def _readme(to: str, name: str, card: Mapping[str, Any]) -> str:
    terms, base = card["licence"], hub_id(card["base"])
    front = {
        "base_model": base,
        "base_model_relation": {"merged": "merge", "gguf": "quantized"}.get(to, to),
        "library_name": {"merged": "transformers", "gguf": "gguf"}.get(to, "peft"),
        "pipeline_tag": "text-generation",
        **licence_fields(terms),
        "tags": ["role-play", "charllm"],
    }
    rows = {
        "made of / 元": f"`{card['exported_from']}`",
        "base / ベース": f"`{card['base']}`",
        "data / データ": f"SHA-256 `{card['data_hash']}`" if card.get("data_hash") else "",
        "numbers / 数値形式": str(card.get("quantization", "bf16")),
        "of the change, left after rounding / 丸めた後に残った変化": _share(card.get("arrived")),
        "prompt template / プロンプトの形式": f"`{card['template']}`"
        if card.get("template")
        else "",
        "licence / ライセンス": terms["name"],
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    usage = _USE[to].format(name=name, base=base, file=card.get("file", ""))
    what = _WHAT[to]
    parts = [
        f"# {name}",
        f"{what.en}\n{what.ja}",
        f"| | |\n|---|---|\n{table}",
        terms["notice"],
        "## Use / 使い方",
        usage,
    ]
    return f"---\n{dump_yaml(front)}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
