"""What the chat's tests share: a workspace with the embedded model, adapters, a small server."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from charllm.core.generation import GenerationPreset
from charllm.core.replying import ReplySettings
from charllm.core.variants import Variant
from charllm.data.config import ROOT, Paths
from charllm.services.chat import ChatService
from charllm.services.turns import Turn

QUICK = ReplySettings(preset=GenerationPreset(name="quick", max_new_tokens=8))
ENDLESS = ReplySettings(
    preset=GenerationPreset(name="endless", max_new_tokens=600, repetition_guard=False)
)
QUESTION = "あなたのお名前を教えてください。"


def new_world(folder: Path, base_folder: Path) -> Paths:
    """The project's data, two random adapters with a merge of them, and the embedded model."""
    paths = Paths(folder / "root", folder / "workspace")
    for name in ("profiles", "datasets"):
        shutil.copytree(ROOT / name, paths.root / name)
    paths.models.mkdir(parents=True)
    (paths.models / base_folder.name).symlink_to(base_folder)
    for seed, name in enumerate(("one", "two")):
        add_adapter(paths, name, base_folder, seed)
    add_recipe(paths, "mix", base_folder.name, ("one", "two"))
    return paths


def add_adapter(
    paths: Paths,
    name: str,
    base_folder: Path,
    seed: int,
    profile: str = "ayane",
    module: str = "q_proj",
    strength: float = 0.1,
) -> Path:
    """A random LoRA on the query (or output) projections that changes what is said."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))
    inner, out = config["hidden_size"], config["num_attention_heads"] * config["head_dim"]
    if module == "o_proj":
        inner, out = out, inner
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        key = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
        tensors[f"{key}A.weight"] = torch.randn(4, inner, generator=random) * strength
        tensors[f"{key}B.weight"] = torch.randn(out, 4, generator=random) * strength
    folder = paths.checkpoints / name
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=[module], task_type="CAUSAL_LM")
    lora.save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_card(folder, {"base": base_folder.name, "profile": profile, "label": label(name)})
    return folder


def add_recipe(paths: Paths, name: str, base: str, parents: tuple[str, str]) -> Path:
    from charllm.core.merging.recipe import uniform_linear

    folder = paths.checkpoints / name
    folder.mkdir(parents=True)
    written = [f"workspace/models/{base}+checkpoints/{parent}" for parent in parents]
    uniform_linear(written).save(folder / "recipe.yaml")
    write_card(folder, {"base": base, "profile": "ayane", "label": label(name)})
    return folder


def label(name: str) -> dict[str, str]:
    return {"en": f"Checkpoint {name}", "ja": f"チェックポイント {name}"}


def write_card(folder: Path, card: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")


def until(true: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def settled(chat: ChatService, conversation: int) -> Turn:
    """The conversation's live turn, after all its columns and scores have ended."""
    turn = chat.live(conversation)
    assert turn is not None
    until(lambda: turn.settled)
    return turn


def ask(
    chat: ChatService,
    *names: str,
    text: str = QUESTION,
    conversation: int | None = None,
    settings: ReplySettings = QUICK,
    blind: bool = False,
    score: bool = False,
) -> tuple[int, Turn]:
    """Send, and wait for the last score."""
    conversation = chat.send(conversation, "ayane", text, names, settings, blind=blind, score=score)
    return conversation, settled(chat, conversation)


def texts(turn: Turn) -> dict[str, str]:
    return {column.variant.name: column.text for column in turn.columns}


def remote(url: str, name: str = "remote-test", rag: bool = False) -> Variant:
    return Variant(name=name, label_en="Far", label_ja="遠く", model="far-1", rag=rag, base_url=url)


@contextmanager
def server(answer: Callable[[dict[str, Any]], tuple[int, list[str]]]) -> Iterator[str]:
    """An OpenAI-compatible server on loopback; ``answer(body)`` gives a status and the pieces."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, pieces = answer(body)
            self.send_response(status)
            if status != 200:
                data = json.dumps({"error": {"message": "no", "type": "x"}}).encode()
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for piece in pieces:
                self._chunk({"content": piece}, None)
            self._chunk({}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

        def _chunk(self, delta: dict[str, str], finish: str | None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            row = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "far-1"}
            self.wfile.write(f"data: {json.dumps({**row, 'choices': [choice]})}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        http.shutdown()
        http.server_close()
