"""The Chat tab: variants of one character answer side by side, scored as they end.

The server owns every turn; the page only looks at one (``attach``), so a reload or a second tab
shows the same thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import gradio as gr

from charllm.core.variants import default_columns
from charllm.data.errors import Text, UserError
from charllm.data.profile import list_profiles
from charllm.ui.chat_form import build_form
from charllm.ui.chat_settings import settings_from
from charllm.ui.chat_view import (
    Looking,
    board_state,
    conversation_choices,
    model_banner,
    remembered,
    variant_choices,
)
from charllm.ui.downloads import saved_after
from charllm.ui.page import Page, profile_choices
from charllm.ui.words import language_of, say, warn

UPDATES_PER_SECOND = 20
# What this browser looked at last stays in the browser, and survives a restart of the server.
REMEMBER = "(...values) => window.charllmRemember(...values)"
RECALL = "(stored, profile) => [window.charllmRecall(), profile]"


def build(page: Page) -> None:
    looking = Looking()
    session = gr.Textbox("{}", visible=False)
    shown = gr.Textbox(page.profile.value or "", visible=False)  # whom the board shows
    form = build_form(page)
    ticker = gr.Timer(1.0)
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def listing(slug: str | None, current: int | None, request: gr.Request) -> Any:
        rows = conversation_choices(page, slug, language_of(request)) if slug else []
        known = {value for _, value in rows}
        return gr.Dropdown(rows, value=current if current in known else None)

    async def attach(conversation: int | None, request: gr.Request) -> AsyncIterator[Any]:
        """Follow the conversation's live turn until its last score, or the page shows another."""
        conversation = conversation or looking.where(request)  # the list may be on its way
        turn = page.chat.live(conversation)
        if turn is None:
            yield gr.skip()
            return
        while True:
            version, settled = turn.version, turn.settled
            state = board_state(page, turn.profile, conversation)
            if not looking.still(request, conversation):
                break
            yield state
            if settled:
                break
            while turn.version == version and looking.still(request, conversation):
                await asyncio.sleep(1 / UPDATES_PER_SECOND)
        # Gradio sends the last value again at the end, over whatever is shown by then.
        yield gr.skip()

    def on_load(stored: str, slug: str | None, request: gr.Request) -> Any:
        saved = remembered(stored)
        known = list_profiles(page.paths)
        slug = saved.get("profile") if saved.get("profile") in known else slug
        if slug is None:
            return [gr.skip()] * 8
        names = [name for _, name in variant_choices(page, slug, "en")]
        kept = [name for name in (saved.get("columns") or []) if name in names]
        rows = {row.id for row in page.chat.conversations(slug)}
        current = saved.get("conversation") if saved.get("conversation") in rows else None
        looking.at(request, current)
        return [
            slug,
            gr.Dropdown(profile_choices(page.paths), value=slug),
            listing(slug, current, request),
            gr.Dropdown(
                variant_choices(page, slug, language_of(request)),
                value=kept if len(kept) > 1 else default_columns(page.paths, slug),
            ),
            # A first visitor may have pressed these before this arrives.
            *(bool(saved[name]) if name in saved else gr.skip() for name in ("blind", "score")),
            board_state(page, slug, current),
            model_banner(page, request)[0],
        ]

    def look_again(shown_: str, slug: str | None, chosen: list[str], request: gr.Request) -> Any:
        """New checkpoints and models become columns to choose, without a reload.

        The page also asks for this when it opens, by when ``on_load`` has not yet put back what
        the visitor had chosen: that answer must stand, whichever comes last.
        """
        if shown_ != (slug or ""):
            return gr.skip()
        rows = variant_choices(page, slug, language_of(request)) if slug else []
        known = {name for _, name in rows}
        if known.issuperset(chosen or []):
            return gr.Dropdown(rows)
        return gr.Dropdown(rows, value=[name for name in chosen if name in known])

    def on_profile(slug: str | None, before: str, request: gr.Request) -> Any:
        """Another character, chosen in the header or made, imported or deleted elsewhere."""
        slug = slug or ""
        if slug == before:
            return [gr.skip()] * 4
        looking.leave(request, None)
        rows = variant_choices(page, slug, language_of(request)) if slug else []
        return [
            slug,
            listing(slug, None, request),
            gr.Dropdown(rows, value=default_columns(page.paths, slug) if slug else []),
            board_state(page, slug, None),
        ]

    def on_send(
        text: str,
        slug: str | None,
        conversation: int | None,
        columns: list[str],
        blind: bool,
        score: bool,
        request: gr.Request,
        *values: Any,
    ) -> Any:
        try:
            if slug is None:
                raise UserError(
                    "Make a character first, in the Character tab.",
                    "先に「キャラクター」タブで人物を作ってください。",
                )
            conversation = page.chat.send(
                conversation, slug, text, columns, settings_from(*values), blind=blind, score=score
            )
            looking.at(request, conversation)
        except UserError as error:
            warn(error, request)
            return [gr.skip()] * 3
        return ["", listing(slug, conversation, request), board_state(page, slug, conversation)]

    def on_board(
        slug: str,
        conversation: int | None,
        columns: list[str],
        blind: bool,
        score: bool,
        event: gr.EventData,
        request: gr.Request,
        *values: Any,
    ) -> Any:
        """What was pressed inside the board: stop, vote, regenerate, or an edit."""
        data = event._data
        conversation = data.get("conversation") or conversation  # what is drawn is what is meant
        try:
            if conversation is None:
                return gr.skip()
            if data["action"] == "stop":
                page.chat.stop(conversation, data["column"])
            elif data["action"] == "vote":
                page.chat.vote(conversation, int(data["turn"]), data["choice"])
            elif data["action"] == "regenerate":
                page.chat.regenerate(
                    conversation, settings_from(*values), data["column"], score=score
                )
            elif data["action"] == "edit-reply":
                page.chat.edit_reply(
                    conversation, int(data["turn"]), data["column"], data["text"], data["reply"]
                )
            elif data["action"] == "restore-reply":
                page.chat.restore_reply(conversation, int(data["turn"]), data["column"])
            elif data["action"] == "edit":
                page.chat.edit(
                    conversation,
                    data["text"],
                    columns,
                    settings_from(*values),
                    blind=blind,
                    score=score,
                )
        except UserError as error:
            warn(error, request)
        return board_state(page, slug, conversation)

    def on_again(
        slug: str, conversation: int | None, score: bool, request: gr.Request, *values: Any
    ) -> Any:
        try:
            if conversation is not None:
                page.chat.regenerate(conversation, settings_from(*values), None, score=score)
        except UserError as error:
            warn(error, request)
        return board_state(page, slug, conversation)

    def on_stop(conversation: int | None) -> None:
        if conversation is not None:
            page.chat.stop(conversation)

    def on_choose(slug: str, conversation: int | None, request: gr.Request) -> Any:
        looking.leave(request, conversation)
        return board_state(page, slug, conversation)

    def on_clear(slug: str, request: gr.Request) -> Any:
        looking.leave(request, None)
        return [listing(slug, None, request), board_state(page, slug, None)]

    def on_delete(slug: str, conversation: int | None, request: gr.Request) -> Any:
        if conversation is not None:
            page.chat.delete(conversation)
        looking.leave(request, None)
        return [listing(slug, None, request), board_state(page, slug, None)]

    def on_export(
        kind: Literal["jsonl", "md"], conversation: int | None, request: gr.Request
    ) -> Any:
        if conversation is None:
            gr.Info(
                say(
                    Text("There is nothing to export yet.", "書き出す会話がまだありません。"),
                    request,
                )
            )
            return None
        return str(page.chat.export(conversation, kind))

    def on_tick(request: gr.Request) -> Any:
        html, busy = model_banner(page, request)
        return html, gr.Timer(active=busy)

    last = {"trigger_mode": "always_last", **shared}
    conversation, columns, board = form.conversation, form.columns, form.board
    viewer: dict[str, Any] = {"fn": attach, "inputs": conversation, "outputs": board, **last}
    asked: list[Any] = [columns, form.blind, form.score]
    saved = [page.profile, conversation, *asked]
    loaded = [shown, *saved, board, form.status]
    page.demo.load(on_load, [session, page.profile], loaded, js=RECALL, **shared).then(**viewer)
    page.tab.select(look_again, [shown, page.profile, columns], columns, **shared)
    page.profile.change(
        on_profile, [page.profile, shown], [shown, conversation, columns, board], **last
    ).then(None, saved, None, js=REMEMBER)
    conversation.input(on_choose, [page.profile, conversation], board, **last).then(
        None, saved, None, js=REMEMBER
    ).then(**viewer)
    for control in asked:
        control.input(None, saved, None, js=REMEMBER)
    inputs = [page.profile, conversation, *asked, *form.knobs]
    sent = [form.composer, conversation, board]
    form.send.click(on_send, [form.composer, *inputs], sent, **shared).then(
        None, saved, None, js=REMEMBER
    ).then(**viewer)
    board.select(on_board, inputs, board, trigger_mode="multiple", **shared).then(**viewer)
    last_turn = [page.profile, conversation, form.score, *form.knobs]
    form.again.click(on_again, last_turn, board, **shared).then(**viewer)
    form.stop.click(on_stop, conversation, None, queue=False, **shared)
    form.clear.click(on_clear, page.profile, [conversation, board], **shared).then(
        None, saved, None, js=REMEMBER
    )
    form.delete.click(
        on_delete, [page.profile, conversation], [conversation, board], **shared
    ).then(None, saved, None, js=REMEMBER)
    for kind, button in form.exports.items():
        made = button.click(_exporter(on_export, kind), conversation, form.download, **shared)
        saved_after(made, form.download)
    ticker.tick(on_tick, None, [form.status, ticker], **shared)


def _exporter(handler: Any, kind: str) -> Any:
    """A handler for one format; Gradio looks at the signature, so a partial would not do."""

    def export(conversation: int | None, request: gr.Request) -> Any:
        return handler(kind, conversation, request)

    return export
