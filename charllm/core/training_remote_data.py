"""What a fine-tuning service is sent, and what a run remembers of it in its folder.

The rows are those of a local run: the same split, the same facts, the same prompts, as messages
instead of tokens. Once written they are the run's own: a dataset that is edited later changes
nothing of what was paid for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charllm.core.training_config import Question, TrainConfig
from charllm.core.training_data import SAMPLES, Example, choose_facts, leaks, split_dialogues
from charllm.data.config import Config, Paths
from charllm.data.dialogue import Dialogue, data_hash, dataset_path, load_dialogues
from charllm.data.errors import Language, UserError
from charllm.data.files import read_json, sha256, write_bytes, write_json_lines
from charllm.data.profile import Profile, load_profile
from charllm.data.prompts import build_messages

FEWEST = 10
"""Examples that OpenAI asks for at least."""

TOKENS_A_MESSAGE = 4
"""What the service adds around each message, about."""

_CHARACTERS_A_TOKEN = 4
"""Of ASCII text; a Japanese character is counted as one token, which is rather too many."""


class Quote(NamedTuple):
    """What a run would send. ``billed`` is about the tokens that are paid for: all epochs'."""

    examples: int
    held_out: int
    tokens: int
    billed: int


class State(Config):
    """``remote.json``: what the service has of this run.

    A step's name is in ``begun`` from before it is asked for; without an id, its trace is looked
    for at the service before it is done again.
    """

    base_url: str
    training_name: str
    validation_name: str = ""
    training_file: str = ""
    validation_file: str = ""
    job: str = ""
    begun: tuple[str, ...] = ()
    about: dict[str, Any] = {}


class Rows(NamedTuple):
    """Rows for the service, and what is to be known about them."""

    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    about: dict[str, Any]


def remote_quote(config: TrainConfig, paths: Paths) -> Quote:
    """What a start would send and roughly be billed for; ``UserError`` where it would refuse."""
    about = build_rows(config, paths).about
    return Quote(about["examples"], about["held_out"], about["tokens"], about["billed"])


def build_rows(config: TrainConfig, paths: Paths) -> Rows:
    """The rows, checked: enough of them, each ending in a reply that follows a question."""
    profile = load_profile(paths, config.profile)
    dialogues = load_dialogues(dataset_path(paths, config.dataset))
    part = split_dialogues(dialogues, config.half, config.held_out, config.split_seed)

    def examples(chosen: Sequence[Dialogue], draws: int) -> list[Example]:
        return choose_facts(chosen, profile, config.rag_share, config.split_seed, draws)

    training, held_out = examples(part[0], config.fact_draws), examples(part[1], 1)
    if len(training) < FEWEST:
        raise UserError(
            f"{config.dataset} gives {len(training)} training examples; a fine-tuning service "
            f"takes {FEWEST} or more. Add dialogues, or hold fewer out.",
            f"{config.dataset} から作れる学習用の例は {len(training)} 件ですが、"
            f"ファインチューニングのサービスには {FEWEST} 件以上必要です。会話を増やすか、"
            "評価用に残す割合を減らしてください。",
        )
    rows, held_out_rows = (
        [message_row(example, profile, config.prompt_language) for example in chosen]
        for chosen in (training, held_out)
    )
    return Rows(
        rows,
        held_out_rows,
        _samples(config, profile, part[1]),
        _about(config, part, training, rows, held_out_rows),
    )


def message_row(example: Example, profile: Profile, language: Language | None) -> dict[str, Any]:
    """One row of the service's format; earlier replies get weight 0, as they are not learnt here.

    ``UserError`` names a dialogue whose reply does not follow a question, or is empty.
    """
    dialogue = example.dialogue
    *before, reply = dialogue.messages
    if not before or before[-1].role != "user" or not reply.content.strip():
        raise UserError(
            f"Dialogue {dialogue.id}: the reply must follow a user message and not be empty.",
            f"会話 {dialogue.id}: ユーザーの発言のすぐあとに、空でない返答が必要です。",
        )
    history = [message for message in before[:-1] if message.role != "system"]
    prompt = build_messages(
        profile, dialogue.question, facts=example.facts, history=history, language=language
    )
    messages: list[dict[str, Any]] = [
        {"role": m.role, "content": m.content.strip(), "weight": 0}
        if m.role == "assistant"
        else {"role": m.role, "content": m.content}
        for m in prompt
    ]
    return {"messages": [*messages, {"role": "assistant", "content": reply.content.strip()}]}


def estimated_tokens(rows: Sequence[dict[str, Any]]) -> int:
    """Roughly the tokens of ``rows``; the service's tokenizer is not known here."""
    texts = [message["content"] for row in rows for message in row["messages"]]
    plain = sum(sum(character.isascii() for character in text) for text in texts)
    others = sum(map(len, texts)) - plain
    return others + plain // _CHARACTERS_A_TOKEN + TOKENS_A_MESSAGE * len(texts)


def _samples(
    config: TrainConfig, profile: Profile, held_out: Sequence[Dialogue]
) -> list[dict[str, Any]]:
    """The questions that the tuned model is asked, with their whole prompts."""
    questions = config.samples or [Question(text=d.question, facts=d.facts) for d in held_out]
    return [
        {
            "question": question.text,
            "facts": list(question.facts),
            "messages": [
                message.model_dump()
                for message in build_messages(profile, question.text, facts=question.facts or None)
            ],
        }
        for question in questions[:SAMPLES]
    ]


def _about(
    config: TrainConfig,
    part: tuple[list[Dialogue], list[Dialogue]],
    training: Sequence[Example],
    rows: Sequence[dict[str, Any]],
    held_out_rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    tokens = estimated_tokens(rows)
    return {
        "dialogues": len(part[0]),
        "examples": len(rows),
        "held_out": len(held_out_rows),
        "with_facts": sum(example.facts is not None for example in training),
        "tokens": tokens,
        "billed": round(tokens * config.epochs),
        "data_hash": data_hash([*part[0], *part[1]]),
        "leaks": leaks(*part),
    }


# ── the run's folder ──────────────────────────────────────────────────────────────────────────


def state_file(folder: Path) -> Path:
    return folder / "remote.json"


def rows_file(folder: Path, which: str) -> Path:
    """``which``: training, validation, samples or events."""
    return folder / "remote" / f"{which}.jsonl"


def read_state(folder: Path) -> State | None:
    """What an earlier process of this run has left; None before the first."""
    file = state_file(folder)
    return State.from_data(read_json(file), str(file)) if file.is_file() else None


def remove_state(folder: Path) -> None:
    """Forget all, the mark first, so that a run that is started again begins anew."""
    state_file(folder).unlink(missing_ok=True)
    shutil.rmtree(folder / "remote", ignore_errors=True)


def save_state(folder: Path, state: State) -> None:
    write_bytes(state_file(folder), (state.model_dump_json(indent=1) + "\n").encode())


def write_rows(folder: Path, rows: Rows, base_url: str) -> State:
    """The rows as files, and the state in which nothing was sent yet.

    The names at the service hold the run's and the content's, so that a file that was uploaded
    just before a crash is known again, and no other run's is taken for it.
    """
    names = {}
    for which, part in (("training", rows.training), ("validation", rows.held_out)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        data = "".join(lines).encode()
        write_bytes(rows_file(folder, which), data)
        names[which] = f"charllm-{folder.name}-{sha256(data)[:12]}.jsonl" if part else ""
    write_json_lines(rows_file(folder, "samples"), rows.samples)
    state = State(
        base_url=base_url,
        training_name=names["training"],
        validation_name=names["validation"],
        about=rows.about,
    )
    save_state(folder, state)
    return state
