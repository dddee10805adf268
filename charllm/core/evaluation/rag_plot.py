"""The sweep as a Plotly figure, and as a page of its own that needs no network.

Three plots over the threshold: right facts shown, false retrievals, facts in a prompt. The setting
in use is a star on its own curve. Colours are middling, so that they can be told apart on a light
and on a dark page; each number of facts has a dash of its own besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from charllm.core.evaluation.rag_sweep import Curve, Setting
from charllm.data.errors import Language, Text

LINES = (
    ("#c9822b", "dot"),
    ("#4b8f5a", "dash"),
    ("#3f7fbf", "solid"),
    ("#9a63b5", "dashdot"),
    ("#b3506b", "longdash"),
)
FALSE = "#b3403a"
NOW = "#d9534f"
GREY = "#8a8378"
GRID = "rgba(128,128,128,.25)"
HEIGHT = 350
PANELS = (
    Text("Right fact shown", "正しい事実を提示"),
    Text("False retrievals", "誤った提示"),
    Text("Facts in a prompt", "プロンプトの事実数"),
)


def sweep_figure(curves: Sequence[Curve], now: Setting, language: Language) -> Any:
    """A ``plotly.graph_objects.Figure`` without a background; ``now`` is the setting in use."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1,
        cols=3,
        subplot_titles=[text.in_(language) for text in PANELS],
        horizontal_spacing=0.06,
    )
    for place, curve in enumerate(curves):
        _add_curve(figure, curve, place, language)
    _add_false(figure, max(curves, key=lambda curve: len(curve.points)), language)
    _add_now(figure, curves, now, language)
    _dress(figure, language)
    return figure


def sweep_page(curves: Sequence[Curve], now: Setting, title: str, language: Language) -> str:
    """The figure as a whole HTML page with Plotly's script in it (about 5 MB)."""
    figure = sweep_figure(curves, now, language)
    figure.update_layout(font={"color": "#333"}, paper_bgcolor="#fff", plot_bgcolor="#fff")
    plot = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        config={"displaylogo": False, "responsive": True},
    )
    name, note = escape(title), escape(now_text(curves, now).in_(language))
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head><meta charset="utf-8">'
        f"<title>{name}</title></head>\n"
        '<body style="font-family: sans-serif; max-width: 1300px; margin: 24px auto">'
        f"<h1 style='font-size: 20px'>{name}</h1>\n<p>{note}</p>\n{plot}\n</body>\n</html>\n"
    )


def now_text(curves: Sequence[Curve], now: Setting) -> Text:
    """What the setting in use gives on the questions that the curves are drawn from."""
    curve = next(one for one in curves if one.k == now.k)
    point, shown = curve.near(now.threshold)
    return Text(
        f"In use: threshold {now.threshold:.3f}, at most {now.k} facts. It shows the right fact to "
        f"{point.hit_rate:.0%} of the questions that have one, a wrong one to "
        f"{point.false_rate:.0%} of those that have none, and {shown:.1f} facts in a prompt.",
        f"現在の設定は、しきい値 {now.threshold:.3f}、最大 {now.k} 件です。正解のある質問の "
        f"{point.hit_rate:.0%} に正しい事実を、正解のない質問の {point.false_rate:.0%} に誤った"
        f"事実を提示し、プロンプトの事実は平均 {shown:.1f} 件です。",
    )


def _add_curve(figure: Any, curve: Curve, place: int, language: Language) -> None:
    color, dash = LINES[place % len(LINES)]
    name = Text(f"at most {curve.k}", f"最大 {curve.k} 件").in_(language)
    x = [point.threshold for point in curve.points]
    for column, y in ((1, [point.hit_rate for point in curve.points]), (3, list(curve.shown))):
        figure.add_scatter(
            x=x,
            y=y,
            name=name,
            legendgroup=name,
            showlegend=column == 1,
            mode="lines",
            line={"color": color, "dash": dash, "width": 2},
            row=1,
            col=column,
        )


def _add_false(figure: Any, curve: Curve, language: Language) -> None:
    """One line for all: whether the nearest wrong fact is shown does not depend on the number."""
    figure.add_scatter(
        x=[point.threshold for point in curve.points],
        y=[point.false_rate for point in curve.points],
        name=Text(
            "false retrievals: the same for any number", "誤った提示（件数によらず同じ）"
        ).in_(language),
        mode="lines",
        line={"color": FALSE, "width": 2},
        row=1,
        col=2,
    )


def _add_now(figure: Any, curves: Sequence[Curve], now: Setting, language: Language) -> None:
    curve = next(one for one in curves if one.k == now.k)
    point, shown = curve.near(now.threshold)
    name = Text(
        f"in use: {now.threshold:.3f}, at most {now.k}",
        f"現在の設定：{now.threshold:.3f}、最大 {now.k} 件",
    ).in_(language)
    for column, y in enumerate((point.hit_rate, point.false_rate, shown), 1):
        figure.add_vline(x=now.threshold, line_dash="dot", line_color=GREY, row=1, col=column)
        figure.add_scatter(
            x=[now.threshold],
            y=[y],
            name=name,
            legendgroup="now",
            showlegend=column == 1,
            mode="markers",
            marker={"symbol": "star", "size": 13, "color": NOW},
            row=1,
            col=column,
        )


def _dress(figure: Any, language: Language) -> None:
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 48, "r": 12, "t": 70, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        legend={"orientation": "h", "y": 1.3, "x": 0},
        hovermode="closest",
    )
    figure.update_annotations(font_size=13)
    title = Text("similarity threshold", "類似度のしきい値").in_(language)
    figure.update_xaxes(title=title, gridcolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, rangemode="tozero")
    for column in (1, 2):
        figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", row=1, col=column)
