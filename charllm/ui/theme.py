"""How the page looks: one theme, light and dark, with fonts that are on the user's machine."""

from __future__ import annotations

import gradio as gr

FONTS = [
    "Inter",
    "Noto Sans JP",
    "Noto Sans CJK JP",
    "Hiragino Sans",
    "Yu Gothic UI",
    "Meiryo",
    "system-ui",
    "sans-serif",
]
MONO = ["JetBrains Mono", "Noto Sans Mono CJK JP", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Plum on warm paper; the same accents on ink when dark."""
    plum = gr.themes.Color(
        name="plum",
        c50="#faf6fb",
        c100="#f2e8f5",
        c200="#e4d0ea",
        c300="#cfadd9",
        c400="#b482c3",
        c500="#965aa8",
        c600="#7c4490",
        c700="#643575",
        c800="#4d2a5a",
        c900="#3a2144",
        c950="#24132b",
    )
    paper = gr.themes.Color(
        name="paper",
        c50="#fbfaf8",
        c100="#f4f2ee",
        c200="#e7e3dc",
        c300="#d3cdc3",
        c400="#a8a196",
        c500="#7d766c",
        c600="#5d574f",
        c700="#433f39",
        c800="#2a2724",
        c900="#1d1b19",
        c950="#131210",
    )
    return gr.themes.Base(
        primary_hue=plum,
        secondary_hue=plum,
        neutral_hue=paper,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_sm,
        text_size=gr.themes.sizes.text_sm,
        font=FONTS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_800",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_large_text_size="14px",
        button_large_text_weight="600",
        button_large_padding="8px 14px",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_700",
        input_background_fill="white",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_300",
        input_border_width="1px",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_400",
    )
