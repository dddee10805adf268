// Live curves: traces are extended in place, so zoom and hover survive; both themes; PNG and CSV.
// value: { owner, start, rows: [{x…}], points: {name: [{x…}]}, x: {key, label, end, whole}, file,
//          plots: [{ name, title, log, lines: [{ key, label, from, color, dash, band }] }] }
// A line is told apart by its place: a colour of its own, and dashes from the third on. `color` and
// `dash` overrule that; `band` fills the space down to the line before it.
// rows are those from number `start` on; a page that lacks the ones before asks for all of them.
(() => {
  "use strict";
  const WORDS = {
    en: { csv: "CSV", png: "PNG", table: "The figures as a table", newest: "the newest 500 of", missing: "The plots could not be loaded; the figures are in the table below." },
    ja: { csv: "CSV", png: "PNG", table: "数値を表で見る", newest: "新しい順に 500 行：全", missing: "グラフを読み込めませんでした。数値は下の表で確認できます。" },
  };
  const COLORS = ["--primary-500", "--k-rag", "--k-endpoint", "--k-recipe", "--poor", "--k-base"];
  const DASHES = ["solid", "solid", "dash", "dashdot", "longdash", "dot"];
  const MOST = 500; // rows of the table
  const language = () => window.charllmLanguage || "en";
  const w = (key) => WORDS[language()][key];
  const pick = (text) => (typeof text === "string" ? text : text[language()] || text.en);
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  let loading = null;
  function plotly() {
    loading ||= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "/charllm-plotly/plotly.min.js";
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => { loading = null; reject(new Error("plotly")); };
      document.head.append(script);
    });
    return loading;
  }

  // Whole steps, about a dozen of them at most; the x of other plots is left to plotly.
  const steps = (x, count) => (x.whole ? Math.max(1, Math.ceil(count / 12)) : null);
  function look(plot, x, count) {
    const grid = css("--border-color-primary");
    const axis = { gridcolor: grid, linecolor: grid, zeroline: false, automargin: true, title: { text: "" }, tickfont: { size: 11 } };
    return {
      margin: { l: 46, r: 10, t: 30, b: 34 },
      title: { text: pick(plot.title), font: { size: 13 }, x: 0, xref: "paper", xanchor: "left", y: 0.98, yanchor: "top" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--body-text-color"), family: css("--font") || "sans-serif", size: 12 },
      xaxis: { ...axis, ...(x.end ? { range: [0, x.end] } : {}), dtick: steps(x, count), title: { text: pick(x.label), font: { size: 11 }, standoff: 4 } },
      yaxis: { ...axis, type: plot.log ? "log" : "linear", rangemode: plot.zero ? "tozero" : "normal", exponentformat: "power" },
      showlegend: plot.lines.length > 1, legend: { x: 0.89, xanchor: "right", y: 1.02, yanchor: "bottom", orientation: "h", font: { size: 11 }, bgcolor: "rgba(0,0,0,0)" },
      hovermode: "x unified", hoverlabel: { bgcolor: css("--block-background-fill"), font: { color: css("--body-text-color"), size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--body-text-color-subdued"), activecolor: css("--primary-500") },
      uirevision: "kept", dragmode: "zoom",
    };
  }
  const color = (line, place) => css(COLORS[(line.color ?? place) % COLORS.length]);
  const faint = (line, place) => (line.band ? `${color(line, place)}24` : undefined);
  const trace = (line, place, data, x) => ({
    x: data.map((row) => row[x.key]), y: data.map((row) => row[line.key]), name: pick(line.label), connectgaps: true,
    mode: line.from ? "lines+markers" : data.length < 3 ? "lines+markers" : "lines",
    line: { color: color(line, place), width: line.from ? 2 : line.dash === "dot" ? 1.1 : 1.7, dash: line.dash || DASHES[place % DASHES.length] },
    marker: { color: color(line, place), size: line.from ? 7 : 4 },
    fill: line.band ? "tonexty" : "none", fillcolor: faint(line, place),
    hovertemplate: "%{y:.5~g}", cliponaxis: !line.from,
  });

  window.charllmCurves = function (element, props, trigger, watch) {
    const host = element.querySelector(".curves");
    let value = null;
    let rows = [];
    let boxes = [];   // a plot's element, with what is drawn in it
    let drawing = Promise.resolve();

    const source = (line) => (line.from ? value.points[line.from] || [] : rows);
    const has = (plot) => plot.lines.some((line) => source(line).some((row) => row[line.key] !== null && row[line.key] !== undefined));

    async function draw() {
      if (!value || !host.offsetWidth) return; // drawn when it is seen
      let Plotly;
      try {
        Plotly = await plotly();
      } catch {
        if (!host.querySelector(".missing")) host.prepend(el("p", "note missing", w("missing")));
        return;
      }
      for (const box of boxes) {
        const shown = has(box.plot);
        box.node.hidden = !shown;
        if (!shown) continue;
        await (box.drawn ? extend(Plotly, box) : fresh(Plotly, box));
      }
    }
    async function fresh(Plotly, box) {
      const traces = box.plot.lines.map((line, place) => trace(line, place, source(line), value.x));
      box.drawn = box.plot.lines.map((line) => (line.from ? JSON.stringify(source(line)) : rows.length));
      box.end = value.x.end;
      box.step = steps(value.x, rows.length);
      await Plotly.newPlot(box.node, traces, look(box.plot, value.x, rows.length), {
        displaylogo: false, responsive: false, locale: "en",
        modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"], [{ name: w("png"), title: w("png"), icon: Plotly.Icons.camera, click: (node) => save(Plotly, node, box) }]],
      });
    }
    function save(Plotly, node, box) {
      const name = `${value.file}-${box.plot.name || box.plot.lines[0].key}`;
      Plotly.downloadImage(node, { format: "png", filename: name, width: 1200, height: 700, scale: 2 });
    }
    async function extend(Plotly, box) {
      if (value.x.end !== box.end) { // how long the run is may become known later
        box.end = value.x.end;
        await Plotly.relayout(box.node, value.x.end ? { "xaxis.range": [0, value.x.end] } : { "xaxis.autorange": true });
      }
      const step = steps(value.x, rows.length);
      if (step !== box.step) {
        box.step = step;
        await Plotly.relayout(box.node, { "xaxis.dtick": step });
      }
      for (const [place, line] of box.plot.lines.entries()) {
        const data = source(line);
        if (line.from) {
          const text = JSON.stringify(data);
          if (text === box.drawn[place]) continue;
          box.drawn[place] = text;
          await Plotly.restyle(box.node, { x: [data.map((row) => row[value.x.key])], y: [data.map((row) => row[line.key])] }, [place]);
        } else if (data.length > box.drawn[place]) {
          const more = data.slice(box.drawn[place]);
          const thin = box.drawn[place] < 3 && data.length >= 3;
          box.drawn[place] = data.length;
          await Plotly.extendTraces(box.node, { x: [more.map((row) => row[value.x.key])], y: [more.map((row) => row[line.key])] }, [place]);
          if (thin) await Plotly.restyle(box.node, { mode: "lines" }, [place]);
        }
      }
    }
    // One after the other: a plot that is still being drawn must not be extended.
    const redraw = () => { drawing = drawing.then(draw, draw); };

    const columns = () => [...new Set([value.x.key, ...Object.keys(rows[0] || {})])];
    const keyed = (name) => Object.keys((value.points[name] || [])[0] || {}).filter((key) => !(key in (rows[0] || {})));
    function table() {
      // The points stand in the row of their x, in columns named after them.
      const extra = Object.keys(value.points).flatMap((name) => [...new Set([...keyed(name), "loss"])].filter((key) => (value.points[name][0] || {})[key] !== undefined && key !== value.x.key).map((key) => [name, key]));
      const heads = [...columns(), ...extra.map(([name, key]) => (key in (rows[0] || {}) ? name : key))];
      const at = new Map(rows.map((row) => [row[value.x.key], row]));
      const xs = [...new Set([...at.keys(), ...Object.values(value.points).flat().map((point) => point[value.x.key])])].sort((a, b) => a - b);
      const found = (name, x) => (value.points[name] || []).find((point) => point[value.x.key] === x);
      const body = xs.map((x) => [
        ...columns().map((key) => (key === value.x.key ? x : at.get(x)?.[key] ?? "")),
        ...extra.map(([name, key]) => found(name, x)?.[key] ?? "")]);
      return { heads, body };
    }
    function csv() {
      const { heads, body } = table();
      return [heads, ...body].map((line) => line.join(",")).join("\r\n") + "\r\n";
    }
    function fillTable(box) {
      const { heads, body } = table();
      const node = el("table", "plain figs");
      const head = node.createTHead().insertRow();
      for (const text of heads) head.append(el("th", "", text));
      const inside = node.createTBody();
      for (const line of body.slice(-MOST).reverse()) {
        const row = inside.insertRow();
        for (const cell of line) row.append(el("td", "num", typeof cell === "number" ? String(Number(cell.toPrecision(5))) : cell));
      }
      box.replaceChildren(...(body.length > MOST ? [el("p", "note", `${w("newest")} ${body.length}`)] : []), node);
    }
    function frame() {
      for (const box of boxes) if (box.drawn && window.Plotly) window.Plotly.purge(box.node);
      host.replaceChildren();
      boxes = value.plots.map((plot) => {
        const node = el("div", `curve ${plot.wide ? "wide" : ""}`);
        node.dataset.plot = plot.name || plot.lines[0].key;
        return { plot, node, drawn: null };
      });
      const grid = el("div", "curvegrid");
      grid.append(...boxes.map((box) => box.node));
      const details = el("details", "fold");
      const inside = el("div", "curvetable");
      const save = el("button", "small", w("csv"));
      save.type = "button";
      save.dataset.csv = "";
      save.addEventListener("click", () => window.charllmSave(`${value.file}.csv`, csv(), "text/csv;charset=utf-8"));
      const summary = el("summary", "", w("table"));
      details.append(summary, save, inside);
      details.addEventListener("toggle", () => { if (details.open) fillTable(inside); });
      host.append(grid, details);
    }
    function take() {
      const next = props.value;
      if (!next || !next.owner) {
        value = null;
        rows = [];
        host.replaceChildren();
        return;
      }
      const same = value && value.owner === next.owner;
      const have = same ? rows.length : 0;
      if (next.start > have) { // some were lost on the way
        trigger("select", { do: "all" });
        return;
      }
      rows = [...(same ? rows.slice(0, next.start) : []), ...next.rows];
      value = next;
      if (!same) frame();
      host.dataset.rows = rows.length;
      const open = host.querySelector("details[open] .curvetable");
      if (open) fillTable(open);
      redraw();
    }
    watch("value", take);
    take();
    new ResizeObserver(() => {
      redraw();
      if (window.Plotly) for (const box of boxes) if (box.drawn && !box.node.hidden && box.node.offsetWidth) window.Plotly.Plots.resize(box.node);
    }).observe(host);
    new MutationObserver(() => {
      for (const box of boxes) {
        if (!box.drawn || !window.Plotly) continue;
        const colors = box.plot.lines.map(color);
        const changes = { "line.color": colors, "marker.color": colors, fillcolor: box.plot.lines.map(faint) };
        window.Plotly.update(box.node, changes, look(box.plot, value.x, rows.length));
      }
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };
})();
