"""The Character tab: every field of the profile, its facts and examples, saved as they are edited.

A save names the revision this page has seen; if another page has saved since, the change is told
and kept here, and nothing is overwritten. Every change can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import gradio as gr

from charllm.data.errors import Text, UserError
from charllm.data.profile import Profile, load_profile, revision, save_profile
from charllm.services import editing
from charllm.ui import card_panel, retrieval_panel
from charllm.ui.page import Page, banner, profile_choices
from charllm.ui.presses import newest, noted, noting
from charllm.ui.words import language_of, say, t, warn

FACT_COLUMNS = [
    {"key": "fact", "label": {"en": "Fact, one sentence", "ja": "事実（1文）"}, "width": "5"},
    {"key": "keys", "label": {"en": "Keys", "ja": "キー"}, "width": "1"},
]
EXAMPLE_COLUMNS = [
    {"key": "user", "label": {"en": "Somebody says", "ja": "相手の発言"}, "width": "1"},
    {"key": "reply", "label": {"en": "The character answers", "ja": "返答"}, "width": "1"},
]
SAVED = Text("Saved", "保存しました")
NOT_SAVED = Text(
    "The last change to the other character's table came too late to be saved. Choose that "
    "character again and repeat it.",
    "前の人物の表への最後の変更は、切り替えと重なったため保存されていません。"
    "その人物を選び直して、もう一度入力してください。",
)
Change = Callable[[Profile], Profile]
_drawings = count(1)


# --- data ---------------------------------------------------------------------------------------


def fact_rows(profile: Profile, force: bool = False) -> dict[str, Any]:
    rows = [
        {"fact": fact, "keys": ", ".join(profile.fact_keys.get(fact, ()))} for fact in profile.facts
    ]
    return _rows(profile, FACT_COLUMNS, rows, force)


def example_rows(profile: Profile, force: bool = False) -> dict[str, Any]:
    rows = [{"user": example.user, "reply": example.reply} for example in profile.examples]
    return _rows(profile, EXAMPLE_COLUMNS, rows, force)


def _rows(
    profile: Profile, columns: list[dict[str, Any]], rows: list[dict[str, str]], force: bool
) -> dict[str, Any]:
    # Never twice the same number: a value that did not change would not be drawn again.
    drawn = next(_drawings) if force else 0
    return {"owner": profile.slug, "columns": columns, "rows": rows, "force": drawn}


def with_facts(profile: Profile, rows: list[dict[str, Any]]) -> Profile:
    """The profile with the table's facts and their keys."""
    keys = {}
    facts = []
    for row in rows:
        fact = " ".join(str(row.get("fact") or "").split())
        if not fact:
            continue
        facts.append(fact)
        names = [k.strip() for k in str(row.get("keys") or "").replace("、", ",").split(",")]
        if any(names):
            keys[fact] = [k for k in names if k]
    return changed(profile, facts=facts, fact_keys=keys)


def with_examples(profile: Profile, rows: list[dict[str, Any]]) -> Profile:
    """The profile with the table's examples; a half-filled row is not one yet."""
    pairs = [(str(row.get("user") or ""), str(row.get("reply") or "")) for row in rows]
    examples = [
        {"user": u.strip(), "reply": r.strip()} for u, r in pairs if u.strip() and r.strip()
    ]
    return changed(profile, examples=examples)


def changed(profile: Profile, **fields: Any) -> Profile:
    return Profile.from_data({**profile.model_dump(), **fields}, profile.name)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def field_values(profile: Profile) -> list[Any]:
    """The form's values, in the order of ``with_fields``'s arguments."""
    prompts = {key: value.model_dump() for key, value in profile.system_prompts.items()}
    return [
        profile.name,
        profile.language,
        profile.reply_length,
        profile.greeting,
        profile.persona,
        profile.speech.first_person,
        profile.speech.tone,
        "\n".join(profile.speech.endings),
        "\n".join(profile.speech.avoid),
        profile.prompt_language,
        prompts.get("ja", {}).get("plain", ""),
        prompts.get("ja", {}).get("rag", ""),
        prompts.get("en", {}).get("plain", ""),
        prompts.get("en", {}).get("rag", ""),
    ]


def with_fields(profile: Profile, values: list[Any]) -> Profile:
    name, language, length, greeting, persona, first_person, tone, endings, avoid = values[:9]
    prompt_language, ja_plain, ja_rag, en_plain, en_rag = values[9:]
    prompts = {
        key: {"plain": plain, "rag": rag}
        for key, plain, rag in (("ja", ja_plain, ja_rag), ("en", en_plain, en_rag))
        if plain.strip() or rag.strip()
    }
    return changed(
        profile,
        name=name.strip(),
        language=language,
        reply_length=int(length or 0),
        greeting=greeting,
        persona=persona,
        speech={
            "first_person": first_person.strip(),
            "tone": tone.strip(),
            "endings": lines(endings),
            "avoid": lines(avoid),
        },
        prompt_language=prompt_language,
        system_prompts=prompts,
    )


def status_html(text: Text, request: gr.Request, kind: str = "good") -> str:
    return banner(say(text, request), kind)


# --- layout -------------------------------------------------------------------------------------


def build(page: Page) -> None:
    with gr.Row(equal_height=True, elem_id="character-bar"):
        status = gr.HTML("", elem_id="character-status", min_width=320)
        undo = gr.Button(t("Undo", "元に戻す"), scale=0, min_width=110, elem_id="undo")
        redo = gr.Button(t("Redo", "やり直す"), scale=0, min_width=110, elem_id="redo")
        reload = gr.Button(t("Load again", "読み直す"), scale=0, min_width=120, elem_id="reload")
        new_name = gr.Textbox(
            show_label=False,
            container=False,
            placeholder=t("short name: a-z 0-9 -", "短い名前: a-z 0-9 -"),
            scale=0,
            min_width=190,
            elem_id="new-name",
        )
        create = gr.Button(t("New", "新規"), scale=0, min_width=80, elem_id="create")
        copy = gr.Button(t("Save as", "別名で保存"), scale=0, min_width=110, elem_id="save-as")
        delete = gr.Button(t("Delete", "削除"), scale=0, min_width=90, elem_id="delete-profile")
    seen = gr.Textbox("", visible=False)
    with gr.Row():
        with gr.Column(scale=5, min_width=420):
            with gr.Group():
                with gr.Row():
                    name = gr.Textbox(label=t("Name", "名前"), elem_id="field-name", scale=3)
                    language = gr.Dropdown(
                        [(t("Japanese", "日本語"), "ja"), (t("English", "英語"), "en")],
                        label=t("Speaks", "話す言語"),
                        scale=2,
                        min_width=120,
                    )
                    length = gr.Number(
                        label=t("Reply length, characters", "返答の長さ（文字）"),
                        precision=0,
                        scale=2,
                        min_width=150,
                    )
                greeting = gr.Textbox(label=t("Greeting", "最初の挨拶"), lines=2)
                persona = gr.Textbox(
                    label=t("Who the character is", "人物像"), lines=6, elem_id="field-persona"
                )
            with gr.Group():
                with gr.Row():
                    first_person = gr.Textbox(label=t("First person", "一人称"), min_width=120)
                    tone = gr.Textbox(label=t("Tone", "口調の説明"), scale=3)
                with gr.Row():
                    endings = gr.Textbox(
                        label=t("Marks of the voice, one a line", "口調のしるし（1行に1つ）"),
                        lines=5,
                    )
                    avoid = gr.Textbox(
                        label=t("Out of character, one a line", "使わない言い方（1行に1つ）"),
                        lines=5,
                    )
            with gr.Accordion(t("System prompts", "システムプロンプト"), open=False):
                gr.Markdown(
                    t(
                        "`{facts}` is where retrieved facts go. Both languages can be compared in "
                        "the chat's settings.",
                        "`{facts}` の場所に検索された事実が入ります。二つの言語はチャットの設定で"
                        "切り替えて比べられます。",
                    )
                )
                prompt_language = gr.Dropdown(
                    [(t("Japanese", "日本語"), "ja"), (t("English", "英語"), "en")],
                    label=t("Used by default", "ふだん使うもの"),
                )
                ja_plain = gr.Textbox(label=t("Japanese", "日本語"), lines=3)
                ja_rag = gr.Textbox(label=t("Japanese, with facts", "日本語（事実つき）"), lines=4)
                en_plain = gr.Textbox(label=t("English", "英語"), lines=3)
                en_rag = gr.Textbox(label=t("English, with facts", "英語（事実つき）"), lines=4)
            gr.Markdown(t("### Example exchanges", "### やりとりの例"))
            examples = _table("examples")
        with gr.Column(scale=6, min_width=460):
            gr.Markdown(t("### Facts", "### 事実"))
            facts = _table("facts")
            retrieval = retrieval_panel.build(page)
            cards = card_panel.build(page)
    fields: list[Any] = [
        name,
        language,
        length,
        greeting,
        persona,
        first_person,
        tone,
        endings,
        avoid,
    ]
    fields += [prompt_language, ja_plain, ja_rag, en_plain, en_rag]

    # --- wiring ---------------------------------------------------------------------------------
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    everything = [seen, *fields, facts, examples, status]

    def load(slug: str | None, request: gr.Request) -> Any:
        """Everything as it is stored now."""
        if not slug:
            words = Text(
                "No character yet. Give a short name and press New, or import a card below.",
                "まだ人物がいません。短い名前を入れて「新規」を押すか、下でカードを読み込んでください。",
            )
            return [gr.skip()] * (len(everything) - 1) + [status_html(words, request, "")]
        try:
            profile = load_profile(page.paths, slug)
        except UserError as error:
            note = banner(error.in_(language_of(request)), "bad")
            return [gr.skip()] * (len(everything) - 1) + [note]
        stored = revision(page.paths, slug)
        steps.arrive(editor(request), slug, stored)
        return [
            stored,
            *field_values(profile),
            fact_rows(profile, force=True),
            example_rows(profile, force=True),
            "",
        ]

    steps = editing.OwnSteps()

    def editor(request: gr.Request) -> str:
        return request.session_hash or ""

    def store(slug: str | None, seen_: str, change: Change, what: str, request: gr.Request) -> Any:
        """Change what is stored, and answer with the new revision and a word on it."""
        if not slug:
            return [gr.skip(), gr.skip()]
        try:
            with steps.lock:
                stored = load_profile(page.paths, slug)
                profile = change(stored)
                if profile == stored:
                    return [gr.skip(), gr.skip()]
                expected = steps.follow(editor(request), slug, seen_)
                saved = editing.save(page.paths, profile, expected, what)
                steps.add(editor(request), slug, expected, saved.revision)
        except UserError as error:
            return [gr.skip(), banner(error.in_(language_of(request)), "bad")]
        return [saved.revision, status_html(SAVED, request)]

    def save_fields(slug: str | None, seen_: str, request: gr.Request, *values: Any) -> Any:
        return store(slug, seen_, lambda p: with_fields(p, list(values)), "fields", request)

    def save_rows(what: str) -> Any:
        def handler(slug: str | None, seen_: str, edited_: str, request: gr.Request) -> Any:
            make, edit = with_facts if what == "facts" else with_examples, noted(edited_)
            if edit.get("owner") != slug:  # another character was chosen meanwhile
                return [gr.skip(), banner(say(NOT_SAVED, request), "bad")]
            return store(slug, seen_, lambda p: make(p, edit["rows"]), what, request)

        return handler

    def back(by: int) -> Any:
        def handler(slug: str | None, seen_: str, request: gr.Request) -> Any:
            try:
                if slug:
                    with steps.lock:
                        expected = steps.follow(editor(request), slug, seen_)
                        saved = editing.step(page.paths, slug, expected, by)
                        steps.add(editor(request), slug, expected, saved.revision)
            except UserError as error:
                warn(error, request)
                return [gr.skip()] * len(everything)
            return load(slug, request)

        return handler

    def profile_list(chosen: str | None) -> Any:
        rows = profile_choices(page.paths)
        known = [slug for _, slug in rows]
        return gr.Dropdown(rows, value=chosen if chosen in known else next(iter(known), None))

    def on_create(name_: str, request: gr.Request) -> Any:
        try:
            language_ = language_of(request)
            base = {"slug": name_.strip(), "name": name_.strip(), "language": language_}
            profile = Profile.from_data({**base, "prompt_language": language_}, "profile")
            save_profile(page.paths, profile, expected="")
        except UserError as error:
            warn(error, request)
            return [gr.skip(), gr.skip()]
        return [profile_list(profile.slug), ""]

    def on_copy(slug: str | None, name_: str, request: gr.Request, *values: Any) -> Any:
        """Save what this page shows under another name: the way out of a conflict."""
        try:
            if not slug:
                return [gr.skip(), gr.skip()]
            shown = with_fields(load_profile(page.paths, slug), list(values))
            copied = changed(shown, slug=name_.strip())
            save_profile(page.paths, copied, expected="")
        except UserError as error:
            warn(error, request)
            return [gr.skip(), gr.skip()]
        return [profile_list(copied.slug), ""]

    def on_delete(slug: str | None, request: gr.Request) -> Any:
        if not slug:
            return gr.skip()
        target = editing.delete(page.paths, slug)
        gr.Info(say(Text(f"Moved to {target}", f"{target} に移しました"), request), duration=10)
        return profile_list(None)

    reload_args: dict[str, Any] = {
        "fn": load,
        "inputs": page.profile,
        "outputs": everything,
        **shared,
    }
    page.profile.change(**reload_args)
    page.demo.load(**reload_args)
    reload.click(**reload_args)
    for field in fields:
        # Gradio tells of keys only: what was pasted is saved when the field is left.
        for told in (field.input, field.blur) if hasattr(field, "blur") else (field.input,):
            told(
                save_fields,
                [page.profile, seen, *fields],
                [seen, status],
                trigger_mode="always_last",
                **shared,
            )
    last = {"trigger_mode": "always_last", **shared}
    edited = gr.Textbox("", visible=False)
    for table, what in ((facts, "facts"), (examples, "examples")):
        table.select(
            save_rows(what),
            [page.profile, seen, edited],
            [seen, status],
            js=newest(what),
            **last,
        ).then(retrieval.refresh, page.profile, retrieval.outputs, **last)
    # Each press is a step of its own, whatever revision the page knew of when it was pressed.
    for button, by in ((undo, -1), (redo, 1)):
        button.click(back(by), [page.profile, seen], everything, trigger_mode="multiple", **shared)
    create.click(on_create, new_name, [page.profile, new_name], **shared)
    copy.click(on_copy, [page.profile, new_name, *fields], [page.profile, new_name], **shared)
    delete.click(on_delete, page.profile, page.profile, **shared)
    cards.connect(profile_list)


def _table(name: str) -> gr.HTML:
    return gr.HTML(
        {},
        html_template='<div class="rows"></div>',
        js_on_load=noting("charllmTable", name),
        apply_default_css=False,
        elem_id=f"table-{name}",
    )
