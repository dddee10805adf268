"""The stopping report on runaways and clean lines, and query sets that must not be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from charllm.core.evaluation.query_sets import read_query_set
from charllm.core.evaluation.stopping import (
    Stored,
    repeated_share,
    stopping_report,
)
from charllm.data.config import Paths
from charllm.data.dialogue import dataset_path, load_dialogues
from charllm.data.errors import UserError
from charllm.data.profile import Profile, load_profile


@pytest.fixture
def profile(paths: Paths) -> Profile:
    return load_profile(paths, "ayane")


@pytest.fixture
def lines(paths: Paths) -> list[str]:
    """What the character really says."""
    return [d.reply for d in load_dialogues(dataset_path(paths, "ayane"))][:40]


def clean(lines: list[str]) -> list[Stored]:
    return [Stored("tuned", "balanced", f"q{n}", line, "end") for n, line in enumerate(lines)]


def runaways(lines: list[str], preset: str = "study-sampling") -> list[Stored]:
    """What a model says that never learnt its end token: the next question, and the next."""
    return [
        Stored("raw", preset, f"q{n}", f"{line}[/INST] 次の質問です。 [INST] {line * 4}", "length")
        for n, line in enumerate(lines)
    ]


def test_clean_lines_end_and_nothing_is_remarked(profile: Profile, lines: list[str]) -> None:
    (found,) = stopping_report(clean(lines), profile)
    assert found.ended.value == 1.0 and found.ended.low is not None and found.ended.low < 0.95
    assert found.leaking.value is not None and found.leaking.value <= 0.05
    assert found.in_range.value is not None and found.in_range.value > 0.7
    assert found.said == () and found.leak_when_cut is None and found.unknown == 0


def test_a_missing_end_token_is_named(profile: Profile, lines: list[str]) -> None:
    (found,) = stopping_report(runaways(lines), profile)
    assert found.ended.value == 0.0 and found.leaking.value == 1.0 and found.leak_when_cut == 1.0
    assert found.reasons == {"length": 40}
    words = " ".join(text.en for text in found.said)
    assert "40 of 40 replies did not end" in words
    assert "did not learn the token that ends a reply" in words
    assert "終了トークン" in " ".join(text.ja for text in found.said)
    assert found.length.middle > 4 * profile.reply_length


def test_loops_are_told_from_missing_ends(profile: Profile) -> None:
    looping = [
        Stored("m", "p", f"q{n}", "お紅茶が大好きですわ。" * 8, "repetition") for n in range(10)
    ]
    (found,) = stopping_report(looping, profile)
    assert found.looping.value == 1.0 and found.leaking.value == 0.0
    assert found.repeated.value is not None and found.repeated.value > 0.7
    assert any("loops" in text.en for text in found.said)
    assert not any("end token" in text.en for text in found.said)


def test_variants_and_presets_stand_apart(profile: Profile, lines: list[str]) -> None:
    rows = clean(lines) + runaways(lines) + runaways(lines, "study-beam")
    found = stopping_report(rows, profile)
    assert [(s.variant, s.preset, s.n) for s in found] == [
        ("tuned", "balanced", 40),
        ("raw", "study-sampling", 40),
        ("raw", "study-beam", 40),
    ]


def test_an_unknown_reason_is_no_evidence(profile: Profile, lines: list[str]) -> None:
    rows = clean(lines[:10])
    rows += [row._replace(query=f"u{n}", stop_reason="") for n, row in enumerate(rows)]
    rows.append(rows[0]._replace(query="c", stop_reason="cancelled"))
    (found,) = stopping_report(rows, profile)
    assert (found.n, found.unknown, found.ended.n) == (21, 11, 10)
    (nothing,) = stopping_report([row._replace(stop_reason="") for row in rows], profile)
    assert nothing.ended.value is None and nothing.ended.reason is not None


def test_repeats_of_one_query_are_one_piece_of_evidence(profile: Profile, lines: list[str]) -> None:
    rows = clean(lines[:12]) + runaways(lines[12:24])
    rows = [row._replace(variant="m", preset="p") for row in rows]
    rows = [row._replace(query=f"q{n}") for n, row in enumerate(rows)]
    (once,), (often,) = stopping_report(rows, profile), stopping_report(rows * 8, profile)
    assert once.ended.value == often.ended.value == 0.5
    assert once.ended.half_width is not None and often.ended.half_width is not None
    assert often.ended.half_width > 0.95 * once.ended.half_width


def test_repeated_n_grams() -> None:
    assert repeated_share("", "ja") == 0.0 and repeated_share("短い", "ja") == 0.0
    assert repeated_share("あいうえおかきくけこ", "ja") == 0.0
    # Six signs a gram: "あいうえおか" twice has 7 grams, the first and the last the same.
    assert repeated_share("あいうえおか" * 2, "ja") == pytest.approx(1 / 7)
    assert repeated_share("never again, " * 20, "en") > 0.9


# Query sets


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def query(n: int, text: str, split: str = "report", **more: Any) -> dict[str, Any]:
    return {"id": f"q{n}", "text": text, "split": split, **more}


TEXTS = ("お名前を教えてください", "好きな食べ物は？", "ご趣味はありますか")


@pytest.mark.parametrize("slug", ["ayane", "magnus"])
def test_the_shipped_sets_have_no_fault(paths: Paths, slug: str) -> None:
    found = read_query_set(
        paths.queries / f"{slug}.jsonl",
        load_profile(paths, slug),
        needed=("search", "selection", "report"),
    )
    assert len(found.split("report")) >= 20
    assert sum(len(found.split(s)) for s in ("search", "selection", "report")) == len(found.queries)


def test_the_same_question_twice_is_refused(tmp_path: Path, profile: Profile) -> None:
    path = write(
        tmp_path / "q.jsonl",
        query(1, TEXTS[0]),
        query(2, TEXTS[1]),
        query(3, "お名前を、教えてください。", "search"),
        query(2, TEXTS[2]),
    )
    with pytest.raises(UserError) as caught:
        read_query_set(path, profile)
    assert "line 3: the same question as in line 1" in str(caught.value)
    assert "line 4: id 'q2' is line 2's already" in str(caught.value)
    assert "3 行目" in caught.value.text.ja and str(path) in str(caught.value)


def test_an_empty_split_is_named_only_where_it_is_needed(tmp_path: Path, profile: Profile) -> None:
    path = write(tmp_path / "q.jsonl", query(1, TEXTS[0]), query(2, TEXTS[1], "search"))
    assert len(read_query_set(path, profile, needed=["report"]).queries) == 2
    with pytest.raises(UserError, match='no query has the split "selection"'):
        read_query_set(path, profile, needed=("search", "selection"))


def test_gold_that_the_profile_lacks_is_named_with_what_was_meant(
    tmp_path: Path, profile: Profile
) -> None:
    fact = profile.facts[0]
    good = write(tmp_path / "good.jsonl", query(1, TEXTS[0], gold=[fact]))
    assert read_query_set(good, profile).queries[0].gold == (fact,)
    bad = write(tmp_path / "bad.jsonl", query(1, TEXTS[0]), query(2, TEXTS[1], gold=[fact[:-1]]))
    with pytest.raises(UserError, match=r"line 2: .*did you mean") as caught:
        read_query_set(bad, profile)
    assert fact in caught.value.text.ja


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no query in it"),
        ([query(1, TEXTS[0], "training")], "line 1"),
        ([query(1, TEXTS[0]), {"id": "q2", "split": "report"}], "line 2"),
        ([query(1, "")], "line 1"),
    ],
)
def test_what_is_no_query_set(tmp_path: Path, profile: Profile, rows: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_query_set(write(tmp_path / "q.jsonl", *rows), profile)


def test_nearly_the_same_question_in_two_splits_is_remarked(
    tmp_path: Path, profile: Profile
) -> None:
    path = write(
        tmp_path / "q.jsonl",
        query(1, "休みの日はどのように過ごしていますか？", "search"),
        query(2, "休みの日はどのように過ごしていますか、教えて", "report"),
        query(3, "お休みの日はどのように過ごしていますか？", "search"),
        query(4, "苦手な食べ物はありますか？", "report"),
    )
    remarks = read_query_set(path, profile).remarks
    assert [remark.line for remark in remarks] and all(r.line in (2, 3) for r in remarks)
    assert all("another split" in remark.text.en for remark in remarks)
