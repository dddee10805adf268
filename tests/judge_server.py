"""A chat completions server on loopback that answers, or misbehaves, as it is told.

It counts what it was asked and what it billed: an answer with a verdict that was sent whole, or
that the server believes it has sent, is billed. ``behave`` decides what each request gets.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"flaws": ["語尾が一か所平板"], "reasons": "口調は設定どおり。", "score": 6}
Behave = Callable[["Asked"], "Reply"]


class Asked:
    """One request: its body, how often this very question was asked before, how many in all."""

    def __init__(self, body: dict[str, Any], times: int, number: int) -> None:
        self.body, self.times, self.number = body, times, number

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])


class Reply:
    """What the server does. ``status`` 0 drops the connection in the middle of the answer."""

    def __init__(
        self,
        status: int = 200,
        content: Any = None,
        *,
        headers: dict[str, str] | None = None,
        error: dict[str, Any] | None = None,
        finish: str = "stop",
        refusal: str | None = None,
        wait: float = 0.0,
        logprobs: list[dict[str, Any]] | None = None,
        counted: bool = True,
    ) -> None:
        self.counted = counted
        self.status, self.headers, self.error = status, headers or {}, error
        self.content = json.dumps(GOOD, ensure_ascii=False) if content is None else content
        self.finish, self.refusal, self.wait, self.logprobs = finish, refusal, wait, logprobs


def error(status: int, code: str = "", param: str = "", **more: Any) -> Reply:
    told = {"message": f"{code or status} {param}", "type": code, "code": code, "param": param}
    return Reply(status, error=told, **more)


class JudgeServer:
    """Running on a port of its own; ``url`` ends in ``/v1``."""

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.billed: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._times: dict[str, int] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def requests(self) -> int:
        return len(self.bodies)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        question = json.dumps(body["messages"], ensure_ascii=False)
        with self._lock:
            self.bodies.append(body)
            self.headers.append(dict(handler.headers.items()))
            times = self._times.get(question, 0)
            self._times[question] = times + 1
            asked = Asked(body, times, len(self.bodies))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._send(handler, self.behave(asked), question)
        finally:
            with self._lock:
                self._at_once -= 1

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply, question: str) -> None:
        time.sleep(reply.wait)
        if reply.error is not None:
            data = json.dumps({"error": reply.error}).encode()
        else:
            data = json.dumps(_completion(reply), ensure_ascii=False).encode()
        if reply.status == 200:
            with self._lock:
                self.billed.append(question)
        try:
            handler.send_response(reply.status or 200)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(data)))
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data if reply.status else data[: len(data) // 2])
            if not reply.status:
                handler.wfile.flush()
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
        except OSError:  # the client has given up
            pass


def _completion(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": None if reply.refusal else reply.content}
    choice = {
        "index": 0,
        "message": {**message, "refusal": reply.refusal},
        "finish_reason": reply.finish,
        "logprobs": {"content": reply.logprobs} if reply.logprobs else None,
    }
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    details = {"prompt_tokens_details": {"cached_tokens": 800}}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1-2026-01-01",
        "choices": [choice],
        **({"usage": {**usage, **details}} if reply.counted else {}),
    }


@contextmanager
def serving(behave: Behave = lambda asked: Reply()) -> Iterator[JudgeServer]:
    server = JudgeServer(behave)
    try:
        yield server
    finally:
        server.close()
