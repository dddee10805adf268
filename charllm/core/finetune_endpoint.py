"""A fine-tuning service of the OpenAI protocol: its files, jobs, events and checkpoints.

Each method is one call, or one list, and tells failures in plain words; nothing is tried again
here, since a call that seemed to fail may have created something that costs money. It does not
know what a training run is. https://platform.openai.com/docs/api-reference/fine-tuning
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from charllm.core import endpoint
from charllm.data.errors import UserError

CALL_SECONDS = 10.0
"""A short call is given up after this long: a run that is told to cancel has to hear it."""

PAGE = 100
"""Items asked for at once in a list."""

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """A fine-tuning job. ``model`` and ``error`` are "" until there is one.

    ``hyperparameters`` are the ones the service says it uses; times are Unix seconds.
    """

    id: str
    status: str
    training_file: str = ""
    model: str = ""
    error: str = ""
    created: float | None = None
    finished: float | None = None
    estimated_finish: float | None = None
    trained_tokens: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class ServiceEvent:
    """A line of the job's log; ``metrics`` has the numbers of a step, {} in other lines."""

    id: str
    created: float
    level: str
    message: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ServiceCheckpoint:
    """A model the job has left after an epoch, with its numbers."""

    model: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Wanted:
    """What a job is asked for. ``validation_file`` "" is none."""

    training_file: str
    validation_file: str
    epochs: int
    batch_size: int
    seed: int
    suffix: str

    @property
    def hyperparameters(self) -> dict[str, int]:
        return {"n_epochs": self.epochs, "batch_size": self.batch_size}


class Service:
    """The service at ``base_url`` ("" is OpenAI) for tuning ``model``.

    Methods raise ``endpoint.Unreachable`` where the same call may go well later, any other
    ``UserError`` where it will not. ``UserError`` at once where OpenAI is meant without a key.
    """

    def __init__(self, base_url: str, model: str) -> None:
        self.base_url = base_url
        self.model = model
        self.name = endpoint.server_name(base_url)
        self._api = endpoint.client(base_url, timeout=CALL_SECONDS, max_retries=0)

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def upload(self, name: str, data: bytes) -> str:
        """The id of a new file of training data (JSONL)."""
        with self._words():
            api = self._api.with_options(timeout=endpoint.TIMEOUT)
            made = api.files.create(file=(name, data), purpose="fine-tune")
        return self._id(made)

    def find_file(self, name: str) -> str:
        """The id of the file of this name, "" where there is none."""
        with self._words():
            for file in _listed(self._api.files.list(purpose="fine-tune", limit=PAGE)):
                if getattr(file, "filename", "") == name:
                    return self._id(file)
        return ""

    def delete_file(self, file: str) -> None:
        """A file that is gone already is no failure."""
        with contextlib.suppress(endpoint.NotThisOne), self._words():
            self._api.files.delete(file)

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────

    def create(self, wanted: Wanted) -> Job:
        """A new job. A service that does not know ``method`` gets the numbers the older way.

        ``UserError`` where the service does not fine-tune this model.
        """
        numbers = {"hyperparameters": wanted.hyperparameters}
        method = {"method": {"type": "supervised", "supervised": numbers}}
        common: dict[str, Any] = {
            "model": self.model,
            "training_file": wanted.training_file,
            "seed": wanted.seed,
            "suffix": wanted.suffix,
        }
        if wanted.validation_file:
            common["validation_file"] = wanted.validation_file
        with self._words(creating=True):
            create: Any = self._api.with_options(timeout=endpoint.TIMEOUT).fine_tuning.jobs.create
            try:
                made = create(**common, **method)
            except Exception as error:  # told apart by status: only the endpoint knows the SDK
                if not _refuses(error, "method"):
                    raise
                made = create(**common, **numbers)
        return self._job(made)

    def find_job(self, training_file: str) -> Job | None:
        """A job on this file that has not failed and was not cancelled, None without one."""
        with self._words():
            for found in _listed(self._api.fine_tuning.jobs.list(limit=PAGE)):
                job = self._job(found)
                if job.training_file == training_file and job.status not in ENDED[1:]:
                    return job
        return None

    def retrieve(self, job: str) -> Job:
        with self._words():
            return self._job(self._api.fine_tuning.jobs.retrieve(job))

    def cancel(self, job: str) -> Job:
        """The job after it was told to end; one that has ended already stays as it is."""
        with self._words():
            try:
                return self._job(self._api.fine_tuning.jobs.cancel(job))
            except Exception as error:  # a refusal: most likely it has ended meanwhile
                if getattr(error, "status_code", None) not in (400, 409):
                    raise
                found = self._job(self._api.fine_tuning.jobs.retrieve(job))
                if not found.ended:
                    raise
                return found

    def events(self, job: str) -> list[ServiceEvent]:
        """All lines of the job's log so far, oldest first."""
        with self._words():
            listed = list(_listed(self._api.fine_tuning.jobs.list_events(job, limit=PAGE)))
        found = [self._event(item) for item in reversed(listed)]  # the newest comes first
        return sorted(found, key=lambda event: event.created)

    def checkpoints(self, job: str) -> list[ServiceCheckpoint]:
        """The models of single epochs; [] from a service that keeps none."""
        with self._words():
            try:
                page = self._api.fine_tuning.jobs.checkpoints.list(job, limit=PAGE)
                listed = list(_listed(page))
            except Exception as error:  # told apart by status: many servers list none
                if getattr(error, "status_code", None) not in (404, 405, 501):
                    raise
                return []
        return [
            ServiceCheckpoint(
                model=str(item.fine_tuned_model_checkpoint),
                step=int(item.step_number),
                metrics=_numbers(item.metrics),
            )
            for item in listed
        ]

    # ── answers ───────────────────────────────────────────────────────────────────────────────

    def _id(self, answer: Any) -> str:
        found = getattr(answer, "id", None)
        if not isinstance(found, str) or not found:
            raise endpoint.not_the_protocol(self.base_url)
        return found

    def _job(self, answer: Any) -> Job:
        error = getattr(getattr(answer, "error", None), "message", None) or ""
        method = getattr(getattr(answer, "method", None), "supervised", None)
        used = getattr(method, "hyperparameters", None) or getattr(answer, "hyperparameters", None)
        status = getattr(answer, "status", None)
        if not isinstance(status, str):
            raise endpoint.not_the_protocol(self.base_url)
        return Job(
            id=self._id(answer),
            status=status,
            training_file=str(getattr(answer, "training_file", None) or ""),
            model=str(getattr(answer, "fine_tuned_model", None) or ""),
            error=endpoint.redacted(str(error), self.base_url),
            created=getattr(answer, "created_at", None),
            finished=getattr(answer, "finished_at", None),
            estimated_finish=getattr(answer, "estimated_finish", None),
            trained_tokens=getattr(answer, "trained_tokens", None),
            hyperparameters=_numbers(used),
        )

    def _event(self, item: Any) -> ServiceEvent:
        return ServiceEvent(
            id=self._id(item),
            created=float(getattr(item, "created_at", None) or 0),
            level=str(getattr(item, "level", None) or "info"),
            message=endpoint.redacted(str(getattr(item, "message", "") or ""), self.base_url),
            metrics=_numbers(getattr(item, "data", None)),
        )

    @contextlib.contextmanager
    def _words(self, *, creating: bool = False) -> Iterator[None]:
        """Failures in words about files and jobs; the endpoint's own speak of a chat model."""
        with endpoint.plain_words(self.base_url, self.model):
            try:
                yield
            except Exception as error:  # told apart by status: only the endpoint knows the SDK
                status = getattr(error, "status_code", None)
                said = endpoint.told(error, self.base_url)
                if creating and (status == 404 or _refuses(error, "model")):
                    raise _not_tuned(self.name, self.model, said) from None
                if status == 404:
                    raise _not_there(self.name, said) from None
                if status == 429 and "insufficient_quota" not in endpoint.error_codes(error):
                    raise _busy(self.name) from None
                raise


def _listed(page: Any) -> Iterator[Any]:
    """All items of a list; a server that ignores ``after`` would send the same page for ever."""
    seen: set[str] = set()
    for item in page:
        name = str(getattr(item, "id", ""))
        if name in seen:
            return
        seen.add(name)
        yield item


def _numbers(values: Any) -> dict[str, float]:
    """The finite numbers in an answer's part, whether it came as an object or as a dictionary."""
    import math

    items = values if isinstance(values, Mapping) else getattr(values, "__dict__", {})
    return {
        str(name): value
        for name, value in items.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def _refuses(error: Exception, name: str) -> bool:
    """Whether a refusal is about the parameter ``name``, by its ``param``, code or words."""
    if getattr(error, "status_code", None) not in (400, 422):
        return False
    param = str(getattr(error, "param", None) or "").split(".")[0]
    if param:
        return param == name
    said = f"{getattr(error, 'message', '')} {' '.join(endpoint.error_codes(error))}"
    return name in said.lower()


def _not_tuned(name: str, model: str, said: str) -> UserError:
    return UserError(
        f"{name} does not fine-tune the model {model!r}: {said} Choose as base one that the "
        "service lists for fine-tuning, by its full name.",
        f"{name} ではモデル「{model}」をファインチューニングできません: {said} "
        "サービスがファインチューニング対象としているモデルの正式な名前を指定してください。",
    )


def _not_there(name: str, said: str) -> UserError:
    return endpoint.NotThisOne(
        f"{name} does not have what was asked for, or offers no fine-tuning at this address "
        f"(404): {said} Check the address (often it ends in /v1) and that the key belongs to the "
        "project that made the job.",
        f"{name} に該当するものがないか、この URL ではファインチューニングを利用できません"
        f"（404）: {said} URL（多くは /v1 で終わります）と、キーがジョブを作成したプロジェクトの"
        "ものかを確認してください。",
    )


def _busy(name: str) -> UserError:
    return endpoint.Unreachable(
        f"{name} is getting too many requests (429).",
        f"{name} へのリクエストが多すぎます（429）。",
    )
