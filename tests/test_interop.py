"""An evaluation taken further: lm-evaluation-harness, Inspect, pairs, study's tables, the desk.

Where the other programs are installed they read and run what we write; everywhere the files are
checked by their form, and our functions in them are called.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chatting import add_adapter, add_recipe
from judge_server import Asked, serving
from judge_server import Reply as Answer
from small_models import byte_tokenizer, qwen_tokenizer, save_model

from charllm.core import completing
from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.inspect_log import write_inspect
from charllm.core.evaluation.lm_eval_task import METRICS, read_scorer, write_task
from charllm.core.evaluation.matches import TIE, habits
from charllm.core.evaluation.pair_runs import judge_pairs, quote_pairs
from charllm.core.evaluation.reply_records import REPLIES, read_replies
from charllm.core.evaluation.scoring_replies import RECORDS, read_judged
from charllm.core.evaluation.verdict_files import read_verdicts
from charllm.core.judging.judges import JudgeConfig
from charllm.core.judging.score import style_scorer
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json, write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Silent
from charllm.data.prompts import build_messages, get_template, prompt_text
from charllm.data.queries import load_queries
from charllm.services import jobs, verbs_interop
from charllm.services.cli import main
from charllm.services.desk import Desk, Who, agreements
from charllm.services.evaluated import keep_verdicts, run_evaluate
from charllm.services.runs import Run
from charllm.services.store import Store

QUERIES = 5
VARIANTS = ("plain", "one", "two", "mix", "calm")


def new_home(folder: Path) -> Paths:
    paths = Paths(folder / "root", folder / "workspace")
    for name in ("profiles", "datasets", "rubrics"):
        shutil.copytree(ROOT / name, paths.root / name)
    report = [q for q in load_queries(paths.queries / "ayane.jsonl") if q.split == "report"]
    rows = [q.model_dump(mode="json") for q in report[:QUERIES]]
    write_json_lines(paths.queries / "few.jsonl", rows)
    return paths


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task folder, for a model without a chat template."""
    folder = tmp_path_factory.mktemp("task")
    write_task(new_home(folder), "ayane", folder / "out", queries="few", template="plain-ja")
    return folder / "out"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Two models that say one thing each, two adapters that ramble, and their merge."""
    paths = new_home(tmp_path_factory.mktemp("interop"))
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = byte_tokenizer(words="はいですわ。質問", **ends)
    model = paths.models / "tiny"
    for folder, reply in ((model, "はいですわ。"), (paths.models / "calm", "はい質問。")):
        tokenizer.save_pretrained(folder)
        chain = tokenizer(f"：{reply}", add_special_tokens=False)["input_ids"]
        save_model(folder, "llama", len(tokenizer), [*chain, 2], max_position_embeddings=4096)
    for seed, name in enumerate(("one", "two")):
        add_adapter(paths, name, model, seed, module="o_proj", strength=1.0)
    add_recipe(paths, "mix", str(model), ("one", "two"))
    return paths


@pytest.fixture(scope="module")
def run(home: Paths) -> Run:
    fields = {
        "name": "small",
        "profile": "ayane",
        "variants": [
            {
                "name": name,
                "label_en": name,
                "label_ja": name,
                "model": str(home.models / ("calm" if name == "calm" else "tiny")),
                "checkpoint": name if name in ("one", "two", "mix") else "",
            }
            for name in VARIANTS
        ],
        "queries": "few",
        "preset": {"name": "short", "max_new_tokens": 12, "temperature": 1.0},
        "repeats": 2,
        "insist": True,
    }
    config = EvaluateConfig.from_data(fields, "the test")
    made = jobs.submit(home, "evaluate", "small", config)
    run_evaluate(config, Silent(), made.folder, home)
    return made


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(run.folder, tmp_path / "copy"))


# lm-evaluation-harness


def utils_of(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("task_utils", folder / "utils.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Loader(yaml.SafeLoader):
    """Reads the harness' tags as the words behind them."""


_Loader.add_constructor("!function", lambda loader, node: ("function", node.value))


def test_the_task_names_our_functions_and_every_metric(written: Path) -> None:
    text = (written / "charllm_ayane.yaml").read_text(encoding="utf-8")
    task = yaml.load(text, _Loader)
    assert task["output_type"] == "generate_until" and task["test_split"] == "test"
    utils = utils_of(written)
    for field in ("custom_dataset", "process_results"):
        kind, name = task[field]
        assert kind == "function" and callable(getattr(utils, name.removeprefix("utils.")))
    assert {metric["metric"] for metric in task["metric_list"]} == set(METRICS)
    assert all(metric["aggregation"] == "mean" for metric in task["metric_list"])
    assert "質問：" in task["generation_kwargs"]["until"]
    assert "root" not in text, "a task can be carried to another machine"


def test_its_questions_are_asked_in_the_words_of_the_chat(written: Path, home: Paths) -> None:
    rows = utils_of(written).dataset(version="passed on by the harness")["test"]
    queries = load_queries(home.queries / "few.jsonl")
    assert list(rows["id"]) == [query.id for query in queries]
    profile = load_profile(home, "ayane")
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    for row, query in zip(rows, queries, strict=True):
        messages = build_messages(profile, query.text, facts=None)
        said = prompt_text(get_template("plain-ja"), tokenizer, messages)
        assert row["prompt"] == said.removeprefix("<s>") and row["system"] == ""


def prompts_of(home: Paths, out: Path, template: str, tokenizer: Any, fact: str) -> tuple[str, str]:
    """The first prompt of a task with retrieval, and what the chat makes of it, as text."""
    write_task(home, "ayane", out, queries="few", template=template, facts=lambda _: [fact])
    row = json.loads((out / "questions.jsonl").read_text(encoding="utf-8").split("\n")[0])
    messages = build_messages(load_profile(home, "ayane"), row["question"], facts=[fact])
    return row["prompt"], prompt_text(get_template(template), tokenizer, messages)


def test_families_with_control_tokens_and_facts_are_written_alike(
    home: Paths, tmp_path: Path
) -> None:
    fact = "好きな季節は秋。"
    prompt, said = prompts_of(home, tmp_path / "task", "chatml", qwen_tokenizer(), fact)
    assert prompt == said and fact in said and said.startswith("<|im_start|>system")
    assert (tmp_path / "task" / "charllm_ayane_rag.yaml").is_file()


def test_the_studys_family_is_written_as_it_is_prompted(
    home: Paths, shared: Path, tmp_path: Path
) -> None:
    from charllm.core.models import load_tokenizer

    tokenizer = load_tokenizer(shared / "tokenizers" / "llama-2")
    prompt, said = prompts_of(home, tmp_path / "task", "llama-2", tokenizer, "好きな季節は秋。")
    assert prompt == said.removeprefix("<s>").lstrip() and prompt.startswith("[INST] <<SYS>>")


def test_a_models_own_template_is_left_to_the_harness(home: Paths, tmp_path: Path) -> None:
    told = write_task(home, "ayane", tmp_path / "task", queries="few")
    assert told["questions"] == QUERIES and told["template"] == "tokenizer"
    row = json.loads((tmp_path / "task/questions.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert row["prompt"] == row["question"] and "お嬢様" in row["system"]


def test_it_scores_as_we_do_whatever_becomes_of_the_profile(written: Path, home: Paths) -> None:
    utils, ours = utils_of(written), style_scorer(home, load_profile(home, "ayane"))
    doc = dict(utils.dataset()["test"][0])
    for reply in ("わたくし、秋が好きですわ。", "ぼくは秋が好きだぜ。", "はいです" * 40, ""):
        found = utils.process_results(doc, [f"{reply}\n"])
        expected = ours.score(doc["question"], reply)
        assert found["score"] == pytest.approx(expected.score)
        assert found["passed"] == float(not expected.gate) and found["length"] == len(reply)
        assert ("style" in found) == (not expected.gate) and found["unscored"] == 0.0
    assert read_scorer(written).judge == ours.judge == "embedded-without-relevance"


def test_what_cannot_become_a_task_says_why(home: Paths, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there already"):
        write_task(home, "ayane", tmp_path)
    with pytest.raises(UserError, match="no template 'x'"):
        write_task(home, "ayane", tmp_path / "new", template="x")
    with pytest.raises(UserError, match=r"none.jsonl"):
        write_task(home, "ayane", tmp_path / "new", queries="none")
    (home.datasets / "ayane.jsonl").rename(tmp_path / "lines")
    try:
        with pytest.raises(UserError, match="Style is not scored"):
            write_task(home, "ayane", tmp_path / "new", queries="few")
    finally:
        (tmp_path / "lines").rename(home.datasets / "ayane.jsonl")
    assert not (tmp_path / "new").exists()


def test_the_harness_itself_runs_it(
    written: Path, home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    result = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(home.models / "tiny"), "dtype": "float32"},
        tasks=["charllm_ayane"],
        task_manager=TaskManager(include_path=str(written), include_defaults=False),
        limit=4,
        batch_size=4,
        device="cpu",
        gen_kwargs={"max_gen_toks": 12},
        log_samples=True,
    )
    figures = result["results"]["charllm_ayane"]
    assert figures["passed,none"] == 1.0 and figures["length,none"] == len("はいですわ。")
    scorer = read_scorer(written)
    samples = result["samples"]["charllm_ayane"]
    said = [scorer.score(s["doc"]["question"], s["filtered_resps"][0]).score for s in samples]
    assert len(samples) == 4
    assert figures["score,none"] == pytest.approx(sum(map(float, filter(None, said))) / 4)


# Inspect


def test_a_log_has_every_reply_with_its_verdict(run: Run, tmp_path: Path) -> None:
    files = write_inspect(run.folder, tmp_path / "log.json")
    assert [file.name for file in files] == [f"log-{name}.json" for name in VARIANTS]
    log = read_json(files[1])
    assert (log["version"], log["status"], log["eval"]["model"]) == (2, "success", "charllm/one")
    assert log["eval"]["dataset"]["samples"] == QUERIES and log["eval"]["config"]["epochs"] == 2
    replies = {r.task: r for r in read_replies(run.folder) if r.variant == "one"}
    assert len(log["samples"]) == len(replies) == 2 * QUERIES
    (judged,) = read_judged(run.folder)
    records = {record.item: record for record in judged.records}
    for sample in log["samples"]:
        reply = replies[("one", sample["id"], sample["epoch"] - 1)]  # type: ignore[index]
        assert sample["output"]["completion"] == reply.text
        assert sample["messages"][0]["content"] == reply.prompt
        (score,) = sample["scores"].values()
        assert score["value"] == records[reply.task.key].score
        assert score["metadata"]["gate"] == list(records[reply.task.key].gate)
    (figures,) = log["results"]["scores"]
    report = read_json(run.folder / "report.json")["judges"][0]["summaries"][1]
    assert figures["metrics"]["mean"]["value"] == report["mean"]["value"]
    assert figures["metrics"]["gated"]["value"] == report["gated"] > 0


def test_unscored_failed_and_missing_are_three_things(copied: Path, tmp_path: Path) -> None:
    (records,) = copied.glob(f"judges/*/{RECORDS}")
    rows = [json.loads(line) for line in records.read_bytes().splitlines()]
    unscored = {"score": None, "unscored": {"en": "no verdict", "ja": "判定なし"}, "gate": []}
    mine = [row for row in rows if row["item"].startswith("plain/")]
    mine[0] |= unscored
    write_json_lines(records, [row for row in rows if row not in mine[1:3]])
    replies = [json.loads(line) for line in (copied / REPLIES).read_bytes().splitlines()]
    failed = next(
        row for row in replies if f"plain/{row['query']}/{row['repeat']}" == mine[2]["item"]
    )
    failed["failed"] = {"en": "too long", "ja": "長すぎます"}
    write_json_lines(copied / REPLIES, replies)
    (file,) = write_inspect(copied, tmp_path / "log.json", ["plain"])
    log = json.loads(file.read_text(encoding="utf-8"))
    assert log["status"] == "cancelled", "one verdict is still missing"
    found = {f"plain/{s['id']}/{s['epoch'] - 1}": s for s in log["samples"]}
    (score,) = found[mine[0]["item"]]["scores"].values()
    assert math.isnan(score["value"]) and "no verdict" in score["explanation"]
    assert found[mine[1]["item"]]["scores"] == {}
    assert found[mine[2]["item"]]["error"]["message"] == "too long"
    (figures,) = log["results"]["scores"]
    assert figures["unscored_samples"] == 2 and figures["metadata"]["waiting"] == 1


def test_an_eval_file_is_the_same_log_in_parts(run: Run, tmp_path: Path) -> None:
    (packed,) = write_inspect(run.folder, tmp_path / "log.eval", ["mix"])
    (plain,) = write_inspect(run.folder, tmp_path / "log.json", ["mix"])
    log = read_json(plain)
    with zipfile.ZipFile(packed) as file:
        parts = {name: json.loads(file.read(name)) for name in file.namelist()}
    samples = log.pop("samples")
    assert parts.pop("header.json") == log
    assert [row["id"] for row in parts.pop("summaries.json")] == [row["id"] for row in samples]
    assert parts.pop("_journal/start.json")["eval"] == log["eval"]
    assert parts == {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples}


def test_inspect_itself_reads_both(run: Run, tmp_path: Path) -> None:
    reader = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    for form in ("eval", "json"):
        (file,) = write_inspect(run.folder, tmp_path / f"log.{form}", ["one"])
        header = reader.read_eval_log(str(file), header_only=True)
        assert header.status == "success" and header.results.scores[0].metrics["mean"].value
        log = reader.read_eval_log(str(file))
        assert len(log.samples) == 2 * QUERIES
        assert log.samples[0].score.value == next(iter(log.samples[0].scores.values())).value


def test_what_is_no_log_says_so(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.eval or \.json"):
        write_inspect(run.folder, tmp_path / "log.txt")
    with pytest.raises(UserError, match="no variant 'nobody'"):
        write_inspect(run.folder, tmp_path / "log.json", ["nobody"])


# Pairs


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    completing._refused.clear()
    yield


def first_wins(asked: Asked) -> Answer:
    return Answer(content=json.dumps({"reasons": "理由です。", "score": 1}))


def test_an_evaluations_replies_meet_in_pairs_once(home: Paths, copied: Path) -> None:
    """Torn by a kill and resumed: kept verdicts stay, and nobody is asked twice."""
    with serving(first_wins) as server:
        config = JudgeConfig(
            kind="endpoint", model="judge-1", base_url=server.url, rubric="personality"
        )
        told = quote_pairs(copied, config, home, against="plain")
        found = judge_pairs(copied, config, Silent(), home, against="plain")
        before = server.requests
        assert 0 < before <= told.calls, "equal repeats may be answered by one call"
        (path,) = (copied / "pairs").glob("*.jsonl")
        kept = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(kept[:3]) + kept[3][:20])
        again = judge_pairs(copied, config, Silent(), home, against="plain")
        assert server.requests == before, "the answers were kept"
    assert len(found) == len(again) == told.items == 4 * 2 * QUERIES
    assert path.read_bytes().startswith(b"".join(kept[:3]))
    assert {(m.a, m.b, m.query, m.winner) for m in found} == {
        (m.a, m.b, m.query, m.winner) for m in again
    }
    asked = [m for m in found if m.looks]
    assert asked and all(m.winner == TIE for m in asked), "both orders, and they disagree"
    assert habits(found).first_place.value == 1.0
    assert {m.cluster for m in found} == {q.id for q in load_queries(home.queries / "few.jsonl")}
    as_others_read_it = sorted(read_verdicts(path, VARIANTS), key=lambda m: (m.b, m.query))
    assert as_others_read_it == sorted(again, key=lambda m: (m.b, m.query))


def test_a_chat_model_of_this_machine_judges_pairs(home: Paths, copied: Path) -> None:
    """Its verdict is a place: both orders make a tie of it. Then it is gone, its answers not."""
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = byte_tokenizer(words="質問：回答", **ends)
    folder = home.models / "umpire"
    tokenizer.save_pretrained(folder)
    one = tokenizer("1", add_special_tokens=False)["input_ids"]
    colon = tokenizer("：", add_special_tokens=False)["input_ids"][-1:]
    save_model(folder, "llama", len(tokenizer), [*colon, *one, 2], max_position_embeddings=8192)
    config = JudgeConfig(kind="local", model=str(folder), rubric="personality", max_tokens=16)
    rows = [json.loads(line) for line in (copied / REPLIES).read_bytes().splitlines()]
    first = rows[0]["query"]
    write_json_lines(copied / REPLIES, [row for row in rows if row["query"] == first])
    told = quote_pairs(copied, config, home, against="plain")
    found = judge_pairs(copied, config, Silent(), home, against="plain")
    asked = [match for match in found if match.looks]
    assert told.calls == 2 * len(asked) > 0 and len(found) == told.items
    assert {match.looks for match in asked} == {(m.a, m.b) for m in asked}
    assert all(match.winner == TIE and match.source.startswith("local:umpire@") for match in asked)
    assert any(match.gate_b and match.winner == "plain" for match in found)
    (path,) = (copied / "pairs").glob("local-umpire*.jsonl")
    path.unlink()
    assert quote_pairs(copied, config, home, against="plain").calls == 0
    again = judge_pairs(copied, config, Silent(), home, against="plain")
    assert sorted(m.as_json()["query"] for m in again) == sorted(m.query for m in found)


def test_one_variant_has_nobody_to_meet(home: Paths, copied: Path) -> None:
    plan = read_json(copied / "plan.json")
    plan["variants"] = plan["variants"][:1]
    write_json(copied / "plan.json", plan)
    config = JudgeConfig(kind="endpoint", model="m", base_url="http://127.0.0.1:9")
    with pytest.raises(UserError, match="one variant"):
        quote_pairs(copied, config, home)


# The study's tables, the desk, and the command line


def test_the_studys_tables_say_what_it_left_out(home: Paths, run: Run) -> None:
    options = argparse.Namespace(run=run.id, markdown=False)
    told = verbs_interop.study_table(home, options)
    (judge,) = told["judges"]
    lines = {line["model"]: line for line in judge["experiment"]}
    assert [line["kind"] for line in lines.values()] == ["base", "tuned", "tuned", "merged", "base"]
    report = read_json(run.folder / "report.json")["judges"][0]
    for summary in report["summaries"]:
        line = lines[summary["variant"]]
        assert (line["mean"], line["low"]) == (summary["mean"]["value"], summary["mean"]["low"])
        for column in ("replies", "unscored", "gated"):
            assert line[column] == summary[column]
        assert line["n"] == QUERIES
    better = max(("one", "two"), key=lambda name: lines[name]["mean"])
    assert lines["mix"]["parent"] == better and lines["one"]["parent"] is None
    gain = lines["mix"]["mean"] - lines[better]["mean"]
    assert lines["mix"]["gain"]["value"] == pytest.approx(gain)
    assert judge["matrix"][0]["without"]["variant"] == "plain"
    options.markdown = True
    page = verbs_interop.study_table(home, options)
    assert "| mix | merged |" in page and "Better parent" in page and "[" in page


def test_verdicts_reach_the_desk_and_the_agreement_page(
    home: Paths, run: Run, tmp_path: Path
) -> None:
    assert keep_verdicts(home, run.folder) == 0, "the run's end has kept them, and none twice"
    elsewhere = Paths(home.root, tmp_path / "workspace")
    assert keep_verdicts(elsewhere, run.folder) > 0, "a run that ended without a store"
    store = Store(home)
    try:
        assert store.sources("ayane") == [run.id]
        subjects = store.subjects("ayane", run.id)
        assert len(subjects) == len(VARIANTS) * QUERIES * 2
        (row,) = agreements(store, "ayane", run.id)
        (judged,) = read_judged(run.folder)
        assert row.who == Who(*judged.ruler)
        desk = Desk(store, "ayane", row.who, "Hana", run.id)
        card = desk.next()
        assert card and card.question in {s.question for s in subjects}
        desk.give(card.subject, 6)
        (checked,) = agreements(store, "ayane", run.id)
        assert checked.agreement.n == 1
    finally:
        store.close()


def test_the_command_line_does_all_of_it(
    home: Paths, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(Paths, "default", staticmethod(lambda: home))

    def said(*words: str) -> Any:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    made = said("lm-eval-task", "ayane", "--out", str(tmp_path / "task"), "--queries", "few")
    assert made["task"] == "charllm_ayane" and made["questions"] == QUERIES
    logs = said("export-inspect", run.id, "--to", str(tmp_path / "a.eval"), "--variant", "mix")
    assert logs["files"] == [str(tmp_path / "a.eval")]
    assert said("study-table", run.id)["complete"] is True
    assert said("judgements", "keep", run.id)["run"] == run.id
    with serving(first_wins) as server:
        judge = ("--model", "j", "--base-url", server.url, "--rubric", "personality")
        quote = said("pairs", run.id, *judge, "--against", "plain", "--quote")
        found = said("pairs", run.id, *judge, "--against", "plain")
        assert 0 < server.requests <= quote["calls"] and found["matches"] == quote["items"]
    assert {row["model"] for row in found["ratings"]} == set(VARIANTS)
    assert main(["study-table", "nothing"]) == 2
