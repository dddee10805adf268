"""The configuration of a training run, and the presets it can start from.

One more hyper-parameter is one more field here: the form of the Train tab, the YAML file and
``train --set`` are made from this class.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from charllm.core.catalog import EMBEDDED
from charllm.data.config import Config
from charllm.data.errors import Language, Text, UserError
from charllm.data.files import check_slug
from charllm.data.settings import setting

Half = Literal["all", "a", "b"]


class Question(Config):
    """A question asked at the end of a run, with the facts its prompt shows (none: no RAG)."""

    text: str = Field(min_length=1)
    facts: tuple[str, ...] = ()


GROUPS = {
    "what": Text("What is trained", "何を学習するか"),
    "data": Text("Data and prompts", "データとプロンプト"),
    "learning": Text("Learning", "学習の進め方"),
    "adapter": Text("Adapter", "アダプター"),
    "memory": Text("Memory and speed", "メモリと速度"),
    "watching": Text("Watching and keeping", "記録と保存"),
}
"""The groups of settings, in the order in which a form shows them."""


class TrainConfig(Config):
    """Everything that reproduces a training run.

    ``backend`` "openai" sends the same rows to an endpoint's fine-tuning service; only ``base``
    (the service's model), ``epochs``, ``batch_size``, ``seed`` and the data settings count there.
    ``half``: all dialogues, or one of two disjoint halves. ``samples`` empty asks held-out
    questions; it and ``prompt_language`` are for files only.
    """

    name: str = setting(
        ...,
        "Name",
        "名前",
        "What the result is called in checkpoints/: a-z, 0-9 and -.",
        "checkpoints/ での名前です（a-z、0-9、-）。",
        group="what",
        simple=True,
    )
    profile: str = setting(..., "Character", "キャラクター", group="what", simple=True)
    dataset: str = setting(..., "Dataset", "データセット", group="what", simple=True)
    base: str = setting(
        EMBEDDED,
        "Base model",
        "ベースモデル",
        "A model of the catalog, a hub id or a folder; with the endpoint, its model's name.",
        "カタログのモデル、ハブの ID、またはフォルダー。エンドポイントではそのモデル名です。",
        group="what",
        simple=True,
    )
    backend: Literal["local", "openai"] = setting(
        "local",
        "Where it runs",
        "実行する場所",
        "This machine, or the fine-tuning service of an endpoint of OpenAI's protocol.",
        "このマシン、または OpenAI 互換エンドポイントのファインチューニング。",
        group="what",
    )
    base_url: str = setting(
        "",
        "Endpoint address",
        "エンドポイントの URL",
        "Empty: OpenAI itself. Only for the endpoint's service.",
        "空欄なら OpenAI です。エンドポイントで学習するときだけ使います。",
        group="what",
    )
    template: str = setting(
        "auto",
        "Prompt template",
        "プロンプトの形式",
        "auto: the base's own. The same template is used in the chat.",
        "auto はベースに合った形式です。チャットでも同じ形式を使います。",
        group="data",
    )
    prompt_language: Language | None = None
    half: Half = setting(
        "all",
        "Part of the data",
        "使うデータ",
        "a and b are two disjoint halves, for two parents of a merge.",
        "a と b は重ならない半分ずつで、マージの親を二つ作るときに使います。",
        group="data",
    )
    limit: int = setting(
        0,
        "At most so many dialogues",
        "使う会話の上限",
        "Drawn with the split's seed, after the held-out ones are put aside. 0: all.",
        "評価用を除いたあと、分割のシードで選びます。0 ならすべて使います。",
        group="data",
        ge=0,
    )
    held_out: float = setting(
        0.1,
        "Held-out share",
        "評価用に残す割合",
        "Share of the dialogues that are never trained on and measure the loss.",
        "学習に使わず、損失の測定だけに使う会話の割合です。",
        group="data",
        ge=0.0,
        le=0.5,
    )
    split_seed: int = setting(0, "Seed of the split", "分割のシード", group="data", ge=0)
    rag_share: float = setting(
        0.4,
        "Share of prompts with facts",
        "事実を見せるプロンプトの割合",
        "Only replies that rely on facts get theirs, so fewer may be shown.",
        "事実に基づく返答だけに見せるので、実際の割合は小さくなることがあります。",
        group="data",
        simple=True,
        ge=0.0,
        le=1.0,
    )
    fact_draws: int = setting(
        1,
        "Repeats of prompts with facts",
        "事実つきプロンプトの繰り返し",
        "How often each comes, every time with other distracting facts.",
        "同じ会話を、無関係な事実を入れ替えて何回使うかです。",
        group="data",
        ge=1,
        le=20,
    )
    max_length: int = setting(
        512,
        "Longest row, tokens",
        "最大トークン数",
        "A longer row is refused: cut, it would lose its end token.",
        "超える行があると開始できません（切ると終了トークンが失われるため）。",
        group="data",
        ge=16,
        le=131072,
    )
    epochs: float = setting(
        2.0,
        "Epochs",
        "エポック数",
        "Too few and replies do not learn to stop; too many and held-out loss rises.",
        "少なすぎると返答の終わり方を覚えず、多すぎると評価用の損失が上がります。",
        group="learning",
        simple=True,
        gt=0.0,
        le=100.0,
    )
    batch_size: int = setting(
        6, "Batch size", "バッチサイズ", group="learning", simple=True, ge=1, le=512
    )
    accumulate: int = setting(
        1,
        "Batches per step",
        "勾配の累積",
        "Gradients of so many batches are added before a step: less memory, the same step.",
        "この数のバッチの勾配を合わせて一歩進みます。メモリが減り、結果は同じです。",
        group="memory",
        ge=1,
        le=128,
    )
    learning_rate: float = setting(
        1e-3,
        "Learning rate",
        "学習率",
        group="learning",
        simple=True,
        gt=0.0,
        le=0.1,
    )
    scheduler: Literal["cosine", "linear", "constant"] = setting(
        "cosine", "Learning-rate schedule", "学習率のスケジュール", group="learning"
    )
    warmup: float = setting(
        0.0,
        "Warm-up share",
        "ウォームアップの割合",
        "Share of the steps over which the learning rate rises.",
        "学習率を徐々に上げるステップの割合です。",
        group="learning",
        ge=0.0,
        lt=1.0,
    )
    weight_decay: float = setting(0.0, "Weight decay", "重み減衰", group="learning", ge=0.0, le=1.0)
    seed: int = setting(0, "Seed", "シード", group="learning", ge=0)
    r: int = setting(
        8,
        "Rank r",
        "ランク r",
        "Size of the adapter.",
        "アダプターの大きさです。",
        group="adapter",
        simple=True,
        ge=1,
        le=512,
    )
    alpha: float = setting(
        16.0,
        "Alpha",
        "アルファ",
        "alpha / r scales the adapter.",
        "alpha ÷ r がアダプターの倍率です。",
        group="adapter",
        gt=0.0,
        le=2048.0,
    )
    dropout: float = setting(0.0, "Dropout", "ドロップアウト", group="adapter", ge=0.0, lt=1.0)
    target_modules: str = setting(
        "all-linear",
        "Adapted layers",
        "対象の層",
        "all-linear, or names with commas: q_proj,v_proj.",
        "all-linear、またはカンマ区切りの名前（q_proj,v_proj）。",
        group="adapter",
    )
    quantization: Literal["none", "nf4"] = setting(
        "none",
        "Base in 4 bit",
        "ベースの 4 ビット化",
        "nf4 is QLoRA: about a third of the memory for weights. CUDA only.",
        "nf4 が QLoRA です。重みのメモリが約三分の一になります（CUDA のみ）。",
        group="memory",
        simple=True,
    )
    gradient_checkpointing: bool = setting(
        False,
        "Gradient checkpointing",
        "勾配チェックポイント",
        "Computes activations twice instead of keeping them: slower, much less memory.",
        "活性値を保存せず計算し直します。遅くなりますがメモリが大きく減ります。",
        group="memory",
    )
    share_prefix: bool = setting(
        True,
        "Shared beginnings once",
        "共通の冒頭をまとめる",
        "Computes the prompts' common beginning once a batch: the same loss, less work.",
        "プロンプトの共通部分をバッチで一度だけ計算します。損失は同じで速くなります。",
        group="memory",
    )
    memory_gb: float = setting(
        0.0,
        "Memory limit, GB",
        "メモリの上限（GB）",
        "On a CUDA device: the run may not take more. 0: all there is.",
        "CUDA で使うメモリの上限です。0 なら制限しません。",
        group="memory",
        ge=0.0,
        le=4096.0,
    )
    threads: int = setting(
        0,
        "CPU threads",
        "CPU スレッド数",
        "0: the physical cores, or OMP_NUM_THREADS.",
        "0 なら物理コア数（または OMP_NUM_THREADS）です。",
        group="memory",
        ge=0,
        le=256,
    )
    keep: Literal["last", "best"] = setting(
        "last",
        "Weights to keep",
        "残す重み",
        "Those of the last epoch, or of the epoch with the lowest held-out loss.",
        "最後のエポック、または評価用の損失がいちばん低いエポックの重みです。",
        group="watching",
    )
    sample_each_epoch: bool = setting(
        True,
        "Ask at each evaluation",
        "評価のたびに質問する",
        "The same ten questions, answered and scored by gate and style.",
        "同じ十の質問に答えさせ、ゲートと文体で採点します。",
        group="watching",
    )
    save_steps: int = setting(
        20, "Steps between saves", "保存の間隔（ステップ）", group="watching", ge=1
    )
    report_to: Literal["none", "trackio", "wandb"] = setting(
        "none",
        "Also report to",
        "外部への記録",
        "Through the Trainer; the package must be installed. wandb sends curves to its server.",
        "Trainer の機能で記録します（パッケージが必要）。wandb は外部サーバーへ送ります。",
        group="watching",
    )
    label_en: str = setting("", "Label in English", "英語の表示名", group="what")
    label_ja: str = setting("", "Label in Japanese", "日本語の表示名", group="what")
    replace: bool = setting(
        False,
        "Replace one of this name",
        "同じ名前を置き換える",
        group="what",
    )
    samples: tuple[Question, ...] = ()

    @field_validator("name", "profile", "dataset")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _best_needs_held_out(self) -> Self:
        if self.keep == "best" and self.held_out == 0:
            raise ValueError("keep: best needs a held_out share above 0") from UserError(
                "keep: best needs a held_out share above 0 to compare epochs.",
                "keep を best にするには、held_out を 0 より大きくしてください。",
            )
        return self

    @property
    def accelerator(self) -> bool:
        """Whether the run holds this machine's accelerator; the queue asks."""
        return self.backend == "local"


PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "r": 8,
        "alpha": 16.0,
        "learning_rate": 1e-3,
        "epochs": 2.0,
        "batch_size": 6,
        "limit": 60,
    },
    "study": {
        "r": 16,
        "alpha": 32.0,
        "learning_rate": 5e-4,
        "epochs": 3.0,
        "batch_size": 8,
        "scheduler": "cosine",
        "quantization": "nf4",
    },
    "study-early": {
        "r": 8,
        "alpha": 128.0,
        "dropout": 0.05,
        "learning_rate": 5e-4,
        "epochs": 10.0,
        "batch_size": 8,
        "quantization": "nf4",
    },
}
"""Starting points: the demo for two CPU cores, the study's settings, and its earlier ones."""

PRESET_NAMES = {
    "demo": Text("Demo: two CPU cores, a minute", "デモ（CPU 2 コアで約 1 分）"),
    "study": Text("The study's settings (QLoRA)", "論文の設定（QLoRA）"),
    "study-early": Text("The study's earlier settings", "論文の初期の設定"),
}
