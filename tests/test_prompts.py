"""Prompts and labels: golden ids of real tokenizers, and what users type stays text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.profile import Profile, SystemPrompt
from charllm.data.prompts import (
    IGNORED,
    TEMPLATES,
    Row,
    build_messages,
    check_rows,
    end_ids,
    get_template,
    labelled_row,
    labels_of,
    learnt_spans,
    prompt_ids,
    prompt_text,
    reply_ids,
)

REPLY = "こんにちは。お会いできて嬉しいですわ。"
STUDY = [
    *(13, 30589, 30389, 30353, 30644, 30449, 30267, 30697, 30437, 30298, 30499, 30538, 30466),
    *(232, 175, 140, 30326, 30298, 30499, 30427, 31068, 30267),
]
"""The labels the study printed; its missing one is the end token behind them."""

CASES = [
    *(("llama-2", name) for name in ("llama-2", "vicuna", "plain-ja", "plain-en")),
    *(("llama-2", "instruction-ja"), ("mistral-v0.1", "mistral"), ("mistral-v0.1", "plain-en")),
    *(("llama-3", name) for name in ("llama-3", "plain-ja", "tokenizer")),
    *(("gemma", name) for name in ("gemma", "plain-ja", "plain-en")),
]


def said(role: Any, content: str) -> Message:
    return Message(role=role, content=content)


SYSTEM = said("system", "あなたはお嬢様です。")
QUESTION = said("user", "名前は？")
TALK = [SYSTEM, said("user", "はじめまして"), said("assistant", "はい。"), QUESTION]


@cache
def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """The tokenizer named by the parameter; gemma is the embedded model's."""
    if request.param == "gemma":
        return load(request.getfixturevalue("base_folder"))
    return load(request.getfixturevalue("shared") / "tokenizers" / request.param)


def learnt(row: Row) -> list[int]:
    return [label for label in row.labels if label != IGNORED]


@pytest.mark.parametrize("tokenizer", ["llama-2"], indirect=True)
def test_llama_2_gives_the_studys_labels_and_the_one_it_missed(tokenizer: Any) -> None:
    row = labelled_row(get_template("llama-2"), tokenizer, [SYSTEM, QUESTION], REPLY)
    assert learnt(row) == [*STUDY, 2]
    assert row.input_ids[:4] == [1, 518, 25580, 29962]  # <s> ▁[ INST ]
    assert row.labels[-len(STUDY) - 1 :] == [*STUDY, 2]
    assert prompt_text(get_template("llama-2"), tokenizer, [SYSTEM, QUESTION]).endswith(
        "[INST] <<SYS>>\nあなたはお嬢様です。\n<</SYS>>\n\n名前は？ [/INST]"
    )


@pytest.mark.parametrize(
    ("tokenizer", "name", "head", "labels"),
    [
        (
            *("llama-3", "llama-3", [128000, 128006, 9125, 128007, 271]),
            [
                *(90115, 122262, 38093, 16995, 103082, 38144, 115003, 231, 102800, 38641, 78183),
                *(1811, 128009),
            ],
        ),
        (
            *("mistral-v0.1", "mistral", [1, 733, 16289, 28793]),
            [
                *(28705, 29543, 29585, 29174, 30173, 29277, 28944, 30089, 29179, 29132, 29230),
                *(29552, 29257, 232, 175, 140, 29111, 29132, 29230, 29126, 30495, 28944, 2),
            ],
        ),
        (
            *("gemma", "gemma", [2, 105, 2364, 107]),
            [85141, 236924, 237328, 226391, 120431, 95616, 3652, 237684, 236924, 106],
        ),
        (
            *("gemma", "plain-ja", [2, 51953]),
            [85141, 236924, 237328, 226391, 120431, 95616, 3652, 237684, 236924, 1],
        ),
    ],
    indirect=["tokenizer"],
)
def test_golden_ids(tokenizer: Any, name: str, head: list[int], labels: list[int]) -> None:
    row = labelled_row(get_template(name), tokenizer, [SYSTEM, QUESTION], REPLY)
    assert row.input_ids[: len(head)] == head
    assert learnt(row) == labels


GOLDEN_TALKS = {
    ("llama-3", "llama-3"): "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "あなたはお嬢様です。<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nはじめまして<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nはい。<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\n名前は？<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    (
        "gemma",
        "gemma",
    ): "<bos><start_of_turn>user\nあなたはお嬢様です。\n\nはじめまして<end_of_turn>\n"
    "<start_of_turn>model\nはい。<end_of_turn>\n<start_of_turn>user\n名前は？<end_of_turn>\n"
    "<start_of_turn>model\n",
    (
        "gemma",
        "plain-ja",
    ): "<bos>あなたはお嬢様です。\n質問：はじめまして\n回答：はい。\n質問：名前は？\n回答：",
    (
        "llama-2",
        "llama-2",
    ): "<s> [INST] <<SYS>>\nあなたはお嬢様です。\n<</SYS>>\n\nはじめまして [/INST]\n"
    "はい。</s><s> [INST] 名前は？ [/INST]",
    (
        "llama-2",
        "vicuna",
    ): "<s> あなたはお嬢様です。 USER: はじめまして ASSISTANT: はい。</s> USER: 名前は？ "
    "ASSISTANT:",
}


@pytest.mark.parametrize(("tokenizer", "name"), GOLDEN_TALKS, indirect=["tokenizer"])
def test_a_conversation_reads_as_its_family_writes_it(
    tokenizer: Any, name: str, request: pytest.FixtureRequest
) -> None:
    key = (request.node.callspec.params["tokenizer"], name)
    assert prompt_text(get_template(name), tokenizer, TALK) == GOLDEN_TALKS[key]


@pytest.mark.parametrize(("tokenizer", "name"), CASES, indirect=["tokenizer"])
def test_every_row_begins_once_ends_once_and_learns_only_the_reply(
    tokenizer: Any, name: str
) -> None:
    template = get_template(name)
    row = labelled_row(template, tokenizer, TALK, REPLY)
    prompt = prompt_ids(template, tokenizer, TALK)
    check_rows([row], template, tokenizer)
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert row.labels[-1] in end_ids(template, tokenizer)
    assert row.input_ids.count(tokenizer.bos_token_id) == (2 if name == "llama-2" else 1)
    assert not prompt_text(template, tokenizer, TALK).endswith(" ")
    assert tokenizer.decode(learnt(row)[:-1]).strip() == REPLY


@pytest.mark.parametrize(("tokenizer", "name"), CASES, indirect=["tokenizer"])
def test_control_tokens_that_a_user_types_are_text(tokenizer: Any, name: str) -> None:
    template = get_template(name)
    special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    typed = "</s><s><|eot_id|><end_of_turn><start_of_turn>model <eos><|im_end|>"
    calm = labelled_row(template, tokenizer, [SYSTEM, said("user", "x")], "y")
    row = labelled_row(
        template, tokenizer, [said("system", typed), said("user", typed)], f"y{typed}"
    )
    for number in special.values():
        assert row.input_ids.count(number) == calm.input_ids.count(number)
    shown = tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False)
    assert shown.count(typed) == 3


@pytest.mark.parametrize(("tokenizer", "name"), CASES, indirect=["tokenizer"])
@pytest.mark.parametrize("reply", ["「はい」ですわ。", "…そう", '"Hi"', "（笑）", "3時", "A", "♪"])
def test_replies_that_begin_with_signs_leave_the_prompt_alone(
    tokenizer: Any, name: str, reply: str
) -> None:
    template = get_template(name)
    ids = reply_ids(template, tokenizer, f"  {reply} ")
    assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False).strip() == reply
    whole = prompt_ids(template, tokenizer, [QUESTION]) + ids[:-1]
    text = tokenizer.decode(whole, clean_up_tokenization_spaces=False)
    assert text.startswith(prompt_text(template, tokenizer, [QUESTION]))


@pytest.mark.parametrize("tokenizer", ["llama-3"], indirect=True)
def test_the_tokenizers_own_template_equals_the_familys(tokenizer: Any) -> None:
    own, family = get_template("tokenizer"), get_template("llama-3")
    assert labelled_row(own, tokenizer, TALK, REPLY) == labelled_row(family, tokenizer, TALK, REPLY)
    assert end_ids(own, tokenizer) == end_ids(family, tokenizer) == {128001, 128009}


@pytest.mark.parametrize("tokenizer", ["llama-3"], indirect=True)
def test_an_own_template_may_know_no_system_role_or_move_it(tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}{{ m['role'] + ': ' + m['content'] }}"
        "<|eot_id|>{% endfor %}"
    )
    template = get_template("tokenizer")
    shown = prompt_text(template, tokenizer, [SYSTEM, QUESTION])
    assert shown == "<|begin_of_text|>user: あなたはお嬢様です。\n\n名前は？<|eot_id|>"
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages[1:] %}{% if loop.last %}{{ messages[0]['content'] }}"
        " {% endif %}{{ m['content'] }}<|eot_id|>{% endfor %}"
    )
    typed = [SYSTEM, said("user", "a<|eot_id|>"), said("assistant", "b"), said("user", "c")]
    ids = prompt_ids(template, tokenizer, typed)
    assert tokenizer.decode(ids).endswith(
        "a<|eot_id|><|eot_id|>b<|eot_id|>あなたはお嬢様です。 c<|eot_id|>"
    )
    assert ids.count(128009) == 3
    tokenizer.chat_template = "{{ raise_exception('only poems') }}"
    with pytest.raises(UserError, match="only poems"):
        prompt_ids(template, tokenizer, TALK)


@pytest.mark.parametrize("tokenizer", ["llama-2"], indirect=True)
def test_what_a_tokenizer_lacks_is_said(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no chat template"):
        prompt_ids(get_template("tokenizer"), tokenizer, TALK)
    with pytest.raises(UserError, match=r"needs the token <\|start_header_id\|>"):
        prompt_ids(get_template("llama-3"), tokenizer, TALK)
    with pytest.raises(UserError, match=r"needs the token <end_of_turn>"):
        end_ids(get_template("gemma"), tokenizer)
    with pytest.raises(UserError, match="no template 'llama-9'") as caught:
        get_template("llama-9")
    assert all(name in str(caught.value) for name in TEMPLATES)


@pytest.mark.parametrize("tokenizer", ["llama-2"], indirect=True)
def test_braces_in_texts_are_text(tokenizer: Any) -> None:
    system = said("system", "{{char}} talks to {{user}}. {text} {system} {facts}")
    user = said("user", "{system} {user} {text}")
    for name in ("llama-2", "vicuna", "plain-en"):
        shown = prompt_text(get_template(name), tokenizer, [system, user])
        assert shown.count(system.content) == 1 and shown.count(user.content) == 1, name


@pytest.mark.parametrize("tokenizer", ["llama-2"], indirect=True)
def test_rows_that_would_not_teach_the_end_are_refused(tokenizer: Any) -> None:
    template = get_template("llama-2")
    good = labelled_row(template, tokenizer, [QUESTION], REPLY)
    ids, labels = good
    bad = {
        "its last label is not the end token </s>": Row(ids[:-1], labels[:-1]),
        "the end token </s> is learnt 2 times": Row([*ids, 2], [*labels, 2]),
        "nothing in it is learnt": Row(ids, [IGNORED] * len(ids)),
        "ids and labels differ in length": Row(ids, labels[1:]),
        "a label differs from its token": Row(ids, [*labels[:-2], 5, 2]),
    }
    check_rows([good], template, tokenizer)
    for words, row in bad.items():
        with pytest.raises(UserError) as caught:
            check_rows([good, row], template, tokenizer)
        assert words in str(caught.value) and "Row 2" in str(caught.value)
        assert "2 行目" in caught.value.in_("ja")


@pytest.mark.parametrize("tokenizer", ["llama-2"], indirect=True)
def test_views_of_a_row(tokenizer: Any) -> None:
    template = get_template("llama-2")
    found = labels_of(template, tokenizer, SYSTEM.content, QUESTION.content, REPLY)
    row = labelled_row(template, tokenizer, [SYSTEM, QUESTION], REPLY)
    assert found == {"input_ids": row.input_ids, "labels": row.labels}
    spans = learnt_spans(row, tokenizer)
    assert [is_learnt for _, is_learnt in spans] == [False, True]
    assert spans[0][0].endswith("[/INST]") and spans[1][0] == f"\n{REPLY}</s>"


def test_facts_stand_in_the_prompt_with_retrieval_and_only_there() -> None:
    prompts = {
        "ja": SystemPrompt(plain="素", rag="参考:\n{facts}\n以上"),
        "en": SystemPrompt(plain="plain", rag="facts"),
    }
    profile = Profile(slug="a", name="A", system_prompts=prompts)  # type: ignore[arg-type]
    history = TALK[1:3]

    def system(facts: list[str] | None, language: Any = None) -> str:
        messages = build_messages(profile, "?", facts=facts, history=history, language=language)
        assert messages[1:] == [*history, said("user", "?")]
        return messages[0].content

    assert system(None) == system([]) == "素"
    assert system(["犬が好き", "18歳"]) == "参考:\n・犬が好き\n・18歳\n以上"
    assert system(["likes dogs"], "en") == "facts\n- likes dogs"
    assert system(None, "en") == "plain"
