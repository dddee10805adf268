"""The configuration of an evolutionary merge: parents, questions, how they are answered and judged.

``SearchConfig`` (how the search goes) is a part of it. One more setting is one more field.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from charllm.core.generation import GenerationPreset
from charllm.core.judging.judges import JudgeConfig
from charllm.core.merging.search_config import SearchConfig
from charllm.data.config import Config
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug
from charllm.data.settings import setting

EVOLVE_GROUPS = {
    "what": Text("What is merged", "何をマージするか"),
    "asking": Text("How it is asked", "質問の仕方"),
    "measure": Text("What counts", "何を測るか"),
}


class EvolveConfig(Config):
    """Everything that reproduces an evolution.

    ``parents`` and ``base`` as in a recipe, from the project's root: a model's folder,
    ``base+adapter``, or another recipe. ``preset`` is how replies are generated; its seed is
    drawn a question, the same for every candidate. ``insist``: let a judge decide that has not
    passed its quality check; the result says so.
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
    judge: JudgeConfig = JudgeConfig()
    search: SearchConfig = SearchConfig()
    insist: bool = False
    label_en: str = setting("", "Label in English", "英語の表示名", group="what")
    label_ja: str = setting("", "Label in Japanese", "日本語の表示名", group="what")
    replace: bool = setting(False, "Replace one of this name", "同じ名前を置き換える", group="what")

    @field_validator("name", "profile")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if "loss" in self.search.objective and not self.lines:
            raise ValueError("objective: loss needs lines, a dataset with held-out dialogues")
        return self
