"""What RAG does for a variant: fact use against hand labels, figures from known replies, the verb.

``labelled_uses.jsonl``: 120 replies of the shipped models and the bare base to questions with gold
facts, drawn at random and labelled by hand: does the reply use its fact?
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from chatting import add_adapter, label, write_card
from small_models import byte_tokenizer, save_model

from charllm.core.evaluation.evaluate_config import EvaluateConfig
from charllm.core.evaluation.evaluating import run_evaluate
from charllm.core.evaluation.fact_use import FactUse, content_words
from charllm.core.evaluation.rag_page import BOTH, HOW, rag_json, rag_page
from charllm.core.evaluation.rag_report import (
    RagReport,
    answers_to,
    pair_of,
    pairs_of,
    rag_report,
)
from charllm.core.evaluation.rag_sweep import sweep
from charllm.core.evaluation.reply_records import Reply
from charllm.core.retrieval import Hit
from charllm.core.variants import Variant
from charllm.data.config import ROOT, Paths
from charllm.data.errors import Text, UserError
from charllm.data.files import json_lines, write_json, write_json_lines
from charllm.data.profile import Profile, load_profile
from charllm.data.progress import Silent
from charllm.data.queries import Query, load_queries
from charllm.services import verbs_rag
from charllm.services.cli import build_parser
from charllm.services.runs import create_run

SHIPPED = Paths(ROOT, ROOT / "workspace")


# ── whether a reply uses a fact ───────────────────────────────────────────────────────────────────


def test_fact_use_agrees_with_hand_labels_nine_times_in_ten() -> None:
    """43 of 49 uses found (recall .88, one of the 6 not to be seen), 43 of 46 found are right."""
    use = {slug: FactUse(load_profile(SHIPPED, slug).facts) for slug in ("ayane", "magnus")}
    rows = [row for _, row in json_lines(Path(__file__).with_name("labelled_uses.jsonl"))]
    seen = [
        (row["uses"], use[row["profile"]].used(row["gold"], row["question"], row["reply"]))
        for row in rows
    ]
    assert len(rows) == 120 and 40 < sum(row["uses"] for row in rows) < 60
    found = [label for label, used in seen if used]
    precision, recall = sum(found) / len(found), sum(found) / sum(label for label, _ in seen)
    assert precision >= 0.93 and recall >= 0.87
    for slug in use:
        part = [pair for pair, row in zip(seen, rows, strict=True) if row["profile"] == slug]
        assert sum(label == bool(used) for label, used in part) / len(part) >= 0.88, slug


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("好きな食べ物はモンブラン。", ("好", "食べ物", "モンブラン")),
        ("年齢は18歳。", ("年齢", "18歳")),
        ("身長は158センチ。", ("身長", "158センチ")),
        ("舞台女優の夢", ("舞台", "女優", "夢")),
        ("りんごが好き", ("りんご", "好")),
        ("His boat is called Patient Meg.", ("boat", "call", "patient", "meg")),
        ("She keeps KEEPING", ("keep",)),
        ("", ()),
    ],
)
def test_content_words(text: str, words: tuple[str, ...]) -> None:
    assert content_words(text) == words


def test_what_the_question_says_is_no_sign_of_the_fact() -> None:
    use = FactUse(["親友の名前は橘美咲。", "母の名前は小野寺佳乃。", "星座はてんびん座。"])
    mother = ["母の名前は小野寺佳乃。"]
    assert use.used(mother, "お母様のお名前は？", "小野寺佳乃と申しますわ。")
    assert not use.used(mother, "お母様のお名前は？", "名前は橘美咲ですわ。")
    assert not use.used(mother, "お母様のお名前は？", "")
    stars = ["星座はてんびん座。"]
    assert use.used(stars, "星座はてんびん座なの？", "ええ、てんびん座ですわ。") is None
    assert use.used([], "元気？", "はい。") is None


def test_a_number_is_not_found_within_another() -> None:
    use = FactUse(["He is 67 years old.", "The tower has 142 steps."])
    assert use.used(["The tower has 142 steps."], "How many steps are there?", "There are 142.")
    assert not use.used(["The tower has 142 steps."], "How many steps?", "There are 1420.")


# ── figures from known replies ────────────────────────────────────────────────────────────────────

FACTS = ("名前は小野寺絢音。", "好きな食べ物はモンブラン。", "好きな花は金木犀。", "血液型はA型。")


def character() -> Profile:
    return load_profile(SHIPPED, "ayane").model_copy(update={"facts": FACTS})


def pair() -> tuple[Variant, Variant]:
    plain = Variant(name="one", label_en="One", label_ja="一", checkpoint="one")
    return plain.model_copy(update={"name": "one-rag", "rag": True}), plain


def reply(variant: str, query: str, text: str, *facts: Hit, failed: Text | None = None) -> Reply:
    shown = tuple(asdict(hit) for hit in facts)
    return Reply(variant, query, 0, text, "end", "prompt", shown, "base + one", failed=failed)


def known() -> RagReport:
    """Four questions: found and used, found in vain, not found, and one that no fact answers."""
    queries = [
        Query(id="food", text="大好物は？", split="report", gold=(FACTS[1],)),
        Query(id="flower", text="どんなお花がお好き？", split="report", gold=(FACTS[2],)),
        Query(id="name", text="どちら様ですか", split="report", gold=(FACTS[0],)),
        Query(id="day", text="いい天気ですね", split="report"),
        Query(id="lost", text="何型？", split="report", gold=(FACTS[3],)),
    ]
    facts = {
        "food": (Hit(FACTS[1], 0.9, True), Hit(FACTS[2], 0.8, False)),
        "flower": (Hit(FACTS[2], 0.9, True), Hit(FACTS[1], 0.9, True)),
        "name": (Hit(FACTS[3], 0.9, True),),
        "day": (Hit(FACTS[3], 0.9, True),),
        "lost": (Hit(FACTS[3], 0.9, True),),
    }
    replies = [
        reply("one-rag", "food", "モンブランですわ。", *facts["food"]),
        reply("one", "food", "おにぎりですわ。"),
        reply("one-rag", "flower", "モンブランですわ。", *facts["flower"]),
        reply("one", "flower", "金木犀ですわ。"),
        reply("one-rag", "name", "わたくしですわ。", *facts["name"]),
        reply("one", "name", "わたくしですわ。"),
        reply("one-rag", "day", "ええ、A型ですわ。", *facts["day"]),
        reply("one", "day", "ええ。"),
        reply("one-rag", "lost", "", *facts["lost"], failed=Text("no", "なし")),
        reply("one", "lost", "A型ですわ。"),
        reply("other", "food", "モンブラン"),
    ]
    return rag_report(character(), pair(), queries, facts, replies)


def test_what_is_shown_held_and_misleading_is_counted_over_questions_both_answered() -> None:
    report = known()
    assert [one.query.id for one in report.answers] == ["food", "flower", "name", "day"]
    assert report.retrieval is not None and report.retrieval.queries == 4
    assert report.retrieval.found.value == pytest.approx(2 / 3)
    assert report.held.value == report.held_without.value == pytest.approx(1 / 3)
    assert report.gain.value == 0 and report.gain.n == 3
    assert report.used.value == 0.5 and report.used.n == 2, "food yes, flower no"
    assert report.unshown.value == 0 and report.unshown.n == 1
    assert report.misled.value == pytest.approx(2 / 3) and report.misled.n == 3
    rows = {row.fact: row for row in report.facts}
    assert (rows[FACTS[1]].held, rows[FACTS[1]].held_without) == (1, 0)
    assert (rows[FACTS[2]].shown, rows[FACTS[2]].held, rows[FACTS[2]].held_without) == (1, 0, 1)
    assert next(iter(rows)) == FACTS[1], "what gains most comes first"


def test_the_replies_of_a_fact_begin_with_those_whose_prompt_showed_it() -> None:
    report = known()
    again = replace(report.answers[0], shown=(), repeat=1)
    more = replace(report, answers=(again, *report.answers))
    assert [one.shown for one in answers_to(more, FACTS[1])] == [(FACTS[1],), ()]
    assert [one.query.id for one in answers_to(report, "")] == ["day"]
    assert answers_to(report, "no such fact") == []


def test_the_page_says_it_in_both_languages_and_names_facts_shown_in_vain() -> None:
    report = known()
    for language, title in (
        ("en", "Shown, but not used"),
        ("ja", "提示されたが使われなかった事実"),
    ):
        page = rag_page(report, [], language)  # type: ignore[arg-type]
        vain = page.split(title)[1]
        assert FACTS[2] in vain and FACTS[1] not in vain
        assert "one-rag / one" in page and "67%" in page
        both = page.split(BOTH.in_(language))[1].split(title)[0]  # type: ignore[arg-type]
        assert HOW.in_(language) in both  # type: ignore[arg-type]
        assert f"| {FACTS[1]} | 大好物は？ | ✓ | モンブランですわ。 | おにぎりですわ。 |" in both
        assert f"| {FACTS[0]} | どちら様ですか | – | わたくしですわ。 | わたくしですわ。 |" in both
    data = json.loads(json.dumps(rag_json(report, [])))
    assert data["held"]["value"] == pytest.approx(1 / 3) and len(data["answers"]) == 4
    assert all(text["en"] and text["ja"] for text in data["told"])


def test_a_pair_needs_the_same_weights_with_and_without_rag() -> None:
    rag, plain = pair()
    other = plain.model_copy(update={"name": "two", "checkpoint": "two"})
    assert pair_of([other, plain, rag], "one") == pair_of([rag, plain], "one-rag") == (rag, plain)
    assert pairs_of([other, plain, rag]) == [(rag, plain)] and pairs_of([other, rag]) == []
    for name in ("two", "nobody"):
        with pytest.raises(UserError, match=f"{name}.*one-rag"):
            pair_of([other, plain, rag], name)
    with pytest.raises(UserError, match="both one-rag and one"):
        rag_report(character(), pair(), [], {}, [])


# ── on real parts ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(paths: Paths) -> Paths:
    """A small model that says one reply whatever it hears, an adapter on it, a few questions."""
    folder = paths.models / "tiny"
    tokenizer = byte_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    chain = tokenizer("：18歳ですわ。", add_special_tokens=False)["input_ids"]
    vocabulary = len(tokenizer)
    end = tokenizer.eos_token_id
    save_model(folder, "llama", vocabulary, [*chain, end], max_position_embeddings=2048)
    made = add_adapter(paths, "one", folder, 0, module="o_proj", strength=0.001)
    write_card(made, {"base": str(folder), "profile": "ayane", "label": label("one")})
    queries = load_queries(paths.queries / "ayane.jsonl")
    few = [
        q for split in ("search", "report") for q in [q for q in queries if q.split == split][:8]
    ]
    write_json_lines(paths.queries / "few.jsonl", [one.model_dump(mode="json") for one in few])
    return paths


def options(**changes: Any) -> Namespace:
    given = {"slug": "ayane", "variant": "one", "run": "", "plot": "", "json": True, **changes}
    return Namespace(**given)


def test_the_verb_reads_the_newest_evaluation_of_the_pair(home: Paths, tmp_path: Path) -> None:
    config = EvaluateConfig.from_data(
        {
            "name": "pair",
            "profile": "ayane",
            "variants": ["one", "one-rag"],
            "queries": "few",
            "preset": {"name": "short", "max_new_tokens": 24},
            "judges": [],
        },
        "the test",
    )
    run = create_run(home, "evaluate", "pair", config)
    result = run_evaluate(config, Silent(), run.folder, home)
    write_json(run.folder / "result.json", result)
    create_run(home, "evaluate", "later", config)  # has not begun: passed over
    data = verbs_rag.rag_report(home, options())
    assert data["run"] == run.id and (data["with_rag"], data["without"]) == ("one-rag", "one")
    assert len(data["answers"]) == 8 and data["retrieval"]["queries"] == 8
    assert data["gain"]["value"] == 0, "this model says the same with RAG and without"
    assert [curve["k"] for curve in data["sweep"]] == [1, 2, 3, 5]
    hits = [curve["best"]["hit_rate"] for curve in data["sweep"]]
    assert hits == sorted(hits) and hits[-1] > 0.5
    assert data["in_use"]["k"] == 3 and 0.7 < data["in_use"]["threshold"] < 0.95
    plot = tmp_path / "curves.html"
    page = verbs_rag.rag_report(home, options(json=False, run=run.id, plot=str(plot)))
    written = plot.read_text(encoding="utf-8")
    assert "Plotly.newPlot" in written and "at most 5" in written and "In use: threshold" in written
    assert "<script src=" not in written and len(written) > 1_000_000, "it needs no network"
    with pytest.raises(UserError, match=r"ends in \.html"):
        verbs_rag.rag_report(home, options(plot="curves.svg"))
    assert page.startswith("# RAG report: one-rag / one") and page.endswith("\n")
    with pytest.raises(UserError, match="no evaluation of magnus"):
        verbs_rag.rag_report(home, options(slug="magnus", run=run.id))


def test_more_facts_never_show_less_and_a_higher_threshold_never_more(home: Paths) -> None:
    profile = load_profile(home, "ayane")
    queries = load_queries(home.queries / "few.jsonl")
    embedder = EvaluateConfig.model_fields["embedder"].default
    one, three = sweep(home, profile, queries, embedder, Silent(), ks=(1, 3))
    for curve in (one, three):
        assert list(curve.shown) == sorted(curve.shown, reverse=True)
        rates = [point.hit_rate for point in curve.points]
        assert rates == sorted(rates, reverse=True) and max(curve.shown) <= curve.k
        assert curve.best in curve.points and curve.report is not None
    shown = {point.threshold: n for point, n in zip(one.points, one.shown, strict=True)}
    assert all(
        n >= shown.get(point.threshold, 0)
        for point, n in zip(three.points, three.shown, strict=True)
    )
    wrong = [query.model_copy(update={"gold": ("そんな事実はない。",)}) for query in queries]
    with pytest.raises(UserError, match="そんな事実はない"):
        sweep(home, profile, wrong, embedder, Silent())
    without = [query.model_copy(update={"gold": ()}) for query in queries]
    with pytest.raises(UserError, match="cannot be compared"):
        sweep(home, profile, without, embedder, Silent())


def test_the_command_line_knows_both_verbs() -> None:
    parser = build_parser()
    for words, handler in (
        (["rag-report", "ayane", "--variant", "one", "--json"], verbs_rag.rag_report),
        (["rag-report", "ayane", "--plot", "curves.html"], verbs_rag.rag_report),
        (["forgetting", "ayane", "--variants", "one,two"], verbs_rag.forgetting),
    ):
        assert parser.parse_args(words).handler is handler
