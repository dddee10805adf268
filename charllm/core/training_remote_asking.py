"""The fixed questions put to a model that a service has tuned, so that it can be read and judged.

Ten short calls. The model is paid for already, so that nothing here may keep it from being
published: what cannot be asked is told and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charllm.core import endpoint
from charllm.core.training_config import TrainConfig
from charllm.core.training_remote_card import sample_row
from charllm.core.training_remote_data import State, rows_file
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.files import json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Reporter


def ask_samples(
    state: State,
    model: str,
    config: TrainConfig,
    reporter: Reporter,
    folder: Path,
    paths: Paths,
) -> list[dict[str, Any]]:
    """The answers, as a local run's, also told as an event; [] where the model does not answer."""
    from charllm.core.judging.score import style_scorer

    questions = [row for _, row in json_lines(rows_file(folder, "samples"))]
    if not questions:
        return []
    scorer = style_scorer(paths, load_profile(paths, config.profile))
    samples: list[dict[str, Any]] = []
    for number, asked in enumerate(questions):
        words = Text("asking sample questions", "サンプルの質問をしています")
        reporter.progress(number, len(questions), words)
        if reporter.stop_requested():
            break
        try:
            reply, reason = _answer(asked, model, state.base_url)
        except UserError as error:
            reporter.log(f"the tuned model was not asked further: {error.text.en}")
            break
        samples.append(sample_row(asked, reply, reason, scorer))
    stopped = sum(sample["stopped"] for sample in samples)
    reporter.event("samples", epoch=config.epochs, samples=samples, stopped=stopped)
    return samples


def _answer(asked: Mapping[str, Any], model: str, base_url: str) -> tuple[str, str]:
    """``(reply, reason)`` with the preset that local samples are decoded with."""
    from charllm.core.generation import PRESETS

    messages = [Message.model_validate(message) for message in asked["messages"]]
    reply, reason = "", ""
    for piece in endpoint.chat_stream(messages, model, PRESETS["balanced"], base_url=base_url):
        if isinstance(piece, endpoint.Finish):
            reason = piece.reason
        else:
            reply += piece
    return reply, reason
