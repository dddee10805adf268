"""Ray, started for one run on this machine or joined at an address, and what it needs to be quiet.

A cluster of our own listens on loopback alone, asks for a token that only this user can read, sends
no usage statistics, has no dashboard, and keeps its files in the workspace until it is closed. Its
processes start without the keys in our environment. It does not know what is computed there.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from charllm.data.config import ROOT
from charllm.data.errors import UserError

STORE_BYTES = 100 * 2**20
"""Shared memory for what is passed around: questions and replies, never weights."""
LONGEST_FOLDER = 43
"""Ray adds up to 64 characters for its sockets, whose whole path may have 107."""
_OUTSIDE = "charllm-ray-"
"""How the folder begins that takes the place of a workspace whose path is too long."""
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_ADDRESS = re.compile(r"auto|[A-Za-z0-9_.\-]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")
_TOKEN = secrets.token_hex(32)
"""One for all clusters of this process: Ray reads it once."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own switch for machines that are no cluster: every socket is bound to 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


def check_ray(address: str = "") -> None:
    """``UserError`` where Ray is not installed, or ``address`` is none that it can join."""
    if find_spec("ray") is None:
        raise UserError(
            "More than one worker needs Ray, which is not installed: "
            "pip install -r requirements-ray.txt. Or set workers to 1.",
            "複数のワーカーを使うには Ray が必要ですが、インストールされていません。"
            "pip install -r requirements-ray.txt を実行するか、workers を 1 にしてください。",
        )
    if address and not _ADDRESS.fullmatch(address):
        raise UserError(
            f"ray_address: {address!r} is no address of a Ray cluster. Write HOST:PORT, auto for "
            "the one on this machine, or nothing to start one.",
            f"ray_address: {address!r} は Ray クラスターのアドレスではありません。HOST:PORT、"
            "この PC のものなら auto、新しく起動するなら空欄にしてください。",
        )


class Cluster:
    """Ray, connected. Close it; a second one at the same time is not possible in one process."""

    def __init__(
        self, workspace: Path, address: str, workers: int, device: Literal["cpu", "cuda"]
    ) -> None:
        """``UserError`` where the cluster cannot be reached or holds fewer places than asked."""
        check_ray(address)
        self._folder = None if address else _own_folder(workspace)
        self._before = dict(os.environ)
        try:
            with _own_handler():
                if self._folder is None:
                    _join(address)
                else:
                    _start(self._folder, workers, workers if device == "cuda" else 0)
            _check_places(workers, device)
        except BaseException:  # also Ctrl+C: no worker may be left behind
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; a cluster of our own ends with all its processes and files."""
        import ray

        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            for name in (*_QUIET, "RAY_AUTH_TOKEN_PATH"):
                os.environ.pop(name, None)
                if name in self._before:
                    os.environ[name] = self._before[name]


def _start(folder: Path, cpus: int, gpus: int) -> None:
    token = folder / "auth"
    token.touch(mode=0o600)
    token.write_text(_TOKEN, encoding="ascii")
    # Before the import: Ray reads most of them then. They stay while it runs.
    os.environ.update(_QUIET, RAY_AUTH_TOKEN_PATH=str(token))
    os.environ.pop("RAY_AUTH_TOKEN", None)
    with _for_workers():
        import ray

        ray.init(
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=str(folder),
        )


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.WARNING,
            # In front of what the nodes were started with, which Ray puts into the braces.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(ROOT), "${PYTHONPATH}"])}},
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UserError(
            f"ray_address: no Ray cluster answers at {address!r} ({_first_line(error)}). Start it "
            "with the same versions of Ray and Python, and give this process its token.",
            f"ray_address: {address!r} の Ray クラスターに接続できません"
            f"（{_first_line(error)}）。Ray と Python のバージョンをそろえて起動し、"
            "このプロセスにもトークンを渡してください。",
        ) from error


def _check_places(workers: int, device: Literal["cpu", "cuda"]) -> None:
    import ray

    name = "GPU" if device == "cuda" else "CPU"
    places = int(ray.cluster_resources().get(name, 0))
    if places < workers:
        raise UserError(
            f"workers: {workers} workers need {workers} {name}s; the Ray cluster has {places}.",
            f"workers: ワーカー {workers} 個には {name} が {workers} 個必要ですが、"
            f"Ray クラスターには {places} 個しかありません。",
        )


@contextmanager
def _for_workers() -> Iterator[None]:
    """The environment that Ray's processes are started with: this project, none of our keys."""
    before = dict(os.environ)
    for name in before:
        if _SECRET.search(name):
            del os.environ[name]
    search = [str(ROOT), *filter(None, [before.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(search)
    try:
        yield
    finally:
        for name in ("PYTHONPATH", *filter(_SECRET.search, before)):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what this process does on SIGTERM (a run saves), which Ray would replace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _own_folder(workspace: Path) -> Path:
    """A new folder that carries our process's number; those of dead processes are removed."""
    parent = workspace.resolve() / "ray"
    _remove_left(parent, "")
    _remove_left(Path(tempfile.gettempdir()), _OUTSIDE)
    folder = parent / str(os.getpid())
    if len(str(folder)) > LONGEST_FOLDER:
        return Path(tempfile.mkdtemp(prefix=f"{_OUTSIDE}{os.getpid()}-"))
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier process with this number
    folder.mkdir(parents=True, mode=0o700)
    return folder


def _remove_left(parent: Path, start: str) -> None:
    """What killed runs could not remove themselves."""
    import psutil

    for folder in parent.glob(f"{start}*"):
        number = folder.name.removeprefix(start).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
