"""Replies for several columns from one batched decode: the presets, the request, the events.

A column is one reply with its own prompt, weights row, preset, end tokens and stop strings; all
columns of a call share one base model. The loop itself is in ``decoding``; this module can be
imported without torch. It knows nothing of profiles, prompts or what a reply is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from charllm.data.config import Config, invalid
from charllm.data.errors import Text

if TYPE_CHECKING:
    from charllm.core.decoding_space import DecodingSpace

Reason = Literal["end", "stop_string", "repetition", "length", "cancelled"]


class GenerationPreset(Config):
    """How the next token is chosen, and how many at most.

    ``temperature`` 0 takes the most probable token; ``top_k`` 0 and ``top_p`` 1 leave all tokens
    in. ``num_beams`` above 1 is beam search, without sampling. The penalty divides the scores of
    tokens already used (1 = none; 1.1 already breaks a character's endings before it breaks
    loops). ``repetition_guard`` ends a reply that runs in a loop.
    """

    name: str = "custom"
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    num_beams: int = Field(default=1, ge=1, le=8)
    repetition_penalty: float = Field(default=1.0, ge=1.0, le=2.0)
    repetition_guard: bool = True
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if self.num_beams > 1 and self.temperature > 0:
            raise invalid(
                "num_beams above 1 needs temperature 0: beams are not sampled",
                "num_beams を 2 以上にするときは、temperature を 0 にしてください"
                "（ビームサーチではサンプリングを行いません）",
            )
        return self


PRESETS: dict[str, GenerationPreset] = {
    preset.name: preset
    for preset in (
        GenerationPreset(name="balanced"),
        GenerationPreset(name="lively", temperature=0.7, top_p=0.9, top_k=50),
        GenerationPreset(name="study-beam", num_beams=2, max_new_tokens=64),
        # top_k 50 is what transformers adds by itself wherever a study names only a temperature.
        GenerationPreset(name="study-sampling", temperature=0.3, top_k=50, max_new_tokens=512),
    )
}
DEFAULT_PRESET = "balanced"

PRESET_LABELS: dict[str, Text] = {
    "balanced": Text("Balanced (always the likeliest word)", "標準（最も確からしい語を選ぶ）"),
    "lively": Text("Lively (varied wording)", "変化あり（言い回しが変わる）"),
    "study-beam": Text("Study: 2 beams, 64 tokens", "研究の設定: ビーム2本、64トークン"),
    "study-sampling": Text(
        "Study: temperature 0.3, 512 tokens", "研究の設定: 温度0.3、512トークン"
    ),
}


@dataclass(frozen=True)
class Request:
    """One column. ``scales`` is a row of the adapter engine; None is the base as it is.

    ``noise`` names the random numbers of sampling beside the preset's seed; None: the column does.
    """

    column: str
    prompt_ids: list[int]
    scales: object | None = None
    preset: GenerationPreset = PRESETS[DEFAULT_PRESET]
    end_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    noise: str | None = None


@dataclass(frozen=True)
class Delta:
    """More text of a column; whole characters, never part of a stop string."""

    column: str
    text: str


@dataclass(frozen=True)
class Done:
    """A column's reply is complete.

    ``text`` is the reply: all deltas joined, except after "repetition", where the loop that was
    already shown is cut to one round. ``token_ids`` are the reply's tokens without the end token;
    after "stop_string" they include those of the stop string. ``generated`` counts every token
    that was decoded. Seconds count from the start of the call; ``seed`` is what the column's
    random numbers started from.
    """

    column: str
    reason: Reason
    text: str
    token_ids: list[int]
    prompt_tokens: int
    first_token_seconds: float
    seconds: float
    generated: int = 0
    seed: int = 0


def never(column: str) -> bool:
    """Nobody cancels."""
    return False


def stream(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    cancelled: Callable[[str], bool] = never,
) -> Iterator[Delta | Done]:
    """Decode all columns in one batch; a column leaves it as soon as its reply ends.

    ``model`` is a transformers causal LM or an ``AdapterModel``. ``cancelled(column)`` is asked
    before each token. Every column ends with exactly one ``Done``. Not thread-safe: one worker
    thread a base model. ``UserError`` where a prompt does not fit the model.
    """
    from charllm.core.decoding import decode

    yield from decode(model, tokenizer, requests, cancelled)


def generate_all(
    model: Any, tokenizer: Any, requests: Sequence[Request], space: DecodingSpace | None = None
) -> list[Done]:
    """The replies in the order of ``requests``, whose columns must differ in name.

    ``space``: memory that is kept from call to call, for many batches on an accelerator.
    """
    from charllm.core.decoding import decode

    events = decode(model, tokenizer, requests, never, watched=False, space=space)
    done = {event.column: event for event in events if isinstance(event, Done)}
    return [done[request.column] for request in requests]
