"""The name of a checkpoint, taken by one run at a time, before anything is spent on it.

Two runs of one name would each find it free at the start, and the later one would write over what
the earlier one has made: a training here and one at a service need not wait for each other. A lock
ends with its process, but a service's job goes on without one; so ``<name>.owner`` beside the lock
names the run folder whose job is still out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from charllm.data.config import Paths
from charllm.data.errors import UserError
from charllm.data.files import write_text
from charllm.data.locking import FileLock


@contextmanager
def claimed(paths: Paths, name: str, folder: Path) -> Iterator[None]:
    """Nobody else makes a checkpoint ``name`` within the block; ``UserError`` where somebody does.

    ``folder`` is the run's own, which may have a job out under this name.
    """
    lock = FileLock(_place(paths, name, "lock"))
    if not lock.try_acquire():
        raise UserError(
            f"Another run is making a checkpoint called {name!r}. Give this one another name, or "
            "wait for the other's end.",
            f"ほかの実行がチェックポイント「{name}」を作成しています。別の名前にするか、"
            "終わるのを待ってください。",
        )
    try:
        check_jobs(paths, name, folder)
        yield
    finally:
        lock.release()


def check_jobs(paths: Paths, name: str, folder: Path | None = None) -> None:
    """``UserError`` where another run than ``folder``'s has a job out under this name."""
    owner = _owner(paths, name)
    if owner is None or (folder is not None and owner == folder.resolve()):
        return
    raise UserError(
        f"The run {owner.name} has a job at a service whose result will be called {name!r}. "
        "Resume that run (cancel it then, if it is not wanted), or give this one another name.",
        f"実行 {owner.name} のジョブがサービス側に残っていて、結果は「{name}」という名前に"
        "なります。その実行を再開する（不要なら再開後に取り消す）か、別の名前にしてください。",
    )


def hold_for_job(paths: Paths, name: str, folder: Path) -> None:
    """From now on the name is ``folder``'s, with or without a process, until ``release_job``."""
    write_text(_place(paths, name, "owner"), str(folder.resolve()))


def release_job(paths: Paths, name: str) -> None:
    """The job is over, or there is none."""
    _place(paths, name, "owner").unlink(missing_ok=True)


def _owner(paths: Paths, name: str) -> Path | None:
    """The run folder that has a job out; None where there is none, or it was deleted."""
    try:
        folder = Path(_place(paths, name, "owner").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _place(paths: Paths, name: str, ending: str) -> Path:
    return paths.workspace / "names" / f"{name}.{ending}"
