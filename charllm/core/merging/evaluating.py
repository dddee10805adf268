"""Having candidates evaluated: what is known is not asked again, what fails costs itself alone."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from charllm.core.merging.genome import Candidate
from charllm.core.merging.journal import Entry, Evaluate, EvaluateMany, Failure, Journal, Outcomes
from charllm.data.errors import Text, UserError
from charllm.data.progress import Paused, Reporter, Stopped
from charllm.data.queries import Split

PAUSE = "pause"
"""A file of this name in the search's folder pauses it at the next safe point."""


def request_pause(folder: Path) -> None:
    """Ask a running search to pause; running it again goes on."""
    (folder / PAUSE).touch()


def one_by_one(evaluate: Evaluate) -> EvaluateMany:
    """A generation as single evaluations; an exception is that candidate's failure."""

    def many(
        candidates: Sequence[Candidate], queries: Sequence[str], split: Split
    ) -> Iterator[Outcomes | Failure]:
        for candidate in candidates:
            try:
                yield evaluate(candidate, queries, split)
            except (Stopped, Paused):
                raise
            except Exception as error:  # whatever it is: the search goes on without this one
                yield Failure(reason_of(error))

    return many


def reason_of(error: Exception) -> Text:
    """What went wrong, for the journal and the table."""
    if isinstance(error, UserError):
        return error.text
    words = f"{type(error).__name__}: {error}"
    return Text(words, words)


class Bench:
    """Evaluates through the journal. Between two candidates it is safe to stop; ``afford`` raises
    ``Paused`` there where nothing more may be spent."""

    def __init__(
        self,
        journal: Journal,
        many: EvaluateMany,
        reporter: Reporter,
        folder: Path,
        afford: Callable[[], None],
    ) -> None:
        self.journal, self.afford = journal, afford
        self.many = many
        self.reporter = reporter
        self.pause = folder / PAUSE
        self.pause.unlink(missing_ok=True)
        self.progress = (0, Text("", ""))

    def expect(self, replies: int, doing: Text) -> None:
        """How many replies the whole search takes, and what it does now."""
        self.progress = (replies, doing)

    def run(
        self,
        candidates: Sequence[Candidate],
        queries: Sequence[str],
        split: Split,
        rung: int = 0,
        needed: Collection[str] = (),
    ) -> None:
        """See to it that all of these have an entry.

        ``Paused`` where all of them fail, or one of ``needed``: then it is not the candidates, so
        no failure is written down and the next attempt tries again.
        """
        todo = [one for one in candidates if not self.journal.find(one.id, split, rung)]
        if not todo:
            return
        failed: list[Entry] = []
        self._safe_point()
        self.afford()
        for candidate, result in zip(todo, self._results(todo, queries, split), strict=False):
            entry = _entry(candidate, result, queries, split, rung)
            if entry.failure:
                failed.append(entry)
                self.reporter.log(f"{candidate.id} failed: {entry.failure.en}")
            else:
                self.journal.append(entry)
            self.reporter.event(
                "candidate", id=candidate.id, split=split, rung=rung, failed=bool(entry.failure)
            )
            self._safe_point()
            if candidate is not todo[-1]:
                self.afford()
        for entry in failed:
            if len(failed) == len(candidates) or entry.candidate.id in needed:
                raise _surroundings(entry)
        for entry in failed:
            self.journal.append(entry)

    def _results(
        self, todo: Sequence[Candidate], queries: Sequence[str], split: Split
    ) -> Iterator[Outcomes | Failure]:
        """One result for each of ``todo``, also where the evaluation breaks off or gives less."""
        came, why = 0, Text("it gave no result", "結果が返りませんでした")
        try:
            results: Iterable[Outcomes | Failure] = self.many(todo, queries, split)
            for result in results:
                came += 1
                yield result
        except (Stopped, Paused):
            raise
        except Exception as error:  # whatever it is: it costs those that have no result yet
            self.reporter.log(traceback.format_exc())
            why = reason_of(error)
        for _ in range(len(todo) - came):
            yield Failure(why)

    def _safe_point(self) -> None:
        total, doing = self.progress
        self.reporter.progress(self.journal.spent.queries, total, doing)
        if self.reporter.stop_requested() == "cancel":
            raise Stopped
        if self.pause.exists():
            raise Paused(
                "Paused. Everything scored so far is kept; resume to go on.",
                "一時停止しました。採点済みの結果は残っています。再開すると続きから始まります。",
            )


def _entry(
    candidate: Candidate,
    result: Outcomes | Failure,
    queries: Sequence[str],
    split: Split,
    rung: int,
) -> Entry:
    if isinstance(result, Failure):
        return Entry(candidate, split, rung, failure=result.reason)
    if sorted(one.query for one in result) != sorted(queries):
        why = Text(
            f"{len(result)} outcomes that do not match the {len(queries)} queries",
            f"結果 {len(result)} 件が質問 {len(queries)} 件と対応していません",
        )
        return Entry(candidate, split, rung, failure=why)
    return Entry(candidate, split, rung, tuple(result))


def _surroundings(entry: Entry) -> Paused:
    why = entry.failure or Text("", "")
    return Paused(
        f"{entry.candidate.id} could not be scored: {why.en}. Nothing is lost: mend the cause "
        "and resume.",
        f"{entry.candidate.id} を採点できませんでした（{why.ja}）。結果は失われていません。"
        "原因を取り除いてから再開してください。",
    )
