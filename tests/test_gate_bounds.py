"""The measured bounds of gate and style, on real dialogues: OjousamaTalkScript's and our own.

Every line of a character is spoilt in each of the ways below, in forms drawn by a seed; the gate
must stop nearly all of these and nearly none of the lines themselves. ``-s`` prints the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from charllm.core.judging.gate import Gate
from charllm.core.judging.style import cross_validated_auc
from charllm.core.judging.twins import neutralise
from charllm.data.config import ROOT, Paths
from charllm.data.dialogue import dataset_path, load_dialogues
from charllm.data.profile import Profile, Speech, load_profile

Pairs = list[tuple[str, str]]
HOME = Paths(ROOT, ROOT / "workspace")

LADY = Profile(
    slug="ojousama",
    name="お嬢様",
    persona="裕福な家に育った高校生の女の子。家族を大切にし、誰に対しても丁寧な言葉で話す。",
    speech=Speech(
        first_person="わたくし",
        endings=(
            "ですわ", "ますわ", "ましたわ", "ませんわ", "ですの", "ますの", "ましたの", "ませんの",
            "ですのよ", "ますのよ", "ですわね", "ますわね", "くださいませ", "いませ", "なさって",
        ),
    ),
    reply_length=30,
    facts=(
        "高校に通う18歳の女の子。",
        "ミュージカルが好きで、ミュージカル女優に憧れていた。",
        "両親は不動産の仕事をしている。",
        "兄はアメリカに留学している。",
        "バイオリンを子供のころから習っている。",
        "一時期、祖父の住む長野で暮らしていた。",
        "現在は東京に住んでいる。",
        "大学では法律と会計を学びたい。",
        "好きな飲み物は紅茶。",
        "好きな季節は秋。",
    ),
)  # fmt: skip


@pytest.fixture(params=["ojousama", "ayane", "magnus"])
def character(request: pytest.FixtureRequest) -> tuple[Profile, Pairs]:
    """A profile with the questions and replies of its real dialogues."""
    if request.param == "ojousama":
        return LADY, ojousama(request.getfixturevalue("shared"))
    dialogues = load_dialogues(dataset_path(HOME, request.param))
    return load_profile(HOME, request.param), [(d.question, d.reply) for d in dialogues]


def ojousama(shared: Path) -> Pairs:
    path = shared / "data" / "ojousama" / "ojousamatalkscript200.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"].removesuffix(" ->"), row["completion"].strip()) for row in rows]


TURNS = (
    " [/INST] {r} [INST] {q}",
    "</s><s>[INST] {q} [/INST] {r}",
    "<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{r}",
    "<end_of_turn>\n<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n{r}",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>{r}",
    "\nUSER: {q} ASSISTANT: {r}",
    "\n### Instruction:\n{q}\n\n### Response:\n{r}",
    "\n質問：{q}\n回答：{r}",
    "\nHuman: {q}\nAI: {r}",
    "\nuser\n{q}\nmodel\n{r}",
)
LEAKS = (
    "</s>", "<s>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "<pad>",
    " [/INST]", "<</SYS>>", "<|end_of_text|>", "\n### Response:", "<unused12>", "{{char}}", "```",
    "<|assistant|>", "<|user|>\n", "</think>", "<start_of_turn>model", "\n<br>", "</answer>",
    ' {"score": 7}',
)  # fmt: skip
AS_AI = {
    "ja": (
        "申し訳ありませんが、AIアシスタントとして、そのご質問にはお答えできません。",
        "私はAIですので、個人的な経験はございません。",
        "人工知能なので、感情を持つことはできません。",
        "大規模言語モデルとしてお答えします。{r}",
        "AIとして申し上げますと、{r}",
        "{r}……と言いたいところですが、私はAIですから、実際に体験したことはありません。",
        "私はOpenAIによって訓練された言語モデルです。",
        "AI言語モデルである私には、好みというものがありません。",
        "チャットボットの私には分かりかねます。",
        "私は人工知能アシスタントです。何かお手伝いできることはありますか？",
        "私はプログラムですので、食べ物を味わうことはできません。",
        "{r}ただし、AIの私には体がありません。",
    ),
    "en": (
        "As an AI language model, I don't have personal preferences.",
        "I'm just a virtual assistant, so I can't answer that.",
        "I am an AI, so I have no feelings about this. {r}",
        "{r} But as an artificial intelligence, I cannot really know.",
        "Being a large language model, I have never been there.",
        "I'm an AI assistant created to help you.",
        "As a chatbot, I don't eat or drink.",
        "I am a language model trained by OpenAI.",
        "I'm a computer program, so I have no birthday.",
        "I don't have feelings because I'm only an AI.",
        "Since I'm an AI model, I cannot have a favourite.",
        "As your AI assistant, I can only offer general advice.",
    ),
}

Spoil = Callable[[Profile, Pairs, Random, str], str]


def runaway(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    turn = random.choice(TURNS)
    return reply + "".join(turn.format(q=q, r=r) for q, r in random.sample(pairs, 3))


def bare_runaway(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    text = reply
    while len(text) <= 4 * profile.reply_length:
        query, other = random.choice(pairs)
        text += f" {query} {other}"
    return text


def loop(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    join = random.choice(["", " ", "\n"])
    unit = random.choice([reply, random.choice(pairs)[1]])
    return join.join([reply, *[unit] * random.randint(3, 8)])


def tail_loop(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    """The end of the line over and over, as a small model does that finds no way out."""
    size = random.randint(5, 9) if profile.language == "ja" else random.randint(9, 16)
    return reply + (reply[-size:].strip() + random.choice(["", " "])) * random.randint(6, 12)


def leak(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    mark, place = random.choice(LEAKS), random.choice(["before", "behind"])
    return f"{mark}{reply}" if place == "before" and "\n" not in mark else f"{reply}{mark}"


def dump(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    facts = random.sample(profile.facts, random.randint(4, 8))
    stop = "" if profile.language == "ja" else " "
    told = random.choice([stop, "\n", "\n- ", "\n・", "、" if profile.language == "ja" else ", "])
    trimmed = [fact.rstrip("。.") if told in ("、", ", ") else fact for fact in facts]
    return random.choice(["", reply + told]) + told.join(trimmed)


def as_ai(profile: Profile, pairs: Pairs, random: Random, reply: str) -> str:
    return random.choice(AS_AI[profile.language]).format(r=reply)


SPOILT: dict[str, Spoil] = {
    "runaway": runaway,
    "runaway without markup": bare_runaway,
    "loop": loop,
    "tail loop": tail_loop,
    "leak": leak,
    "dump": dump,
    "as an AI": as_ai,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_the_gate_stops_what_is_spoilt(kind: str, character: tuple[Profile, Pairs]) -> None:
    profile, pairs = character
    gate, random = Gate(profile), Random(kind)
    passed = []
    for query, reply in pairs:
        text = SPOILT[kind](profile, pairs, random, reply)
        if not gate.check(text, query=query):
            passed.append((query, text))
    share = 1 - len(passed) / len(pairs)
    print(f"\n{profile.slug}: {kind}: {share:.1%} of {len(pairs)} stopped")
    assert share >= 0.99, passed


def test_the_gate_lets_the_lines_themselves_pass(character: tuple[Profile, Pairs]) -> None:
    profile, pairs = character
    gate = Gate(profile)
    stopped = [(q, r, f) for q, r in pairs if (f := gate.check(r, query=q, stop_reason="end"))]
    print(f"\n{profile.slug}: {len(stopped)} of {len(pairs)} lines wrongly stopped")
    assert len(stopped) <= 0.02 * len(pairs), stopped


def test_style_tells_the_character_apart(character: tuple[Profile, Pairs]) -> None:
    """Cross-validated, a line and its twin in one fold; the mean of three ways to fold.

    The others that the Ojousama is held against are 絢音's replies without her marks: what a polite
    young woman says to such questions. 絢音 is held against the Ojousama's. Magnus, the only one
    who speaks English, has nobody: his marks must tell him from prompts and twins.
    """
    profile, pairs = character
    lines = list(dict.fromkeys(reply for _, reply in pairs))
    groups = {"prompts": list(dict.fromkeys(query for query, _ in pairs))}
    if others := polite_lines(profile):
        groups["others"] = others
    folds = [cross_validated_auc(lines, groups, profile, seed=seed) for seed in range(3)]
    auc = {name: sum(fold[name] for fold in folds) / 3 for name in folds[0]}
    print(f"\n{profile.slug}: " + ", ".join(f"{n} {value:.3f}" for n, value in auc.items()))
    assert auc["prompts"] >= 0.97
    assert auc.get("others", 1.0) >= 0.97
    assert auc["twins"] >= 0.93


def polite_lines(profile: Profile) -> list[str]:
    """Replies of another Japanese character, in plain polite words."""
    if profile.slug == "magnus":
        return []
    if profile.slug == "ayane":
        shared = ROOT.parent / "shared"
        pairs, other = (ojousama(shared), LADY) if shared.is_dir() else ([], LADY)
    else:
        dialogues = load_dialogues(dataset_path(HOME, "ayane"))
        pairs, other = [(d.question, d.reply) for d in dialogues], load_profile(HOME, "ayane")
    return [twin for _, reply in pairs if (twin := neutralise(reply, other))]
