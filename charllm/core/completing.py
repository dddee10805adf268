"""One whole answer of a chat model behind an endpoint, with what it cost.

Asks for structured output, level probabilities and a seed where the server takes them; what a
server refuses is found out once and left out from then on. It does not know what the answer is for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from charllm.core import endpoint
from charllm.data.dialogue import Message

RETRIES = 4
"""Of the SDK, for server errors, timeouts and lost connections; a 429 is the caller's."""

LONGEST_PAUSE = 3600.0
"""Seconds; a server that names a longer pause is asked again after this one."""

_WHOLE = {"eos": "stop", "eos_token": "stop", "end_turn": "stop"}
"""Other servers' words for an answer that has ended by itself."""

_HINTS = {
    "max_tokens": ("max_tokens",),
    "response_format": ("response_format", "json_schema", "schema", "structured", "guided"),
    "logprobs": ("logprobs",),
    "seed": ("seed",),
    "prompt_cache_key": ("prompt_cache_key",),
    "temperature": ("temperature",),
}
"""Settings that can be done without, and the words by which a refusal means them."""

_lock = threading.Lock()
_refused: dict[tuple[str, str], set[str]] = {}
"""What each server's model does not take, as its own answers said."""


class RateLimited(Exception):
    """Too many requests: ask again after ``seconds``, which the server named or None."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        super().__init__(f"too many requests; again in {seconds} s")


@dataclass(frozen=True)
class Completion:
    """An answer. ``finish_reason``: stop, length, content_filter, refusal; "" where not told.

    ``steps`` are the tokens with their likeliest alternatives (token → probability), () where the
    server does not tell. ``ignored`` names the settings that the server does not take.
    """

    text: str
    finish_reason: str
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    steps: tuple[tuple[str, dict[str, float]], ...] = ()
    model: str = ""
    fingerprint: str = ""
    seconds: float = 0.0
    ignored: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Settings:
    """How to ask. ``schema`` is a JSON schema; ``top_logprobs`` 0 asks for none.

    ``cache_key`` groups calls with the same beginning; it is sent to OpenAI only.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int | None = None
    schema: dict[str, Any] | None = None
    top_logprobs: int = 0
    cache_key: str = ""


def complete(
    api: Any,
    messages: Sequence[Message],
    model: str,
    settings: Settings,
    *,
    in_words: Sequence[Message] | None = None,
    base_url: str = "",
) -> Completion:
    """Ask once. ``in_words`` is asked instead where the server does not take the schema.

    ``RateLimited`` on a 429 that is not about money. ``UserError`` in plain words: of the kinds
    ``endpoint.Unreachable`` and ``endpoint.NotThisOne`` where another call may go well.
    """
    start = time.monotonic()
    wanted = _wanted(settings, base_url)
    with endpoint.plain_words(base_url, model):
        answer, ignored = _ask(api, messages, in_words or messages, model, wanted, base_url)
    choice = next(iter(getattr(answer, "choices", None) or ()), None)
    if choice is None or getattr(choice, "message", None) is None:
        raise endpoint.not_the_protocol(base_url)
    message, usage = choice.message, getattr(answer, "usage", None)
    ended = str(choice.finish_reason or "")
    details = getattr(usage, "prompt_tokens_details", None)
    refusal = getattr(message, "refusal", None)
    return Completion(
        text=refusal or message.content or "",
        finish_reason="refusal" if refusal else _WHOLE.get(ended, ended),
        tokens_in=getattr(usage, "prompt_tokens", None) or 0,
        tokens_cached=getattr(details, "cached_tokens", None) or 0,
        tokens_out=getattr(usage, "completion_tokens", None) or 0,
        steps=tuple(_steps(choice)),
        model=str(getattr(answer, "model", "") or ""),
        fingerprint=str(getattr(answer, "system_fingerprint", "") or ""),
        seconds=time.monotonic() - start,
        ignored=ignored,
    )


def _wanted(settings: Settings, base_url: str) -> dict[str, Any]:
    """The settings in the protocol's words, what a server may refuse last."""
    url = endpoint.resolve_base_url(base_url)
    limit = "max_tokens" if url else "max_completion_tokens"
    wanted: dict[str, Any] = {limit: settings.max_tokens, "temperature": settings.temperature}
    if settings.seed is not None:
        wanted["seed"] = settings.seed
    if settings.schema is not None:
        schema = {"name": "verdict", "strict": True, "schema": settings.schema}
        wanted["response_format"] = {"type": "json_schema", "json_schema": schema}
    if settings.top_logprobs:
        wanted |= {"logprobs": True, "top_logprobs": settings.top_logprobs}
    if settings.cache_key and not url:
        wanted["prompt_cache_key"] = settings.cache_key
    return wanted


def _ask(
    api: Any,
    messages: Sequence[Message],
    in_words: Sequence[Message],
    model: str,
    wanted: dict[str, Any],
    base_url: str,
) -> tuple[Any, tuple[str, ...]]:
    """The server's answer, and what it does not take and was left out."""
    server = (endpoint.server_name(base_url), model)
    with _lock:
        known = _refused.get(server, set()) & wanted.keys()
    left_out = set(known)
    while True:
        given = _without(wanted, left_out)
        body = in_words if "response_format" in left_out else messages
        try:
            answer = api.chat.completions.create(
                model=model,
                messages=[{"role": m.role, "content": m.content} for m in body],
                **given,
            )
        except Exception as error:  # told apart by status: only the endpoint knows the SDK
            status = getattr(error, "status_code", None)
            if status == 429 and "insufficient_quota" not in endpoint.error_codes(error):
                raise RateLimited(_pause(error)) from None
            refused = _named(error, given) if status in (400, 422) else None
            if refused is None:
                raise
            left_out.add(refused)
            continue
        if left_out - known:  # only now: a refusal of something else may name a setting too
            with _lock:
                _refused.setdefault(server, set()).update(left_out)
        return answer, tuple(sorted(left_out))


def _without(wanted: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    """The settings that are sent; the limit goes by its other name where the one is refused."""
    given = {name: value for name, value in wanted.items() if name not in left_out}
    if "max_tokens" in left_out:
        given["max_completion_tokens"] = wanted["max_tokens"]
    if "logprobs" in left_out:
        given.pop("top_logprobs", None)
    return given


def _named(error: Any, given: dict[str, Any]) -> str | None:
    """The setting that a refusal is about: by its ``param``, else by its words, None if neither."""
    param = str(getattr(error, "param", None) or "").split(".")[0].lower()
    said = str(getattr(error, "message", "")).lower()
    optional = [name for name in _HINTS if name in given]
    param = "logprobs" if param == "top_logprobs" else param
    if param in optional:
        return param
    if param in ("messages", "model"):  # whose limits are told in numbers of max_tokens
        return None
    return next((n for n in optional if any(word in said for word in _HINTS[n])), None)


def _pause(error: Any) -> float | None:
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(LONGEST_PAUSE, max(0.0, float(headers.get(name)) * unit))
        except (TypeError, ValueError):
            continue
    return None


def _steps(choice: Any) -> Iterator[tuple[str, dict[str, float]]]:
    import math

    content = getattr(getattr(choice, "logprobs", None), "content", None) or ()
    for token in content:
        tops = getattr(token, "top_logprobs", None) or ()
        yield token.token, {top.token: math.exp(top.logprob) for top in tops}


def waiting_client(base_url: str, timeout: float) -> Any:
    """A client for any thread: it retries all but a 429, which all its users have to heed."""
    return endpoint.client(base_url, timeout, RETRIES, retry_429=False)
