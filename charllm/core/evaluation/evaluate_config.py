"""The configuration of an evaluation: who answers which questions how, and who judges the replies.

One more setting is one more field. Judges can be added to a finished evaluation later
(``evaluating.judge_again``); they are then not in here but in its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from pydantic import Field, field_validator, model_validator

from charllm.core.embedding import EmbedderConfig
from charllm.core.filtering import Budget
from charllm.core.generation import DEFAULT_PRESET, PRESETS, GenerationPreset
from charllm.core.judging.judges import JudgeConfig
from charllm.core.replying import ReplySettings
from charllm.core.variants import Variant
from charllm.data.config import Config, invalid
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug
from charllm.data.queries import Split
from charllm.data.settings import setting

EVALUATE_GROUPS = {
    "what": Text("What is compared", "何を比べるか"),
    "asking": Text("How it is asked", "質問の仕方"),
    "judging": Text("Who judges", "誰が採点するか"),
}
"""The groups of settings, in the order in which a form shows them."""


class EvaluateConfig(Config):
    """Everything that reproduces an evaluation.

    ``variants``: names as the chat has them, or whole variants (of another base, say). Facts are
    looked up for those with RAG only. ``splits``: which queries are asked, () all. ``judges`` may
    be empty: replies alone. ``budget`` is what each judge may spend. ``insist``: take a judge that
    has not passed its quality check; the result says so.
    """

    name: str = setting(..., "Name", "名前", group="what", simple=True)
    profile: str = setting(..., "Character", "キャラクター", group="what", simple=True)
    variants: tuple[str | Variant, ...] = Field(min_length=1)
    queries: str = setting(
        "",
        "Query set",
        "質問セット",
        "A name in datasets/queries; empty: the character's own.",
        "datasets/queries の名前。空欄ならキャラクターのものを使います。",
        group="asking",
        simple=True,
    )
    splits: tuple[Split, ...] = ("report",)
    repeats: int = setting(
        1,
        "Replies to each question",
        "質問ごとの返答数",
        "More than one needs a generation preset that samples.",
        "2以上にするには、サンプリングを行う生成設定が必要です。",
        group="asking",
        simple=True,
        ge=1,
        le=50,
    )
    preset: GenerationPreset = PRESETS[DEFAULT_PRESET]
    embedder: EmbedderConfig = EmbedderConfig()
    top_k: int = setting(3, "Facts at most", "事実の最大数", group="asking", ge=1, le=20)
    threshold: float | None = setting(
        None,
        "Least similarity of a fact",
        "事実の類似度の下限",
        "Empty: the embedder's own, or the calibrated one.",
        "空欄なら埋め込みごとの値（調整済みならその値）を使います。",
        group="asking",
        ge=-1.0,
        le=1.0,
    )
    rows: int = setting(
        0,
        "Replies at once",
        "同時に生成する返答",
        "0: 32 on a CPU, 128 on a GPU. Less memory with fewer.",
        "0 なら CPU で 32、GPU で 128。少ないほどメモリーを使いません。",
        group="asking",
        ge=0,
        le=4096,
    )
    seed: int = setting(
        0,
        "Seed",
        "シード",
        "Of sampled replies and of the intervals' resampling.",
        "返答のサンプリングと、信頼区間の再標本化に使います。",
        group="asking",
        ge=0,
        lt=2**31,
    )
    judges: tuple[JudgeConfig, ...] = (JudgeConfig(),)
    budget: Budget = Budget()
    insist: bool = setting(
        False,
        "Take a judge that has not passed its check",
        "検査に合格していないジャッジも使う",
        "The result says so for ever.",
        "その旨が結果に残ります。",
        group="judging",
    )

    @property
    def settings(self) -> ReplySettings:
        """What all variants share when a question becomes a prompt."""
        return ReplySettings(
            preset=self.preset,
            embedder=self.embedder,
            top_k=self.top_k,
            threshold=self.threshold,
        )

    @field_validator("name", "profile")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _tells_something(self) -> Self:
        if self.repeats > 1 and self.preset.temperature == 0:
            raise invalid(
                "repeats: replies differ only where the preset's temperature is over 0",
                "repeats を 2 以上にするには、preset の temperature を 0 より大きくしてください"
                "（0 では毎回同じ返答になります）",
            )
        check_variants(self.variants)
        check_once("splits", self.splits)
        check_once("judges", self.judges, lambda judge: judge.model or judge.kind)
        return self


def check_variants(variants: Sequence[str | Variant]) -> None:
    """A validator's error where a name stands twice or an address carries a user name."""
    check_once("variants", [one if isinstance(one, str) else one.name for one in variants])
    if any("@" in one.base_url for one in variants if isinstance(one, Variant)):
        raise invalid(
            "variants: leave the user name and the password out of base_url",
            "variants: base_url にユーザー名とパスワードを書かないでください",
        )


T = TypeVar("T")


def check_once(field: str, found: Sequence[T], name: Callable[[T], str] = str) -> None:
    """A validator's error that names what stands twice in a list."""
    twice = next((one for i, one in enumerate(found) if one in found[:i]), None)
    if twice is not None:
        raise invalid(
            f"{field}: {name(twice)!r} stands twice",
            f"{field}: 「{name(twice)}」が重複しています。1 つだけにしてください",
        )
