// Sliders of a mixture by layer group and parent. What counts are the shares of a row, a / (a + b).
// value: { key, parents: [name], groups: [{id, name}], weights: {id: [number…]} }; a value of another
// key, or with other weights, replaces what is shown. Every finished change is told: { weights }.
(() => {
  "use strict";
  const WORDS = {
    en: { all: "all layers", undo: "Undo", redo: "Redo", uniform: "Plain average", only: (name) => `${name} alone`, share: "share",
          none: "Give at least one parent a weight.", mixed: "mixed", label: (name, group) => `${name}, ${group}` },
    ja: { all: "全層", undo: "元に戻す", redo: "やり直す", uniform: "単純平均", only: (name) => `${name} だけ`, share: "割合",
          none: "少なくとも1つの親に重みを付けてください。", mixed: "層ごと", label: (name, group) => `${name}・${group}` },
  };
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const COLORS = ["--primary-500", "--k-rag", "--k-recipe", "--k-endpoint", "--k-adapter", "--k-base"];
  const color = (place) => `var(${COLORS[place % COLORS.length]})`;
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function button(text, action, data) {
    const node = el("button", "small", text);
    node.type = "button";
    Object.assign(node.dataset, data || {});
    node.addEventListener("click", action);
    return node;
  }
  const shares = (row) => {
    const total = row.reduce((sum, one) => sum + one, 0);
    return total > 0 ? row.map((one) => one / total) : null;
  };

  window.charllmMixer = function (element, props, trigger, watch) {
    const host = element.querySelector(".mixer");
    let board = null;
    let weights = {};
    let past = [];
    let future = [];
    let lines = {}; // by group: what has to follow the sliders
    let buttons = {};

    const copy = (one) => Object.fromEntries(Object.entries(one).map(([group, row]) => [group, [...row]]));
    const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

    function take() {
      const next = props.value;
      if (!next || !next.key) { board = null; host.replaceChildren(); return; }
      const other = !board || board.key !== next.key || !same(board.parents, next.parents);
      if (!other && same(next.weights, weights)) return;
      board = next;
      weights = copy(next.weights);
      if (other) { past = []; future = []; }
      draw();
    }
    // One finished change: it can be undone, and the server is told.
    function change(made) {
      if (same(made, weights)) return;
      past.push(weights);
      future = [];
      put(made);
    }
    function put(made) {
      weights = made;
      follow();
      trigger("select", { weights });
    }
    function step(from, to) {
      if (!from.length) return;
      to.push(weights);
      put(from.pop());
    }
    const filled = (row) => Object.fromEntries(board.groups.map((group) => [group.id, [...row]]));

    function draw() {
      host.replaceChildren();
      lines = {};
      const count = board.parents.length;
      const tools = el("div", "mixtools");
      buttons = { undo: button(w("undo"), () => step(past, future), { mix: "undo" }), redo: button(w("redo"), () => step(future, past), { mix: "redo" }) };
      tools.append(buttons.undo, buttons.redo, button(w("uniform"), () => change(filled(Array(count).fill(1 / count))), { mix: "uniform" }));
      board.parents.forEach((name, place) => {
        tools.append(button(w("only")(name), () => change(filled(board.parents.map((_, k) => Number(k === place)))), { mix: `only-${place}` }));
      });
      const table = el("table", "mixtable");
      const head = table.createTHead().insertRow();
      head.append(el("th"));
      board.parents.forEach((name, place) => {
        const cell = el("th", "", name);
        cell.style.setProperty("--c", color(place));
        head.append(cell);
      });
      head.append(el("th", "", w("share")));
      const body = table.createTBody();
      body.append(line("", w("all"), "whole"), ...board.groups.map((group) => line(group.id, group.name, "")));
      host.append(tools, table, el("p", "note mixnote"));
      follow();
    }
    function line(group, name, kind) {
      const row = el("tr", kind);
      if (group) row.dataset.group = group;
      row.append(el("th", "", name));
      const sliders = board.parents.map((parent, place) => {
        const cell = row.insertCell();
        const slider = el("input");
        Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.01 });
        slider.setAttribute("aria-label", w("label")(parent, name));
        slider.style.setProperty("--c", color(place));
        let before = null;
        slider.addEventListener("input", () => {
          before ||= copy(weights);
          for (const one of group ? [group] : board.groups.map((item) => item.id)) weights[one][place] = Number(slider.value);
          follow(slider);
        });
        slider.addEventListener("change", () => {
          const made = copy(weights);
          if (before) weights = before;
          before = null;
          change(made);
        });
        const text = el("span", "mixshare");
        cell.append(slider, text);
        return { slider, text };
      });
      const bar = el("div", "mixbar");
      board.parents.forEach((_, place) => {
        const part = el("i");
        part.style.background = color(place);
        bar.append(part);
      });
      row.insertCell().append(bar);
      lines[group] = { sliders, bar };
      return row;
    }
    // The mean over all groups, for the row that moves all of them.
    function whole() {
      const rows = board.groups.map((group) => weights[group.id]);
      return board.parents.map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
    }
    function follow(held) {
      let empty = false;
      const even = board.groups.every((group) => same(weights[group.id], weights[board.groups[0].id]));
      for (const [group, { sliders, bar }] of Object.entries(lines)) {
        const row = group ? weights[group] : whole();
        const parts = shares(row);
        empty ||= !parts;
        sliders.forEach(({ slider, text }, place) => {
          if (slider !== held) slider.value = row[place];
          slider.style.setProperty("--v", slider.value);
          text.textContent = group || even ? (parts ? `${Math.round(100 * parts[place])} %` : "–") : w("mixed");
          bar.children[place].style.width = parts ? `${100 * parts[place]}%` : "0";
        });
      }
      host.querySelector(".mixnote").textContent = empty ? w("none") : "";
      buttons.undo.disabled = !past.length;
      buttons.redo.disabled = !future.length;
    }
    watch("value", take);
    take();
  };
})();
