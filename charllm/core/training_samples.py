"""The fixed questions that a trained model answers, so that two runs can be read side by side.

Greedy decoding, the same prompts as in training. It does not judge the replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charllm.core.training_data import Material


def sample_replies(model: Any, material: Material) -> list[dict[str, Any]]:
    """The fixed questions answered greedily: ``{question, facts, reply, stopped, reason}``."""
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
        }
        for item, reply in zip(material.questions, done, strict=True)
    ]
