"""An evaluation on real parts: small random models, adapters, the embedded judge, a judge served.

The models say one reply or, through a random adapter, nonsense: both ways are counted.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from chatting import add_adapter, remote, server
from judge_server import Reply as Answer
from judge_server import error, serving
from small_models import byte_tokenizer, qwen_tokenizer, save_model

from charllm.core.evaluation.comparison import Ruler
from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.evaluating import judge_again, partial, quote_evaluate, run_evaluate
from charllm.core.evaluation.reply_records import REPLIES, read_replies
from charllm.core.evaluation.report import REPORT, TABLES, read_evaluation
from charllm.core.evaluation.scoring_replies import RECORDS, read_judged, score_again
from charllm.core.evaluation.study_table import matrix, study_variants
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.score import style_scorer
from charllm.data.config import Config, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Paused, Silent, Stopped
from charllm.data.queries import load_queries

QUERIES = 6


class Watcher(Silent):
    """Asks to stop after so many events of a kind."""

    def __init__(self, how: str = "", kind: str = "", after: int = 0) -> None:
        self.how, self.kind, self.after = how, kind, after
        self.seen: list[str] = []

    def event(self, kind: str, **data: Any) -> None:
        json.dumps(data)
        self.seen.append(kind)

    def stop_requested(self) -> Any:
        return self.how if self.seen.count(self.kind) >= self.after else ""


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the embedded judge has made of the character's lines: once for all tests."""
    return tmp_path_factory.mktemp("judging")


@pytest.fixture
def home(paths: Paths, learnt: Path) -> Paths:
    """Two small models with tokenizers of their own, an adapter on the first, six questions."""
    paths.workspace.mkdir()
    (paths.workspace / "judging").symlink_to(learnt)
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    llama = byte_tokenizer(words="はいですわ。質問", **ends)
    for name, tokenizer in (("tiny", llama), ("other", qwen_tokenizer())):
        folder = paths.models / name
        tokenizer.save_pretrained(folder)
        chain = tokenizer("：はいですわ。", add_special_tokens=False)["input_ids"]
        vocabulary, end = len(tokenizer), tokenizer.eos_token_id
        save_model(folder, "llama", vocabulary, [*chain, end], max_position_embeddings=2048)
    add_adapter(paths, "wild", paths.models / "tiny", 0, module="o_proj", strength=1.0)
    report = [q for q in load_queries(paths.queries / "ayane.jsonl") if q.split == "report"]
    rows = [query.model_dump(mode="json") for query in report[:QUERIES]]
    write_json_lines(paths.queries / "few.jsonl", rows)
    return paths


def variant(home: Paths, name: str, model: str = "tiny", **more: Any) -> dict[str, Any]:
    base = {"name": name, "label_en": name, "label_ja": name, "model": str(home.models / model)}
    return {**base, **more}


def config(home: Paths, **changes: Any) -> EvaluateConfig:
    fields = {
        "name": "small",
        "profile": "ayane",
        "variants": [
            variant(home, "plain"),
            variant(home, "wild", checkpoint="wild"),
            variant(home, "far", "other"),
        ],
        "queries": "few",
        "preset": {"name": "short", "max_new_tokens": 12},
        "rows": 4,
        "insist": True,
        **changes,
    }
    return EvaluateConfig.from_data(fields, "the test")


def evaluate(home: Paths, folder: str, watcher: Watcher | None = None, **changes: Any) -> Any:
    return run_evaluate(
        config(home, **changes), watcher or Watcher("", "", 1), home.workspace / folder, home
    )


def without_time(folder: Path) -> list[Any]:
    return [{**reply.as_json(), "seconds": 0} for reply in read_replies(folder)]


def test_variants_of_different_tokenizers_are_asked_judged_and_compared(home: Paths) -> None:
    result = evaluate(home, "run")
    assert result["complete"] and result["replies"] == result["wanted"] == 3 * QUERIES
    (judge,) = result["judges"]
    rows = {row["variant"]: row for row in judge["summaries"]}
    assert list(rows) == ["plain", "wild", "far"], "in the order of the configuration"
    for row in rows.values():
        assert row["queries"] == QUERIES and row["mean"]["low"] <= row["mean"]["value"]
    assert rows["wild"]["gated"] > 0 == rows["plain"]["gated"], "nonsense never ends, はい does"
    assert [(d["a"], d["b"]) for d in judge["differences"]] == [
        ("plain", "wild"),
        ("plain", "far"),
        ("wild", "far"),
    ]
    assert judge["differences"][0]["difference"]["low"] > 0
    assert judge["differences"][0]["p_holm"] >= judge["differences"][0]["p"]
    assert "insisted" in result["told"][0]["en"], "an unchecked judge is said aloud for ever"
    stopping = {row["variant"]: row for row in result["stopping"]}
    assert stopping["plain"]["ended"]["value"] == 1.0 > stopping["wild"]["ended"]["value"]

    replies = read_replies(home.workspace / "run")
    texts = {r.text for r in replies if r.variant != "wild"}
    assert texts == {"はいですわ。"}
    assert {r.weights.split("@")[0] for r in replies} == {
        str(home.models / "tiny"),
        str(home.models / "other"),
    }
    assert all("お嬢様" in reply.prompt for reply in replies)

    tables = home.workspace / "run" / TABLES
    page = (tables / "all.ja.md").read_text(encoding="utf-8")
    assert "対応のある差" in page and "終了と繰り返し" in page
    assert (tables / "scores-1.en.csv").read_text(encoding="utf-8").count("\n") == 4
    assert r"\toprule" in (tables / "differences-1.ja.tex").read_text(encoding="utf-8")
    assert read_json(home.workspace / "run" / REPORT) == json.loads(json.dumps(result))


def test_a_killed_evaluation_goes_on_to_the_same_result(home: Paths) -> None:
    """Stopped while generating, cancelled while judging, its files torn: nothing is asked twice."""
    sampled = {"preset": {"max_new_tokens": 8, "temperature": 2.0}, "repeats": 2, "seed": 5}
    whole = evaluate(home, "whole", **sampled)
    folder = home.workspace / "parts"
    with pytest.raises(Stopped):
        evaluate(home, "parts", Watcher("cancel", "replied", 3), **sampled)
    kept = (folder / REPLIES).read_bytes()
    assert 0 < kept.count(b"\n") < whole["wanted"]
    (folder / REPLIES).write_bytes(kept[:-20])  # what a kill in the middle of a write leaves
    with pytest.raises(Stopped):
        evaluate(home, "parts", Watcher("cancel", "judged", 2), **sampled)
    assert len(read_replies(folder)) == whole["wanted"]
    stamps = (folder / REPLIES).stat().st_mtime_ns
    assert evaluate(home, "parts", **sampled) == whole
    assert (folder / REPLIES).stat().st_mtime_ns == stamps, "replies are there: none is asked for"
    key = lambda row: (row["variant"], row["query"], row["repeat"])  # noqa: E731
    assert sorted(without_time(folder), key=key) == sorted(
        without_time(home.workspace / "whole"), key=key
    )
    seeds = {(r.query, r.repeat): r.text for r in read_replies(folder) if r.variant == "wild"}
    assert len(set(seeds.values())) > QUERIES, "repeats are drawn with seeds of their own"


def test_a_stopped_run_is_shown_as_such_and_its_part_is_of_use(home: Paths) -> None:
    result = evaluate(home, "run", Watcher("save", "replied", 3))
    assert not result["complete"] and 0 < result["replies"] < result["wanted"]
    assert "Incomplete" in result["told"][0]["en"] and "途中" in result["told"][0]["ja"]
    assert result["judges"] == [] and result["stopping"]
    whole = evaluate(home, "run")
    assert whole["complete"] and whole["told"] != result["told"]

    folder = home.workspace / "run"
    (records,) = folder.glob(f"judges/*/{RECORDS}")
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[: QUERIES + 1]))
    part = partial(folder)
    assert not part["complete"] and part["judges"][0]["waiting"] == 2 * QUERIES - 1
    counted = {row["variant"]: row for row in part["judges"][0]["summaries"]}
    assert sum(row["replies"] for row in counted.values()) == QUERIES + 1
    assert all(row["unscored"] == 0 for row in counted.values()), "not judged yet is not unscored"


def test_a_judge_comes_later_and_nothing_is_generated_again(home: Paths) -> None:
    """Its verdicts stand beside the others'; one that cannot be read is unscored and counted."""
    first = evaluate(home, "run")
    folder = home.workspace / "run"
    shutil.rmtree(home.models / "tiny")
    shutil.rmtree(home.models / "other")
    unreadable = "はい、評価しかねます。"

    def answer(asked: Any) -> Any:
        return Answer(content=unreadable) if asked.number % 4 == 0 else Answer()

    with serving(answer) as served:
        judge = JudgeConfig(kind="endpoint", model="judge-1", base_url=served.url, in_flight=1)
        with pytest.raises(UserError, match="never checked"):
            judge_again(folder, judge, Silent(), home)
        result = judge_again(folder, judge, Silent(), home, insist=True)
        asked = served.requests
        again = judge_again(folder, judge, Silent(), home, insist=True)
        assert served.requests == asked and again == result
    assert result["judges"][0] == first["judges"][0]
    rows = result["judges"][1]["summaries"]
    gated = sum(row["gated"] for row in first["judges"][0]["summaries"])
    assert sum(row["gated"] for row in rows) == gated
    assert sum(row["unscored"] for row in rows) > 0
    assert sum(row["scored"] + row["unscored"] for row in rows) == 3 * QUERIES
    (pair,) = result["between"]
    assert pair["n"] == sum(row["scored"] for row in rows)
    assert pair["one"]["judge"] != pair["other"]["judge"]
    assert (folder / TABLES / "judges-1.ja.md").is_file()


def test_a_judge_without_quota_pauses_and_the_rest_is_reported(home: Paths) -> None:
    with serving(lambda asked: error(429, "insufficient_quota")) as served:
        far = {"kind": "endpoint", "model": "judge-1", "base_url": served.url}
        with pytest.raises(Paused, match="quota"):
            evaluate(home, "run", judges=[{}, far])
    report = read_json(home.workspace / "run" / REPORT)
    assert not report["complete"] and report["replies"] == report["wanted"]
    assert report["judges"][0]["waiting"] == 0 < report["judges"][1]["waiting"]


def test_facts_are_looked_up_once_and_the_studys_matrix_is_drawn(home: Paths) -> None:
    variants = [
        variant(home, "plain"),
        variant(home, "plain-rag", rag=True),
        variant(home, "wild", checkpoint="wild"),
        variant(home, "wild-rag", checkpoint="wild", rag=True),
    ]
    result = evaluate(home, "run", variants=variants, threshold=0.8)
    evaluation = read_evaluation(home.workspace / "run")
    for reply in evaluation.replies:
        assert bool(reply.facts) == reply.variant.endswith("-rag")
        for hit in reply.facts:
            assert (hit["fact"] in reply.prompt) == hit["used"]
    told = result["retrieval"]
    golden = [query for query in evaluation.planned.queries if query.gold]
    hits = [
        any(hit.used and hit.fact in query.gold for hit in evaluation.planned.facts[query.id])
        for query in golden
    ]
    assert told["with_gold"] == len(golden)
    assert told["found"]["value"] == pytest.approx(sum(hits) / len(hits))
    comparison = evaluation.judges[0].comparison
    assert comparison is not None
    base, tuned = matrix(comparison, evaluation.planned.variants)
    assert (base.weights, tuned.weights) == (str(home.models / "tiny"), "wild")
    assert base.without and base.with_rag and tuned.gain and tuned.gain.a == "wild-rag"
    means = {one.variant: one.mean.value or 0.0 for one in comparison.summaries}
    gain = means["wild-rag"] - means["wild"]
    assert tuned.gain.difference.value == pytest.approx(gain)
    names = study_variants(home, "ayane")
    assert names[:2] == ("base", "rag") and names[3] == f"{names[2]}-rag"


def test_one_batch_or_one_after_another_say_the_same(home: Paths) -> None:
    found = []
    for rows in (64, 1):
        evaluate(home, f"rows-{rows}", rows=rows, judges=[])
        replies = read_replies(home.workspace / f"rows-{rows}")
        found.append({reply.task: (reply.text, reply.stop_reason) for reply in replies})
    assert found[0] == found[1] and len(found[0]) == 3 * QUERIES


def test_endpoints_answer_beside_models_and_a_refused_question_is_unscored(home: Paths) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, list[str]]:
        odd = "？" in body["messages"][-1]["content"]
        return (400, []) if odd else (200, ["はい", "ですわ。"])

    with server(answer) as url:
        far = remote(url).model_dump()
        result = evaluate(home, "run", variants=[variant(home, "plain"), far])
        replies = read_replies(home.workspace / "run")
    there = [reply for reply in replies if reply.variant == "remote-test"]
    refused = [reply for reply in there if reply.failed]
    assert {reply.text for reply in there if not reply.failed} == {"はいですわ。"}
    assert 0 < len(refused) == result["failed"] < QUERIES and result["complete"]
    row = result["judges"][0]["summaries"][1]
    assert row["unscored"] == len(refused) and row["replies"] == QUERIES
    assert "could not be had" in result["told"][0]["en"]
    assert "http" not in (home.workspace / "run" / REPLIES).read_text(encoding="utf-8")


def test_an_endpoint_without_a_key_pauses_and_keeps_what_is_there(home: Paths) -> None:
    with server(lambda body: (401, [])) as url:
        far = remote(url).model_dump()
        with pytest.raises(Paused, match="401"):
            evaluate(home, "run", variants=[variant(home, "plain"), far], judges=[])
    assert len(read_replies(home.workspace / "run")) == QUERIES
    assert not partial(home.workspace / "run")["complete"]


def test_a_question_that_does_not_fit_costs_itself_alone(home: Paths) -> None:
    path = home.queries / "few.jsonl"
    rows = [query.model_dump(mode="json") for query in load_queries(path)]
    rows[2]["text"] = "長い話です。" * 400
    write_json_lines(path, rows)
    result = evaluate(home, "run", variants=[variant(home, "plain")])
    (row,) = result["judges"][0]["summaries"]
    assert (row["scored"], row["unscored"], result["failed"]) == (QUERIES - 1, 1, 1)
    (failed,) = [reply for reply in read_replies(home.workspace / "run") if reply.failed]
    assert failed.query == rows[2]["id"] and failed.failed and "tokens" in failed.failed.en


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"insist": False}, "never checked"),
        ({"queries": "nothing"}, "nothing.jsonl"),
        ({"variants": ["nobody"]}, "no variant 'nobody'"),
        ({"variants": ["base", "base"]}, "twice"),
        ({"repeats": 2}, "temperature"),
        ({"splits": ["search"]}, 'split "search"'),
        ({"judges": [{"kind": "endpoint", "model": "m", "rubric": "nothing"}]}, "nothing"),
    ],
)
def test_what_cannot_be_evaluated_says_why(
    home: Paths, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(home, "run", **changes)
    assert not (home.workspace / "run" / REPLIES).exists()


def test_a_query_set_with_faults_is_refused_with_all_of_them(home: Paths) -> None:
    path = home.queries / "few.jsonl"
    rows = [query.model_dump(mode="json") for query in load_queries(path)]
    rows[1]["text"] = rows[0]["text"]
    rows[3]["gold"] = ["空を飛べる。"]
    write_json_lines(path, rows)
    with pytest.raises(UserError) as refused:
        evaluate(home, "run")
    assert "line 2" in str(refused.value) and "line 4" in str(refused.value)
    assert not (home.workspace / "run").exists()


def test_another_state_of_a_checkpoint_does_not_enter_the_same_table(home: Paths) -> None:
    with pytest.raises(Stopped):
        evaluate(home, "run", Watcher("cancel", "replied", 3), judges=[])
    add_adapter(home, "wild", home.models / "tiny", 1, module="o_proj", strength=1.0)
    with pytest.raises(UserError, match="has changed"):
        evaluate(home, "run", judges=[])


def test_the_quote_names_replies_and_calls(home: Paths) -> None:
    told = quote_evaluate(config(home, insist=False), home)
    assert told["replies"] == 3 * QUERIES and told["judges"][0]["calls"] == 3 * QUERIES
    assert told["judges"][0]["quality"] is None
    assert not (home.workspace / "runs").exists()


def test_kept_replies_are_scored_again_in_no_time(home: Paths) -> None:
    """Gate and style alone, from the folder: the same gate, thousands of replies in seconds."""
    evaluate(home, "run")
    evaluation = read_evaluation(home.workspace / "run")
    queries, profile = evaluation.planned.queries, load_profile(home, "ayane")
    scorer = style_scorer(home, profile)
    many = [*evaluation.replies] * 50
    began = time.process_time()
    rows = score_again(many, queries, scorer)
    assert time.process_time() - began < 5 * len(many) / 1000, "5 ms a reply at the very most"
    (judged,) = read_judged(home.workspace / "run")
    gated = {row.variant: 0 for row in rows}
    for row, reply in zip(rows[: len(evaluation.replies)], evaluation.replies, strict=True):
        gated[row.variant] += row.gated
        assert row.gated == any(r.gate for r in judged.records if r.item == reply.task.key)
    assert gated["wild"] and rows[0].ruler != judged.ruler and isinstance(rows[0].ruler, Ruler)


def test_the_shipped_recipe_is_the_studys_matrix(home: Paths) -> None:
    from charllm.data.config import ROOT

    found: Config = EvaluateConfig.load(ROOT / "recipes" / "evaluate-ayane.yaml")
    assert isinstance(found, EvaluateConfig)
    assert found.variants == study_variants(home, "ayane", str(found.variants[2]))
    told = quote_evaluate(found, home)
    assert told["replies"] == 400 and told["judges"][0]["judge"]
    assert EvaluateConfig.from_data(found.model_dump(mode="json"), "again") == found
