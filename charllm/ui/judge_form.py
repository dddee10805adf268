"""The judge's form: its fields, which of them make a judge, and what they show of one."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import gradio as gr

from charllm.core.judging.judges import JudgeConfig
from charllm.data.errors import UserError
from charllm.services.judge_choice import LOCAL_SERVER
from charllm.ui.words import t

OTHER = "other"
PRICES = ("price_in", "price_cached", "price_out")
TYPED = (
    "base_url",
    "model",
    "local_model",
    "samples",
    "temperature",
    "max_tokens",
    "in_flight",
    *PRICES,
)
"""Fields that are typed into, rather than picked from."""
SERVERS = [("OpenAI", ""), (t("On this machine", "このマシン"), LOCAL_SERVER)]


# --- a judge and its fields ---------------------------------------------------------------------


def server_of(base_url: str) -> str:
    """The preset that this address belongs to."""
    return base_url if base_url in ("", LOCAL_SERVER) else OTHER


def config_from(values: dict[str, Any]) -> JudgeConfig:
    """The judge that the form describes; fields of other kinds of judge are left at their default.

    ``UserError`` names the field that is wrong.
    """
    kind = values["kind"]
    data: dict[str, Any] = {"kind": kind}
    if kind != "embedded":
        model = values["model"] if kind == "endpoint" else values["local_model"]
        _check_named(model, values["samples"], values["temperature"])
        numbers = {
            key: values[key]
            for key in ("samples", "temperature", "max_tokens")
            if values[key] is not None
        }
        data |= {"model": model.strip(), "rubric": values["rubric"], **numbers}
    if kind == "endpoint":
        server = values["server"]
        data["base_url"] = values["base_url"].strip() if server == OTHER else server
        data["in_flight"] = values["in_flight"]
        data |= {key: price_from(values[key]) for key in PRICES}
    return JudgeConfig.from_data(data, "judge")


def sketch(values: dict[str, Any]) -> JudgeConfig:
    """What an unfinished form has so far, to be shown; it may not be valid."""
    server, kind = values["server"], values["kind"]
    return JudgeConfig.model_construct(
        kind=kind,
        base_url=values["base_url"].strip() or OTHER if server == OTHER else server,
        model=values["model"].strip() if kind == "endpoint" else "",
        rubric=values["rubric"] or "",
    )


def _check_named(model: str, samples: float | None, temperature: float | None) -> None:
    if not model.strip():
        raise UserError("Name the model that judges.", "採点するモデルの名前を入力してください。")
    if (samples or 1) > 1 and not temperature:
        raise UserError(
            "Several verdicts differ only above temperature 0: set one, such as 0.7.",
            "採点を複数回行うには、温度を 0 より大きく（例: 0.7）してください。",
        )


def price_from(text: str) -> float | None:
    """A price as it is typed, in US dollars; None where the known one is to be used."""
    if not text.strip():
        return None
    try:
        return float(unicodedata.normalize("NFKC", text).strip().removeprefix("$"))
    except ValueError as error:
        raise UserError(
            f"A price is a number of US dollars, such as 0.15, not {text!r}.",
            f"料金は 0.15 のような米ドルの数字で入力してください（「{text}」は読めません）。",
        ) from error


def price_text(price: float | None) -> str:
    return "" if price is None else f"{price:g}"


def values_of(config: JudgeConfig) -> dict[str, Any]:
    """What the form shows of a choice."""
    return {
        "kind": config.kind,
        "server": server_of(config.base_url),
        "base_url": config.base_url,
        "model": config.model if config.kind == "endpoint" else "",
        "local_model": config.model if config.kind == "local" else "",
        "rubric": config.rubric,
        "samples": config.samples,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "in_flight": config.in_flight,
        **{key: price_text(getattr(config, key)) for key in PRICES},
    }


# --- layout -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The components. ``fields`` are what a judge is made of, by name."""

    fields: dict[str, Any]
    endpoint: gr.Group
    key_line: gr.Row
    local: gr.Group
    asking: gr.Group
    calls: gr.Group
    key: gr.Textbox
    forget: gr.Button
    key_state: gr.HTML
    notices: gr.HTML


def build() -> Form:
    gr.Markdown(t("### Who judges", "### だれが採点するか"))
    kind = gr.Radio(
        [
            (t("Embedded: free, at once", "内蔵：無料・すぐ"), "embedded"),
            (t("A model behind an endpoint", "エンドポイントのモデル"), "endpoint"),
            (t("A local chat model", "ローカルのチャットモデル"), "local"),
        ],
        value="embedded",
        show_label=False,
        container=False,
        elem_id="judge-kind",
    )
    gr.Markdown(
        t(
            "The choice is kept at once, for every page and browser.",
            "選んだ内容はすぐに保存され、どのページやブラウザーでも使われます。",
        )
    )
    with gr.Group(visible=False) as endpoint:
        server, base_url, model, key = _endpoint_fields()
    with gr.Row(visible=False, equal_height=True) as key_line:
        key_state = gr.HTML("", elem_id="judge-key-state")
        forget = gr.Button(
            t("Forget the key", "キーを忘れる"),
            size="sm",
            elem_id="judge-forget",
            scale=0,
            min_width=120,
        )
    with gr.Group(visible=False) as local:
        local_model = gr.Textbox(
            "",
            label=t("Model", "モデル"),
            info=t(
                "a folder, an id of the catalog, or a hub id that was fetched",
                "フォルダー、カタログの ID、または取得済みのハブの ID",
            ),
            elem_id="judge-local-model",
        )
    with gr.Group(visible=False) as asking:
        verdict_fields = _verdict_fields()
    with gr.Group(visible=False) as calls:
        call_fields = _call_fields()
    notices = gr.HTML("", elem_id="judge-notices")
    fields = {
        "kind": kind,
        "server": server,
        "base_url": base_url,
        "model": model,
        "local_model": local_model,
        **verdict_fields,
        **call_fields,
    }
    return Form(fields, endpoint, key_line, local, asking, calls, key, forget, key_state, notices)


def _endpoint_fields() -> tuple[gr.Radio, gr.Textbox, gr.Textbox, gr.Textbox]:
    """Server, address, model, key."""
    server = gr.Radio(
        [*SERVERS, (t("Another address", "ほかの URL"), OTHER)],
        value="",
        label=t("Server (OpenAI protocol)", "サーバー（OpenAI 互換）"),
        elem_id="judge-server",
    )
    base_url = gr.Textbox(
        "",
        label=t("Address", "URL"),
        placeholder="https://…/v1",
        visible=False,
        elem_id="judge-url",
    )
    with gr.Row():
        model = gr.Textbox("", label=t("Model", "モデル名"), elem_id="judge-model")
        key = gr.Textbox(
            "",
            label=t("Key, this session only", "キー（このセッションのみ）"),
            type="password",
            elem_id="judge-key",
        )
    return server, base_url, model, key


def _verdict_fields() -> dict[str, Any]:
    """What matters to any language model that judges."""
    rubric = gr.Dropdown([], label=t("Rubric", "ルーブリック"), elem_id="judge-rubric")
    with gr.Row():
        samples = gr.Number(
            1,
            label=t("Verdicts a reply", "1返答の採点回数"),
            precision=0,
            minimum=1,
            maximum=20,
            elem_id="judge-samples",
            min_width=120,
        )
        temperature = gr.Number(
            0,
            label=t("Temperature", "温度"),
            minimum=0,
            maximum=2,
            step=0.1,
            elem_id="judge-temperature",
            min_width=100,
        )
        max_tokens = gr.Number(
            JudgeConfig().max_tokens,
            label=t("Tokens a verdict, at most", "採点の最大トークン"),
            precision=0,
            minimum=16,
            elem_id="judge-max-tokens",
            min_width=140,
        )
    return {
        "rubric": rubric,
        "samples": samples,
        "temperature": temperature,
        "max_tokens": max_tokens,
    }


def _call_fields() -> dict[str, Any]:
    """What matters to an endpoint only."""
    with gr.Accordion(t("Calls and prices", "呼び出しと料金"), open=False):
        in_flight = gr.Number(
            JudgeConfig().in_flight,
            label=t("Calls at once", "同時の呼び出し"),
            precision=0,
            minimum=1,
            maximum=128,
            elem_id="judge-in-flight",
        )
        with gr.Row():
            prices = {
                name: gr.Textbox(
                    "",
                    label=label,
                    info=t(
                        "$ for a million tokens; empty: known prices",
                        "100万トークンあたりの米ドル（空欄: 既知の料金）",
                    ),
                    elem_id=f"judge-{name.replace('_', '-')}",
                    min_width=130,
                )
                for name, label in (
                    ("price_in", t("Price of the prompt", "入力の料金")),
                    ("price_cached", t("Price of a cached prompt", "キャッシュ入力の料金")),
                    ("price_out", t("Price of the answer", "出力の料金")),
                )
            }
    return {"in_flight": in_flight, **prices}
