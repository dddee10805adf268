"""Which models and lines a forgetting report is made from, and asking them.

One base is in memory at a time; its variants are rows on it. Nothing is generated: a model of 270M
parameters answers the shipped questions in seconds. What was measured means is ``forgetting``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.forgetting import Measured
from charllm.core.evaluation.general_questions import GeneralQuestion, answer_general
from charllm.core.evaluation.likelihood import ending_of, mean_log_likelihoods
from charllm.core.variants import Variant, find_variant, list_variants, load_checkpoint
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, dataset_path, load_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile
from charllm.data.progress import Reporter, Stopped

if TYPE_CHECKING:
    from charllm.core.replying import Resident


@dataclass(frozen=True)
class HeldOut:
    """Dialogues that no variant was trained on. ``remark`` says why there are none."""

    dialogues: tuple[Dialogue, ...]
    remark: Text | None = None


def chosen_variants(paths: Paths, slug: str, names: Sequence[str] = ()) -> list[Variant]:
    """The variants of these names, or every checkpoint of the character; each weights once.

    ``UserError`` where one is unknown, is kept by an endpoint, or where there is none to compare.
    """
    found = [find_variant(paths, slug, name) for name in names] or [
        one for one in list_variants(paths, slug) if one.checkpoint and not one.base_url
    ]
    if far := next((one for one in found if one.base_url), None):
        raise UserError(
            f"{far.name} is answered by an endpoint, which does not tell how likely it finds an "
            "answer. Choose variants of this machine.",
            f"「{far.name}」はエンドポイントのモデルで、答えの尤度を調べられません。"
            "このマシンのモデルを選んでください。",
        )
    once = {(one.model, one.quantization, one.checkpoint): one for one in reversed(found)}
    kept = [one for one in found if one in once.values() and one.checkpoint]
    if not kept:
        raise UserError(
            f"{slug} has no trained or merged variant to compare with its base. Train one first.",
            f"{slug} には、ベースと比べる学習済み・マージ済みのバリアントがありません。"
            "先に学習してください。",
        )
    return kept


def held_out_lines(
    paths: Paths, profile: Profile, variants: Sequence[Variant], dataset: str = ""
) -> HeldOut:
    """What each adapter's ``train.yaml`` kept from training, as far as all of them agree.

    ``dataset`` "" is the character's own. An adapter trained on another dataset rules nothing out;
    one that does not say what it was trained on rules everything out.
    """
    from charllm.core.training_config import TrainConfig
    from charllm.core.training_data import split_dialogues

    name = dataset or profile.slug
    path = dataset_path(paths, name)
    if not dataset and not path.is_file():
        return HeldOut((), Text(f"There is no dataset {name}.", f"データ「{name}」がありません。"))
    dialogues = load_dialogues(path)
    kept = {one.id for one in dialogues}
    for adapter in _adapters(paths, variants):
        file = paths.checkpoints / adapter / "train.yaml"
        if not file.is_file():
            return HeldOut((), _unknown(adapter))
        config = TrainConfig.load(file)
        if config.dataset == name:
            out = split_dialogues(dialogues, "all", config.held_out, config.split_seed)[1]
            kept &= {one.id for one in out}
    if not kept:
        return HeldOut(
            (),
            Text(
                f"No line of {name} was kept from the training of all variants.",
                f"どのバリアントの学習にも使われていないせりふが「{name}」にありません。",
            ),
        )
    return HeldOut(tuple(one for one in dialogues if one.id in kept))


def measure(
    paths: Paths,
    profile: Profile,
    variants: Sequence[Variant],
    questions: Sequence[GeneralQuestion],
    lines: Sequence[Dialogue],
    reporter: Reporter,
) -> list[Measured]:
    """Every base, followed by its variants. ``Stopped`` when cancelled; nothing is kept."""
    from charllm.core.replying import Resident

    groups: dict[tuple[str, Any], list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.model, variant.quantization), []).append(variant)
    found: list[Measured] = []
    total = len(variants) + len(groups)
    for (model, quantization), members in groups.items():
        _tell(reporter, len(found), total, Text(f"loading {model}", f"{model} を読み込んでいます"))
        resident = Resident(paths, model, quantization)
        rows = _line_rows(profile, model, resident, lines)
        base = members[0].model_copy(update={"name": "", "checkpoint": "", "rag": False})
        for one in (base, *members):
            name = one.name or model
            _tell(reporter, len(found), total, Text(f"asking {name}", f"{name} に出題しています"))
            found.append(_measured(resident, one, questions, rows))
    reporter.progress(total, total, Text("done", "完了しました"))
    return found


def _measured(
    resident: Resident,
    variant: Variant,
    questions: Sequence[GeneralQuestion],
    rows: Mapping[str, Any],
) -> Measured:
    row = resident.row(variant)

    def opened(count: int) -> Any:
        return resident.adapters.selected([row] * count)

    answers = answer_general(opened, resident.tokenizer, questions)
    values = mean_log_likelihoods(opened, [ending_of(one) for one in rows.values()])
    return Measured(
        variant=variant.name,
        base=variant.model,
        weights=resident.fingerprint(variant, row),
        answers=tuple(answers),
        losses={line: -value for line, value in zip(rows, values, strict=True)},
    )


def _line_rows(
    profile: Profile, model: str, resident: Resident, lines: Sequence[Dialogue]
) -> dict[str, Any]:
    """The lines as training rows, with the facts that their replies rely on."""
    if not lines:
        return {}
    from charllm.core.catalog import find_model, template_name
    from charllm.core.training_data import build_rows, choose_facts
    from charllm.data.prompts import get_template

    template = get_template(template_name(find_model(model), profile.language))
    examples = choose_facts(lines, profile, 1.0, 0)
    rows = build_rows(examples, profile, template, resident.tokenizer, max_length=100_000)
    return {one.id: row for one, row in zip(lines, rows, strict=True)}


def _adapters(paths: Paths, variants: Sequence[Variant]) -> list[str]:
    """The adapters that the variants are made of, each once."""
    weights = (load_checkpoint(paths, one.checkpoint).weights for one in variants)
    return list(dict.fromkeys(name for one in weights for name in one))


def _unknown(adapter: str) -> Text:
    return Text(
        f"{adapter} does not say what it was trained on (no train.yaml), so no line is surely "
        "held out.",
        f"「{adapter}」は学習データが分からない（train.yaml がない）ため、評価用のせりふを"
        "決められません。",
    )


def _tell(reporter: Reporter, done: int, total: int, message: Text) -> None:
    if reporter.stop_requested() == "cancel":
        raise Stopped
    reporter.progress(done, total, message)
