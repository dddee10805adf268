"""From dialogues to training rows: the split, the facts in each prompt, and the gate before start.

All choices depend on the seed and on a dialogue's id alone, so that two halves, or a run and its
repetition, see the same prompts. It does not know how a model is trained.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charllm.core.training_config import Half, Question, TrainConfig
from charllm.core.training_limits import NO_LIMITS, Limits, check_ids, check_lengths, limits_of
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, data_hash, dataset_path, load_dialogues
from charllm.data.errors import Language, UserError
from charllm.data.files import sha256
from charllm.data.profile import Profile, load_profile
from charllm.data.prompts import (
    Template,
    build_messages,
    check_rows,
    end_id,
    get_template,
    labelled_row,
)
from charllm.data.text import near_duplicates, ngrams, normal_form

if TYPE_CHECKING:
    from charllm.data.prompts import Row

SAMPLES = 10
"""Questions asked of the trained model."""
MAX_DISTRACTORS = 2
_NEAREST = 8
"""Half of the distractors come from this many facts that read most like the supporting one."""
_MISPLACED = 0.2
"""Share of the distractors that stand first: retrieval lists the best fact first, mostly."""


@dataclass(frozen=True)
class Example:
    """A dialogue with the facts its prompt shows; None shows none (the prompt without RAG)."""

    dialogue: Dialogue
    facts: tuple[str, ...] | None


def split_dialogues(
    dialogues: Sequence[Dialogue], half: Half, held_out: float, seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """``(training, held out)``. ``held_out`` is the share, in [0, 0.5], that is never trained on.

    The held-out dialogues are the same for "all", "a" and "b"; the two halves of the rest are
    disjoint. ``UserError`` where nothing is left to train on.
    """
    order = sorted(dialogues, key=lambda d: _draw(seed, "split", d.id))
    count = round(held_out * len(order))
    kept, rest = order[:count], order[count:]
    chosen = {"all": rest, "a": rest[0::2], "b": rest[1::2]}[half]
    if not chosen:
        raise UserError(
            f"The dialogues are too few ({len(order)}): none is left to train on.",
            f"会話が {len(order)} 件では足りず、学習に使うものが残りません。",
        )
    return chosen, kept


def choose_facts(
    dialogues: Sequence[Dialogue], profile: Profile, share: float, seed: int, draws: int = 1
) -> list[Example]:
    """Which prompts show facts: ``share`` of all, drawn from the replies that rely on some.

    A prompt shows what its reply relies on, among 0–2 distractors; never distractors alone,
    which would teach the model to ignore what retrieval finds. Where fewer replies rely on facts
    than ``share`` asks for, all of them get theirs. Each prompt with facts comes ``draws`` times,
    with other distractors: picking the right fact is harder to learn than the voice.
    """
    able = sorted((d for d in dialogues if d.facts), key=lambda d: _draw(seed, "rag", d.id))
    shown = {d.id for d in able[: round(share * len(dialogues))]}
    return [
        Example(d, _with_distractors(d, profile, f"{seed}:facts:{draw}") if d.id in shown else None)
        for d in dialogues
        for draw in range(draws if d.id in shown else 1)
    ]


def _with_distractors(dialogue: Dialogue, profile: Profile, seed: str) -> tuple[str, ...]:
    rng = random.Random(f"{seed}:{dialogue.id}")
    others = [fact for fact in profile.facts if fact not in dialogue.facts]
    near = sorted(others, key=lambda fact: -_overlap(fact, dialogue.facts))[:_NEAREST]
    facts = list(dialogue.facts)
    for _ in range(rng.randint(0, MAX_DISTRACTORS)):
        pool = [f for f in (near if rng.random() < 0.5 else others) if f not in facts]
        first = rng.random() < _MISPLACED
        if pool:
            facts.insert(0 if first else len(facts), rng.choice(pool))
    return tuple(facts)


def _overlap(fact: str, supporting: Sequence[str]) -> float:
    """Character bigrams that ``fact`` shares with the nearest supporting fact, in [0, 1]."""
    mine = set(ngrams(normal_form(fact), 2))
    theirs = [set(ngrams(normal_form(other), 2)) for other in supporting]
    return max(len(mine & other) / max(1, len(mine | other)) for other in theirs)


def _draw(seed: int, what: str, key: str) -> float:
    return random.Random(f"{seed}:{what}:{key}").random()


def build_rows(
    examples: Sequence[Example],
    profile: Profile,
    template: Template,
    tokenizer: Any,
    *,
    language: Language | None = None,
    max_length: int,
    limits: Limits = NO_LIMITS,
) -> list[Row]:
    """Token rows with labels, checked: only the reply and its one end token are learnt.

    ``UserError`` names the dialogues that are longer than ``max_length`` tokens or than ``limits``
    allow (cut, they would lose the end token), or what is wrong with the labels.
    """
    rows = [_row(example, profile, template, tokenizer, language) for example in examples]
    names = [example.dialogue.id for example in examples]
    check_lengths(rows, names, max_length, limits)
    check_ids(rows, limits, tokenizer)
    check_rows(rows, template, tokenizer)
    return rows


def _row(
    example: Example,
    profile: Profile,
    template: Template,
    tokenizer: Any,
    language: Language | None,
) -> Row:
    dialogue = example.dialogue
    asked = max((i for i, m in enumerate(dialogue.messages) if m.role == "user"), default=None)
    if asked is None or asked != len(dialogue.messages) - 2:
        raise UserError(
            f"Dialogue {dialogue.id}: the reply must follow a user message.",
            f"会話 {dialogue.id}: 返答の直前にユーザーの発言が必要です。",
        )
    history = [m for m in dialogue.messages[:asked] if m.role != "system"]
    messages = build_messages(
        profile, dialogue.question, facts=example.facts, history=history, language=language
    )
    return labelled_row(template, tokenizer, messages, dialogue.reply)


@dataclass(frozen=True)
class Material:
    """What a run trains on, checked and turned into tokens. ``learnt`` counts learnt tokens."""

    profile: Profile
    template: Template
    tokenizer: Any
    dialogues: Sequence[Dialogue]
    held_out: Sequence[Dialogue]
    rows: Sequence[Row]
    held_out_rows: Sequence[Row]
    questions: Sequence[Question]
    base_hash: str

    @property
    def longest(self) -> int:
        return max(len(row.input_ids) for row in self.rows)

    @property
    def learnt(self) -> int:
        return sum(label != -100 for row in self.rows for label in row.labels)

    @property
    def hash(self) -> str:
        """Names the dialogues, trained on and held out."""
        return data_hash([*self.dialogues, *self.held_out])

    @property
    def rows_hash(self) -> str:
        """Names what the model sees: dialogues, facts and system prompt, as tokens."""
        return sha256(json.dumps([self.rows, self.held_out_rows]).encode())


def prepare(config: TrainConfig, paths: Paths) -> Material:
    """Dialogues, split, facts and token rows, all checked; nothing of the model but its tokens."""
    from charllm.core.models import load_tokenizer, model_folder, weights_hash

    profile = load_profile(paths, config.profile)
    train, held_out = _split(config, paths)
    folder = model_folder(paths, config.base)
    limits = limits_of(folder)
    template = get_template(template_for(config, profile))
    tokenizer = _with_pad(load_tokenizer(folder), template)

    def rows(part: Sequence[Dialogue], draws: int = 1) -> list[Row]:
        examples = choose_facts(part, profile, config.rag_share, config.split_seed, draws)
        return build_rows(
            examples,
            profile,
            template,
            tokenizer,
            language=config.prompt_language,
            max_length=config.max_length,
            limits=limits,
        )

    questions = config.samples or [Question(text=d.question, facts=d.facts) for d in held_out]
    return Material(
        profile,
        template,
        tokenizer,
        train,
        held_out,
        rows(train, config.fact_draws),
        rows(held_out) if held_out else [],
        questions[:SAMPLES],
        weights_hash(folder),
    )


def _split(config: TrainConfig, paths: Paths) -> tuple[list[Dialogue], list[Dialogue]]:
    """The dataset's dialogues ``(training, held out)``; ``UserError`` where they do not suffice."""
    file = dataset_path(paths, config.dataset)
    dialogues = load_dialogues(file)
    if not dialogues:
        raise UserError(
            f"{file} holds no dialogues. Import some in the Data tab, or name another dataset.",
            f"{file} に会話がありません。「データ」タブで読み込むか、別のデータセットを選んで"
            "ください。",
        )
    train, held_out = split_dialogues(dialogues, config.half, config.held_out, config.split_seed)
    train = train[: config.limit or None]
    if config.keep == "best" and not held_out:
        raise UserError(
            f"A held_out share of {config.held_out} leaves no dialogue to measure by (there are "
            f"{len(dialogues)}), so the best epoch cannot be told: set keep to last, raise "
            "held_out, or add dialogues.",
            f"会話が {len(dialogues)} 件で held_out が {config.held_out} では評価用の会話が残らず、"
            "最良のエポックを選べません。keep を last にするか、held_out を大きくするか、"
            "会話を増やしてください。",
        )
    return train, held_out


def _with_pad(tokenizer: Any, template: Template) -> Any:
    """The tokenizer with a token to pad with: its own, else the end token.

    What is padded is never learnt by its label, so that the end token loses nothing by it.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end_id(template, tokenizer))
    return tokenizer


def template_for(config: TrainConfig, profile: Profile) -> str:
    """The template's name: the one chosen, or the base's own for the character's language."""
    from charllm.core.catalog import CATALOG, template_name

    if config.template != "auto":
        return config.template
    for model in CATALOG:
        if config.base in (model.id, model.hub_id):
            return template_name(model, profile.language)
    raise UserError(
        f"{config.base} is not in the catalog, so its template is not known: name one (tokenizer "
        "uses the model's own chat template).",
        f"{config.base} はカタログにないため、テンプレートを決められません。template を指定して"
        "ください（tokenizer ならモデル自身のチャットテンプレートを使います）。",
    )


def leaks(train: Sequence[Dialogue], held_out: Sequence[Dialogue]) -> list[tuple[str, str]]:
    """``(held-out id, training id)`` of dialogues whose question and reply are nearly the same."""
    texts = [[d.question + " " + d.reply for d in part] for part in (held_out, train)]
    found = near_duplicates(texts[0], texts[1])
    return [(held_out[i].id, train[j].id) for i, j, _ in found]
