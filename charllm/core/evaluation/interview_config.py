"""The configuration of an interview run: who is asked, by whom, how long, and who judges.

The single questions are asked by the same machinery as an evaluation's; ``asking`` is their
configuration. One more setting is one more field.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from charllm.core.embedding import EmbedderConfig
from charllm.core.evaluation.evaluate_config import EvaluateConfig, check_once, check_variants
from charllm.core.evaluation.five import CRITERIA, Key
from charllm.core.evaluation.five_questions import default_set
from charllm.core.filtering import Budget
from charllm.core.generation import DEFAULT_PRESET, PRESETS, GenerationPreset
from charllm.core.judging.judges import JudgeConfig, check_address
from charllm.core.replying import ReplySettings
from charllm.core.variants import Variant
from charllm.data.config import Config, invalid
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug
from charllm.data.settings import setting

INTERVIEW_GROUPS = {
    "what": Text("Who is interviewed", "誰に聞くか"),
    "talking": Text("The interviews", "インタビュー"),
    "asking": Text("How replies are made", "返答の作り方"),
    "judging": Text("Who judges", "誰が採点するか"),
}
"""The groups of settings, in the order in which a form shows them."""


class InterviewerConfig(Config):
    """Who asks after the first question of a talk.

    "list": the query set's questions and follow-ups, the same for every variant. "endpoint" and
    "local": a chat model that reads the talk so far and the profile. Its key is never in here.
    """

    kind: Literal["list", "endpoint", "local"] = "list"
    model: str = ""
    base_url: str = ""
    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    max_tokens: int = Field(default=120, ge=16, le=2048)
    in_flight: int = Field(default=8, ge=1, le=64)
    price_in: float | None = Field(default=None, ge=0.0)
    price_out: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.kind != "list" and not self.model.strip():
            raise invalid(
                f"model: name the {self.kind} model that asks the questions",
                f"model: 質問するモデルの名前を書いてください（kind が {self.kind} のため）",
            )
        check_address(self.base_url)
        return self


class InterviewConfig(Config):
    """Everything that reproduces a run.

    ``judge`` gives its model; the rubrics are those of ``criteria``. None: the measures that need
    no judge, alone. ``budget`` is for all criteria together. ``insist``: take a judge that has not
    passed its quality check; the result says so.
    """

    name: str = setting(..., "Name", "名前", group="what", simple=True)
    profile: str = setting(..., "Character", "キャラクター", group="what", simple=True)
    variants: tuple[str | Variant, ...] = Field(min_length=1)
    queries: str = setting(
        "",
        "Query set",
        "質問セット",
        "A name in datasets/queries; empty: the character's own, as `questions` writes it.",
        "datasets/queries の名前。空欄なら questions コマンドで作ったものを使います。",
        group="what",
        simple=True,
    )
    single: bool = setting(
        True,
        "Ask every question alone as well",
        "質問を一つずつ単独でも聞く",
        "Each in a fresh chat, without what was said before.",
        "毎回新しい会話で、前のやりとりなしに質問します。",
        group="talking",
        simple=True,
    )
    talks: int = setting(
        10,
        "Interviews with each variant",
        "構成ごとのインタビュー数",
        "Intervals are over interviews: fewer than 8 or so tell little.",
        "信頼区間はインタビュー単位で計算します。8件ほどないと、ほとんど何も言えません。",
        group="talking",
        simple=True,
        ge=0,
        le=500,
    )
    turns: int = setting(
        6,
        "Questions in an interview",
        "1回のインタビューの質問数",
        group="talking",
        simple=True,
        ge=2,
        le=50,
    )
    interviewer: InterviewerConfig = InterviewerConfig()
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
        "Of the order of questions, sampled replies and the intervals' resampling.",
        "質問の順序、返答のサンプリング、信頼区間の再標本化に使います。",
        group="asking",
        ge=0,
        lt=2**31,
    )
    judge: JudgeConfig | None = None
    criteria: tuple[Key, ...] = tuple(CRITERIA)
    budget: Budget = Budget()
    insist: bool = setting(
        False,
        "Take a judge that has not passed its check",
        "検査に合格していないジャッジも使う",
        "The result says so for ever.",
        "その旨が結果に残ります。",
        group="judging",
        simple=True,
    )

    @property
    def asking(self) -> EvaluateConfig:
        """The evaluation that the single questions are; its judges are heard by this run."""
        shared = ("name", "profile", "variants", "preset", "embedder", "top_k", "threshold")
        given = {name: getattr(self, name) for name in (*shared, "rows", "seed", "insist")}
        queries = self.queries or default_set(self.profile)
        return EvaluateConfig(**given, queries=queries, splits=(), judges=())

    @property
    def settings(self) -> ReplySettings:
        """How a turn becomes a prompt: with all the turns before it."""
        return self.asking.settings.model_copy(update={"history_turns": self.turns})

    @field_validator("name", "profile")
    @classmethod
    def _slug(cls, value: str) -> str:
        try:
            return check_slug(value)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _tells_something(self) -> Self:
        if not self.single and not self.talks:
            raise invalid(
                "talks: nothing would be asked; set talks, or single to true",
                "talks: このままでは何も質問しません。talks を 1 以上にするか、single を true に"
                "してください",
            )
        if self.judge is not None and self.judge.kind == "embedded":
            raise invalid(
                "judge: the embedded judge reads no rubric. Its style measure is always taken; "
                "leave judge out, or name an endpoint or local model",
                "judge: 内蔵ジャッジはルーブリックを読めません。口調の測定は常に行うので、judge を"
                "省くか、エンドポイントかローカルのモデルを指定してください",
            )
        check_variants(self.variants)
        check_once("criteria", self.criteria)
        return self
