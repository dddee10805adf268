"""Whether a judge may decide: its last quality report, and the mark that results carry for ever.

Reports lie at ``workspace/judging/quality/<profile>/<key>.json``, one for each judge with each
version of a rubric. Nine pairs in ten must have come out right, among all and among those that the
gate left to the judge itself; who insists may go on without, and the ``Mark`` says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from charllm.core.judging.quality_report import Quality, kind_label
from charllm.core.judging.records import Judge
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path
from charllm.data.errors import Text, UserError
from charllm.data.files import check_slug, read_json, sha256
from charllm.data.profile import revision

LEAST = 0.9
"""The share of pairs that must come out right."""
LEAST_OWN = 20
"""From fewer pairs that the gate did not decide nothing can be said about the judge."""


@dataclass(frozen=True)
class Mark:
    """How the judge of a result has done in its check; it travels with the result for ever.

    ``share`` and ``own_share`` (without the gate's help) are None where it was never checked;
    ``insisted``: it was used although it had not passed.
    """

    passed: bool
    share: float | None
    own_share: float | None
    insisted: bool
    judge: str
    rubric: str
    version: str
    date: str
    not_measured: tuple[str, ...]
    text: Text

    def as_json(self) -> dict[str, Any]:
        shown = {**asdict(self), "text": self.text.as_json()}
        return {**shown, "not_measured": list(self.not_measured)}


def quality_path(paths: Paths, slug: str, judge: str, rubric: str, version: str) -> Path:
    """Where the report of one judge with one version of one rubric lies."""
    key = sha256("\0".join((judge, rubric, version)).encode())[:16]
    folder = paths.workspace / "judging" / "quality" / check_slug(slug, "profile name")
    return folder / f"{key}.json"


def latest(paths: Paths, slug: str, judge: str, rubric: str, version: str) -> Quality | None:
    """The last report on this judge, None where it was never checked on this character."""
    path = quality_path(paths, slug, judge, rubric, version)
    return Quality.from_data(read_json(path), str(path)) if path.is_file() else None


def listing(paths: Paths, slug: str) -> list[Quality]:
    """The last report of every judge that was checked on this character, the newest first."""
    folder = paths.workspace / "judging" / "quality" / check_slug(slug, "profile name")
    found = [Quality.from_data(read_json(path), str(path)) for path in folder.glob("*.json")]
    return sorted(found, key=lambda quality: quality.date, reverse=True)


def passed(quality: Quality) -> bool:
    """Nine in ten right among all pairs, and among those that the gate left to the judge."""
    shares = (quality.all.share or 0.0, quality.own.share or 0.0)
    return quality.own.n >= LEAST_OWN and min(shares) >= LEAST


def mark_of(paths: Paths, slug: str, judge: Judge) -> Mark | None:
    """How the judge has done in its last check, None where there was none."""
    quality = latest(paths, slug, judge.id, judge.rubric, judge.version)
    return None if quality is None else _mark(paths, quality, insisted=False)


def require(paths: Paths, slug: str, judge: Judge, *, insist: bool = False) -> Mark:
    """The judge's mark, to be kept with what it decides.

    ``UserError`` says what to do where it has not passed or was never checked, unless ``insist``.
    """
    quality = latest(paths, slug, judge.id, judge.rubric, judge.version)
    if quality is None:
        if not insist:
            raise _never_checked(slug, judge)
        return _unchecked(judge)
    mark = _mark(paths, quality, insisted=insist)
    if mark.passed or mark.insisted:
        return mark
    raise UserError(
        f"{mark.text.en} It may not decide anything before it passes: choose another judge or "
        "rubric, look at the failures and mend them, or insist on it (the result will say so).",
        f"{mark.text.ja}合格するまで選別や進化には使えません。別のジャッジやルーブリックを選ぶか、"
        "失敗例を見て直すか、承知のうえで使う指定をしてください（その旨が結果に残ります）。",
    )


def data_state(paths: Paths, slug: str) -> str:
    """A hash of the profile and its dialogues: what the pairs were made from."""
    dataset = dataset_path(paths, slug)
    data = dataset.read_bytes() if dataset.is_file() else b""
    return sha256(revision(paths, slug).encode() + b"\0" + data)[:16]


def _mark(paths: Paths, quality: Quality, *, insisted: bool) -> Mark:
    good = passed(quality)
    return Mark(
        passed=good,
        share=quality.all.share,
        own_share=quality.own.share,
        insisted=insisted and not good,
        judge=quality.judge,
        rubric=quality.rubric,
        version=quality.version,
        date=quality.date,
        not_measured=quality.not_measured,
        text=_words(quality, good, data_state(paths, quality.profile) != quality.state),
    )


def _words(quality: Quality, good: bool, stale: bool) -> Text:
    """What the check found, in a few sentences."""
    every, own, day = quality.all, quality.own, quality.date[:10]
    en = [
        f"{quality.judge} ({quality.rubric}, {quality.version}) "
        f"{'passed' if good else 'did not pass'} its check of {day}: {every.right} of {every.n} "
        f"pairs right, {own.right} of {own.n} without the gate's help ({LEAST:.0%} are needed)."
    ]
    ja = [
        f"{quality.judge}（{quality.rubric}、{quality.version}）は{day}の検査で"
        f"{'合格しました' if good else '不合格でした'}。"
        f"正解は{every.n}組中{every.right}組、ゲートが決めたものを除くと"
        f"{own.n}組中{own.right}組です（合格は{LEAST:.0%}以上）。"
    ]
    for names, told in ((quality.not_measured, _NOT_MEASURED), (quality.weak, _WEAK)):
        labels = [kind_label(name) for name in names]
        if labels:
            en.append(told.en.format(", ".join(label.en for label in labels)))
            ja.append(told.ja.format("、".join(label.ja for label in labels)))
    if own.n < LEAST_OWN:
        en.append(_FEW.en)
        ja.append(_FEW.ja)
    if stale:
        en.append(_STALE.en)
        ja.append(_STALE.ja)
    return Text(" ".join(en), "".join(ja))


def _never_checked(slug: str, judge: Judge) -> UserError:
    return UserError(
        f"{judge.id} ({judge.rubric}, {judge.version}) was never checked on {slug}. Check it first "
        "(Judge tab, or a run of the kind quality), or insist on it (the result will say so).",
        f"{judge.id}（{judge.rubric}、{judge.version}）は {slug} でまだ検査されていません。"
        "先にジャッジの検査（ジャッジのタブ、または quality の実行）を行うか、"
        "承知のうえで使う指定をしてください（その旨が結果に残ります）。",
    )


def _unchecked(judge: Judge) -> Mark:
    text = Text(
        f"{judge.id} ({judge.rubric}, {judge.version}) was never checked; it was insisted on.",
        f"{judge.id}（{judge.rubric}、{judge.version}）は検査されていませんが、"
        "承知のうえで使われました。",
    )
    return Mark(False, None, None, True, judge.id, judge.rubric, judge.version, "", (), text)


_NOT_MEASURED = Text("It does not measure: {}.", "測らないもの: {}。")
_WEAK = Text("It mostly fails at: {}.", "半分も正解できなかったもの: {}。")
_FEW = Text(
    f"Fewer than {LEAST_OWN} pairs were left to the judge itself: too few to tell.",
    f"ジャッジ自身が判断した組が{LEAST_OWN}組に満たないため、判定できません。",
)
_STALE = Text(
    "The character's data has changed since.", "検査のあとにキャラクターのデータが変わっています。"
)
