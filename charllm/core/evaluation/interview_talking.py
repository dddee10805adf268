"""The interviews themselves: variants answer turn after turn, in batches, kept line by line.

All variants that share a base answer the same turn of several talks in one batch. A killed run goes
on behind the last line of ``turns.jsonl``; which talks share a batch is planned from the whole
work, so that a resumed run decodes in the shapes in which an unbroken one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from charllm.core.evaluation.interview_answering import Answer, Answering, Asked
from charllm.core.evaluation.interview_turns import (
    TURNS,
    AskedBy,
    Place,
    Talk,
    Turn,
    read_turns,
    remembered,
)
from charllm.core.evaluation.interviewers import Interviewer, Situation
from charllm.core.evaluation.kept_lines import append_lines, cut_torn_line
from charllm.core.variants import Variant
from charllm.data.dialogue import Message
from charllm.data.errors import Text, UserError
from charllm.data.files import sha256
from charllm.data.progress import Paused, Reporter, Stopped


@dataclass(frozen=True)
class Question:
    """``query``: its id in the set, "" for a model's own."""

    text: str
    asked_by: AskedBy
    query: str


class Talking:
    """One attempt: what is known, and the file that grows.

    ``turns`` are the questions of a talk; ``total`` turns are wanted of all variants of the run.
    """

    def __init__(
        self,
        folder: Path,
        reporter: Reporter,
        talks: Sequence[Talk],
        turns: int,
        seed: int,
        total: int,
    ) -> None:
        self.reporter, self.talks, self.turns = reporter, talks, turns
        self.seed, self.total = seed, total
        self.path = folder / TURNS
        cut_torn_line(self.path)
        known = read_turns(folder)
        self.known: dict[Place, Turn] = {turn.place: turn for turn in known}
        self._weights = {turn.variant: turn.weights for turn in known if not turn.failed}

    def complete(self, variants: Sequence[Variant]) -> bool:
        return all(place in self.known for place in self._places(variants, self.talks))

    def hold(
        self, variants: Sequence[Variant], answering: Answering, interviewer: Interviewer | None
    ) -> bool:
        """All talks of these variants; False where a stop was asked for first.

        The variants share one ``answering`` (a base model in memory, or one endpoint).
        ``interviewer`` None takes the planned questions.
        ``Stopped`` when cancelled; ``Paused`` where an endpoint cannot go on; ``UserError`` where a
        variant's weights are no longer those of the turns that are kept.
        """
        for variant in variants:
            self._same_weights(variant.name, answering.weights(variant))
        for talks in _parts(self.talks, max(1, answering.rows // len(variants))):
            if all(place in self.known for place in self._places(variants, talks)):
                continue
            for turn in range(1, self.turns + 1):
                places = [Place(v.name, talk.number, turn) for talk in talks for v in variants]
                if all(place in self.known for place in places):
                    continue
                if not answering.batched:
                    places = [place for place in places if place not in self.known]
                if self._stop() or not self._turn(places, variants, answering, interviewer):
                    return False
        return True

    def _turn(
        self,
        places: Sequence[Place],
        variants: Sequence[Variant],
        answering: Answering,
        interviewer: Interviewer | None,
    ) -> bool:
        """One turn of one batch; False where a stop came before its questions were there."""
        self._tell(places[0].turn, variants)
        by_name = {variant.name: variant for variant in variants}
        try:
            questions = self._questions(places, interviewer)
            if questions is None:
                self._stop()
                return False
            asked = [
                Asked(
                    place,
                    by_name[place.variant],
                    questions[place].text,
                    self._history(place),
                    self._seed(place),
                )
                for place in places
            ]
            answers = answering.answer(asked)
        except UserError as error:
            raise Paused(error.text.en, error.text.ja) from error
        self._keep(questions, answers)
        if answering.problem is not None:
            raise Paused(answering.problem.en, answering.problem.ja)
        return True

    def _questions(
        self, places: Sequence[Place], interviewer: Interviewer | None
    ) -> dict[Place, Question] | None:
        """The question of each place: what it was, the model's, or the planned one."""
        found: dict[Place, Question] = {}
        for place in places:
            if known := self.known.get(place):
                found[place] = Question(known.question, known.asked_by, known.query)
            elif interviewer is None or place.turn == 1:
                found[place] = self._planned(place)
        waiting = [place for place in places if place not in found]
        if waiting and interviewer is not None:
            situations = [
                Situation(self._talk(one).focus, self._history(one), self._seed(one))
                for one in waiting
            ]
            written = interviewer.questions(
                situations, lambda: bool(self.reporter.stop_requested())
            )
            if written is None:
                return None
            for place, text in zip(waiting, written, strict=True):
                found[place] = Question(text, "model", "") if text else self._planned(place)
        return found

    def _planned(self, place: Place) -> Question:
        query = self._talk(place).questions[place.turn - 1]
        return Question(query.text, "list", query.id)

    def _talk(self, place: Place) -> Talk:
        return self.talks[place.talk - 1]

    def _history(self, place: Place) -> tuple[Message, ...]:
        before = (self.known.get(Place(place.variant, place.talk, n)) for n in range(1, place.turn))
        return remembered(turn for turn in before if turn is not None)

    def _seed(self, place: Place) -> int:
        """The same for every variant; decoding adds the variant's name."""
        return int(sha256(f"{self.seed}:talk:{place.talk}:{place.turn}".encode())[:15], 16)

    def _places(self, variants: Sequence[Variant], talks: Sequence[Talk]) -> Iterator[Place]:
        for talk in talks:
            for turn in range(1, self.turns + 1):
                for variant in variants:
                    yield Place(variant.name, talk.number, turn)

    def _same_weights(self, variant: str, weights: str) -> None:
        """Turns of two states of a checkpoint must not share a talk."""
        kept = self._weights.setdefault(variant, weights)
        if kept != weights:
            raise UserError(
                f"{variant} has changed since these interviews began ({kept}, now {weights}). "
                "Start a new run.",
                f"「{variant}」はこのインタビューを始めたときから変わっています"
                f"（{kept} → {weights}）。新しい実行を始めてください。",
            )

    def _keep(self, questions: Mapping[Place, Question], answers: Sequence[Answer]) -> None:
        """One write for all of them; what is known already stays as it was."""
        fresh = []
        for answer in answers:
            if answer.place not in self.known:
                asked = questions[answer.place]
                fresh.append(
                    Turn(
                        *answer.place,
                        question=asked.text,
                        asked_by=asked.asked_by,
                        query=asked.query,
                        **answer.told(),
                    )
                )
        append_lines(self.path, [turn.as_json() for turn in fresh])
        self.known |= {turn.place: turn for turn in fresh}

    def _stop(self) -> bool:
        asked = self.reporter.stop_requested()
        if asked == "cancel":
            raise Stopped
        return bool(asked)

    def _tell(self, turn: int, variants: Sequence[Variant]) -> None:
        names = ", ".join(variant.name for variant in variants)
        doing = Text(
            f"Interviewing {names}, turn {turn} of {self.turns}",
            f"インタビュー中です（{names}、{self.turns} 問中 {turn} 問目）",
        )
        self.reporter.progress(len(self.known), self.total, doing)
        self.reporter.event("talked", done=len(self.known), total=self.total)


def _parts(talks: Sequence[Talk], size: int) -> Iterator[Sequence[Talk]]:
    for start in range(0, len(talks), size):
        yield talks[start : start + size]
