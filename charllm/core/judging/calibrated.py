"""What hand scores have taught the embedded judge: its parts weighed anew, checked on others.

The embedded score weighs style, relevance and length by fixed weights. From hand scores a
proportional-odds model (``core.ordinal``) learns weights and severity; what it would have said of
questions it had not seen is compared with the plain score. Only a gain that the interval of the
difference supports is used, unless somebody insists. Gated replies keep the lowest score.

Stored at ``workspace/judging/calibrated-<slug>.json``. It does not know where hand scores lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from charllm.core.judging.score import ABOUT, HIGHEST, LOWEST, VERSION, Judgement
from charllm.core.ordinal import OrdinalModel, fit_ordinal
from charllm.core.statistics import Interval, bootstrap
from charllm.core.weighted import difference_of, kappa_of, mean_of, spearman_of
from charllm.data.config import Config, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, read_json, sha256, write_json

JUDGE = "embedded-calibrated"
FEATURES = ("style", "relevance", "length")
LEAST_LABELS = 30
LEAST_LEVELS = 3
FOLDS = 5
LEVELS = range(int(LOWEST), int(HIGHEST) + 1)


@dataclass(frozen=True)
class Rated:
    """A reply scored by hand: ``hand`` a whole level from 1 to 7, ``raw`` the embedded score.

    ``parts`` are the embedded judge's, each in [0, 1] or None; ``cluster`` is the question.
    """

    subject: str
    cluster: str
    hand: int
    raw: float
    parts: Mapping[str, float | None]


class Range(Config):
    """An interval as it is stored; what could not be told is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval) -> Range:
        return cls(value=interval.value, low=interval.low, high=interval.high)


class Comparison(Config):
    """One measure on held-out questions: of the plain score, of the calibrated, and the change."""

    raw: Range
    calibrated: Range
    change: Range


class Calibrated(Config):
    """A fitted calibration with the proof of what it gained. ``forced``: used in spite of it.

    ``labels`` counts hand scores, ``questions`` what they are about; ``base`` is the version of the
    embedded judge it was made for, and it applies to no other.
    """

    profile: str
    rubric: str
    labels: int
    questions: int
    labels_hash: str
    date: str
    base: str
    seed: int
    model: OrdinalModel
    kappa: Comparison
    mae: Comparison
    spearman: Comparison
    gained: bool
    forced: bool = False

    @property
    def judge(self) -> str:
        return JUDGE

    @property
    def version(self) -> str:
        """The embedded judge's, and the first digits of the model's and the labels' hash."""
        made_of = f"{self.model.model_dump_json()}{self.labels_hash}"
        return f"{self.base}-{sha256(made_of.encode())[:8]}"

    @property
    def applies(self) -> bool:
        """Whether the embedded judge's scores are to be changed by it."""
        return self.base == VERSION and (self.gained or self.forced)

    @property
    def text(self) -> Text:
        """What was gained, or that nothing was, and whether it is used."""
        if self.base != VERSION:
            return Text(
                "Made for an older embedded judge; not used. Calibrate again.",
                "以前の版の内蔵ジャッジ用の較正のため、使いません。較正し直してください。",
            )
        return _joined(_outcome(self), _use(self))

    def expected(self, parts: Mapping[str, float | None]) -> float:
        """The expected hand score, in [1, 7]; a missing part counts as an average one."""
        return self.model.expected(_features(parts))

    def apply(self, judgement: Judgement) -> Judgement:
        """The judgement with the expected hand score, under the calibrated judge's name.

        Gated and unscored replies stay as they are.
        """
        if judgement.gate or judgement.score is None:
            return judgement
        return replace(
            judgement,
            score=self.expected({part.key: part.value for part in judgement.parts}),
            judge=self.judge,
            version=self.version,
            about=_joined(ABOUT, _about(self.labels)),
        )


def calibrated_path(paths: Paths, slug: str) -> Path:
    name = check_slug(slug, "profile name")
    return paths.workspace / "judging" / f"calibrated-{name}.json"


def load_calibrated(paths: Paths, slug: str) -> Calibrated | None:
    """What was fitted last, also where it gained nothing (see ``applies``); None without any.

    ``UserError`` names the file and the field where it was changed by hand.
    """
    path = calibrated_path(paths, slug)
    return Calibrated.from_data(read_json(path), str(path)) if path.is_file() else None


def fit_calibrated(
    paths: Paths,
    slug: str,
    rows: Sequence[Rated],
    seed: int = 0,
    *,
    rubric: str = "",
    force: bool = False,
) -> Calibrated:
    """Fit on all ``rows``, compare on held-out questions, store, and give what was stored.

    ``rows`` are ungated replies; ``rubric`` names what the people scored by. ``UserError`` says how
    many hand scores, levels or questions are missing.
    """
    check_enough(rows)
    found = _compared(rows, seed)
    made = Calibrated(
        profile=slug,
        rubric=rubric,
        labels=len(rows),
        questions=len({row.cluster for row in rows}),
        labels_hash=_labels_hash(rows),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        base=VERSION,
        seed=seed,
        model=_fit(rows),
        gained=_has_gained(found["kappa"]),
        forced=force,
        **found,
    )
    write_json(calibrated_path(paths, slug), made.model_dump(mode="json"))
    return made


def force(paths: Paths, slug: str, use: bool = True) -> Calibrated:
    """Use the stored calibration although it has gained nothing, or no longer."""
    found = load_calibrated(paths, slug)
    if found is None:
        raise UserError(
            "There is no calibration yet: calibrate on hand scores first.",
            "較正はまだありません。先に手採点で較正してください。",
        )
    changed = found.model_copy(update={"forced": use})
    write_json(calibrated_path(paths, slug), changed.model_dump(mode="json"))
    return changed


def forget(paths: Paths, slug: str) -> bool:
    """Remove the calibration: the embedded judge scores as before. False where there was none."""
    path = calibrated_path(paths, slug)
    there = path.is_file()
    path.unlink(missing_ok=True)
    return there


def check_enough(rows: Sequence[Rated]) -> None:
    """``UserError`` with what is missing: hand scores, different levels, different questions."""
    levels, questions = len({row.hand for row in rows}), len({row.cluster for row in rows})
    missing = [
        (LEAST_LABELS - len(rows), "more hand scores", "手採点があと{}件"),
        (LEAST_LEVELS - levels, "more different levels among them", "別の段階のスコアがあと{}種類"),
        (FOLDS - questions, "more different questions", "別の質問があと{}種類"),
    ]
    short = [(n, en, ja) for n, en, ja in missing if n > 0]
    if short:
        en = ", ".join(f"{n} {words}" for n, words, _ in short)
        ja = "、".join(words.format(n) for n, _, words in short)
        raise UserError(
            f"To calibrate, {en} are needed (of replies that the gate lets through).",
            f"較正には、{ja}必要です（ゲートを通った返答に限ります）。",
        )


def _fit(rows: Sequence[Rated]) -> OrdinalModel:
    return fit_ordinal([_features(row.parts) for row in rows], [row.hand for row in rows])


def _features(parts: Mapping[str, float | None]) -> list[float | None]:
    return [parts.get(key) for key in FEATURES]


def _compared(rows: Sequence[Rated], seed: int) -> dict[str, Comparison]:
    """Plain and calibrated scores against the hand scores, on questions held out."""
    hand = [row.hand for row in rows]
    raw = [row.raw for row in rows]
    held_out = _held_out(rows, seed)
    clusters = [row.cluster for row in rows]
    measures = {
        "kappa": [kappa_of(hand, [to_level(x) for x in s], LEVELS) for s in (raw, held_out)],
        "mae": [
            mean_of([abs(x - h) for x, h in zip(s, hand, strict=True)]) for s in (raw, held_out)
        ],
        "spearman": [spearman_of(hand, s) for s in (raw, held_out)],
    }
    return {
        name: Comparison(
            raw=Range.of(bootstrap(before, clusters, seed)),
            calibrated=Range.of(bootstrap(after, clusters, seed)),
            change=Range.of(bootstrap(difference_of(after, before), clusters, seed)),
        )
        for name, (before, after) in measures.items()
    }


def _held_out(rows: Sequence[Rated], seed: int) -> list[float]:
    """For each row the score by a model that has seen nothing of its question."""
    import random

    questions = sorted({row.cluster for row in rows})
    random.Random(seed).shuffle(questions)
    fold_of = {question: number % FOLDS for number, question in enumerate(questions)}
    models = [_fit([row for row in rows if fold_of[row.cluster] != fold]) for fold in range(FOLDS)]
    return [models[fold_of[row.cluster]].expected(_features(row.parts)) for row in rows]


def to_level(score: float) -> int:
    """The nearest whole level from 1 to 7; halves go up."""
    return min(max(int(score + 0.5), LEVELS[0]), LEVELS[-1])


def _has_gained(kappa: Comparison) -> bool:
    """Better than the plain score, and better than guessing, beyond chance.

    The error alone proves nothing: always saying the average makes it small.
    """
    return (kappa.change.low or 0.0) > 0.0 and (kappa.calibrated.low or 0.0) > 0.0


def _labels_hash(rows: Sequence[Rated]) -> str:
    return sha256(repr(sorted((row.subject, row.hand) for row in rows)).encode())


# Words


def _outcome(made: Calibrated) -> Text:
    before, after, change = (
        _number(r.value) for r in (made.kappa.raw, made.kappa.calibrated, made.kappa.change)
    )
    low, high = _number(made.kappa.change.low), _number(made.kappa.change.high)
    n, questions = made.labels, made.questions
    if made.gained:
        return Text(
            f"Calibrated on {n} hand scores. On questions held out, kappa rose from {before} to "
            f"{after} (by {change}; 95 % interval {low} to {high}).",
            f"手採点{n}件で較正しました。学習に使わなかった質問での一致度κは {before} から "
            f"{after} に上がりました（差 {change}、95%区間 {low}～{high}）。",
        )
    return Text(
        f"No gain was shown with {n} hand scores on {questions} questions: on questions held out, "
        f"kappa was {before} before and {after} after (95 % interval of the change {low} to "
        f"{high}).",
        f"手採点{n}件（質問{questions}種類）では、較正の効果を確認できませんでした。"
        f"学習に使わなかった質問での一致度κは、較正前 {before}、較正後 {after} です"
        f"（差の95%区間 {low}～{high}）。",
    )


def _use(made: Calibrated) -> Text:
    if made.gained:
        return Text("It is used.", "内蔵ジャッジの採点に使っています。")
    if made.forced:
        return Text("It is used because you asked for it.", "指定されたため、採点に使っています。")
    return Text("It is kept but not used.", "保存しましたが、採点には使いません。")


def _about(labels: int) -> Text:
    return Text(f"Calibrated on {labels} hand scores.", f"手採点{labels}件で較正済みです。")


def _joined(first: Text, second: Text) -> Text:
    return Text(f"{first.en} {second.en}", f"{first.ja}{second.ja}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def as_json(made: Calibrated) -> dict[str, Any]:
    """The stored fields, with the words, the judge's name and whether it is used."""
    return {
        **made.model_dump(mode="json"),
        "text": made.text.as_json(),
        "judge": made.judge,
        "version": made.version,
        "applies": made.applies,
    }
