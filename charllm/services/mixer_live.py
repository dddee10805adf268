"""Asking a mixture: one question to it and to the plain average, as the server owns it.

Adapters run on the chat's own base model, in the chat's own worker, two rows of one batch; whole
models have a worker of their own, which gives them back as soon as somebody else asks for the
accelerator. Pages look at an ``Asked``; a new one ends the one before it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from charllm.core.generation import PRESETS, Done, Request
from charllm.core.replying import ReplySettings, check_question
from charllm.data.config import Paths
from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile, load_profile
from charllm.services.chat import ChatService
from charllm.services.engine import Engine
from charllm.services.facts import find_facts
from charllm.services.mixer import Board
from charllm.services.mixer_asked import SIDES, Asked, Name, scored, side_of
from charllm.services.mixer_rows import (
    base_of,
    key_of,
    load_parents,
    model_name,
    request_for,
    row_of,
)

if TYPE_CHECKING:
    from charllm.core.merging.engines import Engine as Blend
    from charllm.core.replying import Resident

KEPT = 64
"""Replies of plain averages that are remembered: they stay the same while sliders move."""
PARENTS = Text("Loading the parents…", "親モデルを読み込んでいます…")
BLENDING = Text("Blending…", "重みを混ぜています…")
LOOKING = Text("Looking up facts…", "事実を検索しています…")


class Blender(Engine):
    """A worker for whole models: the parents and the model that they are blended into."""

    def __init__(self, paths: Paths, board: Board) -> None:
        self.board = board
        self._blend: Blend | None = None
        super().__init__(paths, "mixer")

    def live(self, waiting: Callable[[Text], bool]) -> Blend | None:
        """The parents, loaded; called from a job only. None where ``waiting`` did not go on."""
        from charllm.core.merging.engines import open_engine

        if not self._borrow(waiting) or not waiting(PARENTS):
            return None
        if self._blend is None:
            try:
                plan = self.board.plan
                # On a CPU, compiling the kernels takes longer than a session's blends without.
                compiled = None if plan.device == "cuda" else False
                self._blend = open_engine(plan, self.board.size, compiled)
            except BaseException:
                self._release()
                raise
        return self._blend

    def _release(self) -> None:
        if self._blend is not None:
            self._blend.close()
            self._blend = None
        super()._release()


class MixerDesk:
    """Asks mixtures; safe to call from any thread."""

    def __init__(self, paths: Paths, chat: ChatService) -> None:
        self.paths, self.chat = paths, chat
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._known: OrderedDict[str, Asked] = OrderedDict()
        self._blender: Blender | None = None

    def ask(
        self,
        page: str,
        slug: str,
        board: Board,
        weights: Mapping[str, Sequence[float]],
        question: str,
        *,
        preset: str = "balanced",
        rag: bool = False,
    ) -> Asked:
        """Begin to answer, instead of what ``page`` had asked before; returns at once.

        ``UserError`` where there is no question, no such preset, or no weights to ask.
        """
        if preset not in PRESETS:
            raise UserError(
                f"There is no preset {preset!r}.", f"プリセット「{preset}」はありません。"
            )
        board.plan.require()
        asked = Asked(
            slug,
            check_question(question),
            PRESETS[preset],
            rag,
            board,
            board.coefficients(weights),
        )
        profile = load_profile(self.paths, slug)
        with self._lock:
            before = self._asked.pop(page, None)
            self._asked[page] = asked
            while len(self._asked) > KEPT:
                self._asked.popitem(last=False)
        if before is not None:
            before.cancelled = True
        self.chat.runner.endings.scorer.warm(slug)
        threading.Thread(target=self._run, args=(asked, profile), daemon=True).start()
        return asked

    def look(self, page: str) -> Asked | None:
        """What this page has asked last."""
        with self._lock:
            return self._asked.get(page)

    def stop(self, page: str) -> None:
        asked = self.look(page)
        if asked is not None:
            asked.cancelled = True
            asked.end()

    def close(self) -> None:
        """Give whole models back; the chat's own is the chat's."""
        with self._lock:
            blender, self._blender = self._blender, None
        if blender is not None:
            blender.close()

    # ── threads ───────────────────────────────────────────────────────────────────────────────

    def _run(self, asked: Asked, profile: Profile) -> None:
        try:
            if asked.rag:
                asked.tell(LOOKING)
                settings = ReplySettings(preset=asked.preset)
                asked.hits = find_facts(self.paths, profile, asked.question, settings).hits
            worker = self._worker(asked.board)
            worker.submit(lambda engine: self._job(engine, asked, profile))
        except Exception as error:  # this thread's end: nobody else would tell the page
            asked.fail(error)

    def _worker(self, board: Board) -> Engine:
        """The chat's own worker for adapters, else ours for these very parents."""
        if board.live:
            return self.chat.runner.engine(base_of(self.paths, board), "none")
        key = (board.parents, board.size)
        with self._lock:
            old = self._blender
            if old is not None and (old.board.parents, old.board.size) == key:
                return old
            self._blender = made = Blender(self.paths, board)
        if old is not None:
            old.close()
        return made

    def _job(self, engine: Engine, asked: Asked, profile: Profile) -> None:
        """In the worker's thread: both replies, or what keeps them from being made."""

        def waiting(stage: Text) -> bool:
            asked.tell(stage)
            return not asked.cancelled

        try:
            if asked.cancelled:
                asked.end()
            elif isinstance(engine, Blender):
                blend = engine.live(waiting)
                if blend is not None:
                    self._blended(blend, asked, profile)
            else:
                resident = engine.resident(waiting)
                if resident is not None:
                    self._rows(resident, asked, profile)
        except Exception as error:  # recorded at the replies; the worker serves the next job
            asked.fail(error)
        finally:
            asked.tell(None)
            asked.end()

    def _rows(self, resident: Resident, asked: Asked, profile: Profile) -> None:
        """Adapters: both replies are rows of one batch."""
        home = asked.board.plan.parents[0].base
        request = request_for(resident.tokenizer, model_name(home), asked, profile)
        loaded = load_parents(self.paths, resident, asked.board)
        rows = {
            "mix": row_of(resident, asked.board, loaded, asked.mixture),
            "uniform": row_of(resident, asked.board, loaded, asked.uniform()),
        }
        key = key_of(resident.adapters.fingerprint(rows["uniform"]), request)
        known = self._recall(asked, key)
        sides: tuple[Name, ...] = ("mix",) if known else SIDES
        asked.tell(None)
        batch = [replace(request, column=name, scales=rows[name]) for name in sides]
        self._stream(resident.adapters, resident.tokenizer, batch, asked)
        self._remember(asked, key)

    def _blended(self, blend: Blend, asked: Asked, profile: Profile) -> None:
        """Whole models: the model becomes one mixture, then the other."""
        from charllm.core.models import shared_tokenizer

        home = asked.board.plan.parents[0].base
        tokenizer = shared_tokenizer(home)
        request = request_for(tokenizer, model_name(home), asked, profile)
        key = key_of(f"{id(blend)} {' '.join(asked.board.parents)}", request)
        known = self._recall(asked, key)
        sides: tuple[Name, ...] = ("mix",) if known else SIDES
        for name in sides:
            if asked.cancelled:
                return
            asked.tell(BLENDING)
            effect = blend.apply(asked.mixture if name == "mix" else asked.uniform())
            if name == "mix":
                asked.warning = effect.warning
            asked.tell(None)
            one = replace(request, column=name, scales=effect.scales)
            self._stream(blend.model, tokenizer, [one], asked)
        self._remember(asked, key)

    def _stream(self, model: Any, tokenizer: Any, batch: Sequence[Request], asked: Asked) -> None:
        from charllm.core.generation import stream

        for request in batch:
            asked.put(side_of(request.column), state="writing")
        events = stream(model, tokenizer, batch, lambda name: asked.cancelled)
        with closing(events):  # type: ignore[type-var]
            for event in events:
                name = side_of(event.column)
                if isinstance(event, Done):
                    self._done(asked, name, event)
                else:
                    asked.put(name, text=asked.sides[name].text + event.text)

    def _done(self, asked: Asked, name: Name, done: Done) -> None:
        text = done.text.strip()
        asked.put(
            name,
            state="done",
            text=text,
            reason=done.reason,
            tokens=len(done.token_ids),
            seconds=done.seconds,
        )
        if done.reason != "cancelled":
            self._score(asked, name)

    def _score(self, asked: Asked, name: Name) -> None:
        side = asked.sides[name]
        self.chat.runner.endings.scorer.submit(
            asked.profile,
            asked.question,
            side.text,
            side.reason,
            lambda result: asked.put(name, score=scored(result)),
        )

    # ── the plain average's replies ───────────────────────────────────────────────────────────

    def _recall(self, asked: Asked, key: str) -> bool:
        """Put the plain average's reply in, where the same was asked before."""
        with self._lock:
            before = self._known.get(key)
        if before is None:
            return False
        known = before.sides["uniform"]
        asked.put("uniform", **vars(known))
        if known.score is None:
            self._score(asked, "uniform")
        return True

    def _remember(self, asked: Asked, key: str) -> None:
        side = asked.sides["uniform"]
        if side.state == "done" and side.reason != "cancelled":
            with self._lock:
                self._known.setdefault(key, asked)
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
