"""A training run's job at a fine-tuning service: sent once, watched to its end, never paid twice.

What the service has is written to ``remote.json`` before and after each step, so that a run that
was killed goes on from there. "Stop and save" leaves the job running at the service and a resumed
run watches on; "cancel" ends it there too. It does not know what becomes of the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from charllm.core import endpoint
from charllm.core.finetune_endpoint import Job, Service, ServiceEvent, Wanted
from charllm.core.training_config import TrainConfig
from charllm.core.training_remote_card import Tuned, curve, losses_of, metric
from charllm.core.training_remote_data import State, remove_state, rows_file, save_state
from charllm.data.errors import Text, UserError
from charllm.data.files import json_lines, write_json_lines
from charllm.data.progress import Reporter, Stopped

POLL_FIRST = 5.0
POLL_LONGEST = 60.0
POLL_GROWTH = 1.5
"""Seconds between two looks at the job: the first, the longest, and how the pause grows."""

STOP_SECONDS = 1.0
"""How often a stop request is looked for while waiting."""

PATIENCE = 180.0
"""Seconds that the service may be away before a job exists; a job that runs is waited for."""

CANCEL_PATIENCE = 8.0
"""Seconds in which the service must take a cancellation: a process that lingers is killed."""

T = TypeVar("T")


class RemoteJob:
    """One run's job at the service, and what is known of it so far."""

    def __init__(
        self, config: TrainConfig, reporter: Reporter, folder: Path, state: State, epochs: int
    ) -> None:
        self.config = config
        self.reporter = reporter
        self.folder = folder
        self.state = state
        self.epochs = epochs
        self.service = Service(state.base_url, config.base)
        self._total = math.ceil(state.about["examples"] / config.batch_size) * epochs
        self._step = 0
        self._lines = _read_lines(folder)
        for line in self._lines:
            self._step = max(self._step, int(self._metric(line).get("step", 0)))

    def to_the_end(self) -> Job:
        """The job, succeeded; goes on from whatever was reached before."""
        name = self.service.name
        if not self.state.job:
            self._say(Text(f"uploading to {name}", f"{name} にアップロードしています"))
            for which in ("training", "validation"):
                self._wait(0)
                self._ask(partial(self._upload, which))
            self._say(Text(f"creating the job at {name}", f"{name} でジョブを作成しています"))
            self._wait(0)
            self._ask(self._create)
        return self._watch()

    def tuned(self, job: Job) -> Tuned:
        """The model to publish: the job's, or with ``keep`` best its best epoch's."""
        steps = curve([line["metrics"] for line in self._lines], self._total, self.epochs)
        losses = losses_of(steps)
        seen = [row["eval_loss"] for row in steps if "eval_loss" in row]
        model, held_out = job.model, round(seen[-1], 4) if seen else None
        if self.config.keep == "best":
            checkpoints = self._ask(lambda: self.service.checkpoints(job.id))
            rated = [(metric({**c.metrics, "step": c.step}, 1, 1), c.model) for c in checkpoints]
            known = [(row["eval_loss"], name) for row, name in rated if "eval_loss" in row]
            if known:
                held_out, model = min(known)
            else:
                self.reporter.log("the service tells no epoch's held-out loss: the last is kept")
        return Tuned(job, model, losses, held_out)

    def cancel(self) -> None:
        """End the job at the service and delete the files there; ``UserError`` if it may run on."""
        deadline = time.monotonic() + CANCEL_PATIENCE
        while True:
            try:
                self._drop()
                break
            except UserError as error:
                if not isinstance(error, endpoint.Unreachable) or time.monotonic() > deadline:
                    raise self._may_run_on(error) from None
            time.sleep(STOP_SECONDS)
        remove_state(self.folder)

    # ── the steps ─────────────────────────────────────────────────────────────────────────────

    def _update(self, **values: Any) -> None:
        self.state = self.state.model_copy(update=values)
        save_state(self.folder, self.state)

    def _begin(self, step: str) -> bool:
        """Note that ``step`` is about to be done; whether it was begun before."""
        if step in self.state.begun:
            return True
        self._update(begun=(*self.state.begun, step))
        return False

    def _upload(self, which: str) -> None:
        name = getattr(self.state, f"{which}_name")
        if not name or getattr(self.state, f"{which}_file"):
            return
        found = self.service.find_file(name) if self._begin(which) else ""
        file = found or self.service.upload(name, rows_file(self.folder, which).read_bytes())
        self._update(**{f"{which}_file": file})
        self.reporter.log(f"{which} file {file} ({name}){' was there already' if found else ''}")

    def _create(self) -> None:
        found = self.service.find_job(self.state.training_file) if self._begin("job") else None
        wanted = Wanted(
            training_file=self.state.training_file,
            validation_file=self.state.validation_file,
            epochs=self.epochs,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            suffix=self.config.name.replace("_", "-"),
        )
        job = found or self.service.create(wanted)
        self._update(job=job.id)
        self.reporter.log(f"job {job.id}{' was there already' if found else ''}")
        used = {name: job.hyperparameters.get(name) for name in wanted.hyperparameters}
        for name, value in wanted.hyperparameters.items():
            if used[name] not in (None, value):
                self.reporter.log(f"the service uses {name} {used[name]}, not {value}")

    def _watch(self) -> Job:
        """Look at the job until it has ended; ``UserError`` if it failed."""
        pause = POLL_FIRST
        while True:
            job = self._ask(lambda: self.service.retrieve(self.state.job))
            news = self._take(self._ask(lambda: self.service.events(self.state.job)))
            if job.ended:
                break
            self._show(job)
            self._wait(pause)
            pause = POLL_FIRST if news else min(pause * POLL_GROWTH, POLL_LONGEST)
        if job.status != "succeeded":
            error = self._ended_badly(job)
            rows_file(self.folder, "events").unlink(missing_ok=True)  # the next job has its own
            self._update(job="")
            raise error
        if not job.model:
            raise endpoint.not_the_protocol(self.state.base_url)
        return job

    def _drop(self) -> None:
        job = self.state.job
        if not job and "job" in self.state.begun:
            found = self.service.find_job(self.state.training_file)
            job = found.id if found else ""
        if job:
            ended = self.service.cancel(job)
            self.reporter.log(f"job {job} is {ended.status}")
        for file in (self.state.training_file, self.state.validation_file):
            if file:
                self.service.delete_file(file)

    # ── waiting and telling ───────────────────────────────────────────────────────────────────

    def _ask(self, call: Callable[[], T]) -> T:
        """The call's answer; while the service cannot be had, it is asked again and again.

        Before there is a job, ``Unreachable`` after ``PATIENCE``: the address may be wrong.
        """
        start, pause = time.monotonic(), POLL_FIRST
        while True:
            try:
                return call()
            except endpoint.Unreachable as error:
                away = time.monotonic() - start
                if not self.state.job and away > PATIENCE:
                    raise
                self._say_away(error, away)
            self._wait(pause)
            pause = min(pause * POLL_GROWTH, POLL_LONGEST)

    def _wait(self, seconds: float) -> None:
        """Sleep, but hear a stop request; ``Stopped`` once it was seen to."""
        until = time.monotonic() + seconds
        while True:
            asked = self.reporter.stop_requested()
            if asked == "cancel":
                self.cancel()
            elif asked and self.state.job:
                self.reporter.log(f"job {self.state.job} goes on at {self.service.name}")
            if asked:  # a job of ours goes on without us: its result is there for a resumed run
                raise Stopped(kept=asked == "save" and bool(self.state.job))
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(STOP_SECONDS, left))

    def _take(self, events: list[ServiceEvent]) -> bool:
        """Report the events that are new and keep them; whether there were any."""
        known = {line["id"] for line in self._lines}
        new = [asdict(event) for event in events if event.id not in known]
        for line in new:
            self.reporter.log(f"{self.service.name}: {line['message']}")
            if row := self._metric(line):
                self._step = int(row["step"])
                self.reporter.event("metric", **row)
            else:
                self.reporter.event("service", level=line["level"], message=line["message"])
        if new:
            self._lines += new
            write_json_lines(rows_file(self.folder, "events"), self._lines)
        return bool(new)

    def _metric(self, line: dict[str, Any]) -> dict[str, float]:
        row = metric(line["metrics"], self._total, self.epochs)
        self._total = int(row.get("total", self._total))
        return row

    def _show(self, job: Job) -> None:
        words = {
            "validating_files": Text("the service checks the files", "サービスがファイルを確認中"),
            "queued": Text("waiting in the service's queue", "サービス側で順番待ち"),
            "running": Text("tuning at the service", "サービスで学習中"),
        }.get(job.status, Text(f"the service says: {job.status}", f"サービスの状態: {job.status}"))
        if self._step:
            words = Text(
                f"step {self._step} of {self._total} at the service",
                f"サービスで {self._total} ステップ中 {self._step}",
            )
        if job.estimated_finish:
            minutes = max(1, math.ceil((job.estimated_finish - time.time()) / 60))
            words = Text(
                f"{words.en}, about {minutes} min left by its estimate",
                f"{words.ja}（サービスの見積もりであと約 {minutes} 分）",
            )
        self._say(words)

    def _say(self, words: Text) -> None:
        self.reporter.progress(self._step, max(self._total, self._step, 1), words)

    def _say_away(self, error: UserError, seconds: float) -> None:
        en, ja = error.text
        minutes = round(seconds / 60)
        on = Text(" The job goes on there.", "ジョブはサービス側で続いています。")
        en_on, ja_on = on if self.state.job else ("", "")
        self._say(
            Text(
                f"{en} Asking again (for {minutes} min).{en_on}",
                f"{ja}再接続しています（{minutes} 分経過）。{ja_on}",
            )
        )

    # ── what can go wrong ─────────────────────────────────────────────────────────────────────

    def _ended_badly(self, job: Job) -> UserError:
        name = self.service.name
        if job.status == "cancelled":
            return UserError(
                f"The job {job.id} was cancelled at {name}. Resume the run to start another one.",
                f"ジョブ {job.id} は {name} 側でキャンセルされました。再開すると新しいジョブを"
                "作成します。",
            )
        said = job.error or (self._lines[-1]["message"] if self._lines else "-")
        return UserError(
            f"The job {job.id} failed at {name}: {said} What was uploaded is still there: resume "
            "the run once the cause is mended, or start a new one with other data.",
            f"{name} でジョブ {job.id} が失敗しました: {said} アップロードしたデータは残って"
            "いるので、原因を直してから再開するか、データを変えて新しく開始してください。",
        )

    def _may_run_on(self, error: UserError) -> UserError:
        if "job" not in self.state.begun:
            return error
        job = self.state.job or "?"
        return UserError(
            f"{self.service.name} did not take the cancellation, so its job {job} may go on and "
            f"cost money: cancel it there. {error.text.en}",
            f"{self.service.name} でキャンセルできませんでした。ジョブ {job} が続いて料金が"
            f"かかる可能性があるので、サービス側でキャンセルしてください。{error.text.ja}",
        )


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    file = rows_file(folder, "events")
    return [line for _, line in json_lines(file)] if file.is_file() else []
