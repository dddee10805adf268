"""A family's template as the Jinja text that tokenizers, llama.cpp and servers render.

A model that was taught with one of our templates carries it along when it leaves, so that it is
asked elsewhere exactly as it was here. It renders what ``prompts.prompt_ids`` builds from ids;
stop strings have no place in it.
"""

from __future__ import annotations

import json

from charllm.data.templates import Template


def chat_template(template: Template, bos: str | None) -> str:
    """The template's text; ``bos`` is the tokenizer's beginning token, None where it has none."""
    assert template.name != "tokenizer", "the tokenizer's own template is its own text"
    opens = bos is not None and bos not in template.control
    begin = "{{- bos_token -}}" if opens else ""
    again = "{%- if ns.turn -%}{{- bos_token -}}{%- endif -%}"
    return "".join(
        (
            "{%- set ns = namespace(system='', turn=0) -%}",
            "{%- for m in messages -%}{%- if m['role'] == 'system' -%}",
            "{%- set ns.system = ns.system + ('\\n\\n' if ns.system else '') + m['content'] -%}",
            "{%- endif -%}{%- endfor -%}",
            begin,
            _system(template),
            "{%- for m in messages -%}{%- if m['role'] == 'user' -%}",
            again if template.begins_turns and opens else "",
            "{%- set text = m['content'] -%}" if template.system else _fold(template.fold),
            _pieces(template.user, "text"),
            "{%- if not loop.last or add_generation_prompt -%}",
            _pieces(template.assistant),
            "{%- endif -%}{%- set ns.turn = ns.turn + 1 -%}",
            "{%- elif m['role'] == 'assistant' -%}",
            _pieces((template.lead,)),
            "{{- m['content'] | trim -}}",
            _pieces((template.end, *template.after_reply)),
            "{%- set ns.turn = ns.turn + 1 -%}",
            "{%- endif -%}{%- endfor -%}",
            _opening(template.opening),
        )
    )


def _system(template: Template) -> str:
    if not template.system:
        return ""
    return "{%- if ns.system -%}" + _pieces(template.system, "ns.system") + "{%- endif -%}"


def _fold(fold: str) -> str:
    """The system text goes into the first question."""
    before, _, rest = fold.partition("{system}")
    between, _, after = rest.partition("{user}")
    parts = (_quoted(before), "ns.system", _quoted(between), "m['content']", _quoted(after))
    both = " + ".join(part for part in parts if part != '""')
    return (
        "{%- if ns.system -%}{%- set text = " + both + " -%}{%- set ns.system = '' -%}"
        "{%- else -%}{%- set text = m['content'] -%}{%- endif -%}"
    )


def _pieces(pieces: tuple[str, ...], variable: str = "") -> str:
    """One output of the pieces in a row, with ``variable`` in place of ``{text}``."""
    whole = "".join(pieces)
    if not whole:
        return ""
    before, found, after = whole.partition("{text}")
    parts = [_quoted(before), variable, _quoted(after)] if found else [_quoted(before)]
    return "{{- " + " + ".join(part for part in parts if part != '""') + " -}}"


def _opening(opening: str) -> str:
    if not opening:
        return ""
    return "{%- if add_generation_prompt -%}" + _pieces((opening,)) + "{%- endif -%}"


def _quoted(text: str) -> str:
    """A Jinja string; its escapes are JSON's for what occurs in templates."""
    return json.dumps(text, ensure_ascii=False)
