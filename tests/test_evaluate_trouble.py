"""What a broken evaluation gets: faults named by file and line, and kills that lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatting import add_adapter
from small_models import byte_tokenizer, qwen_tokenizer, save_model

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.evaluating import partial, run_evaluate
from charllm.core.evaluation.planned import PLAN, plan_evaluation
from charllm.core.evaluation.reply_records import REPLIES, read_replies
from charllm.core.evaluation.report import REPORT, TABLES
from charllm.core.evaluation.scoring_replies import RECORDS
from charllm.core.evaluation.verdict_files import read_verdicts
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import write_json_lines
from charllm.data.progress import Silent
from charllm.data.queries import load_queries

QUERIES = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Two small models of different tokenizers, an adapter that rambles, and some questions."""
    folder = tmp_path_factory.mktemp("trouble")
    paths = Paths(folder / "root", folder / "workspace")
    for name in ("profiles", "datasets", "rubrics"):
        shutil.copytree(ROOT / name, paths.root / name)
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    llama = byte_tokenizer(words="はいですわ。質問", **ends)
    for name, tokenizer in (("tiny", llama), ("other", qwen_tokenizer())):
        model = paths.models / name
        tokenizer.save_pretrained(model)
        chain = tokenizer("：はいですわ。", add_special_tokens=False)["input_ids"]
        size, end = len(tokenizer), tokenizer.eos_token_id
        save_model(model, "llama", size, [*chain, end], max_position_embeddings=2048)
    add_adapter(paths, "wild", paths.models / "tiny", 0, module="o_proj", strength=1.0)
    report = [q for q in load_queries(paths.queries / "ayane.jsonl") if q.split == "report"]
    write_json_lines(
        paths.queries / "few.jsonl", [q.model_dump(mode="json") for q in report[:QUERIES]]
    )
    return paths


def config(home: Paths, **changes: Any) -> EvaluateConfig:
    def variant(name: str, model: str, checkpoint: str = "") -> dict[str, Any]:
        labels = {"label_en": name, "label_ja": name}
        return {
            "name": name,
            **labels,
            "model": str(home.models / model),
            "checkpoint": checkpoint,
        }

    fields = {
        "name": "small",
        "profile": "ayane",
        "variants": [
            variant("plain", "tiny"),
            variant("wild", "tiny", "wild"),
            variant("far", "other"),
        ],
        "queries": "few",
        "preset": {"name": "short", "max_new_tokens": 16, "temperature": 1.5},
        "repeats": 2,
        "rows": 2,
        "insist": True,
        **changes,
    }
    return EvaluateConfig.from_data(fields, "the test")


# Query sets


def broken(home: Paths, change: Callable[[list[dict[str, Any]]], None]) -> UserError:
    """What is said of a query set that was changed so."""
    rows = [q.model_dump(mode="json") for q in load_queries(home.queries / "few.jsonl")]
    change(rows)
    write_json_lines(home.queries / "broken.jsonl", rows)
    with pytest.raises(UserError) as refused:
        plan_evaluation(config(home, queries="broken"), home)
    for words in refused.value.text:
        assert str(home.queries / "broken.jsonl") in words
    assert refused.value.text.en != refused.value.text.ja
    return refused.value


def test_a_question_that_stands_twice_is_named_with_both_lines(home: Paths) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[4]["text"] = f"　{rows[1]['text']}！"
        rows[5]["id"] = rows[0]["id"]

    said = broken(home, change).text
    assert "line 5: the same question as in line 2" in said.en
    assert "line 6: id" in said.en and "line 1's already" in said.en
    assert "5 行目: 2 行目と同じ質問" in said.ja and "6 行目: id" in said.ja


def test_a_gold_fact_that_the_profile_lacks_is_named_with_the_nearest(home: Paths) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[2]["gold"] = ["誕生日は10月13日。"]

    said = broken(home, change).text
    assert "line 3: 小野寺絢音 has no fact '誕生日は10月13日。'" in said.en
    assert "did you mean '誕生日は10月12日。'" in said.en
    assert "3 行目" in said.ja and "「誕生日は10月12日。」のことですか" in said.ja


def test_a_split_that_is_needed_and_empty_is_named(home: Paths) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["split"] = "search"

    said = broken(home, change).text
    assert 'no query has the split "report"' in said.en and "split が「report」" in said.ja


def test_a_line_that_is_no_query_is_named_with_its_field(home: Paths) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[3]["split"] = "test"

    said = broken(home, change).text
    assert "line 4" in said.en and "split" in said.en and "split" in said.ja


def test_every_fault_is_counted_where_there_are_many(home: Paths) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["gold"] = ["空を飛べる。"]

    said = broken(home, change).text
    assert said.en.count("has no fact") == 5 and "and 1 more" in said.en and "ほか 1 件" in said.ja


# Kills


def start(home: Paths, folder: Path) -> int:
    """A process of its own that evaluates; forked, because this one has loaded everything."""
    child = os.fork()
    if not child:
        try:
            run_evaluate(config(home), Silent(), folder, home)
        finally:
            os._exit(0 if (folder / REPORT).exists() else 1)
    return child


def whole_lines(path: Path) -> bytes:
    """What a file holds without a torn last line."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def documents(folder: Path) -> dict[str, bytes]:
    """Every figure and table that a finished run has written."""
    # A kill in the middle of a write leaves its hidden temporary file.
    files = [folder / REPORT, *sorted((folder / TABLES).glob("[!.]*"))]
    return {file.name: file.read_bytes() for file in files}


def untimed(folder: Path) -> list[Any]:
    return sorted(
        json.dumps({**reply.as_json(), "seconds": 0}, sort_keys=True)
        for reply in read_replies(folder)
    )


@pytest.fixture(scope="module")
def unbroken(home: Paths) -> Path:
    """A run that nobody disturbs, of a process like the others': this one has all it needs."""
    run_evaluate(config(home), Silent(), home.workspace / "first", home)
    child = start(home, home.workspace / "whole")
    assert os.waitpid(child, 0)[1] == 0
    return home.workspace / "whole"


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "begun": lambda folder: (folder / PLAN).exists(),
    "asking": lambda folder: bool(whole_lines(folder / REPLIES)),
    "judging": lambda folder: any(map(whole_lines, folder.glob(f"judges/*/{RECORDS}"))),
}
"""What a killed run had come to, at least: on a busy machine seconds say nothing."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_kill_nine_at_any_moment_loses_and_changes_nothing(home: Paths, unbroken: Path) -> None:
    stood = []
    for moment, reached in MOMENTS.items():
        folder = home.workspace / f"killed-{moment}"
        child = start(home, folder)
        deadline = time.monotonic() + 120
        while not reached(folder):
            assert time.monotonic() < deadline, moment
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept = whole_lines(folder / REPLIES)
        records = [whole_lines(path) for path in folder.glob(f"judges/*/{RECORDS}")]
        stood.append(kept.count(b"\n"))
        if kept:
            told = partial(folder)
            assert told["replies"] == stood[-1] and told["wanted"] == 3 * QUERIES * 2
            assert told["complete"] or (told["told"][0]["en"] and told["told"][0]["ja"])
        assert os.waitpid(start(home, folder), 0)[1] == 0
        assert (folder / REPLIES).read_bytes().startswith(kept), "what stood there still does"
        for before, path in zip(records, folder.glob(f"judges/*/{RECORDS}"), strict=False):
            assert path.read_bytes().startswith(before)
        assert untimed(folder) == untimed(unbroken), "each reply once, the same as ever"
        assert documents(folder) == documents(unbroken)
    assert len(set(stood)) > 1 and max(stood) > 0, "the kills found it at different work"


# Files of verdicts


def test_a_verdict_file_with_strangers_and_impossible_winners(tmp_path: Path) -> None:
    """Every wrong line by its number and field, nothing read, the file left as it is."""
    rows = [
        {"query": "q1", "a": "plain", "b": "wild", "winner": "plain"},
        {"query": "q1", "a": "plain", "b": "nobody", "winner": "nobody"},
        {"query": "q2", "a": "plain", "b": "wild", "winner": "far"},
        {"query": "q9", "a": "plain", "b": "wild", "winner": "tie"},
        {"query": "q2", "a": "plain", "b": "plain", "winner": "plain"},
        {"query": "q2", "a": "plain", "b": "wild"},
    ]
    path = tmp_path / "verdicts.jsonl"
    write_json_lines(path, rows)
    before = path.read_bytes()
    with pytest.raises(UserError) as refused:
        read_verdicts(path, {"plain", "wild", "far"}, {"q1", "q2"})
    en, ja = refused.value.text
    assert str(path) in en and str(path) in ja
    for number, english, japanese in (
        (2, "unknown model nobody", "知らないモデル「nobody」"),
        (3, "the winner 'far' is neither 'plain' nor 'wild'", "勝者「far」"),
        (4, "unknown situation 'q9'", "知らない状況「q9」"),
        (5, "'plain' plays against itself", "「plain」が自分自身と対戦"),
        (6, "'winner' is missing", "「winner」がありません"),
    ):
        assert f"line {number}: {english}" in en
        assert f"{number} 行目: {japanese}" in ja
    assert "line 1:" not in en and path.read_bytes() == before
