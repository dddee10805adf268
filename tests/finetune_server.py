"""A fine-tuning service on loopback: files, jobs, events, checkpoints, and its models' replies.

A job moves on by one stage at each look at it. ``hook`` sees each request first and may answer in
its place; ``after`` sees each answer before it is sent and may hold or drop it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "sk-finetune-0123456789abcdefghij"
Answer = tuple[int, Any]
STAGES = ("validating_files", "queued", "running", "running", "succeeded")


class FinetuneServer:
    """Running on a port of its own; ``url`` ends in ``/v1``. ``knows_method``: the newer form."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {}
        self.deleted: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.log: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.stages: tuple[str, ...] = STAGES
        self.steps = 4
        self.error = "File 'training' has too few examples."
        self.knows_method = True
        self.hook: Callable[[str, str], Answer | None] = lambda method, path: None
        self.after: Callable[[str, str], bool] = lambda method, path: True
        self._uploads = 0
        self._lock = threading.RLock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other

            def do_GET(self) -> None:
                owner._serve(self, "GET")

            def do_POST(self) -> None:
                owner._serve(self, "POST")

            def do_DELETE(self) -> None:
                owner._serve(self, "DELETE")

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def count(self, method: str, path: str) -> int:
        return self.requests.count((method, path))

    def rows(self, body: dict[str, Any], which: str) -> list[dict[str, Any]]:
        """The rows of a job's ``training_file`` or ``validation_file``, as they were uploaded."""
        lines = self.files[body[which]][1].decode().splitlines()
        return [json.loads(line) for line in lines]

    # ── the protocol ──────────────────────────────────────────────────────────────────────────

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        parts = urlsplit(handler.path)
        path = parts.path.removeprefix("/v1")
        data = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            self.requests.append((method, path))
        answer = self.hook(method, path)
        if answer is None and handler.headers["authorization"] != f"Bearer {KEY}":
            said = f"Incorrect API key provided: {handler.headers['authorization']}"
            answer = 401, {"error": {"message": said, "code": "invalid_api_key"}}
        if answer is None:
            with self._lock:
                answer = self._answer(handler, method, path.strip("/").split("/"), query, data)
        if not self.after(method, path):
            handler.close_connection = True
            return
        self._send(handler, *answer)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, value: Any) -> None:
        stream = isinstance(value, list)
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in value) if stream else ""
        sent = (text + "data: [DONE]\n\n").encode() if stream else json.dumps(value).encode()
        kind = "text/event-stream" if stream else "application/json"
        try:
            handler.send_response(status)
            handler.send_header("content-type", kind)
            handler.send_header("content-length", str(len(sent)))
            handler.end_headers()
            handler.wfile.write(sent)
        except OSError:  # the client is gone
            handler.close_connection = True

    def _answer(
        self,
        handler: BaseHTTPRequestHandler,
        method: str,
        path: list[str],
        query: dict[str, str],
        data: bytes,
    ) -> Answer:
        if path == ["files"] and method == "POST":
            return self._upload(handler.headers["content-type"], data)
        if path == ["files"]:
            return 200, _page([_file(name, *file) for name, file in self.files.items()], query)
        if path[0] == "files" and method == "DELETE":
            del self.files[path[1]]
            self.deleted.append(path[1])
            return 200, {"id": path[1], "object": "file", "deleted": True}
        if path == ["chat", "completions"]:
            return self._chat(json.loads(data))
        if path == ["fine_tuning", "jobs"] and method == "POST":
            return self._create(json.loads(data))
        if path == ["fine_tuning", "jobs"]:
            return 200, _page([_job(job) for job in reversed(self.jobs)], query)
        if path[:2] == ["fine_tuning", "jobs"]:
            return self._of_job(path[2], path[3:], query)
        return 404, {"error": {"message": "no such thing"}}

    def _upload(self, kind: str, data: bytes) -> Answer:
        body = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + data)
        parts = {part.get_param("name", header="content-disposition"): part for part in body.walk()}
        assert parts["purpose"].get_payload() == "fine-tune"
        self._uploads += 1
        name = f"file-{self._uploads}"
        content = parts["file"].get_payload(decode=True)
        assert isinstance(content, bytes)
        self.files[name] = (str(parts["file"].get_filename()), content)
        return 200, _file(name, *self.files[name])

    def _create(self, body: dict[str, Any]) -> Answer:
        if not body["model"].startswith("tunable"):
            said = f"Model {body['model']} is not available for fine-tuning or does not exist."
            return 400, {"error": {"message": said, "code": "model_not_available", "param": None}}
        if "method" in body and not self.knows_method:
            return 400, {"error": {"message": "Unrecognized argument: method", "param": "method"}}
        if body["training_file"] not in self.files:
            return 400, {"error": {"message": "no such file", "param": "training_file"}}
        self.bodies.append(body)
        name = f"ftjob-{len(self.jobs) + 1}"
        numbers = body.get("method", {}).get("supervised", body)["hyperparameters"]
        self.jobs.append({"id": name, "body": body, "stage": 0, "numbers": numbers, "status": ""})
        self.log[name] = []
        self._say(name, f"Created fine-tuning job: {name}", data={"step": 0})
        return 200, _job(self.jobs[-1] | {"status": self.stages[0]})

    def _of_job(self, name: str, rest: list[str], query: dict[str, str]) -> Answer:
        job = next((job for job in self.jobs if job["id"] == name), None)
        if job is None:
            return 404, {"error": {"message": f"Could not find fine-tune: {name}"}}
        if rest == ["events"]:
            return 200, _page(self.log[name][::-1], query)
        if rest == ["checkpoints"]:
            return 200, _page(self._checkpoints(name), query)
        if rest == ["cancel"]:
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return 400, {"error": {"message": "Job has already completed."}}
            job["status"] = "cancelled"
            return 200, _job(job)
        if job["status"] != "cancelled":
            job["status"] = self.stages[min(job["stage"], len(self.stages) - 1)]
            job["stage"] += 1
            self._move_on(job)
        return 200, _job(job, self.error)

    def _move_on(self, job: dict[str, Any]) -> None:
        """Half of the steps at each look at a running job; held-out loss after each half."""
        steps = [e["data"]["step"] for e in self.log[job["id"]] if e["type"] == "metrics"]
        if job["status"] != "running" or len(steps) == self.steps:
            return
        half = self.steps // 2
        for step in range(len(steps) + 1, len(steps) + half + 1):
            numbers: dict[str, Any] = {"step": step, "total_steps": self.steps}
            numbers |= {"train_loss": 3.0 / step, "train_mean_token_accuracy": step / 10}
            numbers |= {"valid_loss": 9.0, "full_valid_loss": None}
            if step % half == 0:  # the second epoch overfits
                numbers["full_valid_loss"] = 1.0 + step / 10
            said = f"Step {step}/{self.steps}: training loss={3.0 / step:.2f}"
            self._say(job["id"], said, "metrics", numbers)

    def _checkpoints(self, name: str) -> list[dict[str, Any]]:
        return [
            {
                "id": f"ftckpt-{e['data']['step']}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": 0,
                "fine_tuned_model_checkpoint": f"ft:tunable-1:hana:step-{e['data']['step']}",
                "fine_tuning_job_id": name,
                "step_number": e["data"]["step"],
                "metrics": {"full_valid_loss": e["data"]["full_valid_loss"]},
            }
            for e in self.log[name]
            if e["data"].get("full_valid_loss")
        ]

    def _say(self, job: str, said: str, kind: str = "message", data: Any = None) -> None:
        events = self.log[job]
        events.append(
            {
                "id": f"ftevent-{job}-{len(events)}",
                "object": "fine_tuning.job.event",
                "created_at": int(time.time()),
                "level": "info",
                "message": said,
                "type": kind,
                "data": data or {},
            }
        )

    def _chat(self, body: dict[str, Any]) -> Answer:
        self.asked.append(body)
        if not any(job["status"] == "succeeded" for job in self.jobs):
            return 404, {"error": {"message": "The model does not exist", "param": "model"}}
        choice = {"index": 0, "delta": {"content": "はい、花ですわ。"}, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        common = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        return 200, [common | {"choices": [one]} for one in (choice, end)]


def _file(name: str, filename: str, data: bytes) -> dict[str, Any]:
    told = {"object": "file", "created_at": 0, "purpose": "fine-tune", "status": "processed"}
    return {"id": name, "filename": filename, "bytes": len(data), **told}


def _job(job: dict[str, Any], error: str = "") -> dict[str, Any]:
    done, failed = job["status"] == "succeeded", job["status"] == "failed"
    body = job["body"]
    return {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": 1000,
        "finished_at": 1090 if done else None,
        "estimated_finish": int(time.time()) + 130 if job["status"] == "running" else None,
        "status": job["status"],
        "model": body["model"],
        "fine_tuned_model": f"ft:{body['model']}:{body['suffix']}" if done else None,
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "hyperparameters": job["numbers"],
        "trained_tokens": 1234 if done else None,
        "error": {"code": "bad", "message": error} if failed else {},
        "organization_id": "org",
        "result_files": [],
        "seed": body["seed"],
    }


def _page(items: list[Any], query: dict[str, str]) -> dict[str, Any]:
    """Three at a time at most, so that every list of some length comes in pages."""
    ids = [item["id"] for item in items]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    end = start + min(3, int(query.get("limit", 3)))
    return {"object": "list", "data": items[start:end], "has_more": end < len(items)}


@contextmanager
def serving() -> Iterator[FinetuneServer]:
    server = FinetuneServer()
    try:
        yield server
    finally:
        server.close()
