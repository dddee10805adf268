"""Replies of variants to queries: generated once in batches, kept for ever, never asked twice.

A killed run goes on behind the last line of its ``replies.jsonl`` (``reply_records``). It does not
know how a reply is judged. Which questions share a batch is planned from the whole work, not from
what is left of it, so that a resumed run decodes in the shapes in which an unbroken one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charllm.core.evaluation.kept_lines import append_lines, cut_torn_line
from charllm.core.evaluation.reply_records import REPLIES, Reply, Task, read_replies
from charllm.core.generation import Done, generate_all
from charllm.core.replying import Prepared, ReplySettings, Resident, prepare, prepare_messages
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import sha256
from charllm.data.profile import Profile
from charllm.data.progress import Paused, Reporter, Stopped
from charllm.data.queries import Query

if TYPE_CHECKING:
    from charllm.core.decoding_space import DecodingSpace
    from charllm.core.retrieval import Hit

ROWS = {"cpu": 32, "cuda": 128}
"""Replies decoded at once, where the configuration does not say."""
WINDOW = 4
"""Batches whose questions are sorted by length together: little padding, and a run that is stopped
half-way has still asked all variants of one base the same questions."""
IN_FLIGHT = 8
"""Questions to one endpoint at once."""


@dataclass(frozen=True)
class Asking:
    """What is asked: variants in the order of the tables, queries in the order of their file.

    ``facts`` of each query for variants with RAG; ``seed`` with query and repeat gives a reply's
    random numbers. ``rows`` 0 leaves the size of a batch to the device.
    """

    profile: Profile
    variants: tuple[Variant, ...]
    queries: tuple[Query, ...]
    facts: Mapping[str, Sequence[Hit]]
    settings: ReplySettings
    repeats: int = 1
    seed: int = 0
    rows: int = 0

    def tasks(self, variants: Sequence[Variant]) -> list[Task]:
        """Query by query, all of these variants next to each other."""
        return [
            Task(variant.name, query.id, repeat)
            for query in self.queries
            for repeat in range(self.repeats)
            for variant in variants
        ]

    def settings_for(self, task: Task) -> ReplySettings:
        """The settings with the seed of this query and repeat; decoding adds the variant's name."""
        seed = int(sha256(f"{self.seed}:{task.query}:{task.repeat}".encode())[:15], 16)
        preset = self.settings.preset.model_copy(update={"seed": seed})
        return self.settings.model_copy(update={"preset": preset})


def generate_replies(asking: Asking, paths: Paths, folder: Path, reporter: Reporter) -> bool:
    """Have every reply that is not there yet; False where a stop was asked for first.

    ``Stopped`` when cancelled; ``Paused`` where an endpoint cannot go on (no key, quota used up);
    ``UserError`` where the weights are no longer those of the replies that are kept.
    """
    known = read_replies(folder)
    work = _Work(asking, paths, folder, reporter, known)
    for group in _by_base(asking.variants):
        if all(task in work.known for task in asking.tasks(group)):
            continue
        ask = work.ask_endpoint if group[0].base_url else work.ask_model
        if not ask(group):
            return False
    return True


class _Work:
    """One attempt: what is known, and the file that grows."""

    def __init__(
        self,
        asking: Asking,
        paths: Paths,
        folder: Path,
        reporter: Reporter,
        known: Sequence[Reply],
    ) -> None:
        self.asking, self.paths, self.reporter = asking, paths, reporter
        self.known = {reply.task for reply in known}
        self.weights = {reply.variant: reply.weights for reply in known if not reply.failed}
        self.total = len(asking.tasks(asking.variants))
        self.path = folder / REPLIES
        self.queries = {query.id: query for query in asking.queries}
        self.variants = {variant.name: variant for variant in asking.variants}
        cut_torn_line(self.path)

    # ── models in this machine ────────────────────────────────────────────────────────────────

    def ask_model(self, group: Sequence[Variant]) -> bool:
        """All replies of variants that share a base: their adapters are rows of one batch."""
        from charllm.core.decoding_space import space_for

        self._tell(group)
        resident = Resident(self.paths, group[0].model, group[0].quantization)
        for variant in group:
            row = resident.row(variant)
            self._same_weights(variant.name, resident.fingerprint(variant, row))
        device = resident.model.get_input_embeddings().weight.device.type
        rows = self.asking.rows or ROWS[device]
        space = space_for(resident.adapters)
        for batch in self._batches(resident, group, rows):
            if self._stop():
                return False
            if any(task not in self.known for task, _ in batch):
                self._keep(_decoded(resident, batch, self.variants, space))
                self._tell(group)
        return True

    def _batches(
        self, resident: Resident, group: Sequence[Variant], rows: int
    ) -> Iterator[list[tuple[Task, Prepared]]]:
        tasks = self.asking.tasks(group)
        for start in range(0, len(tasks), rows * WINDOW):
            window = tasks[start : start + rows * WINDOW]
            if all(task in self.known for task in window):
                continue
            made = [(task, self._prepared(resident, task)) for task in window]
            made.sort(key=lambda one: len(one[1].request.prompt_ids))
            for at in range(0, len(made), rows):
                yield made[at : at + rows]

    def _prepared(self, resident: Resident, task: Task) -> Prepared:
        return prepare(
            resident,
            self.asking.profile,
            self.variants[task.variant],
            self.queries[task.query].text,
            self.asking.facts.get(task.query, ()),
            self.asking.settings_for(task),
            column=task.key,
        )

    def _same_weights(self, variant: str, weights: str) -> None:
        """Replies of two states of a checkpoint must not share a table."""
        kept = self.weights.setdefault(variant, weights)
        if kept != weights:
            raise UserError(
                f"{variant} has changed since this evaluation began ({kept}, now {weights}). "
                "Start a new evaluation.",
                f"「{variant}」はこの評価を始めたときから変わっています（{kept} → {weights}）。"
                "新しい評価を始めてください。",
            )

    # ── endpoints ─────────────────────────────────────────────────────────────────────────────

    def ask_endpoint(self, group: Sequence[Variant]) -> bool:
        """All replies of one remote variant, several questions at once."""
        self._tell(group)
        wanted = [task for task in self.asking.tasks(group) if task not in self.known]
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="asking") as pool:
            for start in range(0, len(wanted), IN_FLIGHT):
                if self._stop():
                    return False
                part = wanted[start : start + IN_FLIGHT]
                waiting = [pool.submit(self._remote, task) for task in part]
                problem: UserError | None = None
                for future in as_completed(waiting):
                    try:
                        self._keep([future.result()])
                    except UserError as error:  # the others of this part are still kept
                        problem = error
                if problem is not None:
                    raise Paused(problem.text.en, problem.text.ja) from problem
                self._tell(group)
        return True

    def _remote(self, task: Task) -> Reply:
        """``UserError`` where asking on is useless; one refused question is one failed reply."""
        from charllm.core.endpoint import Finish, NotThisOne, chat_stream, server_name

        variant, settings = self.variants[task.variant], self.asking.settings_for(task)
        hits = self.asking.facts.get(task.query, ()) if variant.rag else ()
        question = self.queries[task.query].text
        said = prepare_messages(self.asking.profile, variant, question, hits, settings)
        pieces: list[str] = []
        finish: Finish | None = None
        failed: Text | None = None
        try:
            for piece in chat_stream(
                said, variant.model, settings.preset, base_url=variant.base_url
            ):
                if isinstance(piece, Finish):
                    finish = piece
                else:
                    pieces.append(piece)
        except NotThisOne as error:
            failed = error.text
        return Reply(
            *task,
            text="" if failed else "".join(pieces).strip(),
            stop_reason=finish.reason if finish else "",
            prompt="\n\n".join(f"[{one.role}]\n{one.content}" for one in said),
            facts=tuple(asdict(hit) for hit in hits),
            weights=f"{variant.model} @ {server_name(variant.base_url)}",
            prompt_tokens=finish.prompt_tokens if finish else None,
            tokens=finish.reply_tokens if finish else None,
            seed=settings.preset.seed,
            failed=failed,
        )

    # ── both ──────────────────────────────────────────────────────────────────────────────────

    def _keep(self, replies: Sequence[Reply]) -> None:
        """One write for all of them; what is known already stays as it was."""
        fresh = [reply for reply in replies if reply.task not in self.known]
        append_lines(self.path, [reply.as_json() for reply in fresh])
        self.known |= {reply.task for reply in fresh}

    def _stop(self) -> bool:
        asked = self.reporter.stop_requested()
        if asked == "cancel":
            raise Stopped
        return bool(asked)

    def _tell(self, group: Sequence[Variant]) -> None:
        names = ", ".join(variant.name for variant in group)
        doing = Text(f"Replies of {names}", f"返答を生成しています（{names}）")
        self.reporter.progress(len(self.known), self.total, doing)
        self.reporter.event("replied", done=len(self.known), total=self.total)


def _by_base(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants that can share a batch; every remote one stands alone."""
    groups: dict[tuple[str, ...], list[Variant]] = {}
    for variant in variants:
        key = (variant.model, variant.quantization, variant.base_url)
        groups.setdefault((*key, variant.name) if variant.base_url else key, []).append(variant)
    return list(groups.values())


def _decoded(
    resident: Resident,
    batch: Sequence[tuple[Task, Prepared]],
    variants: Mapping[str, Variant],
    space: DecodingSpace | None,
) -> list[Reply]:
    """One batch; where a prompt does not fit the model, each by itself, to lose that one alone."""
    try:
        requests = [prepared.request for _, prepared in batch]
        done = generate_all(resident.adapters, resident.tokenizer, requests, space)
    except UserError as error:
        if len(batch) == 1:
            task, prepared = batch[0]
            return [_reply(resident, task, prepared, variants[task.variant], error.text)]
        return [reply for one in batch for reply in _decoded(resident, [one], variants, space)]
    return [
        _reply(resident, task, prepared, variants[task.variant], one)
        for (task, prepared), one in zip(batch, done, strict=True)
    ]


def _reply(
    resident: Resident, task: Task, prepared: Prepared, variant: Variant, came: Done | Text
) -> Reply:
    common: dict[str, Any] = {
        "prompt": prepared.prompt,
        "facts": tuple(asdict(hit) for hit in prepared.hits),
        "weights": resident.fingerprint(variant, prepared.request.scales),
    }
    if isinstance(came, Text):
        return Reply(*task, text="", stop_reason="", failed=came, **common)
    return Reply(
        *task,
        text=came.text.strip(),
        stop_reason=came.reason,
        prompt_tokens=came.prompt_tokens,
        tokens=len(came.token_ids),
        seconds=round(came.seconds, 3),
        seed=came.seed,
        **common,
    )
