// Figures of a report: intervals, points, a radar; each with its table as CSV, and as PNG.
// value: { owner, file, figures: [{ id, kind, title, warning, table: { heads, rows }, … }] }
//   intervals: rows [{ label, value, low, high }], scale [low, high] or null (then 0, or `line`, is a line)
//   scatter:   rows [{ label, x, y }], x and y are the axes' titles
//   radar:     axes [name], series [{ label, values }], scale
//   turns:     series [{ label, points: [{ turn, value, low, high, n }] }], scale, x is the axis' title
(() => {
  "use strict";
  const WORDS = {
    en: { csv: "CSV", png: "PNG", table: "The figures as a table", missing: "The plots could not be loaded; the figures are in the tables." },
    ja: { csv: "CSV", png: "PNG", table: "数値を表で見る", missing: "グラフを読み込めませんでした。数値は表で確認できます。" },
  };
  const COLORS = ["--k-rag", "--k-adapter", "--k-recipe", "--k-endpoint", "--k-base", "--primary-500"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const color = (place) => css(COLORS[place % COLORS.length]);
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  let loading = null;
  function plotly() {
    if (window.Plotly) return Promise.resolve(window.Plotly);
    loading ||= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "/charllm-plotly/plotly.min.js";
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => { loading = null; reject(new Error("plotly")); };
      document.head.append(script);
    });
    return loading;
  }
  // plotly reads a few tags in labels: no name of a variant or a question may be one.
  const plain = (text) => String(text).replace(/[<&]/g, (sign) => (sign === "<" ? "‹" : "＆"));

  function traces(figure) {
    if (figure.kind === "intervals") {
      return [{
        type: "scatter", mode: "markers", orientation: "h",
        x: figure.rows.map((row) => row.value), y: figure.rows.map((_, place) => place),
        text: figure.rows.map((row) => plain(row.label)),
        marker: { size: 9, color: figure.rows.map((_, place) => (figure.scale ? color(place) : css("--primary-500"))) },
        error_x: {
          type: "data", symmetric: false, thickness: 1.6, width: 5, color: css("--body-text-color-subdued"),
          array: figure.rows.map((row) => (row.high === null ? 0 : row.high - row.value)),
          arrayminus: figure.rows.map((row) => (row.low === null ? 0 : row.value - row.low)),
        },
        customdata: figure.rows.map((row) => (row.low === null ? "" : ` [${row.low.toFixed(2)}, ${row.high.toFixed(2)}]`)),
        hovertemplate: "%{text}<br>%{x:.2f}%{customdata}<extra></extra>",
      }];
    }
    if (figure.kind === "scatter") {
      return [{
        type: "scatter", mode: "markers", x: figure.rows.map((row) => row.x), y: figure.rows.map((row) => row.y),
        text: figure.rows.map((row) => plain(row.label)), marker: { size: 6, opacity: 0.65, color: css("--primary-500") },
        hovertemplate: "%{text}<br>%{x}, %{y:.2f}<extra></extra>",
      }];
    }
    if (figure.kind === "turns") {
      const middle = (figure.series.length - 1) / 2;
      return figure.series.map((one, place) => ({
        type: "scatter", mode: "lines+markers", name: plain(one.label),
        x: one.points.map((at) => at.turn + 0.07 * (place - middle)), y: one.points.map((at) => at.value), // apart, so that no interval hides another
        line: { color: color(place), width: 2, dash: DASHES[place % DASHES.length] }, marker: { size: 7, color: color(place) },
        error_y: {
          type: "data", symmetric: false, thickness: 1.4, width: 4, color: color(place),
          array: one.points.map((at) => (at.high === null ? 0 : at.high - at.value)),
          arrayminus: one.points.map((at) => (at.low === null ? 0 : at.value - at.low)),
        },
        customdata: one.points.map((at) => `${at.value.toFixed(2)}${at.low === null ? "" : ` [${at.low.toFixed(2)}, ${at.high.toFixed(2)}]`}, n = ${at.n}`),
        hovertemplate: "%{customdata}<extra>%{fullData.name}</extra>",
      }));
    }
    return figure.series.map((one, place) => ({
      type: "scatterpolar", name: plain(one.label), mode: "lines+markers", marker: { size: 5, color: color(place) },
      r: [...one.values, one.values[0]], theta: [...figure.axes, figure.axes[0]].map(plain),
      line: { color: color(place), width: 2, dash: DASHES[place % DASHES.length] },
    }));
  }
  function look(figure) {
    const grid = css("--border-color-primary");
    const axis = { gridcolor: grid, linecolor: grid, zeroline: true, zerolinecolor: css("--body-text-color-subdued"), zerolinewidth: 1, automargin: true, tickfont: { size: 12 } };
    const layout = {
      title: { text: plain(figure.title), font: { size: 13 }, x: 0.01, xref: "container", xanchor: "left", y: 0.98, yanchor: "top" },
      margin: { l: 10, r: 16, t: 36, b: 36 }, showlegend: Boolean(figure.series),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--body-text-color"), family: css("--font") || "sans-serif", size: 12 },
      hoverlabel: { bgcolor: css("--block-background-fill"), font: { color: css("--body-text-color"), size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--body-text-color-subdued"), activecolor: css("--primary-500") },
      legend: { orientation: "h", y: -0.08, font: { size: 12 } }, uirevision: "kept",
    };
    if (figure.kind === "intervals") {
      layout.xaxis = { ...axis, ...(figure.scale ? { range: [figure.scale[0] - 0.1, figure.scale[1] + 0.1], zeroline: false } : {}), ...(figure.line ? { zeroline: false } : {}) };
      if (figure.line) layout.shapes = [{ type: "line", x0: figure.line, x1: figure.line, y0: 0, y1: 1, yref: "paper", line: { width: 1, color: css("--body-text-color-subdued") } }];
      layout.yaxis = {
        ...axis, zeroline: false, tickmode: "array", tickvals: figure.rows.map((_, place) => place),
        ticktext: figure.rows.map((row) => plain(row.label)), range: [figure.rows.length - 0.5, -0.5], fixedrange: true,
      };
    } else if (figure.kind === "scatter") {
      layout.xaxis = { ...axis, title: { text: plain(figure.x), font: { size: 12 } } };
      layout.yaxis = { ...axis, title: { text: plain(figure.y), font: { size: 12 } } };
      layout.margin = { l: 56, r: 16, t: 36, b: 52 };
    } else if (figure.kind === "turns") {
      const room = 0.04 * (figure.scale[1] - figure.scale[0]);
      const turns = figure.series.flatMap((one) => one.points.map((at) => at.turn));
      layout.xaxis = { ...axis, zeroline: false, dtick: 1, range: [Math.min(...turns) - 0.4, Math.max(...turns) + 0.4], title: { text: plain(figure.x), font: { size: 12 } } };
      if (new Set(turns).size > 20) delete layout.xaxis.dtick;
      layout.yaxis = { ...axis, zeroline: false, range: [figure.scale[0] - room, figure.scale[1] + room] };
      layout.margin = { l: 44, r: 16, t: 36, b: 84 };
      layout.legend.y = -0.24;
    } else {
      layout.polar = { bgcolor: "rgba(0,0,0,0)", radialaxis: { range: figure.scale, gridcolor: grid, linecolor: grid }, angularaxis: { gridcolor: grid, linecolor: grid } };
      layout.margin = { l: 60, r: 60, t: 44, b: 60 };
    }
    return layout;
  }
  const cell = (value) => (value === null || value === undefined ? "" : typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value));
  function csv(table) {
    const quoted = (value) => {
      let text = value === null || value === undefined ? "" : String(value);
      if (typeof value === "string" && /^[=+\-@]/.test(text)) text = `'${text}`;
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [table.heads, ...table.rows].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }
  function tableOf(table) {
    const node = el("table", "plain figs");
    const head = node.createTHead().insertRow();
    for (const text of table.heads) head.append(el("th", "", text));
    const body = node.createTBody();
    for (const line of table.rows) {
      const row = body.insertRow();
      for (const value of line) row.append(el("td", typeof value === "number" ? "num" : "", cell(value)));
    }
    return node;
  }
  function box(figure, file) {
    const node = el("figure", `evalfigure ${figure.kind}`);
    node.dataset.figure = figure.id;
    if (figure.warning) node.append(el("p", "banner", figure.warning));
    const plot = el("div", "evalplot");
    if (figure.kind === "intervals") plot.style.height = `${Math.max(150, 80 + 34 * figure.rows.length)}px`;
    const details = el("details", "fold");
    const save = el("button", "small", w("csv"));
    save.type = "button";
    save.addEventListener("click", () => window.charllmSave(`${file}-${figure.id}.csv`, csv(figure.table), "text/csv;charset=utf-8"));
    const inside = el("div", "curvetable");
    details.append(el("summary", "", w("table")), save, inside);
    details.addEventListener("toggle", () => { if (details.open && !inside.firstChild) inside.append(tableOf(figure.table)); });
    node.append(plot, details);
    return { figure, node, plot, drawn: false };
  }

  // A hand score was kept or taken back: the one reply's buttons show it, and no fold closes.
  window.charllmHand = function (text) {
    if (!text) return;
    const { key, score } = JSON.parse(text);
    const kept = [...document.querySelectorAll("#queries-shown .kept")].find((node) => node.dataset.key === key);
    for (const button of kept?.querySelectorAll(".hand button") || []) button.classList.toggle("on", Number(button.dataset.score) === score);
  };

  window.charllmFigures = function (element, props, trigger, watch) {
    const host = element.querySelector(".evalfigures");
    let value = null;
    let boxes = [];
    let drawing = Promise.resolve();
    async function draw() {
      if (!value || !host.offsetWidth) return; // drawn when it is seen
      let Plotly;
      try {
        Plotly = await plotly();
      } catch {
        if (!host.querySelector(".missing")) host.prepend(el("p", "note missing", w("missing")));
        return;
      }
      for (const one of boxes) {
        if (one.drawn) continue;
        one.drawn = true;
        await Plotly.newPlot(one.plot, traces(one.figure), look(one.figure), {
          displaylogo: false, responsive: false, locale: "en",
          modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"].slice(0, one.figure.kind === "radar" ? 0 : 3), [{
            name: w("png"), title: w("png"), icon: Plotly.Icons.camera,
            click: (node) => Plotly.downloadImage(node, { format: "png", filename: `${value.file}-${one.figure.id}`, width: 1200, height: 700, scale: 2 }),
          }]].filter((group) => group.length),
        });
      }
    }
    const redraw = () => { drawing = drawing.then(draw, draw); };
    function take() {
      const next = props.value;
      if (value && next && value.owner === next.owner) return;
      for (const one of boxes) if (one.drawn && window.Plotly) window.Plotly.purge(one.plot);
      value = next && next.owner ? next : null;
      boxes = value ? value.figures.map((figure) => box(figure, value.file)) : [];
      host.replaceChildren(...boxes.map((one) => one.node));
      redraw();
    }
    watch("value", take);
    take();
    new ResizeObserver(() => {
      redraw();
      if (window.Plotly) for (const one of boxes) if (one.drawn && one.plot.offsetWidth) window.Plotly.Plots.resize(one.plot);
    }).observe(host);
    new MutationObserver(() => {
      if (window.Plotly) for (const one of boxes) if (one.drawn) window.Plotly.react(one.plot, traces(one.figure), look(one.figure));
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };
})();
