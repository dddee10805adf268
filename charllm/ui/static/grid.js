// All rows of a dataset: facets, filter, sort, a list of which only what is visible is in the
// page, and the row's editor beside it. The server sends all rows once and then only changes.
(() => {
  "use strict";
  const ROW = 58; // px, as .gridline in style.css
  const SPARE = 6; // rows drawn above and below what is visible
  const IDLE = 1200; // ms without a change before the rows are checked again
  const WORDS = {
    en: { search: "Search questions, replies, ids", all: "All rows", clean: "No findings", findings: "Findings", topics: "Topics",
          lengths: "Reply length", edited: "Edited by hand", deleted: "Deleted by hand", none: "(none)", undo: "Undo", redo: "Redo",
          id: "id", question: "Question", reply: "Reply", topic: "Topic", length: "Length", score: "Score", checking: "Checking…",
          nothing: "No row fits this filter.", clear: "Clear the filter", characters: "characters", table: "As a table", back: "Bring back",
          unsaved: "Not saved yet", most: "longest", least: "shortest", half: "median", mean: "mean",
          rows: (n) => `${n} rows`, part: (n, all) => `${n} of ${all} rows` },
    ja: { search: "質問・返答・id を検索", all: "すべての行", clean: "指摘なし", findings: "指摘", topics: "話題",
          lengths: "返答の長さ", edited: "手で編集した行", deleted: "手で削除した行", none: "（なし）", undo: "元に戻す", redo: "やり直す",
          id: "id", question: "質問", reply: "返答", topic: "話題", length: "長さ", score: "点数", checking: "確認中…",
          nothing: "条件に合う行がありません。", clear: "絞り込みを解除", characters: "文字", table: "表で見る", back: "戻す",
          unsaved: "未保存", most: "最長", least: "最短", half: "中央値", mean: "平均",
          rows: (n) => `${n} 行`, part: (n, all) => `${all} 行中 ${n} 行` },
  };
  const NO_FILTER = { needle: "", code: "", topic: null, bin: -1, edited: false };
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const number = (n) => n.toLocaleString("en-US");
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function button(className, text, action) {
    const node = el("button", className, text);
    node.type = "button";
    node.addEventListener("click", action);
    return node;
  }

  // A row as it is kept here: what the list shows is worked out once.
  function taken([id, messages, topic, score]) {
    const asked = messages.filter((message) => message[0] === "user");
    const question = asked.length ? asked[asked.length - 1][1] : "";
    const reply = messages[messages.length - 1][1];
    const hay = [id, ...messages.map((message) => message[1])].join("\n").toLowerCase();
    return { id, messages, topic, score, question, reply, length: [...reply.trim()].length, hay };
  }

  window.charllmGrid = function (element, props, trigger, watch) {
    const host = element.querySelector(".datagrid");
    let name = "";
    let version = "";
    let rows = [];
    let places = new Map();
    let state = { edited: new Set(), deleted: [], undo: false, redo: false };
    let report = null; // {codes, rows: {id: [[code, text, other]…]}, lengths}
    let codes = new Map();
    let shown = [];
    let view = { ...NO_FILTER, sort: "", down: false };
    let checkTimer = null;
    let parts = {};
    const send = (action, more = {}) => trigger("select", { action, name, version, ...more });
    const found = (id) => (report && report.rows[id]) || [];

    // --- what comes from the server -----------------------------------------------------------

    function take() {
      if (typeof props.value !== "string" || !props.value) return;
      const got = JSON.parse(props.value);
      const does = { rows: takeRows, changed: takeChanges, findings: takeFindings, conflict: tell, refused: tell };
      does[got.type](got);
    }
    function takeRows(got) {
      if (got.name !== name) {
        editor.dataset(got.name);
        view = { ...NO_FILTER, sort: "", down: false };
        host.replaceChildren();
        clearTimeout(checkTimer);
      }
      if (got.name !== name || got.version !== version) setReport(null);
      ({ name, version } = got);
      rows = got.rows.map(taken);
      if (!name) return;
      if (!host.firstChild) frame();
      settle(got);
      editor.saved(got.done);
      check(0);
    }
    function takeChanges(got) {
      if (got.name !== name) return;
      if (got.before !== version) { send("load", { done: got.done }); return; }
      version = got.version;
      const gone = new Set(got.removed);
      if (gone.size) rows = rows.filter((row) => !gone.has(row.id));
      const here = new Map(rows.map((row, place) => [row.id, place]));
      for (const [place, row] of got.changes) {
        const made = taken(row);
        if (here.has(made.id)) rows[here.get(made.id)] = made;
        else rows.splice(place, 0, made);
      }
      settle(got);
      editor.saved(got.done);
      if (got.changes.length || gone.size) check(IDLE);
    }
    function settle(got) {
      state = { edited: new Set(got.edited), deleted: got.deleted, undo: got.undo, redo: got.redo };
      places = new Map(rows.map((row, place) => [row.id, place]));
      parts.undo.disabled = !state.undo;
      parts.redo.disabled = !state.redo;
      select();
    }
    function setReport(got) {
      report = got;
      codes = new Map((got ? got.codes : []).map((code) => [code.code, code]));
    }
    function takeFindings(got) {
      if (got.name !== name || got.version !== version) return;
      setReport(got);
      parts.busy.hidden = true;
      if (view.code && view.code !== "-" && !codes.has(view.code)) view.code = "";
      if (view.bin >= got.lengths.counts.length) view.bin = -1;
      select();
      editor.refresh();
    }
    function tell(got) {
      if (got.name === name) editor.told(got);
    }
    function check(delay) {
      clearTimeout(checkTimer);
      parts.busy.hidden = false;
      checkTimer = setTimeout(() => send("check"), delay);
    }

    // --- which rows are shown -----------------------------------------------------------------

    function inBin(length) {
      const { edges, counts } = report.lengths;
      const last = view.bin === counts.length - 1;
      return length >= edges[view.bin] && (last ? length <= edges[view.bin + 1] : length < edges[view.bin + 1]);
    }
    const active = () => [
      view.needle && ((row) => row.hay.includes(view.needle)),
      view.code && report && ((row) => (view.code === "-" ? !found(row.id).length : found(row.id).some((f) => f[0] === view.code))),
      view.topic !== null && ((row) => row.topic === view.topic),
      view.bin >= 0 && report && ((row) => inBin(row.length)),
      view.edited && ((row) => state.edited.has(row.id)),
    ].filter(Boolean);
    const KEYS = { id: (row) => row.id, question: (row) => row.question, reply: (row) => row.reply, topic: (row) => row.topic, length: (row) => row.length,
                   score: (row) => (row.score === null ? -Infinity : row.score), findings: (row) => found(row.id).length };
    function select() {
      const all = active();
      shown = all.length ? rows.filter((row) => all.every((test) => test(row))) : rows;
      if (view.sort) {
        const key = KEYS[view.sort];
        const sign = view.down ? -1 : 1;
        shown = shown.map((row) => [key(row), row]).sort((a, b) => sign * (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)).map((pair) => pair[1]);
      }
      facets(all.length);
      heads();
      parts.count.textContent = shown.length === rows.length ? w("rows")(number(rows.length)) : w("part")(number(shown.length), number(rows.length));
      parts.clear.hidden = !all.length;
      parts.space.style.height = `${shown.length * ROW}px`;
      parts.body.setAttribute("aria-rowcount", shown.length);
      parts.nothing.hidden = shown.length > 0;
      draw(true);
    }
    function set(change) {
      Object.assign(view, change);
      parts.body.scrollTop = 0;
      select();
    }
    function everything() {
      parts.search.value = "";
      set(NO_FILTER);
    }

    // --- the list -----------------------------------------------------------------------------

    let drawn = new Map();
    function draw(anew) {
      const first = Math.max(0, Math.floor(parts.body.scrollTop / ROW) - SPARE);
      const last = Math.min(shown.length, Math.ceil((parts.body.scrollTop + parts.body.clientHeight) / ROW) + SPARE);
      if (anew) { parts.space.replaceChildren(); drawn = new Map(); }
      for (const [at, node] of drawn) if (at < first || at >= last) { node.remove(); drawn.delete(at); }
      for (let at = first; at < last; at++) {
        if (drawn.has(at)) continue;
        const node = line(shown[at], at);
        drawn.set(at, node);
        parts.space.append(node);
      }
    }
    function line(row, at) {
      const node = el("div", `gridline${editor.open() === row.id ? " on" : ""}`);
      node.style.transform = `translateY(${at * ROW}px)`;
      node.dataset.id = row.id;
      node.setAttribute("role", "row");
      node.setAttribute("aria-rowindex", at + 1);
      const id = el("span", "rowid", row.id);
      if (state.edited.has(row.id)) id.append(Object.assign(el("i", "dot edited"), { title: w("edited") }));
      if (editor.drafted(row.id)) id.append(Object.assign(el("i", "dot unsaved"), { title: w("unsaved") }));
      node.append(id, el("span", "clip", row.question), el("span", "clip reply", row.reply), el("span", "topic", row.topic), el("span", "num", String(row.length)));
      if (scored()) node.append(el("span", "num", row.score === null ? "–" : String(Math.round(row.score * 100) / 100)));
      node.append(chips(found(row.id)));
      for (const cell of node.children) cell.setAttribute("role", "gridcell");
      return node;
    }
    function chips(seen) {
      const marks = el("span", "found");
      for (const [code, text] of seen.slice(0, 2)) {
        const known = codes.get(code);
        const chip = el("span", `chip${known?.serious ? " bad" : ""}`, known ? known.label : code);
        chip.title = text;
        marks.append(chip);
      }
      if (seen.length > 2) marks.append(el("span", "chip quiet", `+${seen.length - 2}`));
      return marks;
    }
    const scored = () => host.classList.contains("scored");
    function heads() {
      host.classList.toggle("scored", rows.some((row) => row.score !== null));
      const keys = ["id", "question", "reply", "topic", "length", ...(scored() ? ["score"] : []), "findings"];
      parts.head.replaceChildren(...keys.map((key) => {
        const on = view.sort === key;
        const cell = button(on ? "on" : "", w(key) + (on ? (view.down ? " ↓" : " ↑") : ""), () => set(next(key)));
        cell.dataset.sort = key;
        return cell;
      }));
    }
    // One direction, the other, and then the file's own order again.
    function next(key) {
      const first = key === "findings" || key === "score";
      if (view.sort !== key) return { sort: key, down: first };
      return view.down === first ? { sort: key, down: !first } : { sort: "", down: false };
    }
    function reveal(id) {
      const at = shown.findIndex((row) => row.id === id);
      const top = at * ROW;
      const { scrollTop, clientHeight } = parts.body;
      if (at >= 0 && (top < scrollTop || top + ROW > scrollTop + clientHeight)) parts.body.scrollTop = top - clientHeight / 3;
      draw(true);
    }

    // --- facets -------------------------------------------------------------------------------

    function facet(label, count, on, kind, action) {
      const node = button(`facet ${kind}${on ? " on" : ""}`, "", action);
      node.append(el("span", "", label), el("b", "", number(count)));
      node.setAttribute("aria-pressed", on);
      return node;
    }
    function facets(filtered) {
      const list = [facet(w("all"), rows.length, !filtered, "", everything)];
      const edited = rows.filter((row) => state.edited.has(row.id)).length;
      if (edited) list.push(facet(w("edited"), edited, view.edited, "", () => set({ edited: !view.edited })));
      list.push(el("h4", "", w("findings")), ...(report ? marks() : [el("p", "note", w("checking"))]), ...topics());
      if (report?.lengths.counts.length) list.push(el("h4", "", w("lengths")), ...lengths(report.lengths));
      if (state.deleted.length) list.push(el("h4", "", w("deleted")), deleted());
      parts.facets.replaceChildren(...list);
    }
    function marks() {
      const by = (code, label, count, kind) => {
        const node = facet(label, count, view.code === code, kind, () => set({ code: view.code === code ? "" : code }));
        node.dataset.code = code;
        return node;
      };
      const clean = rows.filter((row) => !found(row.id).length).length;
      return [...report.codes.map((c) => by(c.code, c.label, c.count, c.serious ? "bad" : "")), by("-", w("clean"), clean, "good")];
    }
    function topics() {
      const counts = new Map();
      for (const row of rows) counts.set(row.topic, (counts.get(row.topic) || 0) + 1);
      if (counts.size < 2) return [];
      const box = el("div", "topiclist");
      for (const [topic, n] of [...counts].sort((a, b) => b[1] - a[1])) {
        const node = facet(topic || w("none"), n, view.topic === topic, "", () => set({ topic: view.topic === topic ? null : topic }));
        node.dataset.topic = topic;
        box.append(node);
      }
      return [el("h4", "", w("topics")), box];
    }
    function lengths({ edges, counts, shortest, longest, mean, quantiles }) {
      const most = Math.max(...counts);
      const bars = el("div", "lengthbars");
      const names = counts.map((_, i) => `${edges[i]}–${i === counts.length - 1 ? edges[i + 1] : edges[i + 1] - 1}`);
      counts.forEach((n, i) => {
        const bar = button(view.bin === i ? "on" : "", "", () => set({ bin: view.bin === i ? -1 : i }));
        const fill = el("i");
        fill.style.height = `${n ? Math.max(2, 100 * n / most) : 0}%`;
        bar.append(fill);
        bar.title = `${names[i]} ${w("characters")}: ${w("rows")(number(n))}`;
        bar.setAttribute("aria-label", bar.title);
        bar.dataset.bin = i;
        bars.append(bar);
      });
      const axis = el("div", "lengthaxis");
      axis.append(el("span", "", String(edges[0])), el("span", "", `${w("half")} ${quantiles["0.5"]} ${w("characters")}`), el("span", "", String(edges[edges.length - 1])));
      const details = el("details", "lengthtable");
      const table = el("table", "plain");
      const add = (a, b) => { const line = el("tr"); line.append(el("td", "", a), el("td", "num", b)); table.append(line); };
      add(w("least"), String(shortest));
      for (const [share, value] of Object.entries(quantiles)) add(share === "0.5" ? w("half") : `${Math.round(100 * share)} %`, String(value));
      add(w("most"), String(longest));
      add(w("mean"), String(mean));
      counts.forEach((n, i) => add(names[i], w("rows")(number(n))));
      details.append(el("summary", "", w("table")), table);
      details.open = Boolean(parts.facets.querySelector(".lengthtable[open]"));
      return [bars, axis, details];
    }
    function deleted() {
      const box = el("div", "topiclist");
      for (const id of state.deleted) {
        const node = el("div", "gone");
        const back = button("small", w("back"), () => send("restore", { id }));
        back.dataset.back = id;
        node.append(el("span", "", id), back);
        box.append(node);
      }
      return box;
    }

    // --- the frame ----------------------------------------------------------------------------

    function frame() {
      parts = { facets: el("nav", "facets"), head: el("div", "gridhead"), body: el("div", "gridbody"), space: el("div", "gridspace"),
                nothing: el("p", "note", w("nothing")), drawer: el("aside", "drawer") };
      parts.drawer.hidden = true;
      parts.body.tabIndex = 0;
      parts.body.setAttribute("role", "grid");
      parts.body.append(parts.head, parts.space, parts.nothing);
      let waiting = false;
      parts.body.addEventListener("scroll", () => {
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => { waiting = false; draw(false); });
      }, { passive: true });
      parts.body.addEventListener("click", (event) => {
        const hit = event.target.closest(".gridline");
        if (hit) editor.show(hit.dataset.id);
      });
      parts.body.addEventListener("keydown", keys);
      const main = el("div", "gridmain");
      const stage = el("div", "gridstage");
      stage.append(parts.body, parts.drawer);
      main.append(bar(), stage);
      host.append(parts.facets, main);
      new ResizeObserver(() => draw(false)).observe(parts.body);
    }
    function bar() {
      const node = el("div", "gridbar");
      parts.search = el("input");
      parts.search.type = "search";
      parts.search.placeholder = w("search");
      parts.search.setAttribute("aria-label", w("search"));
      let typing = null;
      parts.search.addEventListener("input", () => {
        clearTimeout(typing);
        typing = setTimeout(() => set({ needle: parts.search.value.trim().toLowerCase() }), 90);
      });
      parts.count = el("span", "count");
      parts.busy = el("span", "note busy", w("checking"));
      parts.clear = button("small", w("clear"), everything);
      parts.undo = button("small", w("undo"), () => send("undo"));
      parts.undo.dataset.undo = "";
      parts.redo = button("small", w("redo"), () => send("redo"));
      parts.redo.dataset.redo = "";
      node.append(parts.search, parts.count, parts.clear, parts.busy, parts.undo, parts.redo);
      return node;
    }
    function keys(event) {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step && editor.open()) { event.preventDefault(); editor.show(neighbour(step)); }
      else if (event.key === "Enter" && shown.length && !editor.open()) editor.show(shown[Math.floor(parts.body.scrollTop / ROW)].id);
    }
    function neighbour(step) {
      const at = shown.findIndex((row) => row.id === editor.open());
      return shown[Math.max(0, Math.min(shown.length - 1, at + step))]?.id;
    }

    const editor = window.charllmRowEditor({
      drawer: () => parts.drawer,
      row: (id) => (places.has(id) ? rows[places.get(id)] : null),
      findings: (id) => found(id).map(([code, text, other]) => ({ code, text, other, ...codes.get(code) })),
      edited: (id) => state.edited.has(id),
      neighbour, reveal, send,
      redraw: () => parts.space && draw(true),
    });
    watch("value", take);
    take();
  };
})();
