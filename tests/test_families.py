"""Every model family of the study: trained, labels looked at, published, asked, stopped."""

from __future__ import annotations

import shutil
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from small_models import FAMILIES, Family, qwen_tokenizer, save_model

from charllm.core.generation import Request, generate_all
from charllm.core.models import load_model
from charllm.core.training import run_train
from charllm.core.training_config import TrainConfig
from charllm.core.training_data import prepare
from charllm.data.config import Paths
from charllm.data.dialogue import Dialogue, Message, save_dialogues
from charllm.data.files import read_json
from charllm.data.profile import Profile, SystemPrompt, save_profile
from charllm.data.progress import Silent
from charllm.data.prompts import IGNORED, end_ids, get_template, prompt_ids, reply_ids

REPLY = "はいですわ。"
FACT = "名前は花。"
SYSTEM = "あなたは花です。"
QUESTION = Message(role="user", content="名前は？")
TALK = (
    Message(role="user", content="お元気？"),
    Message(role="assistant", content="ええ。"),
    QUESTION,
    Message(role="assistant", content=REPLY),
)

# How each family writes system prompt, an earlier turn and a question: their published formats.
INST = "<s> [INST] <<SYS>>\nあなたは花です。\n<</SYS>>\n\n"
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
LLAMA_3 = (
    f"<|begin_of_text|>{HEAD.format('system')}あなたは花です。<|eot_id|>"
    f"{HEAD.format('user')}お元気？<|eot_id|>{HEAD.format('assistant')}ええ。<|eot_id|>"
    f"{HEAD.format('user')}名前は？<|eot_id|>{HEAD.format('assistant')}"
)
GEMMA = (
    "<bos><start_of_turn>user\nあなたは花です。\n\nお元気？<end_of_turn>\n<start_of_turn>model\nええ。"
    "<end_of_turn>\n<start_of_turn>user\n名前は？<end_of_turn>\n<start_of_turn>model\n"
)
QWEN = (
    "<|im_start|>system\nあなたは花です。<|im_end|>\n<|im_start|>user\nお元気？<|im_end|>\n"
    "<|im_start|>assistant\nええ。<|im_end|>\n<|im_start|>user\n名前は？<|im_end|>\n"
    "<|im_start|>assistant\n"
)
PROMPTS = {
    "llama-2": f"{INST}お元気？ [/INST]\nええ。</s><s> [INST] 名前は？ [/INST]",
    "llama-3": LLAMA_3,
    "llama-3.1": LLAMA_3,
    "gemma-2": GEMMA,
    "gemma-3": GEMMA,
    "mistral-v0.1": "<s> [INST] あなたは花です。\n\nお元気？ [/INST] ええ。</s> [INST] 名前は？ "
    "[/INST]",
    "qwen-2": QWEN,
    "qwen-3": f"{QWEN}<think>\n\n</think>\n\n",
}


class Heard(Silent):
    """Remembers the losses of the steps."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def event(self, kind: str, **data: Any) -> None:
        if kind == "metric" and "loss" in data:
            self.losses[data["step"]] = data["loss"]


@cache
def read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def copy_tokenizer(folder: Path, family: Family, request: pytest.FixtureRequest) -> Any:
    """The family's tokenizer, put into the new model's folder."""
    if family.tokenizer == "qwen":
        tokenizer = qwen_tokenizer()
        tokenizer.save_pretrained(folder)
        return tokenizer
    if family.tokenizer == "gemma":
        source = request.getfixturevalue("base_folder")
    else:
        source = request.getfixturevalue("shared") / "tokenizers" / family.tokenizer
    folder.mkdir()
    for file in source.glob("*token*"):
        shutil.copy(file, folder)
    return read_tokenizer(source)


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    """A character with four dialogues: with and without facts, one with an earlier turn."""
    paths = Paths(tmp_path / "root", tmp_path / "workspace")
    prompts = {"ja": SystemPrompt(plain=SYSTEM, rag=f"{SYSTEM}\n{{facts}}")}
    save_profile(paths, Profile(slug="hana", name="花", facts=(FACT,), system_prompts=prompts))  # type: ignore[arg-type]
    short = TALK[2:]
    rows = [
        Dialogue(id="long", messages=TALK),
        Dialogue(id="facts", messages=short, meta={"facts": [FACT]}),
        Dialogue(id="short", messages=short),
        Dialogue(id="other", messages=(*short[:1], Message(role="assistant", content="ええ。"))),
    ]
    save_dialogues(paths.datasets / "hana.jsonl", rows)
    return paths


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_its_end_and_stops_at_it(
    name: str, home: Paths, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    family, folder = FAMILIES[name], tmp_path / "base"
    tokenizer = copy_tokenizer(folder, family, request)
    template = get_template(family.template)
    end = tokenizer.convert_tokens_to_ids(family.end)
    asked = [Message(role="system", content=SYSTEM), QUESTION]
    prompt, reply = prompt_ids(template, tokenizer, asked), reply_ids(template, tokenizer, REPLY)
    chain = [prompt[-1], *reply]
    assert len(set(chain)) == len(chain), "a chain of tokens must not meet itself"
    save_model(folder, family.model, len(tokenizer), chain, **family.options)
    fields = {
        **{"name": "hana-one", "profile": "hana", "dataset": "hana", "base": str(folder)},
        **{"template": family.template, "held_out": 0.0, "epochs": 1.0, "batch_size": 2, "r": 2},
        "samples": [{"text": QUESTION.content}],
    }
    config = TrainConfig.model_validate(fields)

    look_at_labels(name, prepare(config, home), end)
    heard = Heard()
    result = run_train(config, heard, tmp_path / "run", home)
    assert list(heard.losses) == [1, 2] and all(map(isfinite, heard.losses.values()))
    published = home.checkpoints / "hana-one"
    assert (result["dialogues"], result["stopped"]) == (4, 1)
    (sample,) = read_json(published / "card.json")["samples"]
    assert (sample["reply"], sample["reason"]) == (REPLY, "end")
    look_at_reply(family, load_adapter(folder, published), tokenizer, prompt, reply)


def look_at_labels(name: str, material: Any, end: int) -> None:
    """Token by token: the prompt is its family's, not learnt; the reply and one end token are."""
    tokenizer = material.tokenizer
    rows = {d.id: (row, d.reply) for d, row in zip(material.dialogues, material.rows, strict=True)}
    assert len(rows) == 4
    for row, said in rows.values():
        first = next(i for i, label in enumerate(row.labels) if label != IGNORED)
        assert row.labels[:first] == [IGNORED] * first
        assert row.labels[first:] == row.input_ids[first:]
        assert row.labels[-1] == end and row.labels.count(end) == 1
        assert tokenizer.decode(row.labels[first:-1]).strip() == said
    ids, labels = rows["long"][0]
    head = ids[: labels.count(IGNORED)]
    assert tokenizer.decode(head, clean_up_tokenization_spaces=False) == PROMPTS[name]
    if name not in ("llama-2", "mistral-v0.1"):  # there a text's first word gets a space
        assert head == tokenizer(PROMPTS[name], add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None:
        assert head[0] == tokenizer.bos_token_id and head[1] != head[0]


def load_adapter(base: Path, folder: Path) -> Any:
    """The published adapter on its base, as anybody would load it; it has learnt something."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_model(base, device="cpu"), folder)
    weights = [value for key, value in model.named_parameters() if "lora_B" in key]
    assert len(weights) == 14 and all(value.abs().max() > 0 for value in weights)
    return model.eval()


def look_at_reply(
    family: Family, model: Any, tokenizer: Any, prompt: list[int], reply: list[int]
) -> None:
    """It stops at the family's end token, at the tokenizer's own too, and at nothing else."""
    import torch

    template = get_template(family.template)
    ends = end_ids(template, tokenizer)
    named = {tokenizer.convert_tokens_to_ids(e) for e in (family.end, family.also_end) if e}
    assert named <= ends and ends <= named | {tokenizer.convert_tokens_to_ids("<|eom_id|>")}
    request = Request("a", prompt, end_ids=ends, stop_strings=template.stop_strings)
    (done,) = generate_all(model, tokenizer, [request])
    assert (done.reason, done.text.strip(), done.token_ids) == ("end", REPLY, reply[:-1])
    assert done.generated == len(reply)
    if family.also_end:
        also = tokenizer.convert_tokens_to_ids(family.also_end)
        head = model.get_output_embeddings().weight
        with torch.no_grad():
            head[also], head[reply[-1]] = head[reply[-1]].clone(), 0.0
        (done,) = generate_all(model, tokenizer, [request])
        assert (done.reason, done.token_ids) == ("end", reply[:-1])
    short = Request("a", prompt, end_ids=frozenset({10**6}))
    (endless,) = generate_all(model, tokenizer, [short])
    assert endless.reason != "end" and endless.generated > len(reply)
