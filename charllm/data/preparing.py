"""Preparation: named steps from dialogues to dialogues, in the order that the card keeps.

Each step is a pure function of the rows, its options and its *inputs*: what it took from the
profile and the query sets when it was chosen. A dataset is its originals with the steps applied
again, so taking a step out gives back exactly what was there before. A further step is one more
function and one more entry in ``STEPS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from charllm.data import preparing_steps as do
from charllm.data.config import Config
from charllm.data.dataset_card import Step
from charllm.data.dialogue import Dialogue
from charllm.data.errors import Text, UserError
from charllm.data.preparing_steps import TOO_LONG, Applied, Inputs, Rows, Surroundings
from charllm.data.preparing_text import normal_widths, stripped, with_end_mark

MAX_IDS = 50
"""So many changed rows are named in the card; all are counted."""


class NoOptions(Config):
    """A step without options."""


def _no_inputs(options: Any, around: Surroundings) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class StepKind:
    """``apply`` gives the new rows and the ids of those changed, added or removed.

    ``fields`` names the options in words; ``inputs`` reads the surroundings once, when the step is
    chosen, and raises ``UserError`` where they lack what the step needs.
    """

    label: Text
    about: Text
    apply: Callable[[Rows, Any, Inputs], Applied]
    options: type[Config] = NoOptions
    fields: Mapping[str, Text] = field(default_factory=dict)
    inputs: Callable[[Any, Surroundings], dict[str, Any]] = _no_inputs


@dataclass(frozen=True)
class Prepared:
    """The rows after all steps, and the steps with what each has changed."""

    dialogues: Rows
    steps: tuple[Step, ...]


def prepare(originals: Iterable[Dialogue], steps: Iterable[Step]) -> Prepared:
    """Apply ``steps`` in order. ``UserError`` for an unknown step or a wrong option."""
    rows, done = list(originals), []
    for step in steps:
        kind = step_kind(step.kind)
        rows, changed = kind.apply(rows, options_of(step), step.inputs)
        ids = tuple(changed[:MAX_IDS])
        done.append(step.model_copy(update={"changed": len(changed), "ids": ids}))
    return Prepared(rows, tuple(done))


def chosen(step: Step, around: Surroundings) -> Step:
    """``step`` with its options checked and its inputs read; one that has inputs keeps them."""
    kind, options = step_kind(step.kind), options_of(step)
    inputs = step.inputs or kind.inputs(options, around)
    return Step(kind=step.kind, options=options.model_dump(mode="json"), inputs=dict(inputs))


def step_kind(name: str) -> StepKind:
    if name not in STEPS:
        known = ", ".join(STEPS)
        raise UserError(
            f"There is no preparation step {name!r}. Known: {known}.",
            f"前処理「{name}」はありません。使えるもの: {known}。",
        )
    return STEPS[name]


def options_of(step: Step) -> Any:
    return step_kind(step.kind).options.from_data(step.options, f"step {step.kind}")


STEPS: dict[str, StepKind] = {
    "strip-spaces": StepKind(
        Text("Strip spaces", "余分な空白を取る"),
        Text(
            "Takes away blanks at both ends of each line, repeated blanks and invisible signs.",
            "各行の前後の空白、連続した空白、見えない文字を取り除きます。",
        ),
        do.each_text(stripped, replies_only=False),
    ),
    "normalise-widths": StepKind(
        Text("Normalise widths", "全角・半角をそろえる"),
        Text(
            "Wide letters and digits become narrow, half-width katakana wide. Japanese signs such "
            "as ！？～「」 stay as they are.",
            "全角の英数字を半角に、半角カタカナを全角にします。！？～「」などの記号はそのままです。",
        ),
        do.each_text(normal_widths, replies_only=False),
    ),
    "end-mark": StepKind(
        Text("Add end marks", "文末に句点を付ける"),
        Text(
            "Adds 。 to a Japanese reply, . to an English one, where it ends without any mark.",
            "文末に記号のない返答に、日本語なら「。」、英語なら「.」を付けます。",
        ),
        do.each_text(with_end_mark, replies_only=True),
    ),
    "drop-system": StepKind(
        Text("Remove system prompts", "システムプロンプトを外す"),
        Text(
            "Takes system prompts out of the rows; training puts the profile's own in.",
            "行からシステムプロンプトを外します。学習時にはプロファイルのものが入ります。",
        ),
        do.drop_system,
    ),
    "set-system": StepKind(
        Text("Set the system prompt", "システムプロンプトを設定する"),
        Text(
            "Gives every row the same system prompt: the text below, or the profile's.",
            "すべての行に同じシステムプロンプトを入れます。空欄ならプロファイルのものを使います。",
        ),
        do.set_system,
        do.SetSystem,
        {"text": Text("System prompt (empty: the profile's)", "文面（空欄: プロファイルのもの）")},
        do.system_input,
    ),
    "split-turns": StepKind(
        Text("Split long talks", "長い会話を分ける"),
        Text(
            "Makes one row of each reply, with the earlier turns it needs. Only the last reply of "
            "a row is learnt.",
            "返答ごとに1行に分け、直前のやりとりを添えます。学習されるのは各行の最後の返答です。",
        ),
        do.split_turns,
        do.SplitTurns,
        {"history": Text("Earlier turns kept (0–20)", "残す直前のやりとり（0〜20）")},
    ),
    "drop-duplicates": StepKind(
        Text("Remove near-duplicates", "よく似た行を除く"),
        Text(
            "Of rows whose question and reply are nearly the same only the first stays.",
            "質問と返答がほぼ同じ行のうち、最初の1行だけを残します。",
        ),
        do.drop_duplicates,
        do.NearDuplicates,
        {"overlap": Text("Overlap from which (0.3–1)", "重なりの基準（0.3〜1）")},
    ),
    "drop-leaks": StepKind(
        Text("Remove rows near a query", "評価用の質問に近い行を除く"),
        Text(
            "Removes rows that ask nearly what a query set asks, so that scores stay honest.",
            "評価用の質問とほぼ同じことを聞く行を除き、評価が甘くならないようにします。",
        ),
        do.drop_leaks,
        do.NearDuplicates,
        {"overlap": Text("Overlap from which (0.3–1)", "重なりの基準（0.3〜1）")},
        do.query_input,
    ),
    "max-length": StepKind(
        Text("Remove overlong replies", "長すぎる返答を除く"),
        Text(
            f"Removes rows whose reply is longer; 0 means {TOO_LONG} times the profile's length.",
            f"返答が長すぎる行を除きます。0 はプロファイルの長さの{TOO_LONG}倍です。",
        ),
        do.drop_long,
        do.MaxLength,
        {"characters": Text("Characters at most", "最大文字数")},
        do.length_input,
    ),
    "profile-rows": StepKind(
        Text("Add name and age rows", "名前や年齢の行を足す"),
        Text(
            "Adds rows on the character's name, age, birthday and home, made of the profile's "
            "examples and facts; questions near a query set are left out.",
            "名前・年齢・誕生日・住まいの行を、プロファイルの会話例と事実から作って足します。"
            "評価用の質問に近いものは使いません。",
        ),
        do.add_profile_rows,
        do.ProfileRows,
        {"per_topic": Text("Questions for each topic (1–4)", "話題ごとの質問数（1〜4）")},
        do.profile_input,
    ),
}
"""Every step, in the order in which they are best applied."""
