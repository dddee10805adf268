// The preparation steps of a dataset: order, options, on and off. Every change asks the server what
// it would do; nothing is done before the user applies it.
(() => {
  "use strict";
  const WORDS = {
    en: { add: "Add a step", none: "No steps: the rows are used as they came.", apply: "Apply", back: "Back to what is applied", on: "on", up: "Earlier", down: "Later",
          remove: "Take this step out", applied: "applied", fresh: "new", changed: "changed", off: "off", counting: "Counting…", rows: (n) => `${n} rows`,
          would: (n) => `would change ${n} rows`, did: (n) => `changes ${n} rows`, waiting: "Not applied yet.", from: "now", to: "then", examples: "What would change" },
    ja: { add: "前処理を追加", none: "前処理はありません。行は元のまま使われます。", apply: "適用", back: "適用済みの状態に戻す", on: "有効", up: "前へ", down: "後へ",
          remove: "この前処理を外す", applied: "適用済み", fresh: "追加", changed: "変更", off: "無効", counting: "計算中…", rows: (n) => `${n} 行`,
          would: (n) => `${n} 行が変わります`, did: (n) => `${n} 行を変更`, waiting: "まだ適用していません。", from: "今", to: "適用後", examples: "変わる行の例" },
  };
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const number = (n) => n.toLocaleString("en-US");
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function button(className, text, action, title) {
    const node = el("button", className, text);
    node.type = "button";
    if (title) { node.title = title; node.setAttribute("aria-label", title); }
    node.addEventListener("click", action);
    return node;
  }

  window.charllmSteps = function (element, props, trigger, watch) {
    const host = element.querySelector(".stepspanel");
    let name = null;
    let kinds = [];
    let applied = []; // {kind, options, changed}
    let plan = []; // {kind, options, on, was: index in applied or -1}
    let preview = null; // {key, changed: [n…], rows, examples, error}
    let timer = null;

    const bare = (steps) => steps.map(({ kind, options, was }) => ({ kind, options, was }));
    const key = () => JSON.stringify(bare(plan.filter((step) => step.on)));
    const dirty = () => key() !== JSON.stringify(applied.map(({ kind, options }, was) => ({ kind, options, was })));
    const kindOf = (step) => kinds.find((kind) => kind.kind === step.kind) || { label: step.kind, about: "", fields: [] };

    function take() {
      if (typeof props.value !== "string" || !props.value) return;
      const got = JSON.parse(props.value);
      if (got.type === "preview") {
        if (got.key === key()) { preview = got; draw(); }
        return;
      }
      // A draft is kept while what it changes is still as it was.
      const keep = got.name === name && dirty() && JSON.stringify(got.applied) === JSON.stringify(applied);
      ({ name, kinds } = got);
      applied = got.applied;
      if (!keep) fresh();
      // Of two answers that come together the page hears the last: a preview may have been missed.
      if (keep && !preview) changed(0);
      else draw();
    }
    function fresh() {
      plan = applied.map((step, was) => ({ kind: step.kind, options: { ...step.options }, on: true, was }));
      preview = null;
    }
    function changed(delay) {
      preview = null;
      clearTimeout(timer);
      draw();
      if (dirty()) timer = setTimeout(() => trigger("select", { action: "preview", name, key: key(), steps: JSON.parse(key()) }), delay);
    }
    function move(from, to) {
      if (to < 0 || to >= plan.length) return;
      plan.splice(to, 0, ...plan.splice(from, 1));
      changed(0);
    }

    function draw() {
      host.replaceChildren();
      if (!name) return;
      const list = el("div", "steplist");
      if (!plan.length) list.append(el("p", "note", w("none")));
      plan.forEach((step, place) => list.append(line(step, place)));
      const made = el("div", "stepplan");
      made.append(list, outcome());
      host.append(made, chooser());
    }
    function line(step, place) {
      const kind = kindOf(step);
      const node = el("div", `stepline${step.on ? "" : " off"}`);
      node.dataset.step = step.kind;
      const toggle = el("input");
      toggle.type = "checkbox";
      toggle.checked = step.on;
      toggle.setAttribute("aria-label", `${kind.label}: ${w("on")}`);
      toggle.addEventListener("change", () => { step.on = toggle.checked; changed(0); });
      const words = el("div", "stepwords");
      const title = el("div", "steptitle");
      title.append(el("b", "", kind.label), state(step), el("span", "count", effect(step)));
      words.append(title, el("p", "note", kind.about));
      if (kind.fields.length) words.append(options(step, kind));
      node.append(el("span", "stepno", String(place + 1)), toggle, words,
        button("tool", "↑", () => move(place, place - 1), w("up")), button("tool", "↓", () => move(place, place + 1), w("down")),
        button("tool", "×", () => { plan.splice(place, 1); changed(0); }, w("remove")));
      return node;
    }
    function state(step) {
      if (!step.on) return el("span", "chip", w("off"));
      if (step.was < 0) return el("span", "chip live", w("fresh"));
      const before = applied[step.was];
      const as = JSON.stringify(before.options) === JSON.stringify(step.options);
      return el("span", as ? "chip good" : "chip live", w(as ? "applied" : "changed"));
    }
    function effect(step) {
      if (!step.on) return "";
      const place = plan.filter((other) => other.on).indexOf(step);
      if (!dirty()) return w("did")(number(applied[place].changed));
      if (!preview) return w("counting");
      return preview.error ? "" : w("would")(number(preview.changed[place]));
    }
    function options(step, kind) {
      const form = el("div", "stepoptions");
      for (const field of kind.fields) {
        const label = el("label");
        const input = el(field.type === "text" ? "textarea" : "input");
        if (field.type === "text") input.rows = 2;
        else {
          input.type = "number";
          for (const limit of ["min", "max", "step"]) if (field[limit] !== null) input[limit] = field[limit];
        }
        input.value = step.options[field.key] ?? field.default;
        input.dataset.option = field.key;
        input.addEventListener("change", () => {
          step.options[field.key] = field.type === "text" ? input.value : input.value === "" ? field.default : Number(input.value);
          changed(0);
        });
        label.append(el("span", "", field.label), input);
        form.append(label);
      }
      return form;
    }
    function outcome() {
      const box = el("div", "stepoutcome");
      if (!dirty()) return box;
      if (preview?.error) { box.append(el("p", "said bad", preview.error), again()); return box; }
      const bar = el("div", "stepbar");
      const total = preview ? `${number(preview.before)} → ${w("rows")(number(preview.rows))}` : w("counting");
      const apply = button("small primary", w("apply"), () => trigger("select", { action: "apply", name, steps: JSON.parse(key()) }));
      apply.dataset.apply = "";
      apply.disabled = !preview;
      bar.append(el("b", "", w("waiting")), el("span", "count", total), el("span", "spacer"), again(), apply);
      box.append(bar);
      if (preview?.examples.length) {
        const list = el("div", "stepexamples");
        list.append(el("h4", "", w("examples")));
        for (const { id, before, after } of preview.examples) {
          const item = el("div", "stepexample");
          item.append(el("span", "rowid", id), el("p", "was", before || "–"), el("p", "will", after || "–"));
          list.append(item);
        }
        box.append(list);
      }
      return box;
    }
    const again = () => button("small", w("back"), () => { fresh(); draw(); });
    function chooser() {
      const box = el("div", "stepadd");
      box.append(el("h4", "", w("add")));
      for (const kind of kinds) {
        const node = button("stepkind", "", () => {
          plan.push({ kind: kind.kind, options: Object.fromEntries(kind.fields.map((f) => [f.key, f.default])), on: true, was: -1 });
          changed(0);
        });
        node.dataset.kind = kind.kind;
        node.append(el("b", "", `＋ ${kind.label}`), el("span", "", kind.about));
        box.append(node);
      }
      return box;
    }
    watch("value", take);
    take();
  };
})();
