"""How each model family writes a conversation: a table of templates.

It does not know how text becomes ids (``prompts`` does), nor which model uses which (the catalog).
"""

from __future__ import annotations

from charllm.data.config import Config
from charllm.data.errors import UserError


class Template(Config):
    """How one model family writes a conversation.

    ``turn`` pieces are put around each message; ``{text}`` stands for the message. A piece in
    ``control`` is a control token, every other one is plain text. ``system`` "" folds the system
    message into the first user message. ``lead`` precedes a reply inside its own ids (a model
    whose prompt ended in a space would see other tokens than it learnt). ``end`` "" is the
    tokenizer's own end token.
    """

    name: str
    system: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    assistant: tuple[str, ...] = ()
    fold: str = "{system}\n\n{user}"
    lead: str = ""
    end: str = ""
    after_reply: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    also_end: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()
    begins_turns: bool = False
    """The beginning token stands before every user message, not only before the first."""
    opening: str = ""
    """Stands before the reply that is asked for, but not before replies of the history."""


_HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|im_start|>", "<|im_end|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            name="llama-2",
            user=("[INST] {text} [/INST]",),
            fold="<<SYS>>\n{system}\n<</SYS>>\n\n{user}",
            lead="\n",
            end="</s>",
            stop_strings=("[INST]", "[/INST]", "<<SYS>>"),
            begins_turns=True,
        ),
        Template(
            name="llama-3",
            system=(_HEADER[0], "system", _HEADER[1], "\n\n{text}", _HEADER[2]),
            user=(_HEADER[0], "user", _HEADER[1], "\n\n{text}", _HEADER[2]),
            assistant=(_HEADER[0], "assistant", _HEADER[1], "\n\n"),
            end="<|eot_id|>",
            control=_HEADER,
            also_end=("<|end_of_text|>", "<|eom_id|>"),
        ),
        Template(
            name="gemma",
            user=(_GEMMA[0], "user\n{text}", _GEMMA[1], "\n"),
            assistant=(_GEMMA[0], "model\n"),
            end="<end_of_turn>",
            after_reply=("\n",),
            control=_GEMMA,
            also_end=("<eos>",),
        ),
        Template(
            name="mistral",
            user=("[INST] {text} [/INST]",),
            lead=" ",
            end="</s>",
            stop_strings=("[INST]", "[/INST]"),
        ),
        Template(
            name="vicuna",
            system=("{text} ",),
            user=("USER: {text} ASSISTANT:",),
            lead=" ",
            end="</s>",
            stop_strings=("USER:", "ASSISTANT:"),
        ),
        Template(
            name="chatml",
            system=(_CHATML[0], "system\n{text}", _CHATML[1], "\n"),
            user=(_CHATML[0], "user\n{text}", _CHATML[1], "\n"),
            assistant=(_CHATML[0], "assistant\n"),
            end="<|im_end|>",
            after_reply=("\n",),
            control=_CHATML,
            also_end=("<|endoftext|>",),
        ),
        Template(
            name="qwen-3",  # an empty thought: the model answers without thinking aloud
            system=(_CHATML[0], "system\n{text}", _CHATML[1], "\n"),
            user=(_CHATML[0], "user\n{text}", _CHATML[1], "\n"),
            assistant=(_CHATML[0], "assistant\n"),
            opening="<think>\n\n</think>\n\n",
            end="<|im_end|>",
            after_reply=("\n",),
            control=_CHATML,
            also_end=("<|endoftext|>",),
            stop_strings=("<think>",),
        ),
        Template(
            name="plain-ja",
            system=("{text}\n",),
            user=("質問：{text}\n回答：",),
            after_reply=("\n",),
            stop_strings=("\n質問", "\n回答", "質問：", "回答："),
        ),
        Template(
            name="plain-en",
            system=("{text}\n",),
            user=("Question: {text}\nAnswer:",),
            lead=" ",
            after_reply=("\n",),
            stop_strings=("\nQuestion", "\nAnswer", "Question:", "Answer:"),
        ),
        Template(
            name="instruction-ja",
            system=("{text}\n\n",),
            user=("### 指示: \n{text}\n\n### 応答: \n",),
            end="</s>",
            after_reply=("\n\n",),
            stop_strings=("### 指示", "### 応答"),
        ),
        Template(name="tokenizer"),
    )
}


def get_template(name: str) -> Template:
    if name not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise UserError(
            f"There is no template {name!r}. Known: {known}.",
            f"テンプレート「{name}」はありません。あるもの: {known}。",
        )
    return TEMPLATES[name]
