// A histogram of scores with the threshold as a line: live while a run judges, or with a slider
// that recolours it at once and tells the page when it is let go.
(() => {
  "use strict";
  const WORDS = {
    en: { gated: "gate", unscored: "unscored", pending: "waiting", kept: "kept", lost: "taken out",
          threshold: "Threshold", to: "to", count: "rows" },
    ja: { gated: "ゲート", unscored: "採点なし", pending: "未採点", kept: "残す", lost: "外す",
          threshold: "しきい値", to: "～", count: "行" },
  };
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const ROOM = 16; // with more bars than this their counts would overlap
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const shown = (value) => String(Math.round(value * 100) / 100);

  // value: {owner, scale: [low, high], width, step, scores: [[score, count]…], gated, unscored,
  // pending, keepUnscored, threshold, slider}
  window.charllmHistogram = function (element, props, trigger, watch) {
    const host = element.querySelector(".histogram");
    let value = null;
    let owner = null;
    let threshold = null;
    let dragging = false;
    let drawn = "";
    let telling = null;

    const top = () => value.scale[1] + value.width;
    const place = (score) => 100 * (score - value.scale[0]) / (top() - value.scale[0]);

    function bins() {
      const [low, high] = value.scale;
      const all = [];
      for (let i = 0; low + i * value.width <= high + 1e-9; i++) {
        all.push({ from: low + i * value.width, kept: 0, lost: 0 });
      }
      for (const [score, count] of value.scores) {
        const at = Math.floor((score - low) / value.width + 1e-9);
        const bin = all[Math.max(0, Math.min(all.length - 1, at))];
        bin[score >= threshold ? "kept" : "lost"] += count;
      }
      return all;
    }
    function bar(kept, lost, most, label, counted) {
      const node = el("div", "hbar");
      node.title = `${label}: ${kept + lost} ${w("count")}`;
      if (counted && kept + lost) node.append(el("span", "n", String(kept + lost)));
      for (const [name, count] of [["lost", lost], ["kept", kept]]) {
        const part = el("i", name);
        part.style.height = `${most ? 100 * count / most : 0}%`;
        if (count) node.append(part);
      }
      return node;
    }
    function aside(name, count, most) {
      const column = el("div", `haside ${name}`);
      column.dataset.bar = name;
      const kept = name === "gated" ? value.scale[0] >= threshold : Boolean(value.keepUnscored);
      const node = bar(kept ? count : 0, kept ? 0 : count, most, w(name), true);
      column.append(node, el("span", "tick", w(name)));
      return column;
    }
    function axis(all) {
      const line = el("div", "haxis");
      for (let level = value.scale[0]; level <= value.scale[1]; level++) {
        const tick = el("span", "tick", String(level));
        tick.style.left = `${place(level + (value.width >= 1 ? value.width / 2 : 0))}%`;
        line.append(tick);
      }
      line.dataset.bins = all.length;
      return line;
    }
    function totals(all) {
      const sum = (key) => all.reduce((n, bin) => n + bin[key], 0);
      const gatedKept = value.scale[0] >= threshold;
      const out = { kept: sum("kept"), lost: sum("lost") };
      out[gatedKept ? "kept" : "lost"] += value.gated;
      out[value.keepUnscored ? "kept" : "lost"] += value.unscored + (value.slider ? value.pending : 0);
      return out;
    }
    function draw() {
      const all = bins();
      const waiting = value.slider ? value.pending : 0; // a live run's are only told in words
      const most = Math.max(1, value.gated, value.unscored, waiting, ...all.map((b) => b.kept + b.lost));
      const plot = el("div", "hplot");
      plot.append(aside("gated", value.gated, most));
      const middle = el("div", "hmiddle");
      const bars = el("div", "hbars");
      for (const bin of all) {
        const label = value.width >= 1 ? shown(bin.from)
          : `${shown(bin.from)} ${w("to")} ${shown(Math.min(bin.from + value.width, value.scale[1]))}`;
        const node = bar(bin.kept, bin.lost, most, label, all.length <= ROOM);
        node.dataset.bar = shown(bin.from);
        bars.append(node);
      }
      if (threshold !== null) {
        const line = el("em", "hline");
        line.style.left = `${place(threshold)}%`;
        line.append(el("span", "", shown(threshold)));
        bars.append(line);
      }
      middle.append(bars, axis(all));
      plot.append(middle, aside("unscored", value.unscored, most));
      if (waiting) plot.append(aside("pending", waiting, most));
      const count = totals(all);
      const legend = el("div", "hlegend");
      legend.append(el("span", "kept", `${w("kept")} ${count.kept}`), el("span", "lost", `${w("lost")} ${count.lost}`));
      if (value.pending && !value.slider) legend.append(el("span", "pending", `${w("pending")} ${value.pending}`));
      const range = host.querySelector(".hrange");
      const old = host.querySelector(".hplot");
      old ? old.replaceWith(plot) : host.prepend(plot);
      host.querySelector(".hlegend")?.remove();
      host.prepend(legend);
      if (range) alignRange(range);
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", `${w("kept")} ${count.kept}, ${w("lost")} ${count.lost}`);
    }
    function slider() {
      const row = el("label", "hrange");
      const input = el("input");
      input.type = "range";
      [input.min, input.max] = value.scale;
      input.step = value.step;
      input.value = threshold;
      input.setAttribute("aria-label", w("threshold"));
      input.addEventListener("input", () => { dragging = true; threshold = Number(input.value); draw(); });
      // Arrow keys change it many times a second: the page is told once they rest.
      input.addEventListener("change", () => {
        clearTimeout(telling);
        telling = setTimeout(() => { dragging = false; trigger("select", { threshold: Number(input.value) }); }, 150);
      });
      row.append(input);
      host.append(row);
      alignRange(row);
    }
    // The slider's ends lie under the first level and under the highest one.
    function alignRange(row) {
      const middle = host.querySelector(".hmiddle");
      if (!middle || !middle.offsetWidth) return;
      const input = row.firstChild;
      const half = 8;
      input.style.marginLeft = `${middle.offsetLeft - half}px`;
      input.style.width = `${middle.offsetWidth * place(value.scale[1]) / 100 + 2 * half}px`;
    }
    function take() {
      const next = props.value;
      const text = JSON.stringify(next);
      if (text === drawn) return;
      drawn = text;
      if (!next || !next.scale) {
        host.replaceChildren();
        value = null;
        owner = null;
        return;
      }
      value = next;
      if (next.owner !== owner) host.replaceChildren();
      if (next.owner !== owner || !dragging) threshold = next.threshold;
      owner = next.owner;
      draw();
      if (value.slider && !host.querySelector(".hrange")) slider();
      const input = host.querySelector(".hrange input");
      if (input && !dragging) input.value = threshold;
    }
    watch("value", take);
    take();
    new ResizeObserver(() => { const row = host.querySelector(".hrange"); if (value && row) alignRange(row); }).observe(host);
  };
})();
