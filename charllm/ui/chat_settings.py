"""How the Chat tab's columns answer: generation, retrieval and prompt settings."""

from __future__ import annotations

from typing import Any

import gradio as gr

from charllm.core.embedding import EmbedderConfig
from charllm.core.generation import (
    DEFAULT_PRESET,
    PRESET_LABELS,
    PRESETS,
    GenerationPreset,
)
from charllm.core.replying import ReplySettings
from charllm.ui.page import EMBEDDERS
from charllm.ui.words import t


def build_settings() -> list[Any]:
    """A fold with all of them; gives the controls in the order ``settings_from`` takes them."""
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
    sampling = [temperature, top_p, max_new_tokens, num_beams, penalty]
    preset.input(
        _of_preset,
        preset,
        sampling,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    retrieval = [embedder, top_k, auto_threshold, threshold]
    return [preset, *sampling, seed, *retrieval, prompt_language, history_turns]


def _of_preset(name: str) -> Any:
    chosen = PRESETS[name]
    return [
        chosen.temperature,
        chosen.top_p,
        chosen.max_new_tokens,
        chosen.num_beams,
        chosen.repetition_penalty,
    ]


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
