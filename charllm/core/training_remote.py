"""Fine-tuning by a service of the OpenAI protocol: the ``openai`` back end of a training run.

The same rows as in a local run are uploaded, a job is created and watched to its end, and its
model becomes a column of the chat. It does not know how the service is spoken to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from charllm.core import endpoint
from charllm.core.claims import hold_for_job, release_job
from charllm.core.training_config import TrainConfig
from charllm.core.training_remote_asking import ask_samples
from charllm.core.training_remote_card import publish
from charllm.core.training_remote_data import State, build_rows, read_state, write_rows
from charllm.core.training_remote_job import RemoteJob
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.progress import Reporter, Stopped


def run_remote(
    config: TrainConfig, reporter: Reporter, folder: Path, paths: Paths
) -> dict[str, Any]:
    """Upload, create, watch, publish to ``checkpoints/<name>``; returns the card's numbers.

    ``UserError`` where the data or the settings would be refused, and where the job fails, with
    the service's own words; resuming after that starts another job on the same files.
    """
    epochs = _whole_epochs(config)
    state = read_state(folder)
    fresh = state is None
    if state is None:
        reporter.progress(0, 1, Text("preparing the data", "データを準備しています"))
        state = write_rows(folder, build_rows(config, paths), _address(config.base_url))
    _tell(state, reporter, fresh)
    run = RemoteJob(config, reporter, folder, state, epochs)
    with _name_held(config, folder, paths):
        job = run.to_the_end()
        tuned = run.tuned(job)
        samples = ask_samples(run.state, tuned.model, config, reporter, folder, paths)
        if reporter.stop_requested() == "cancel":
            run.cancel()
            raise Stopped
        result = publish(config, run.state, tuned, samples, paths)
    reporter.log(f"published {result['folder']}: {tuned.model} at {state.base_url}")
    return result


@contextmanager
def _name_held(config: TrainConfig, folder: Path, paths: Paths) -> Iterator[None]:
    """The checkpoint's name is this run's while its job may be out, whatever ends the block."""
    hold_for_job(paths, config.name, folder)
    try:
        yield
    except BaseException as error:
        state = read_state(folder)
        # Where no answer came to the wish for a job, there may be one all the same.
        unsure = isinstance(error, endpoint.Unreachable) and state and "job" in state.begun
        if not (state and state.job) and not unsure:
            release_job(paths, config.name)
        raise
    release_job(paths, config.name)


def _whole_epochs(config: TrainConfig) -> int:
    if config.epochs != int(config.epochs):
        raise UserError(
            f"A fine-tuning service takes whole epochs, not {config.epochs}: set epochs to "
            f"{math.ceil(config.epochs)}.",
            f"サービスでのファインチューニングでは、エポック数は整数で指定します"
            f"（{config.epochs} は使えません）。epochs を {math.ceil(config.epochs)} などに"
            "してください。",
        )
    return int(config.epochs)


def _address(base_url: str) -> str:
    """The server's whole address, as the chat's column will need it; no password in it."""
    url = endpoint.resolve_base_url(base_url) or endpoint.OPENAI
    if urlsplit(url).username or urlsplit(url).password:
        raise UserError(
            "The endpoint's address holds a user name or password, and it would be kept in files. "
            "Take it out of the address and enter it as the key.",
            "エンドポイントの URL にユーザー名かパスワードが含まれています。URL はファイルに"
            "残るので取り除き、キーとして入力してください。",
        )
    return url


def _tell(state: State, reporter: Reporter, fresh: bool) -> None:
    """What was found about the data and, before anything is sent, what it may cost."""
    about = state.about
    names = ("dialogues", "held_out", "with_facts", "leaks", "tokens", "billed")
    reporter.event("data", template="endpoint", **{name: about[name] for name in names})
    if not fresh:
        reporter.log("going on from remote.json; nothing is paid for again")
        return
    reporter.log(
        f"{about['examples']} examples, roughly {about['tokens']} tokens; roughly "
        f"{about['billed']} tokens will be billed by {endpoint.server_name(state.base_url)}"
    )
    for held, trained in about["leaks"]:
        reporter.log(f"held-out dialogue {held} reads almost like training dialogue {trained}")
