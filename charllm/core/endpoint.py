"""Servers of the OpenAI protocol: embeddings and streamed replies, errors in plain words.

The only file that imports ``openai``. It does not know what a profile, an index or a chat column
is. A key comes from ``OPENAI_API_KEY`` or is given for this session; it lives in the environment
of this process and its runs, and is never written, logged or repeated in a message.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import urlsplit

from charllm.data.errors import UserError
from charllm.data.files import sha256
from charllm.data.text import first_lines

if TYPE_CHECKING:
    from openai import OpenAI

    from charllm.core.generation import GenerationPreset
    from charllm.data.dialogue import Message

TIMEOUT = 60.0
"""Seconds without any byte from the server before a call is given up."""

OPENAI = "https://api.openai.com/v1"
"""OpenAI's own address, for whoever has to store one; it means the same as ""."""

TEXTS_A_CALL = 256

FinishReason = Literal["end", "length", "filtered", "cancelled"]
_FINISH: dict[str, FinishReason] = {"length": "length", "content_filter": "filtered"}


@dataclass(frozen=True)
class Finish:
    """The end of a remote reply.

    ``ignored`` names the settings that this server or protocol has no counterpart for. Token
    counts are None where the server does not tell them.
    """

    reason: FinishReason
    ignored: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


def set_session_key(key: str, base_url: str = "") -> None:
    """Use ``key`` for this server until the process ends; "" forgets it.

    It is kept as an environment variable: runs started from here inherit it, and whatever hides
    the environment's secrets in logs hides it too.
    """
    name = _session_variable(resolve_base_url(base_url))
    if key := _checked_key(key):
        os.environ[name] = key
    else:
        os.environ.pop(name, None)


def has_key(base_url: str = "") -> bool:
    """Whether a key is known for this server, from this session or the environment."""
    return bool(_find_key(resolve_base_url(base_url)))


def resolve_base_url(base_url: str) -> str:
    """The server meant: the one named, else ``OPENAI_BASE_URL``, else "" (OpenAI itself)."""
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip().rstrip("/")
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(
            "The endpoint's address is not usable: it must look like http://127.0.0.1:8000/v1.",
            "エンドポイントの URL が正しくありません。http://127.0.0.1:8000/v1 のような形で"
            "入力してください。",
        )
    return url


def server_name(base_url: str) -> str:
    """Host, port and path for ids and messages, without any user name or password."""
    url = resolve_base_url(base_url)
    if url in ("", OPENAI):
        return "OpenAI"
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path}"


class Unreachable(UserError):
    """The server could not be had this time: no connection, no answer in time, its own error."""


class NotThisOne(UserError):
    """The server refused what was asked (400, 413, 422); it may well answer something else."""


def client(
    base_url: str = "", timeout: float = TIMEOUT, max_retries: int = 2, *, retry_429: bool = True
) -> OpenAI:
    """A synchronous client; the SDK retries 408, 409, 429, 5xx and lost connections itself.

    Without ``retry_429`` a 429 is raised at once: the SDK would ask again even where the quota is
    used up, and a caller with many workers has to stop all of them.
    ``UserError`` where OpenAI itself is meant and no key is known. Other servers are asked
    without a real key if there is none: local ones need none.
    """
    from openai import OpenAI

    url = resolve_base_url(base_url)
    key = _find_key(url)
    if not key and url in ("", OPENAI):
        raise UserError(
            "No API key for OpenAI: set the environment variable OPENAI_API_KEY, or enter a key "
            "for this session.",
            "OpenAI の API キーがありません。環境変数 OPENAI_API_KEY を設定するか、"
            "このセッション用のキーを入力してください。",
        )
    made = OpenAI if retry_429 else _waiting_client()
    return made(
        api_key=key or "none", base_url=url or None, timeout=timeout, max_retries=max_retries
    )


def _waiting_client() -> type[OpenAI]:
    from openai import OpenAI

    class Waiting(OpenAI):
        def _should_retry(self, response: Any) -> bool:
            return response.status_code != 429 and super()._should_retry(response)

    return Waiting


def embed(texts: Sequence[str], model: str, base_url: str = "") -> list[list[float]]:
    """The server's embeddings of ``texts``, one each, in the order of the texts.

    ``UserError`` where the server refuses, cannot be reached or does not answer with embeddings.
    """
    api = client(base_url)
    rows: list[list[float]] = []
    with plain_words(base_url, model):
        for start in range(0, len(texts), TEXTS_A_CALL):
            part = list(texts[start : start + TEXTS_A_CALL])
            answer = api.embeddings.create(input=part, model=model, encoding_format="float")
            rows += _vectors(answer, len(part), base_url)
    return rows


def chat_stream(
    messages: Sequence[Message],
    model: str,
    preset: GenerationPreset,
    *,
    base_url: str = "",
    stop: Sequence[str] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[str | Finish]:
    """Stream one reply: pieces of text, then exactly one ``Finish``.

    ``cancelled`` is asked before each piece is passed on; closing the iterator also ends the
    request. ``UserError`` where the server refuses or the connection ends before the reply does;
    text that was passed on by then stays with the caller.
    """
    api = client(base_url)
    settings, ignored = _settings(preset, resolve_base_url(base_url))
    settings |= {"stop": list(stop)} if stop else {}
    body = [{"role": message.role, "content": message.content} for message in messages]
    usage: Any = None
    chunk: Any = None
    finish = ""
    with plain_words(base_url, model):
        stream, refused = _open_stream(api, model, body, settings)
        ignored += refused
        try:
            for chunk in stream:
                if cancelled():
                    yield Finish("cancelled", ignored)
                    return
                usage = getattr(chunk, "usage", None) or usage
                choice = next(iter(getattr(chunk, "choices", None) or ()), None)
                if choice is None:
                    continue
                finish = choice.finish_reason or finish
                if choice.delta and choice.delta.content:
                    yield choice.delta.content
        finally:
            stream.close()
    if chunk is None:
        raise not_the_protocol(base_url)
    if not finish:
        raise _cut_off(base_url)
    yield Finish(
        _FINISH.get(finish, "end"),
        ignored,
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
    )


def _settings(preset: GenerationPreset, url: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The preset in the protocol's words, and the names of what it cannot say."""
    # OpenAI's newer models refuse max_tokens; many other servers know only max_tokens.
    limit = "max_completion_tokens" if url in ("", OPENAI) else "max_tokens"
    settings: dict[str, Any] = {limit: preset.max_new_tokens, "temperature": preset.temperature}
    if preset.temperature > 0:
        settings |= {"top_p": preset.top_p, "seed": preset.seed}
    unsaid = {
        "top_k": preset.top_k > 0,
        "num_beams": preset.num_beams > 1,
        "repetition_penalty": preset.repetition_penalty != 1.0,
    }
    return settings, tuple(name for name, used in unsaid.items() if used)


def _open_stream(
    api: OpenAI, model: str, body: list[dict[str, str]], settings: dict[str, Any]
) -> tuple[Any, tuple[str, ...]]:
    """The open stream, and the settings that the server refused and that were left out.

    Models differ in what they take (some allow only temperature 1), and there is no way to ask:
    a refusal names the parameter, and the call is made again without it.
    """
    from openai import BadRequestError

    settings = dict(settings)
    refused: list[str] = []
    optional: dict[str, Any] = {"stream_options": {"include_usage": True}}
    while True:
        try:
            stream = api.chat.completions.create(
                model=model,
                messages=body,  # type: ignore[arg-type]
                stream=True,
                **settings,
                **optional,
            )
            return stream, tuple(refused)
        except BadRequestError as error:
            name = str(error.param or "").split(".")[0]
            if name == "max_tokens" and name in settings:
                settings["max_completion_tokens"] = settings.pop(name)
            elif name in optional:
                del optional[name]
            elif name in settings:
                del settings[name]
                refused.append(name)
            else:
                raise


def _vectors(answer: Any, expected: int, base_url: str) -> list[list[float]]:
    """The vectors of one answer in the order asked; ``UserError`` where there are not as many."""
    data = getattr(answer, "data", None)
    items = sorted(data, key=lambda item: item.index or 0) if isinstance(data, list) else []
    if len(items) != expected:
        name = server_name(base_url)
        raise UserError(
            f"{name} answered, but not with {expected} embeddings. Check that the address ends in "
            "the API's path (often /v1) and that the server offers embeddings.",
            f"{name} から {expected} 件の埋め込みが返されませんでした。URL が API のパス"
            "（多くは /v1）で終わっているか、埋め込みに対応したサーバーかを確認してください。",
        )
    return [item.embedding for item in items]


def _checked_key(key: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            "The API key contains characters that no key has. Copy it again.",
            "API キーに使えない文字が含まれています。もう一度コピーしてください。",
        )
    return key


def _find_key(url: str) -> str:
    """The server's own key; ``OPENAI_API_KEY`` goes to OpenAI and ``OPENAI_BASE_URL`` only."""
    session = os.environ.get(_session_variable(url), "")
    if session or url not in ("", OPENAI, resolve_base_url("")):
        return session
    return _checked_key(os.environ.get("OPENAI_API_KEY", ""))


def _session_variable(url: str) -> str:
    """A variable for each server, so that one server's key is not sent to another."""
    url = "" if url == OPENAI else url
    return f"CHARLLM_{sha256(url.encode())[:8].upper()}_KEY"


@contextlib.contextmanager
def plain_words(base_url: str, model: str) -> Iterator[None]:
    """Turn the SDK's errors into a ``UserError``, without the cause: it may repeat the key."""
    import openai

    try:
        yield
    except openai.OpenAIError as error:
        _explain(error, base_url, model)
    except json.JSONDecodeError:  # the SDK lets through what a server calls JSON and is not
        raise not_the_protocol(base_url) from None


def _explain(error: Exception, base_url: str, model: str) -> NoReturn:
    import openai

    name = server_name(base_url)
    said = told(error, base_url)
    kind: type[UserError] = UserError
    if isinstance(error, openai.AuthenticationError):
        texts = (
            f"{name} refused the API key (401). Check OPENAI_API_KEY, or enter the key again.",
            f"{name} が API キーを拒否しました（401）。OPENAI_API_KEY を確認するか、"
            "キーを入力し直してください。",
        )
    elif isinstance(error, openai.PermissionDeniedError):
        texts = (
            f"{name} does not allow this key to use {model!r} (403): {said}",
            f"{name} では、このキーで「{model}」を使う権限がありません（403）: {said}",
        )
    elif isinstance(error, openai.NotFoundError):
        texts = (
            f"{name} does not know the model {model!r}, or the address is wrong (404). Check the "
            "model's name and that the address ends in the API's path (often /v1).",
            f"{name} にモデル「{model}」がないか、URL が違います（404）。モデル名と、URL が API の"
            "パス（多くは /v1）で終わっているかを確認してください。",
        )
    elif isinstance(error, openai.RateLimitError) and "insufficient_quota" in error_codes(error):
        texts = (
            f"The account's quota at {name} is used up (429, insufficient_quota). Add credit or "
            "use another key; trying again will not help.",
            f"{name} の利用枠を使い切りました（429、insufficient_quota）。残高を追加するか、"
            "別のキーを使ってください。再試行しても解決しません。",
        )
    elif isinstance(error, openai.RateLimitError):
        texts = (
            f"{name} is getting too many requests (429). Wait a minute and try again.",
            f"{name} へのリクエストが多すぎます（429）。1分ほど待ってから再試行してください。",
        )
    elif isinstance(error, openai.APITimeoutError):
        kind = Unreachable
        texts = (
            f"{name} did not answer within {TIMEOUT:.0f} seconds. Try again later.",
            f"{name} から {TIMEOUT:.0f} 秒以内に応答がありませんでした。"
            "しばらくしてから再試行してください。",
        )
    elif isinstance(error, openai.APIConnectionError):
        kind = Unreachable
        texts = (
            f"{name} cannot be reached. Is the server running, the address right, and this "
            "machine online?",
            f"{name} に接続できません。サーバーが動いているか、URL が正しいか、"
            "ネットワークにつながっているかを確認してください。",
        )
    elif isinstance(error, openai.APIStatusError):
        kind = _kind(error.status_code)
        texts = (
            f"{name} refused the request ({error.status_code}): {said}",
            f"{name} がリクエストを拒否しました（{error.status_code}）: {said}",
        )
    else:
        texts = (f"{name} reported an error: {said}", f"{name} がエラーを返しました: {said}")
    raise kind(*texts) from None


def _kind(status: int) -> type[UserError]:
    if status in (400, 413, 422):
        return NotThisOne
    return Unreachable if status >= 500 or status in (408, 409) else UserError


def error_codes(error: Exception) -> set[str]:
    """What the server calls the error: its code and its type, where it says them."""
    return {str(getattr(error, name, None) or "") for name in ("code", "type")} - {""}


def told(error: Exception, base_url: str) -> str:
    """What the server says about an error, in its own sentence where it has one."""
    body = getattr(error, "body", None)
    sentence = body.get("message") if isinstance(body, dict) else None
    return redacted(str(sentence or getattr(error, "message", "") or error), base_url)


def redacted(text: str, base_url: str) -> str:
    """A server's words on one line, with the key taken out should the server repeat it."""
    key = _find_key(resolve_base_url(base_url))
    return first_lines(text.replace(key, "***") if key else text, 300)


def _cut_off(base_url: str) -> UserError:
    name = server_name(base_url)
    return UserError(
        f"The connection to {name} ended before the reply did. Send the question again.",
        f"返答の途中で {name} との接続が切れました。もう一度送信してください。",
    )


def not_the_protocol(base_url: str) -> UserError:
    name = server_name(base_url)
    return UserError(
        f"{name} answered with something that is not the OpenAI protocol. Check that the address "
        "ends in the API's path (often /v1).",
        f"{name} の応答が OpenAI 形式ではありません。URL が API のパス（多くは /v1）で終わって"
        "いるかを確認してください。",
    )
