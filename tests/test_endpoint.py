"""The real openai client against a loopback server: vectors, streams, and errors in plain words."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charllm.core import endpoint
from charllm.core.embedding import EmbedderConfig, get_embedder
from charllm.core.endpoint import Finish, chat_stream, embed, has_key, set_session_key
from charllm.core.generation import PRESETS, GenerationPreset
from charllm.core.retrieval import open_index
from charllm.data.config import Paths
from charllm.data.dialogue import Message
from charllm.data.errors import UserError
from charllm.data.profile import Profile
from charllm.data.progress import Silent

KEY = "sk-test-0123456789abcdef"
ASK = [
    Message(role="system", content="あなたは絢音です。"),
    Message(role="user", content="ご趣味は？"),
]


class Server:
    """Answers with what ``answer(path, body)`` gives and keeps every request.

    ``answer`` returns ``(status, value)``: a dict or text is sent as it is, a list of dicts as an
    event stream; ``None`` in such a list cuts the connection.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: Callable[[str, dict[str, Any]], tuple[int, Any]] = lambda path, body: (404, {})
        self.retry_after = "0.01"
        self.closed_early = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.requests.append(
                    (self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                )
                status, value = owner.answer(self.path, body)
                if isinstance(value, list):
                    return self.stream(value)
                text = value if isinstance(value, str) else json.dumps(value)
                kind = "text/html" if text.startswith("<") else "application/json"
                data = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After", owner.retry_after)
                self.end_headers()
                self.wfile.write(data)
                return None

            def stream(self, chunks: list[Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for chunk in chunks:
                        if chunk is None:
                            return
                        if isinstance(chunk, threading.Event):
                            chunk.wait(10)
                            continue
                        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                        self.wfile.flush()
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    owner.closed_early.set()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def vectors(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Embeds a text as its first letters' code points; answers in reverse order, as is allowed."""
    rows = [
        {"object": "embedding", "index": n, "embedding": [float(ord(c)) for c in text[:3].ljust(3)]}
        for n, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return 200, {"object": "list", "data": rows[::-1], "model": body["model"], "usage": usage}


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    common = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return {**common, "choices": [choice], **more}


def error(status: int, message: str, **more: str) -> Callable[..., tuple[int, Any]]:
    return lambda path, body: (status, {"error": {"message": message, "type": "x", **more}})


def ask(server: Server, preset: GenerationPreset | None = None, **more: Any) -> list[Any]:
    chosen = preset or PRESETS["balanced"]
    return list(chat_stream(ASK, "some-model", chosen, base_url=server.url, **more))


def test_embeddings_come_in_the_order_asked_and_in_parts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = vectors
    monkeypatch.setattr(endpoint, "TEXTS_A_CALL", 2)
    assert embed(["abc", "xyz", "あいう"], "m", server.url) == [
        [97.0, 98.0, 99.0],
        [120.0, 121.0, 122.0],
        [float(ord(c)) for c in "あいう"],
    ]
    assert [body["input"] for _, _, body in server.requests] == [["abc", "xyz"], ["あいう"]]
    path, headers, body = server.requests[0]
    assert path == "/v1/embeddings" and body["model"] == "m"
    assert headers["authorization"] == f"Bearer {KEY}"


def test_the_embedder_indexes_and_retrieves_through_the_server(
    server: Server, tmp_path: Path
) -> None:
    server.answer = vectors
    embedder = get_embedder(EmbedderConfig(kind="openai", model="m", base_url=server.url))
    assert server.requests == [], "making the embedder asks nothing"
    assert embedder.id == f"openai:m@{server.url.removeprefix('http://')}"
    rows = embedder.embed_queries(["abc", "zz"])
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-6)
    profile = Profile(slug="someone", name="Someone", facts=("あいう", "abc"))
    index = open_index(Paths(tmp_path, tmp_path / "workspace"), profile, embedder)
    index.build(Silent())
    hit = index.retrieve("abc", k=1)[0]
    assert hit.fact == "abc" and hit.similarity == pytest.approx(1.0, abs=1e-5)


def test_a_reply_streams_and_says_how_it_ended(server: Server) -> None:
    usage = {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}
    server.answer = lambda path, body: (
        200,
        [chunk(""), chunk("お菓子作り"), chunk("ですわ。"), chunk(finish="stop"),
         {**chunk(), "choices": [], "usage": usage}],
    )  # fmt: skip
    assert ask(server, stop=["\n質問"]) == ["お菓子作り", "ですわ。", Finish("end", (), 21, 3)]
    _, _, body = server.requests[0]
    assert body["messages"][1] == {"role": "user", "content": "ご趣味は？"}
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.0, 96, ["\n質問"])


def test_pieces_arrive_before_the_reply_is_complete(server: Server) -> None:
    go_on = threading.Event()
    server.answer = lambda path, body: (200, [chunk("a"), go_on, chunk("b"), chunk(finish="stop")])
    stream = chat_stream(ASK, "m", PRESETS["balanced"], base_url=server.url)
    assert next(stream) == "a"
    go_on.set()
    assert list(stream) == ["b", Finish("end")]


@pytest.mark.parametrize(("said", "reason"), [("length", "length"), ("content_filter", "filtered")])
def test_other_ends_are_told(server: Server, said: str, reason: str) -> None:
    server.answer = lambda path, body: (200, [chunk("x"), chunk(finish=said)])
    assert ask(server)[-1].reason == reason


def test_cancelling_and_closing_end_the_request(server: Server) -> None:
    pieces = [chunk("x" * 5000) for _ in range(2000)]
    server.answer = lambda path, body: (200, [*pieces, chunk(finish="stop")])
    seen: list[Any] = []
    for piece in chat_stream(
        ASK, "m", PRESETS["balanced"], base_url=server.url, cancelled=lambda: len(seen) >= 3
    ):
        seen.append(piece)
    assert seen[3:] == [Finish("cancelled")]
    assert server.closed_early.wait(10)
    server.closed_early.clear()
    stream = chat_stream(ASK, "m", PRESETS["balanced"], base_url=server.url)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert server.closed_early.wait(10)


def test_settings_a_server_refuses_are_left_out_and_named(server: Server) -> None:
    def strict(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        for name in ("stream_options", "max_tokens", "temperature"):
            if name in body:
                message = f"Unsupported parameter: {name}"
                return 400, {"error": {"message": message, "param": name, "code": "unsupported"}}
        return 200, [chunk("ok"), chunk(finish="stop")]

    server.answer = strict
    preset = GenerationPreset(temperature=0.7, top_k=40, repetition_penalty=1.1)
    text, finish = ask(server, preset)
    assert text == "ok"
    assert set(finish.ignored) == {"temperature", "top_k", "repetition_penalty"}
    last = server.requests[-1][2]
    assert last["max_completion_tokens"] == 96 and last["seed"] == 0


CASES = {
    "401": (error(401, f"Incorrect API key provided: {KEY}"), "refused the API key", "拒否"),
    "403": (error(403, "no access"), "does not allow this key", "権限"),
    "404": (error(404, "no such model"), "does not know the model 'some-model'", "some-model"),
    "quota": (
        error(429, "You exceeded your current quota", code="insufficient_quota"),
        "quota .* is used up .* trying again will not help",
        "利用枠",
    ),
    "busy": (error(429, "slow down"), "too many requests", "多すぎます"),
    "400": (error(400, f"too long for {KEY}"), r"refused the request \(400\): .*too long", "400"),
    "500": (error(500, "broken inside"), r"\(500\): .*broken inside", "500"),
    "page": (lambda path, body: (200, "<html>Welcome</html>"), "/v1", "/v1"),
    "no json": (lambda path, body: (200, "{broken"), "/v1", "/v1"),
    "empty": (lambda path, body: (200, {"data": []}), "/v1", "/v1"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("call", ["embed", "chat"])
def test_errors_are_plain_words_without_the_key(
    server: Server, case: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer, english, japanese = CASES[case]
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UserError, match=english) as caught:
        if call == "embed":
            embed(["x"], "some-model", server.url)
        else:
            ask(server)
    assert japanese in caught.value.in_("ja")
    for text in (*caught.value.text, str(caught.value), caplog.text):
        assert KEY not in text
    error_shown = caught.value
    assert error_shown.__cause__ is None
    assert error_shown.__context__ is None or error_shown.__suppress_context__


def test_a_busy_server_is_asked_again(server: Server) -> None:
    def second_time(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return vectors(path, body) if len(server.requests) > 1 else error(429, "slow")(path, body)

    server.answer = second_time
    assert len(embed(["x"], "m", server.url)) == 1


def test_no_server_a_cut_connection_and_an_error_in_the_stream(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port}/v1 cannot be reached") as caught:
        embed(["x"], "m", f"http://127.0.0.1:{port}/v1")
    assert "接続できません" in caught.value.in_("ja")

    server.answer = lambda path, body: (200, [chunk("half a re"), None])
    pieces = chat_stream(ASK, "m", PRESETS["balanced"], base_url=server.url)
    assert next(pieces) == "half a re"
    with pytest.raises(UserError, match="ended before the reply did"):
        next(pieces)

    server.answer = lambda path, body: (200, [chunk("x"), {"error": {"message": "out of memory"}}])
    with pytest.raises(UserError, match="reported an error: out of memory"):
        ask(server)


def test_wrong_vectors_are_refused(server: Server) -> None:
    def zeros(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"data": [{"index": 0, "embedding": [0.0, 0.0]}]}

    server.answer = zeros
    embedder = get_embedder(EmbedderConfig(kind="openai", model="zeros", base_url=server.url))
    with pytest.raises(UserError, match="Is this an embedding model"):
        embedder.embed_queries(["x"])


def test_a_key_goes_to_its_own_server_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = vectors
    set_session_key("session-key-for-this-server", server.url)
    try:
        embed(["x"], "m", server.url)
        embed(["x"], "m", server.url.replace("127.0.0.1", "localhost"))
    finally:
        set_session_key("", server.url)
    embed(["x"], "m", server.url)
    sent = [headers["authorization"] for _, headers, _ in server.requests]
    assert sent == ["Bearer session-key-for-this-server", "Bearer none", f"Bearer {KEY}"]

    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert not has_key()
    assert len(embed(["x"], "m", server.url)) == 1, "a local server needs no key"
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        embed(["x"], "m")
    assert "OPENAI_API_KEY" in caught.value.in_("ja")
    with pytest.raises(UserError, match="Copy it again"):
        set_session_key("sk-キー")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://x:99999999/"])
def test_an_unusable_address_is_told(url: str) -> None:
    with pytest.raises(UserError, match="must look like"):
        embed(["x"], "m", url)


def test_a_password_in_the_address_is_not_shown() -> None:
    embedder = get_embedder(
        EmbedderConfig(kind="openai", model="m", base_url="http://me:secret@127.0.0.1:9/v1")
    )
    assert embedder.id == "openai:m@127.0.0.1:9/v1"
