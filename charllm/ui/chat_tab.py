"""The Chat tab: variants of one character answer side by side, scored as they end.

Data functions, then layout, then wiring. The server owns every turn; the page only looks at one
(``attach``), so a reload or a second tab shows the same thing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import gradio as gr

from charllm.core.catalog import EMBEDDED
from charllm.core.embedding import EmbedderConfig
from charllm.core.generation import (
    DEFAULT_PRESET,
    PRESET_LABELS,
    PRESETS,
    GenerationPreset,
)
from charllm.core.models import is_ready
from charllm.core.replying import ReplySettings
from charllm.core.variants import default_columns, list_variants
from charllm.data.errors import Language, Text, UserError
from charllm.data.profile import list_profiles, load_profile
from charllm.data.queries import load_queries
from charllm.services import runs
from charllm.ui.downloads import made_file, saved_after
from charllm.ui.page import EMBEDDERS, Page, banner, profile_choices, progress_bar
from charllm.ui.words import language_of, say, t, warn

UPDATES_PER_SECOND = 20
# What this browser looked at last stays in the browser, and survives a restart of the server.
REMEMBER = "(...values) => window.charllmRemember(...values)"
RECALL = "(stored, profile) => [window.charllmRecall(), profile]"
INTRO = Text(
    "Your question goes to every column at once. Base is the bare model; RAG finds facts of the "
    "character and puts them into the prompt; fine-tuned weights have learnt the voice; merged "
    "weights blend two of them. Rules and small classifiers score each answer; no key is needed.",
    "質問はすべての列に同時に送られます。ベースは素のモデル、RAG は人物の事実を探してプロンプトに"
    "入れたもの、ファインチューンは口調を学んだ重み、マージは二つの重みを混ぜたものです。"
    "答えは規則と小さな分類器で採点され、API キーはいりません。",
)


# --- data ---------------------------------------------------------------------------------------


def variant_choices(page: Page, slug: str, language: Language) -> list[tuple[str, str]]:
    return [(v.label.in_(language), v.name) for v in list_variants(page.paths, slug)]


def conversation_choices(page: Page, slug: str, language: Language) -> list[tuple[str, int]]:
    return [
        (row.title or Text("New conversation", "新しい会話").in_(language), row.id)
        for row in page.chat.conversations(slug)
    ]


def board_state(page: Page, slug: str | None, conversation: int | None) -> dict[str, Any]:
    """What the board draws: the turns, or an invitation where there are none yet."""
    turns = page.chat.view(conversation) if conversation else []
    suggestions = suggested(page, slug) if slug and not turns else []
    return {
        "conversation": conversation or 0,
        "intro": INTRO.as_json(),
        "suggestions": suggestions,
        "turns": turns,
    }


def remembered(stored: str) -> dict[str, Any]:
    """What the browser kept; anything that is not our own record counts as nothing."""
    try:
        kept = json.loads(stored)
    except json.JSONDecodeError:
        return {}
    return kept if isinstance(kept, dict) else {}


def suggested(page: Page, slug: str) -> list[str]:
    """Three questions to begin with: the name, another fact, and an open one."""
    path = page.paths.queries / f"{slug}.jsonl"
    queries = load_queries(path, "search") if path.is_file() else []
    kinds = (
        [q.text for q in queries if "name" in q.tags and q.gold],
        [q.text for q in queries if q.gold and not {"name", "age"} & set(q.tags)],
        [q.text for q in queries if not q.gold and "trap" not in q.tags],
    )
    found = [texts[0] for texts in kinds if texts]
    examples = load_profile(page.paths, slug).examples
    return (found + [example.user for example in examples])[:3]


def settings_from(
    preset: str,
    temperature: float,
    top_p: float,
    max_new_tokens: float,
    num_beams: float,
    repetition_penalty: float,
    seed: float,
    embedder: str,
    top_k: float,
    auto_threshold: bool,
    threshold: float,
    prompt_language: str,
    history_turns: float,
) -> ReplySettings:
    """The form's values as settings; a preset that was changed is called custom."""
    base = PRESETS[preset] if preset in PRESETS else PRESETS[DEFAULT_PRESET]
    changed = {
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": int(max_new_tokens),
        "num_beams": int(num_beams),
        "repetition_penalty": repetition_penalty,
        "seed": int(seed),
    }
    same = all(getattr(base, name) == value for name, value in changed.items() if name != "seed")
    chosen = GenerationPreset.from_data(
        {**base.model_dump(), **changed, "name": base.name if same else "custom"}, "preset"
    )
    return ReplySettings(
        preset=chosen,
        embedder=EmbedderConfig.from_data({"kind": embedder}, "embedder"),
        top_k=int(top_k),
        threshold=None if auto_threshold else threshold,
        history_turns=int(history_turns),
        prompt_language=None if prompt_language == "auto" else prompt_language,  # type: ignore[arg-type]
    )


def model_banner(page: Page, request: gr.Request) -> tuple[str, bool]:
    """HTML on the embedded model's state, and whether it is still being prepared."""
    if is_ready(page.paths, EMBEDDED):
        return "", False
    run = latest_conversion(page)
    if run is None:
        return banner(
            say(
                Text(
                    "The embedded model is not prepared yet. Prepare it in the Models tab.",
                    "内蔵モデルの準備がまだです。「モデル」タブで準備してください。",
                ),
                request,
            )
        ), False
    status = run.status()
    if status.state in ("failed", "crashed", "cancelled"):
        reason = say(status.error.text, request) if status.error else ""
        words = Text(
            f"The embedded model could not be prepared. {reason} Start it again in the Models tab.",
            f"内蔵モデルを準備できませんでした。{reason}「モデル」タブでやり直せます。",
        )
        return banner(say(words, request), "bad"), False
    left = f" · {status.seconds_left:.0f} s" if status.seconds_left is not None else ""
    words = Text(
        "Preparing the embedded model, once. Ask already: the answer comes when it is ready.",
        "内蔵モデルを準備しています（最初の一度だけ）。先に質問しておくこともできます。",
    )
    step = say(status.progress.message.text, request)
    bar = progress_bar(status.progress.share)
    return banner(f"{say(words, request)} {step}{left}", "", bar), True


def latest_conversion(page: Page) -> runs.Run | None:
    return next((run for run in runs.list_runs(page.paths) if run.kind == "model"), None)


# --- layout -------------------------------------------------------------------------------------


class Looking:
    """Which conversation each page shows: what follows another one must not draw over it.

    Told by whatever changes the conversation, never by what follows it, which may begin too late.
    """

    KEPT = 1000
    ARRIVES_WITHIN = 0.15
    """Seconds that an update needs to reach the page; several are under way at any time."""

    def __init__(self) -> None:
        self._at: dict[str, int | None] = {}

    def at(self, request: gr.Request, conversation: int | None) -> None:
        session = request.session_hash or ""
        self._at.pop(session, None)
        self._at[session] = conversation
        while len(self._at) > self.KEPT:
            del self._at[next(iter(self._at))]

    def leave(self, request: gr.Request, conversation: int | None) -> None:
        """``at``, and time for what was drawn of the one that is left to arrive before."""
        self.at(request, conversation)
        time.sleep(self.ARRIVES_WITHIN)

    def where(self, request: gr.Request) -> int | None:
        """What the page shows, as far as it was told."""
        return self._at.get(request.session_hash or "")

    def still(self, request: gr.Request, conversation: int | None) -> bool:
        return self._at.get(request.session_hash or "", conversation) == conversation


def build(page: Page) -> None:
    looking = Looking()
    slug = page.profile.value
    session = gr.Textbox("{}", visible=False)
    shown = gr.Textbox(slug or "", visible=False)  # the character that the board shows
    status = gr.HTML("", elem_id="model-banner")
    with gr.Row(equal_height=True, elem_id="chat-controls"):
        conversation = gr.Dropdown(
            [], label=t("Conversation", "会話"), min_width=200, scale=2, elem_id="conversation"
        )
        columns = gr.Dropdown(
            variant_choices(page, slug, "en") if slug else [],
            value=default_columns(page.paths, slug) if slug else [],
            multiselect=True,
            max_choices=6,
            label=t("Columns (2–6)", "列（2〜6）"),
            min_width=420,
            scale=5,
            elem_id="columns",
        )
        blind = gr.Checkbox(
            False, label=t("Blind", "ブラインド"), min_width=128, scale=0, elem_id="blind"
        )
        score = gr.Checkbox(
            True, label=t("Live score", "自動採点"), min_width=118, scale=0, elem_id="score"
        )
    with gr.Accordion(t("Settings", "設定"), open=False, elem_id="settings"), gr.Row():
        with gr.Column():
            preset = gr.Dropdown(
                [(t(*PRESET_LABELS[name]), name) for name in PRESETS],
                value=DEFAULT_PRESET,
                label=t("Generation preset", "生成プリセット"),
                elem_id="preset",
            )
            base = PRESETS[DEFAULT_PRESET]
            with gr.Row():
                temperature = gr.Slider(
                    0, 2, base.temperature, step=0.05, label=t("Temperature", "温度")
                )
                top_p = gr.Slider(0.05, 1, base.top_p, step=0.05, label="top-p")
            with gr.Row():
                max_new_tokens = gr.Slider(
                    8, 1024, base.max_new_tokens, step=8, label=t("Most tokens", "最大トークン数")
                )
                num_beams = gr.Slider(1, 4, base.num_beams, step=1, label=t("Beams", "ビーム数"))
            with gr.Row():
                penalty = gr.Slider(
                    1,
                    1.5,
                    base.repetition_penalty,
                    step=0.05,
                    label=t("Repetition penalty", "繰り返しペナルティ"),
                )
                seed = gr.Number(base.seed, precision=0, label=t("Seed", "シード"))
        with gr.Column():
            embedder = gr.Dropdown(
                EMBEDDERS,
                value="e5",
                label=t("Embedder", "埋め込みモデル"),
            )
            with gr.Row():
                top_k = gr.Slider(1, 10, 3, step=1, label=t("Facts looked up", "検索する事実の数"))
                threshold = gr.Slider(
                    0, 1, 0.8, step=0.005, label=t("Similarity threshold", "類似度のしきい値")
                )
            auto_threshold = gr.Checkbox(
                True, label=t("Use the calibrated threshold", "較正されたしきい値を使う")
            )
            with gr.Row():
                prompt_language = gr.Dropdown(
                    [
                        (t("as in the profile", "プロファイルのとおり"), "auto"),
                        (t("Japanese", "日本語"), "ja"),
                        (t("English", "英語"), "en"),
                    ],
                    value="auto",
                    label=t("Language of the system prompt", "システムプロンプトの言語"),
                    elem_id="prompt-language",
                )
                history_turns = gr.Slider(
                    0,
                    10,
                    0,
                    step=1,
                    label=t("Earlier turns shown to the model", "モデルに見せる過去の発言"),
                    info=t(
                        "The embedded model was trained on single questions: 0 suits it best.",
                        "内蔵モデルは一問一答で学習しているため、0 が最適です。",
                    ),
                )
    board = gr.HTML(
        board_state(page, slug, None),
        html_template='<div class="board"></div>',
        js_on_load="window.charllmBoard(element, props, trigger, watch)",
        apply_default_css=False,
        elem_id="board",
    )
    with gr.Row(elem_id="composerbar", equal_height=True):
        composer = gr.Textbox(
            show_label=False,
            container=False,
            lines=2,
            max_lines=8,
            placeholder=t(
                "Ask the character…  (Ctrl+Enter sends, Esc stops)",
                "話しかけてみましょう…（Ctrl+Enter で送信、Esc で停止）",
            ),
            scale=8,
            elem_id="composer",
        )
        send = gr.Button(
            t("Send", "送信"), variant="primary", scale=1, min_width=96, elem_id="send"
        )
        stop = gr.Button(t("Stop", "停止"), scale=1, min_width=80, elem_id="stop")
        again = gr.Button(t("Regenerate", "再生成"), scale=1, min_width=96, elem_id="regenerate")
        clear = gr.Button(t("New", "新しい会話"), scale=1, min_width=96, elem_id="clear")
    with gr.Row(elem_id="chat-foot"):
        export_rows = gr.Button(
            t("Export JSONL", "JSONL で書き出す"), size="sm", elem_id="export-jsonl"
        )
        export_text = gr.Button(
            t("Export Markdown", "Markdown で書き出す"), size="sm", elem_id="export-md"
        )
        delete = gr.Button(
            t("Delete this conversation", "この会話を削除"),
            size="sm",
            elem_id="delete-conversation",
        )
        download = made_file()
    ticker = gr.Timer(1.0)

    # --- wiring ---------------------------------------------------------------------------------
    knobs = [preset, temperature, top_p, max_new_tokens, num_beams, penalty, seed, embedder]
    knobs += [top_k, auto_threshold, threshold, prompt_language, history_turns]
    choices = [columns, blind, score, *knobs]
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

    def on_preset(name: str) -> Any:
        chosen = PRESETS[name]
        return [
            chosen.temperature,
            chosen.top_p,
            chosen.max_new_tokens,
            chosen.num_beams,
            chosen.repetition_penalty,
        ]

    def on_tick(request: gr.Request) -> Any:
        html, busy = model_banner(page, request)
        return html, gr.Timer(active=busy)

    last = {"trigger_mode": "always_last", **shared}
    viewer: dict[str, Any] = {"fn": attach, "inputs": conversation, "outputs": board, **last}
    saved = [page.profile, conversation, columns, blind, score]
    loaded = [shown, page.profile, conversation, columns, blind, score, board, status]
    page.demo.load(on_load, [session, page.profile], loaded, js=RECALL, **shared).then(**viewer)
    page.tab.select(look_again, [shown, page.profile, columns], columns, **shared)
    page.profile.change(
        on_profile, [page.profile, shown], [shown, conversation, columns, board], **last
    ).then(None, saved, None, js=REMEMBER)
    conversation.input(on_choose, [page.profile, conversation], board, **last).then(
        None, saved, None, js=REMEMBER
    ).then(**viewer)
    for control in (columns, blind, score):
        control.input(None, saved, None, js=REMEMBER)
    inputs = [page.profile, conversation, *choices]
    send.click(on_send, [composer, *inputs], [composer, conversation, board], **shared).then(
        None, saved, None, js=REMEMBER
    ).then(**viewer)
    board.select(on_board, inputs, board, trigger_mode="multiple", **shared).then(**viewer)
    again.click(on_again, [page.profile, conversation, score, *knobs], board, **shared).then(
        **viewer
    )
    stop.click(on_stop, conversation, None, queue=False, **shared)
    clear.click(on_clear, page.profile, [conversation, board], **shared).then(
        None, saved, None, js=REMEMBER
    )
    delete.click(on_delete, [page.profile, conversation], [conversation, board], **shared).then(
        None, saved, None, js=REMEMBER
    )
    for button, kind in ((export_rows, "jsonl"), (export_text, "md")):
        made = button.click(_exporter(on_export, kind), conversation, download, **shared)
        saved_after(made, download)
    preset.input(
        on_preset, preset, [temperature, top_p, max_new_tokens, num_beams, penalty], **last
    )
    ticker.tick(on_tick, None, [status, ticker], **shared)


def _exporter(handler: Any, kind: str) -> Any:
    """A handler for one format; Gradio looks at the signature, so a partial would not do."""

    def export(conversation: int | None, request: gr.Request) -> Any:
        return handler(kind, conversation, request)

    return export
