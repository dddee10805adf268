// An editable list of rows: add, edit, delete, reorder. Sends all rows after each change.
(() => {
  "use strict";
  const WORDS = {
    en: { add: "Add", remove: "Delete", up: "Move up", down: "Move down", drag: "Drag to reorder", filter: "Filter", none: "Nothing here yet." },
    ja: { add: "追加", remove: "削除", up: "上へ", down: "下へ", drag: "ドラッグで並べ替え", filter: "絞り込み", none: "まだ何もありません。" },
  };
  const language = () => window.charllmLanguage || "en";
  const w = (key) => WORDS[language()][key];
  const pick = (text) => text[language()] || text.en;
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  window.charllmTable = function (element, props, trigger, watch) {
    const host = element.querySelector(".rows");
    let rows = [];
    let columns = [];
    let timer = null;
    let dragged = null;
    let needle = "";
    let version = null;

    function send(delay) {
      clearTimeout(timer);
      timer = setTimeout(() => { timer = null; trigger("select", { action: "rows", rows, version }); }, delay);
    }
    function fit(area) { area.style.height = "auto"; area.style.height = `${area.scrollHeight + 2}px`; }
    function move(from, to) {
      if (to < 0 || to >= rows.length) return;
      const [row] = rows.splice(from, 1);
      rows.splice(to, 0, row);
      send(0);
      draw();
    }
    function tool(text, title, action, disabled) {
      const node = el("button", "tool", text);
      node.type = "button";
      node.title = title;
      node.setAttribute("aria-label", title);
      node.disabled = Boolean(disabled);
      node.addEventListener("click", action);
      return node;
    }
    function drawRow(row, index) {
      const node = el("div", "editrow");
      node.dataset.row = index;
      const handle = el("span", "handle", String(index + 1));
      handle.title = w("drag");
      handle.draggable = true;
      handle.addEventListener("dragstart", (event) => { dragged = index; event.dataTransfer.effectAllowed = "move"; });
      node.addEventListener("dragover", (event) => { if (dragged !== null) event.preventDefault(); });
      node.addEventListener("drop", (event) => { event.preventDefault(); if (dragged !== null) move(dragged, index); dragged = null; });
      node.append(handle);
      for (const column of columns) {
        const area = el("textarea");
        area.rows = 1;
        area.value = row[column.key] || "";
        area.style.flex = column.width;
        area.placeholder = pick(column.label);
        area.setAttribute("aria-label", `${pick(column.label)} ${index + 1}`);
        area.dataset.column = column.key;
        area.addEventListener("input", () => { row[column.key] = area.value; fit(area); send(500); });
        area.addEventListener("blur", () => { if (timer !== null) send(0); });
        area.addEventListener("keydown", (event) => {
          if (event.key === "Enter" && !event.isComposing && event.keyCode !== 229) { event.preventDefault(); area.blur(); }
        });
        node.append(area);
      }
      node.append(
        tool("↑", w("up"), () => move(index, index - 1), index === 0),
        tool("↓", w("down"), () => move(index, index + 1), index === rows.length - 1),
        tool("×", w("remove"), () => { rows.splice(index, 1); send(0); draw(); }));
      return node;
    }
    function draw() {
      const list = el("div", "rowlist");
      rows.forEach((row, index) => {
        if (needle && !columns.some((c) => (row[c.key] || "").toLowerCase().includes(needle))) return;
        list.append(drawRow(row, index));
      });
      if (!rows.length) list.append(el("p", "note", w("none")));
      host.querySelector(".rowlist")?.remove();
      host.append(list);
      list.querySelectorAll("textarea").forEach(fit);
    }
    function frame() {
      host.replaceChildren();
      const bar = el("div", "rowbar");
      const filter = el("input");
      filter.type = "search";
      filter.placeholder = w("filter");
      filter.addEventListener("input", () => { needle = filter.value.trim().toLowerCase(); draw(); });
      const add = el("button", "small", `＋ ${w("add")}`);
      add.type = "button";
      add.dataset.add = "";
      add.addEventListener("click", () => {
        needle = ""; filter.value = "";
        rows.push(Object.fromEntries(columns.map((c) => [c.key, ""])));
        draw();
        const last = host.querySelector(".rowlist").lastElementChild;
        last.scrollIntoView({ block: "nearest" });
        last.querySelector("textarea").focus();
      });
      bar.append(filter, add);
      host.append(bar);
    }
    function take() {
      const value = props.value;
      if (!value || !value.columns) return;
      const fresh = JSON.stringify(value.columns) !== JSON.stringify(columns);
      // What is being typed here is newer than what comes back, unless another thing was loaded.
      const same = value.owner === host.dataset.owner;
      version = value.version;
      if (same && !value.force && (timer !== null || JSON.stringify(value.rows) === JSON.stringify(rows.filter((r) => columns.some((c) => (r[c.key] || "").trim()))))) return;
      host.dataset.owner = value.owner;
      columns = value.columns;
      rows = value.rows.map((row) => ({ ...row }));
      if (fresh || !host.firstChild) frame();
      draw();
    }
    watch("value", take);
    take();
    new ResizeObserver(() => host.querySelectorAll("textarea").forEach(fit)).observe(host);
  };
})();
