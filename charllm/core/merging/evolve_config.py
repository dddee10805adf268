"""The configuration of an evolutionary merge: parents, questions, how they are answered and judged.

``SearchConfig`` (how the search goes) is a part of it. One more setting is one more field.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from charllm.core.generation import GenerationPreset
from charllm.core.judging.judges import JudgeConfig
from charllm.core.merging.layer_space import LayerOptions
from charllm.core.merging.objective import GENERAL, Objective
from charllm.core.merging.search_config import SearchConfig
from charllm.data.config import Config
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug
from charllm.data.settings import setting

DENSITIES = (0.1, 1.0)
"""The least and the greatest density that a search tries."""
EVOLVE_GROUPS = {
    "what": Text("What is merged", "何をマージするか"),
    "asking": Text("How it is asked", "質問の仕方"),
    "measure": Text("What counts", "何を測るか"),
    "machine": Text("Where it runs", "どこで動かすか"),
}


class EvolveConfig(Config):
    """Everything that reproduces an evolution.

    ``parents`` and ``base`` as in a recipe, from the project's root: a model's folder,
    ``base+adapter``, or another recipe. ``preset`` is how replies are generated; its seed is
    drawn a question, the same for every candidate. ``layers``: how sequences of layers are
    searched (the method passthrough). ``insist``: let a judge decide that has not passed its
    quality check; the result says so.
    """

    name: str = setting(..., "Name", "名前", group="what", simple=True)
    profile: str = setting(..., "Character", "キャラクター", group="what", simple=True)
    parents: tuple[str, ...] = Field(min_length=2)
    method: str = setting(
        "linear",
        "Method",
        "マージ方法",
        "mergekit's name. Adapters on one base are mixed as they are by linear.",
        "mergekit での名前です。同じベースのアダプターは linear でそのまま混ぜます。",
        group="what",
        simple=True,
    )
    base: str = setting(
        "",
        "Base of the differences",
        "差分の基準",
        "Only for methods that add differences: task_arithmetic, ties, dare_ties.",
        "差分を足す方法（task_arithmetic、ties、dare_ties）だけで使います。",
        group="what",
    )
    density: float = setting(
        0.5,
        "Density at the start",
        "最初の密度",
        "Share of each parent's changes that is kept (ties, dare_ties, dare_linear). The search "
        "moves it between 0.1 and 1.",
        "親の差分のうち残す割合です（ties、dare_ties、dare_linear）。探索が 0.1～1 の間で"
        "動かします。",
        group="what",
        ge=DENSITIES[0],
        le=DENSITIES[1],
    )
    tokenizer_source: Literal["", "union", "base"] = setting(
        "",
        "Vocabulary of the merge",
        "マージ後の語彙",
        "Where the parents' differ by added tokens: union of all, or the first one's (base).",
        "親の語彙が追加トークンだけ異なるとき、union は全部、base は最初の親の語彙を使います。",
        group="what",
    )
    layers: LayerOptions = LayerOptions()
    group_size: int = setting(
        4,
        "Layers in a group",
        "グループの層数",
        "So many neighbouring layers share their weights.",
        "隣り合うこの数の層に同じ重みを使います。",
        group="what",
        ge=1,
        le=1000,
    )
    queries: str = setting(
        "",
        "Query set",
        "質問セット",
        "A name in datasets/queries; empty: the character's own.",
        "datasets/queries の名前。空欄ならキャラクターのものを使います。",
        group="asking",
    )
    rag: bool = setting(
        True,
        "Show retrieved facts",
        "検索した事実を見せる",
        group="asking",
        simple=True,
    )
    top_k: int = setting(3, "Facts at most", "事実の最大数", group="asking", ge=1, le=20)
    template: str = setting("auto", "Prompt template", "プロンプトの形式", group="asking")
    preset: GenerationPreset = GenerationPreset(max_new_tokens=64)
    rows: int = setting(
        0,
        "Replies at once",
        "同時に生成する返答",
        "0: 16 on a CPU, 128 on a GPU. Less memory with fewer.",
        "0 なら CPU で 16、GPU で 128。少ないほどメモリーを使いません。",
        group="asking",
        ge=0,
        le=4096,
    )
    lines: str = setting(
        "",
        "Dataset of held-out lines",
        "評価用のせりふ",
        "Its held-out share measures the part loss; the parents must not have trained on it.",
        "評価用に残した分で loss を測ります。親の学習に使っていないことが条件です。",
        group="measure",
    )
    lines_held_out: float = setting(
        0.1, "Held-out share of the lines", "評価用の割合", group="measure", gt=0.0, le=1.0
    )
    lines_seed: int = setting(0, "Seed of that share", "その分割のシード", group="measure", ge=0)
    general: str = setting(
        "",
        "General questions",
        "一般問題",
        "Sets in datasets/general, with commas between: a guard against forgetting. Empty: none, "
        "or all where the objective or the guard needs them.",
        "datasets/general の名前（コンマ区切り）。忘却を防ぐために測ります。空欄なら測りません"
        "（目標に general があるか、ガードがあれば全部を使います）。",
        group="measure",
    )
    workers: int = setting(
        1,
        "Workers",
        "ワーカー数",
        "Processes that hold the parents, a GPU each (on a CPU a core each). More than one: Ray.",
        "親を読み込むプロセスの数です。それぞれが GPU 1枚（CPU なら1コア）を使います。"
        "2以上では Ray が必要です。",
        group="machine",
        ge=1,
        le=256,
    )
    ray_address: str = setting(
        "",
        "Ray cluster",
        "Ray クラスター",
        "HOST:PORT of a cluster to join, auto for this machine's; empty: one is started.",
        "参加するクラスターの HOST:PORT。この PC のものなら auto、空欄なら新しく起動します。",
        group="machine",
    )
    guard: float | None = setting(
        None,
        "Guard",
        "ガード",
        "How far general may fall below the plain average's before a finalist is not chosen, such "
        "as 0.02. Empty: no guard.",
        "general が単純平均をこの値（例: 0.02）より大きく下回る最終候補は選びません。"
        "空欄ならガードなしです。",
        group="measure",
        ge=0.0,
        le=1.0,
    )
    judge: JudgeConfig = JudgeConfig()
    search: SearchConfig = SearchConfig()
    insist: bool = False
    label_en: str = setting("", "Label in English", "英語の表示名", group="what")
    label_ja: str = setting("", "Label in Japanese", "日本語の表示名", group="what")
    replace: bool = setting(False, "Replace one of this name", "同じ名前を置き換える", group="what")

    @property
    def spread(self) -> bool:
        """Whether candidates are made by Ray's workers rather than in the run's own process."""
        return self.workers > 1 or bool(self.ray_address)

    @property
    def general_sets(self) -> tuple[str, ...] | None:
        """The sets of general questions, () for all there are, None where none are asked."""
        named = tuple(filter(None, (name.strip() for name in self.general.split(","))))
        goal = Objective.parse(self.search.objective)
        wanted = self.guard is not None or any(part in GENERAL for part in goal.parts)
        return named if named or wanted else None

    @field_validator("name", "profile")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if "loss" in Objective.parse(self.search.objective).parts and not self.lines:
            error = UserError(
                "loss needs lines: choose a dataset with held-out dialogues, or take loss out of "
                "the objective.",
                "loss を測るには評価用のせりふが必要です。データセットを選ぶか、目標から loss を"
                "外してください。",
            )
            raise ValueError(str(error)) from error
        return self
