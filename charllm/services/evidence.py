"""What people have said about answers: edits, votes and hand scores, read from the store.

A claim says that an answer is good, or better than another one, and who says so. Whether it makes
a training row is ``harvest``'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.profile import Profile, load_profile
from charllm.services.reply_edits import EDITED, original_of
from charllm.services.sent import sent_messages
from charllm.services.store import Judgement, Reply, Store, Subject, Turn, Vote, subject_hash

Kind = Literal["edit", "vote", "hand"]
KINDS: tuple[Kind, ...] = ("edit", "vote", "hand")


@dataclass(frozen=True)
class Answer:
    """An answer with the messages that it answers, the question last.

    ``replaced``: its question was edited away. ``improved``: a person has rewritten it since.
    ``origin`` names where it comes from; every answer's has the same keys.
    """

    prompt: tuple[Message, ...]
    text: str
    stop_reason: str
    facts: tuple[str, ...]
    origin: dict[str, Any] = field(compare=False)
    replaced: bool = False
    improved: bool = False

    @property
    def question(self) -> str:
        return self.prompt[-1].content

    @property
    def talk(self) -> tuple[Message, ...]:
        """History and question: what makes two answers answers to the same thing."""
        return tuple(message for message in self.prompt if message.role != "system")


@dataclass(frozen=True)
class Claim:
    """``better`` is good, or better than ``worse``; the scores are those given by hand, if any."""

    id: str
    kind: Kind
    by: str
    better: Answer
    worse: Answer | None = None
    score: float | None = None
    worse_score: float | None = None


class Evidence:
    """Everything that people have said about one character's answers, as it is in the store now."""

    def __init__(self, store: Store, profile: str, paths: Paths) -> None:
        self.store = store
        self.slug = profile
        self.profile = _known_profile(paths, profile)
        self._turns: dict[int, Turn] = {}
        self._replies: dict[int, list[Reply]] = {}
        self._before: dict[int, list[Turn]] = {}
        for talk in store.conversations(profile, limit=-1):
            shown: list[Turn] = []
            for turn in store.turns(talk.id, hidden=True):
                self._turns[turn.id] = turn
                self._before[turn.id] = [other for other in shown if other.n < turn.n]
                self._replies[turn.id] = store.replies(turn.id, all_=True)
                if not turn.hidden:
                    shown.append(turn)

    def good(self, threshold: float, rubric: str | None) -> Iterator[Claim]:
        """Answers that a person has written, chosen, or scored ``threshold`` or more."""
        for edit, _ in self._edits():
            yield Claim(f"edit-{edit.id}", "edit", "", self._answer(edit))
        for vote, winner, _ in self._votes():
            yield Claim(f"vote-{vote.id}", "vote", vote.voter, self._answer(winner))
        for subject, answer, given in self._scored(rubric):
            score = min(_means(given).values())
            if score >= threshold:
                by = ", ".join(dict.fromkeys(row.judge for row in given))
                yield Claim(f"hand-{subject.subject[:16]}", "hand", by, answer, score=score)

    def pairs(self, gap: float, rubric: str | None) -> Iterator[Claim]:
        """Answers of which a person has preferred one, or scored it ``gap`` or more higher."""
        for edit, original in self._edits():
            yield Claim(f"edit-{edit.id}", "edit", "", self._answer(edit), self._answer(original))
        for vote, winner, others in self._votes():
            for loser in others:
                yield Claim(
                    f"vote-{vote.id}-{loser.position}",
                    "vote",
                    vote.voter,
                    self._answer(winner),
                    self._answer(loser),
                )
        yield from self._hand_pairs(gap, rubric)

    # Edits and votes

    def _edits(self) -> Iterator[tuple[Reply, Reply]]:
        """The edited answers that stand, each with what the model had said."""
        for replies in self._replies.values():
            for reply in _current(replies).values():
                if reply.stop_reason == EDITED:
                    yield reply, original_of(self.store, reply)

    def _votes(self) -> Iterator[tuple[Vote, Reply, list[Reply]]]:
        """Each voter's last vote of each turn: the answer chosen, and the others shown."""
        last = {
            (vote.turn, vote.voter): vote for vote in self.store.votes() if vote.turn in self._turns
        }
        for vote in last.values():
            before = [r for r in self._replies[vote.turn] if r.created <= vote.created]
            seen = {reply.variant: reply for reply in _current(before).values()}
            winner = seen.get(vote.choice)
            if winner is not None:
                others = [seen[name] for name in vote.shown if name in seen]
                yield vote, winner, [reply for reply in others if reply != winner]

    # Hand scores

    def _scored(self, rubric: str | None) -> Iterator[tuple[Subject, Answer, list[Judgement]]]:
        """Every subject with a hand score, as an answer, with each person's current scores."""
        given: dict[str, list[Judgement]] = defaultdict(list)
        for row in self.store.current_hand_scores(self.slug, rubric):
            given[row.subject].append(row)
        if not given:
            return
        said = {
            subject_hash(self.slug, self._turns[turn].question, reply.text): reply
            for turn, replies in self._replies.items()
            for reply in replies
            if reply.stop_reason != EDITED and not self._turns[turn].hidden
        }
        subjects = {s.subject: s for s in reversed(self.store.subjects(self.slug))}
        for key, rows in given.items():
            subject, reply = subjects[key], said.get(key)
            yield subject, self._answer(reply) if reply else _of_subject(subject), rows

    def _hand_pairs(self, gap: float, rubric: str | None) -> Iterator[Claim]:
        """Pairs within one person's scores by one rubric, of answers to the same thing."""
        groups: dict[Any, list[tuple[float, str, Answer]]] = defaultdict(list)
        for subject, answer, rows in self._scored(rubric):
            for row in rows:
                if row.score is not None:
                    key = (row.judge, row.rubric, subject.question, subject.history)
                    groups[key].append((row.score, subject.subject, answer))
        for (judge, *_), scored in groups.items():
            ordered = sorted(scored, key=lambda item: (-item[0], item[1]))
            for (high, one, better), (low, other, worse) in combinations(ordered, 2):
                if high - low >= gap:
                    name = f"hand-{one[:16]}-{other[:16]}"
                    yield Claim(name, "hand", judge, better, worse, high, low)

    # Answers

    def _answer(self, reply: Reply) -> Answer:
        turn = self._turns[reply.turn]
        earlier = [
            (other.question, self._said(other, reply.variant)) for other in self._before[turn.id]
        ]
        prompt = tuple(sent_messages(self.profile, turn.question, reply, earlier))
        now = _current(self._replies[turn.id])[reply.position]
        improved = now.stop_reason == EDITED and original_of(self.store, now).text == reply.text
        origin = _origin(
            conversation=turn.conversation,
            turn=turn.id,
            reply=reply.id,
            variant=reply.variant,
            weights=reply.weights,
            sent=reply.prompt,
            stop_reason=reply.stop_reason,
        )
        return Answer(
            prompt,
            reply.text,
            reply.stop_reason,
            tuple(hit["fact"] for hit in reply.facts if hit.get("used", True)),
            origin,
            replaced=turn.hidden,
            improved=improved,
        )

    def _said(self, turn: Turn, variant: str) -> Sequence[str]:
        return [reply.text for reply in self._replies[turn.id] if reply.variant == variant]


def _known_profile(paths: Paths, slug: str) -> Profile | None:
    """None where it has been deleted: its conversations stay worth something."""
    try:
        return load_profile(paths, slug)
    except UserError:
        return None


def _current(replies: Sequence[Reply]) -> dict[int, Reply]:
    return {reply.position: reply for reply in replies}


def _means(rows: Sequence[Judgement]) -> dict[str, float]:
    """The mean of people's scores by each rubric."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            scores[row.rubric].append(row.score)
    return {rubric: sum(given) / len(given) for rubric, given in scores.items()}


def _of_subject(subject: Subject) -> Answer:
    asked = Message(role="user", content=subject.question)
    origin = _origin(source=subject.source, item=subject.item, stop_reason=subject.stop_reason)
    return Answer(
        (*subject.history, asked), subject.reply, subject.stop_reason, subject.gold, origin
    )


def _origin(
    conversation: int | None = None,
    turn: int | None = None,
    reply: int | None = None,
    variant: str = "",
    weights: str = "",
    sent: str = "",
    stop_reason: str = "",
    source: str = "chat",
    item: str = "",
) -> dict[str, Any]:
    return {
        "source": source,
        "item": item or (f"reply-{reply}" if reply else ""),
        "conversation": conversation,
        "turn": turn,
        "variant": variant,
        "weights": weights,
        "stop_reason": stop_reason,
        "prompt": sent,
    }
