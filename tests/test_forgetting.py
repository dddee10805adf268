"""General questions and held-out lines: likelihoods, the report, the verb, the guard of a merge."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from chatting import label, write_card
from merge_home import evolve_config, small_home
from small_models import SHAPE, byte_tokenizer

from charllm.core.evaluation.forgetting import (
    Measured,
    forgetting_report,
    forgetting_table,
    told,
)
from charllm.core.evaluation.forgetting_models import chosen_variants, held_out_lines
from charllm.core.evaluation.general_questions import (
    Answered,
    GeneralQuestion,
    answer_general,
    answered,
    general_folder,
    general_sets,
    load_general,
)
from charllm.core.evaluation.likelihood import Ending, continuation, mean_log_likelihoods
from charllm.core.evaluation.tables import markdown
from charllm.core.merging.evolving import quote_evolve, run_evolve
from charllm.core.merging.journal import read_entries
from charllm.core.merging.splits import LEAST, SPLITS
from charllm.core.variants import find_variant
from charllm.data.config import ROOT, Paths
from charllm.data.errors import UserError
from charllm.data.files import read_json, write_json_lines
from charllm.data.profile import load_profile
from charllm.data.progress import Silent
from charllm.data.text import near_duplicates
from charllm.services import verbs_rag

SHIPPED = Paths(ROOT, ROOT / "workspace")


# ── the shipped questions ─────────────────────────────────────────────────────────────────────────


def test_the_shipped_questions_suffice_for_a_guard_in_every_split_and_language() -> None:
    questions = load_general(SHIPPED)
    counts = Counter((one.language, one.split) for one in questions)
    assert len(counts) == 6 and min(counts.values()) >= LEAST
    assert all(len(one.options) == 4 for one in questions)
    tags = Counter((one.tags[0], one.split) for one in questions)
    assert len(tags) == 15 and min(tags.values()) >= 4, "each kind in each split"
    places = Counter(one.answer for one in questions)
    assert min(places.values()) > len(questions) / 8, "the right option stands anywhere"
    assert near_duplicates([one.text for one in questions], threshold=0.9) == []


def question(**changes: Any) -> dict[str, Any]:
    fields = {
        "id": "q",
        "language": "en",
        "text": "The capital of France is",
        "options": ["Paris", "Rome"],
        "answer": 0,
        "split": "search",
    }
    return {**fields, **changes}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([question(answer=2)], "line 1.*answer 2"),
        ([question(options=["Paris", "Paris "])], "the same"),
        ([question(options=["Paris"])], "options"),
        ([question(), question(text="Another")], "line 2.*'q' stands there already"),
        ([question(), question(id="r", split="report")], "line 2.*'r' stands there already"),
        ([question(split="train")], "line 1.*split"),
    ],
)
def test_a_wrong_question_is_named(paths: Paths, rows: list[Any], words: str) -> None:
    write_json_lines(paths.datasets / "general" / "mine.jsonl", rows)
    with pytest.raises(UserError, match=words):
        load_general(paths, ["mine"])


def test_a_set_that_is_not_there_is_named(paths: Paths) -> None:
    with pytest.raises(UserError, match=r"klingon.*Known: en, ja"):
        load_general(paths, ["ja", "klingon"])
    assert {one.language for one in load_general(paths, ["ja", "ja"])} == {"ja"}


# ── likelihoods ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model() -> Any:
    """A small random Llama in float32, whose every layer matters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig.from_dict({**SHAPE, "vocab_size": 400})).eval()


def test_batched_likelihoods_are_the_models_own_loss(model: Any) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    endings = [
        Ending(torch.randint(0, 400, (length,), generator=generator).tolist(), wanted)
        for length, wanted in ((9, 1), (4, 3), (30, 5), (12, 4), (12, 11), (5, 2))
    ]
    expected = []
    for ids, wanted in endings:
        row = torch.tensor([ids])
        labels = torch.cat([torch.full((1, len(ids) - wanted), -100), row[:, -wanted:]], 1)
        expected.append(-model(input_ids=row, labels=labels).loss.item())
    for rows in (1, 2, 64):
        found = mean_log_likelihoods(lambda n: nullcontext(model), endings, rows)
        assert found == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in expected}) == len(endings)
    assert mean_log_likelihoods(lambda n: nullcontext(model), []) == []


def test_an_option_is_tokenised_where_it_stands(shared: Path) -> None:
    from transformers import AutoTokenizer

    for name in ("llama-2", "llama-3"):
        tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
        for text, more in (("The capital is", " Paris"), ("日本の首都は", "東京")):
            ids, wanted = continuation(tokenizer, text, more)
            assert ids[0] == tokenizer.bos_token_id
            said = [str(tokenizer.decode(part)) for part in (ids[-wanted:], ids[1:])]
            assert said[0].strip() == more.strip() and said[1] == text + more


def test_without_a_beginning_token_something_still_stands_before() -> None:
    tokenizer = byte_tokenizer(eos_token="</s>", pad_token="<pad>")
    ids, wanted = continuation(tokenizer, "a", "b")
    assert len(ids) == 2 and wanted == 1


def test_the_right_option_must_be_the_likeliest_alone() -> None:
    one = GeneralQuestion.from_data(question(options=["a", "b", "c", "d"], answer=1), "here")
    assert answered(one, [-3.0, -1.0, -2.0, -4.0]).right
    assert not answered(one, [-1.0, -1.0, -2.0, -4.0]).right, "a tie is not right"
    assert answered(one, [-2.0] * 4).share == one.chance == 0.25
    shares = [answered(one.model_copy(update={"answer": i}), [-3, -1, -2, -900]) for i in range(4)]
    assert math.isclose(sum(answer.share for answer in shares), 1)


def test_a_model_that_says_one_thing_is_right_where_that_is_asked(paths: Paths) -> None:
    """The small model goes on behind ： with はいですわ。, whatever stands before."""
    small_home(paths)
    from charllm.core.models import load_model, load_tokenizer

    model, tokenizer = (load(paths.models / "tiny") for load in (load_model, load_tokenizer))
    options = ["いいえ", "はい", "さあ", "たぶん"]
    rows = [
        question(id=str(n), language="ja", text=f"{n}：", options=options, answer=n)
        for n in range(4)
    ]
    questions = [GeneralQuestion.from_data(row, "here") for row in rows]
    found = answer_general(lambda n: nullcontext(model), tokenizer, questions)
    assert [one.right for one in found] == [False, True, False, False]


# ── the report ────────────────────────────────────────────────────────────────────────────────────


def measured(
    variant: str, right: str, losses: tuple[float, ...] = (), away: float = 0.0
) -> Measured:
    """``right``: a letter a question, + for a right answer."""
    answers = tuple(
        Answered(f"q{i}", sign == "+", (0.8 if sign == "+" else 0.1) + away)
        for i, sign in enumerate(right)
    )
    lines = {f"line{i}": loss for i, loss in enumerate(losses)}
    return Measured(variant, "base", f"base + {variant}", answers, lines)


def asked(count: int) -> list[GeneralQuestion]:
    rows = [
        question(id=f"q{i}", text=f"q{i}", options=["a", "b", "c", "d"], tags=["odd"] * (i % 2))
        for i in range(count)
    ]
    return [GeneralQuestion.from_data(row, "here") for row in rows]


def test_each_variant_is_set_beside_its_base() -> None:
    base = measured("", "++++++++----" * 2, (4.0, 5.0, 4.5, 4.2))
    worse = measured("worse", "++------+---" * 2, (3.0, 4.0, 3.5, 3.4))
    same = measured("same", "++++++++----" * 2)
    report = forgetting_report([base, worse, same], asked(24))
    first, second, third = report
    assert first.right.value == pytest.approx(8 / 12) and first.right_change is None
    assert second.right_change is not None and second.right_change.high is not None
    assert second.right_change.value == pytest.approx(-5 / 12) and second.right_change.high < 0
    assert len(second.lost) == 12 and second.gained == ("q8", "q20")
    assert second.loss_change is not None and second.loss_change.value == pytest.approx(-0.95)
    assert second.loss_change.high is not None and second.loss_change.high < 0
    assert second.by_tag == {"en": (6, 24), "odd": (2, 12)}
    assert third.lost == third.gained == () and third.loss is None
    said = told(report, asked(24))
    assert "25%" in said[0].en and "has forgotten something" in said[1].en
    assert "no change can be told" in said[2].en and all(text.ja for text in said)
    table = markdown(forgetting_table(report), "ja")
    assert "| worse |" in table and "| base |" in table and "-42%" in table


def test_questions_that_the_base_cannot_answer_are_said_to_show_nothing() -> None:
    base = measured("", "+---" * 6)
    said = told(forgetting_report([base, measured("one", "+---" * 6)], asked(24)), asked(24))
    assert any("too hard" in text.en and "難しすぎる" in text.ja for text in said)


# ── which models, which lines ─────────────────────────────────────────────────────────────────────


def test_only_lines_that_no_adapter_was_trained_on_count(paths: Paths) -> None:
    profile = load_profile(paths, "ayane")
    merged, other = (find_variant(paths, "ayane", name) for name in ("ayane-merged", "ayane-a"))
    lines = held_out_lines(paths, profile, [merged])
    assert len(lines.dialogues) == 11 and lines.remark is None, "a twentieth of 224"
    train = paths.checkpoints / "ayane-a" / "train.yaml"
    train.write_text(train.read_text().replace("split_seed: 0", "split_seed: 1"))
    fewer = held_out_lines(paths, profile, [merged])
    assert {one.id for one in fewer.dialogues} < {one.id for one in lines.dialogues}
    train.write_text(train.read_text().replace("held_out: 0.05", "held_out: 0.0"))
    assert not held_out_lines(paths, profile, [merged]).dialogues
    train.unlink()
    found = held_out_lines(paths, profile, [other])
    assert found.remark is not None and "ayane-a" in found.remark.en and not found.dialogues


def test_the_same_weights_are_asked_once_and_endpoints_are_refused(paths: Paths) -> None:
    names = [one.name for one in chosen_variants(paths, "ayane")]
    assert names == ["ayane-a", "ayane-b", "ayane-merged"], "with RAG they are the same weights"
    assert [one.name for one in chosen_variants(paths, "ayane", ["ayane-a-rag", "ayane-a"])] == [
        "ayane-a-rag"
    ]
    with pytest.raises(UserError, match="nothing-like-it"):
        chosen_variants(paths, "ayane", ["nothing-like-it"])
    with pytest.raises(UserError, match="no trained or merged"):
        chosen_variants(paths, "ayane", ["base"])
    write_card(
        paths.checkpoints / "ayane-b",
        {"kind": "endpoint", "model": "m", "base_url": "http://x/v1", "profile": "ayane"},
    )
    with pytest.raises(UserError, match="endpoint"):
        chosen_variants(paths, "ayane", ["ayane-b"])


@pytest.fixture
def home(paths: Paths) -> Paths:
    small_home(paths)
    for name in ("one", "two"):
        about = {"base": str(paths.models / "tiny"), "profile": "ayane", "label": label(name)}
        write_card(paths.checkpoints / name, about)
    return paths


def test_the_verb_asks_base_and_variants_and_prints_both_forms(home: Paths) -> None:
    options = Namespace(slug="ayane", variants="one, two", sets="en", lines="", json=True)
    data = json.loads(json.dumps(verbs_rag.forgetting(home, options)))
    assert [one["variant"] for one in data["models"]] == ["", "one", "two"]
    assert data["questions"] == 48 and data["chance"] == 0.25 and data["lines"] == []
    base, one, two = data["models"]
    assert len({model["weights"] for model in data["models"]}) == 3
    assert base["share_change"] is None and one["share"] != base["share"] != two["share"]
    assert any("no train.yaml" in text["en"] for text in data["told"])
    again = json.loads(json.dumps(verbs_rag.forgetting(home, options)))
    assert again == data, "nothing is drawn by lot"
    options.json = False
    page = verbs_rag.forgetting(home, options)
    assert page.startswith("# Forgetting") and "| one |" in page


# ── the guard of a merge ──────────────────────────────────────────────────────────────────────────


def test_a_merge_keeps_general_questions_for_every_candidate_in_their_own_splits(
    paths: Paths,
) -> None:
    small_home(paths)
    few = {
        split: [one for one in load_general(paths) if one.split == split][:4] for split in SPLITS
    }
    rows = [one.model_dump(mode="json") for part in few.values() for one in part]
    write_json_lines(paths.datasets / "few.jsonl", rows)
    for name in general_sets(paths):
        (general_folder(paths) / f"{name}.jsonl").unlink()
    (paths.datasets / "few.jsonl").rename(general_folder(paths) / "few.jsonl")
    search = {"max_candidates": 4, "population": 4, "objective": "loss=1, score=1, general=0.5"}
    quick = {"lines_held_out": 0.03, "preset": {"max_new_tokens": 1}}
    config = evolve_config(search=search, **quick)
    without = evolve_config(search={**search, "objective": "loss=1"}, **quick)
    more = quote_evolve(config, paths)["replies"]
    assert more > quote_evolve(without, paths)["replies"]
    folder = paths.workspace / "run"
    run_evolve(config, Silent(), folder, paths)
    split_of = {f"general:{one.id}": one.split for one in load_general(paths)}
    seen: Counter[str] = Counter()
    for entry in read_entries(folder / "search" / "candidates.jsonl"):
        guard = [one for one in entry.outcomes if one.query in split_of]
        assert guard or entry.rung == 1, f"{entry.candidate.id} was asked none"
        assert all(split_of[one.query] == entry.split for one in guard)
        assert all(0 < (one.parts["general"] or 0) < 1 for one in guard)
        assert all(one.parts["general_right"] in (0, 1) for one in guard)
        seen[entry.split] += len(guard)
    assert len(seen) == 3
    rows = [row for row in read_json(folder / "report.json")["rows"] if row["report"]]
    parts = [row["report"]["parts"] for row in rows]
    assert all({"loss", "score", "general", "general_right"} <= part.keys() for part in parts)
    assert len({part["general"] for part in parts}) > 1, "mixtures differ"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general": "klingon"}, "klingon"),
        ({"search": {"objective": "general=-1"}}, "general=-1"),
        ({"search": {"objective": "general=nan"}}, "general=nan"),
        ({"search": {"objective": "general=0"}}, "weight above 0"),
        ({"search": {"objective": "lossy=1"}}, "lossy"),
    ],
)
def test_a_guard_that_cannot_be_is_refused_before_anything_loads(
    paths: Paths, changes: dict[str, Any], words: str
) -> None:
    small_home(paths)
    with pytest.raises(UserError, match=words):
        run_evolve(evolve_config(**changes), Silent(), paths.workspace / "run", paths)


def test_general_questions_are_asked_only_where_they_are_wanted() -> None:
    assert evolve_config().general_sets is None
    assert evolve_config(general="ja, en").general_sets == ("ja", "en")
    named = {"search": {"objective": "score=1, general_right=0.2"}}
    assert evolve_config(**named).general_sets == ()
    assert evolve_config(**named, general="ja").general_sets == ("ja",)
