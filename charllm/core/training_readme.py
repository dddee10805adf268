"""The model card that is published with an adapter, as the Hugging Face hub shows it.

``README.md`` with the hub's fields between dashes, and the loss curve as a drawing of its own. All
numbers come from ``card.json`` and the run's curve; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charllm.core.catalog import (
    APACHE,
    CATALOG,
    EMBEDDED,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    LLAMA_3_1,
)
from charllm.data.config import dump_yaml

if TYPE_CHECKING:
    from charllm.core.training_config import TrainConfig

Curve = Sequence[Mapping[str, float]]

HUB_LICENCES = {
    GEMMA: "gemma",
    LLAMA_2: "llama2",
    LLAMA_3: "llama3",
    LLAMA_3_1: "llama3.1",
    APACHE: "apache-2.0",
}
"""By a licence's name in the catalog: the hub's word for it; any other is "other" with a name."""
_EMBEDDED_ON_HUB = "google/gemma-3-270m"
_TABLE_ROWS = 12
_WIDTH, _HEIGHT, _MARGIN = 640, 260, 44


def hub_id(base: str) -> str:
    """Where others find the base: its hub id where one is known, else its name."""
    if base == EMBEDDED:
        return _EMBEDDED_ON_HUB
    return next((m.hub_id for m in CATALOG if base in (m.id, m.hub_id) and m.hub_id), base)


def licence_fields(terms: Mapping[str, str]) -> dict[str, str]:
    """The hub's fields for a licence; "unknown" where the base's is not known here."""
    name = terms["name"]
    if name in HUB_LICENCES:
        return {"license": HUB_LICENCES[name]}
    known = any(model.license == name for model in CATALOG)
    return {"license": "other", "license_name": name} if known else {"license": "unknown"}


def readme(config: TrainConfig, card: Mapping[str, Any], curve: Curve, language: str) -> str:
    """The whole card, in both languages. ``language`` is the character's."""
    sections = (
        f"# {config.name}\n\n{card['label']['en']} / {card['label']['ja']}",
        _what(config, card),
        _numbers(config, card),
        _curves(card, curve),
        _replies(card),
        _usage(config, card),
        _settings(config, card),
    )
    front = dump_yaml(_front_matter(config, card, language))
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"


def _front_matter(config: TrainConfig, card: Mapping[str, Any], language: str) -> dict[str, Any]:
    base = hub_id(card["base"])
    return {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "language": [language],
        **licence_fields(card["licence"]),
        "datasets": [config.dataset],
        "tags": ["lora", "role-play", "charllm"],
    }


def _what(config: TrainConfig, card: Mapping[str, Any]) -> str:
    return f"""A LoRA adapter (r {config.r}, alpha {config.alpha:g}) for `{card["base"]}`,
trained by charllm on {card["dialogues"]} dialogues of the profile `{config.profile}`. It changes
the base's behaviour; it is not the base.

`{card["base"]}` 用の LoRA アダプター（r {config.r}、alpha {config.alpha:g}）です。プロファイル
`{config.profile}` の会話 {card["dialogues"]} 件で学習しました。ベースモデル自体は含みません。"""


def _numbers(config: TrainConfig, card: Mapping[str, Any]) -> str:
    first, last = card["losses"][0]["eval_loss"], card["held_out_loss"]
    change = f"{first:.2f} → {last:.2f}" if first is not None and last is not None else "-"
    labels = card["labels"]
    checked = (
        f"{labels['rows']} rows / 行, {labels['learnt_tokens']} learnt tokens / 学習トークン, "
        f"`{labels['end_token']}` once at the end of each / 各行の末尾に1つ"
    )
    terms = card["licence"]
    rows = {
        "dataset / データセット": f"`{config.dataset}` ({config.half}), SHA-256 "
        f"`{card['data_hash']}`",
        "base's weights / ベースの重み": f"SHA-256 `{card['base_hash']}`",
        "labels, checked / ラベルの検査": checked,
        "prompt template / プロンプトの形式": f"`{card['template']}`",
        "held-out loss per token / 検証用の会話での損失": change,
        "replies that end by themselves / 自分で終わる返答": f"{card['stopped']} / "
        f"{len(card['samples'])}",
        "training / 学習時間": f"{card['seconds']:.0f} s",
        "licence / ライセンス": terms["name"],
    }
    table = "| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    return table + (f"\n\n{terms['notice']}" if terms["notice"] else "")


def _curves(card: Mapping[str, Any], curve: Curve) -> str:
    """The drawing, and some of its steps in numbers; every step is in ``curves.json``."""
    head = "## Training / 学習の経過\n\n"
    if curve:
        head += "![loss](curves.svg)\n\nEvery step: / 全ステップ: `curves.json`\n\n"
        head += _table(
            ("step", "epoch", "loss", "learning rate", "gradient norm"),
            [
                (
                    f"{row['step']:.0f}",
                    f"{row['epoch']:.2f}",
                    f"{row['loss']:.3f}",
                    f"{row['lr']:.2e}" if "lr" in row else "-",
                    f"{row['grad_norm']:.2f}" if "grad_norm" in row else "-",
                )
                for row in _some(curve)
            ],
        )
        head += "\n\n"
    epochs = [
        (f"{row['epoch']:g}", _number(row["loss"]), _number(row["eval_loss"]))
        for row in card["losses"]
    ]
    return head + _table(("epoch", "loss", "held-out loss / 検証損失"), epochs)


def _some(curve: Curve) -> list[Mapping[str, float]]:
    """Evenly spread rows, the first and the last among them."""
    if len(curve) <= _TABLE_ROWS:
        return list(curve)
    gap = (len(curve) - 1) / (_TABLE_ROWS - 1)
    return [curve[round(k * gap)] for k in range(_TABLE_ROWS)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(r) for r in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _replies(card: Mapping[str, Any]) -> str:
    """The test questions with what was answered, and why each reply ended."""
    rows = [
        (
            _cell(sample["question"]),
            _cell("・".join(sample["facts"])) or "-",
            _cell(sample["reply"]),
            sample.get("reason") or ("end" if sample["stopped"] else "-"),
        )
        for sample in card["samples"]
    ]
    head = ("question / 質問", "facts / 事実", "reply / 返答", "ended by / 終了の理由")
    return "## Replies as they were / 実際の返答\n\n" + _table(head, rows) if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _usage(config: TrainConfig, card: Mapping[str, Any]) -> str:
    return f"""## Use / 使い方

With charllm: put this folder into `checkpoints/` and choose it as a column of the chat.
charllm では、このフォルダーを `checkpoints/` に置き、チャットの列として選びます。

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{hub_id(card["base"])}"
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16")
model = PeftModel.from_pretrained(model, "{config.name}")  # this folder / このフォルダー
```

The prompt must be the one of training (template `{card["template"]}`); `charllm export` writes a
folder whose tokenizer carries it as its chat template.
プロンプトは学習時と同じ形式（`{card["template"]}`）にしてください。`charllm export` で書き出すと、
この形式がチャットテンプレートとしてトークナイザーに付きます。"""


def _settings(config: TrainConfig, card: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in card["versions"].items())
    return f"""## Made with / 作り方

`python -m charllm train checkpoints/{config.name}/train.yaml` (set `replace: true`); {versions}

```yaml
{config.model_copy(update={"replace": False}).to_yaml()}```"""


# The drawing


def curves_svg(curve: Curve, losses: Sequence[Mapping[str, float | None]]) -> str:
    """Loss over steps as a line, held-out losses of whole epochs as dots, as an SVG text."""
    points = [(row["step"], row["loss"]) for row in curve]
    steps_an_epoch = points[-1][0] / curve[-1]["epoch"] if curve[-1]["epoch"] else 1.0
    dots = [
        (float(row["epoch"] or 0) * steps_an_epoch, float(row["eval_loss"]))
        for row in losses
        if row["eval_loss"] is not None
    ]
    every = [*points, *dots]
    right = max(x for x, _ in every) or 1.0
    low, high = min(y for _, y in every), max(y for _, y in every)
    span = (high - low) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across, down = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
        return _MARGIN + across * x / right, _HEIGHT - _MARGIN - down * (y - low) / span

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    circles = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#c2410c"/>'
        for x, y in (place(*dot) for dot in dots)
    )
    bottom, end = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{end}" fill="none" stroke="#9ca3af"/>'
        f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="1.5"/>{circles}'
        f'<text x="{_MARGIN - 6}" y="{_MARGIN + 4}" text-anchor="end">{high:.2f}</text>'
        f'<text x="{_MARGIN - 6}" y="{bottom + 4}" text-anchor="end">{low:.2f}</text>'
        f'<text x="{end}" y="{bottom + 16}" text-anchor="end">{right:.0f} steps</text>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 16}" fill="#1d4ed8">loss / 損失</text>'
        f'<text x="{_MARGIN + 110}" y="{_MARGIN - 16}" fill="#c2410c">'
        "held-out / 検証</text></svg>\n"
    )
