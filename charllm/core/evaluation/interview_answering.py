"""A turn of several talks answered: by a base model in memory, in one batch, or by an endpoint.

Facts are looked up for each question as it is asked, for variants with RAG. It does not know where
questions come from, nor what happens to the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from charllm.core.evaluation.interview_turns import Place
from charllm.core.evaluation.replies import IN_FLIGHT, ROWS
from charllm.core.generation import Done, generate_all
from charllm.core.replying import Prepared, ReplySettings, Resident, prepare, prepare_messages
from charllm.core.retrieval import open_index, threshold_for
from charllm.core.variants import Variant
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile

if TYPE_CHECKING:
    from charllm.core.retrieval import Hit, Index


@dataclass(frozen=True)
class Asked:
    """A question to one variant, with what was said before it."""

    place: Place
    variant: Variant
    question: str
    history: tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """The reply with all that it was made of; ``failed`` says why there is none."""

    place: Place
    prompt: str
    facts: tuple[Mapping[str, Any], ...]
    weights: str
    seed: int
    text: str = ""
    stop_reason: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    seconds: float = 0.0
    failed: Text | None = None

    def told(self) -> dict[str, Any]:
        """Every field but the place, by the names that a kept turn has for them."""
        return {name: value for name, value in vars(self).items() if name != "place"}


class Answering(Protocol):
    """``rows``: questions that are best asked at once. ``batched``: what is asked together shapes
    the answers, so a batch that is half known is asked whole. ``problem``: why no more can be
    asked, set when some of the last answers are missing for it."""

    rows: int
    batched: bool
    problem: Text | None

    def weights(self, variant: Variant) -> str:
        """Names what answers."""

    def answer(self, asked: Sequence[Asked]) -> list[Answer]: ...


class Lookup:
    """The nearest facts of a question, looked up once. Nothing is loaded before the first."""

    def __init__(self, paths: Paths, profile: Profile, settings: ReplySettings) -> None:
        self.paths, self.profile, self.settings = paths, profile, settings
        self._known: dict[str, tuple[Hit, ...]] = {}
        self._index: Index | None = None
        self._threshold = 0.0

    def hits(self, variant: Variant, question: str) -> tuple[Hit, ...]:
        """() for a variant without RAG. ``UserError`` where there is no index."""
        if not variant.rag:
            return ()
        if self._index is None:
            self._open()
        if question not in self._known and self._index is not None:
            found = self._index.retrieve(question, self.settings.top_k, self._threshold)
            self._known[question] = tuple(found)
        return self._known[question]

    def _open(self) -> None:
        from charllm.core.embedding import get_embedder

        embedder = get_embedder(self.settings.embedder)
        self._index = open_index(self.paths, self.profile, embedder)
        chosen = self.settings.threshold
        self._threshold = (
            threshold_for(self.paths, self.profile.slug, embedder) if chosen is None else chosen
        )


class LocalAnswering:
    """Variants of one base model: their adapters are rows of one batch.

    ``rows`` 0 leaves the size of a batch to the device.
    """

    batched = True
    problem: Text | None = None

    def __init__(
        self,
        resident: Resident,
        profile: Profile,
        settings: ReplySettings,
        lookup: Lookup,
        rows: int,
    ) -> None:
        device = resident.model.get_input_embeddings().weight.device.type
        self.rows = rows or ROWS[device]
        self.resident, self.profile = resident, profile
        self.settings, self.lookup = settings, lookup

    def weights(self, variant: Variant) -> str:
        return self.resident.fingerprint(variant, self.resident.row(variant))

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        made = [(one, self._prepared(one)) for one in asked]
        made.sort(key=lambda pair: len(pair[1].request.prompt_ids))
        size = self.rows
        batches = [made[at : at + size] for at in range(0, len(made), size)]
        return [answer for batch in batches for answer in self._decoded(batch)]

    def _prepared(self, one: Asked) -> Prepared:
        return prepare(
            self.resident,
            self.profile,
            one.variant,
            one.question,
            self.lookup.hits(one.variant, one.question),
            _seeded(self.settings, one.seed),
            column=one.place.key,
            history=one.history,
        )

    def _decoded(self, batch: Sequence[tuple[Asked, Prepared]]) -> list[Answer]:
        """One batch; where a prompt does not fit the model, each by itself, to lose that alone."""
        try:
            requests = [prepared.request for _, prepared in batch]
            done = generate_all(self.resident.adapters, self.resident.tokenizer, requests)
        except UserError as error:
            if len(batch) == 1:
                return [self._answer(*batch[0], error.text)]
            return [answer for one in batch for answer in self._decoded([one])]
        return [self._answer(*pair, one) for pair, one in zip(batch, done, strict=True)]

    def _answer(self, one: Asked, prepared: Prepared, came: Done | Text) -> Answer:
        common: dict[str, Any] = {
            "prompt": prepared.prompt,
            "facts": tuple(asdict(hit) for hit in prepared.hits),
            "weights": self.resident.fingerprint(one.variant, prepared.request.scales),
        }
        if isinstance(came, Text):
            return Answer(one.place, seed=one.seed, failed=came, **common)
        return Answer(
            one.place,
            text=came.text.strip(),
            stop_reason=came.reason,
            prompt_tokens=came.prompt_tokens,
            tokens=len(came.token_ids),
            seconds=round(came.seconds, 3),
            seed=came.seed,
            **common,
        )


class RemoteAnswering:
    """One variant behind an endpoint, several questions at once."""

    rows = IN_FLIGHT
    batched = False

    def __init__(self, profile: Profile, settings: ReplySettings, lookup: Lookup) -> None:
        self.profile, self.settings, self.lookup = profile, settings, lookup
        self.problem: Text | None = None

    def weights(self, variant: Variant) -> str:
        from charllm.core.endpoint import server_name

        return f"{variant.model} @ {server_name(variant.base_url)}"

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Where the server cannot go on, what has come, and ``problem`` says why."""
        looked_up = [self.lookup.hits(one.variant, one.question) for one in asked]
        answers = []
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="answering") as pool:
            pairs = zip(asked, looked_up, strict=True)
            waiting = [pool.submit(self._one, one, hits) for one, hits in pairs]
            for future in waiting:
                try:
                    answers.append(future.result())
                except UserError as error:  # the others of this turn are still kept
                    self.problem = error.text
        return answers

    def _one(self, one: Asked, hits: tuple[Hit, ...]) -> Answer:
        """``UserError`` where asking on is useless; one refused question is one failed turn."""
        from charllm.core.endpoint import Finish, NotThisOne, chat_stream

        settings, variant = _seeded(self.settings, one.seed), one.variant
        said = prepare_messages(
            self.profile, variant, one.question, hits, settings, history=one.history
        )
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
        return Answer(
            one.place,
            text="" if failed else "".join(pieces).strip(),
            stop_reason=finish.reason if finish else "",
            prompt="\n\n".join(f"[{m.role}]\n{m.content}" for m in said),
            facts=tuple(asdict(hit) for hit in hits),
            weights=self.weights(variant),
            prompt_tokens=finish.prompt_tokens if finish else None,
            tokens=finish.reply_tokens if finish else None,
            seed=one.seed,
            failed=failed,
        )


def _seeded(settings: ReplySettings, seed: int) -> ReplySettings:
    preset = settings.preset.model_copy(update={"seed": seed})
    return settings.model_copy(update={"preset": preset})
