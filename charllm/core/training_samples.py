"""The fixed questions that a trained model answers, so that two runs can be read side by side.

Greedy decoding, the same prompts as in training; gate and style say of each reply what can be said
without a judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charllm.core.judging.score import Scorer
    from charllm.core.training_data import Material


def sample_replies(
    model: Any, material: Material, scorer: Scorer | None = None
) -> list[dict[str, Any]]:
    """The questions answered: ``{question, facts, reply, stopped, reason}`` each.

    With a scorer also ``gate``, the codes of what it found, and ``style`` in [0, 1] (None where
    the gate stopped the reply or the character has no style to compare with).
    """
    from charllm.core.generation import PRESETS as GENERATION
    from charllm.core.generation import Request, generate_all
    from charllm.data.prompts import build_messages, end_ids, prompt_ids

    template, tokenizer = material.template, material.tokenizer
    requests = [
        Request(
            column=str(number),
            prompt_ids=prompt_ids(
                template,
                tokenizer,
                build_messages(material.profile, item.text, facts=item.facts or None),
            ),
            preset=GENERATION["balanced"],
            end_ids=end_ids(template, tokenizer),
            stop_strings=template.stop_strings,
        )
        for number, item in enumerate(material.questions)
    ]
    if not requests:
        return []
    was_training = model.training
    model.eval()
    done = generate_all(model, tokenizer, requests)
    model.train(was_training)
    return [
        {
            "question": item.text,
            "facts": list(item.facts),
            "reply": reply.text.strip(),
            "stopped": reply.reason in ("end", "stop_string"),
            "reason": reply.reason,
            **(_scored(scorer, item.text, reply.text, reply.reason) if scorer else {}),
        }
        for item, reply in zip(material.questions, done, strict=True)
    ]


def _scored(scorer: Scorer, question: str, reply: str, reason: str) -> dict[str, Any]:
    judged = scorer.score(question, reply.strip(), reason)
    style = next((part.value for part in judged.parts if part.key == "style"), None)
    return {
        "gate": [finding.code for finding in judged.gate],
        "style": None if style is None else round(style, 3),
    }
