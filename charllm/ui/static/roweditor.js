// The editor of one row beside the list: every message with its role, the row's findings, and what
// to do when somebody else has changed the row meanwhile. What is typed is kept until it is saved.
(() => {
  "use strict";
  const WORDS = {
    en: { user: "User", assistant: "Character", system: "System", add: "Add a turn", remove: "Remove this turn", save: "Save", revert: "Undo my typing",
          restore: "Restore the original", drop: "Delete the row", close: "Close", before: "Previous row", after: "Next row", edited: "edited by hand",
          saving: "Saving…", saved: "Saved", unsaved: "Not saved yet", theirs: "As it is stored now", take: "Take the stored one", mine: "Save mine over it",
          gone: "The row is gone.", role: "Speaker", keys: "Ctrl+Enter saves, Esc closes" },
    ja: { user: "ユーザー", assistant: "キャラクター", system: "システム", add: "発言を追加", remove: "この発言を削除", save: "保存", revert: "入力を取り消す",
          restore: "元の行に戻す", drop: "行を削除", close: "閉じる", before: "前の行", after: "次の行", edited: "手で編集済み",
          saving: "保存中…", saved: "保存しました", unsaved: "まだ保存していません", theirs: "現在保存されている内容", take: "保存済みの内容を使う", mine: "自分の編集で上書きする",
          gone: "この行はもうありません。", role: "話者", keys: "Ctrl+Enter で保存、Esc で閉じる" },
  };
  const ROLES = ["user", "assistant", "system"];
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
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
  const copy = (messages) => messages.map((message) => [...message]);
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const fit = (area) => { area.style.height = "auto"; area.style.height = `${area.scrollHeight + 2}px`; };

  window.charllmRowEditor = function (grid) {
    // Per dataset and row: {messages, expected}; expected is the row as it was when typing began.
    const kept = new Map();
    let drafts = new Map();
    let id = null;
    let notice = null; // {kind, text, row}

    function dataset(name) {
      close();
      if (!kept.has(name)) kept.set(name, new Map());
      drafts = kept.get(name);
    }
    function show(next) {
      if (!next || !grid.row(next)) return;
      id = next;
      notice = null;
      draw();
      grid.reveal(id);
    }
    function close() {
      id = null;
      const drawer = grid.drawer();
      if (!drawer) return;
      drawer.hidden = true;
      drawer.replaceChildren();
      grid.redraw();
    }
    const messagesOf = () => (drafts.has(id) ? drafts.get(id).messages : copy(grid.row(id).messages));
    function typed(messages) {
      const row = grid.row(id);
      const had = drafts.has(id);
      if (row && same(messages, row.messages)) drafts.delete(id);
      else drafts.set(id, { messages, expected: had ? drafts.get(id).expected : copy(row.messages) });
      if (had !== drafts.has(id)) grid.redraw();
      status();
    }
    function save() {
      if (!drafts.has(id)) return;
      const { messages, expected } = drafts.get(id);
      notice = { kind: "", text: w("saving") };
      status();
      grid.send("save", { id, messages, expected });
    }

    // --- answers of the server ----------------------------------------------------------------

    function saved(done) {
      if (!done) { refresh(); return; }
      const now = grid.row(done.id);
      const draft = drafts.get(done.id);
      // What was typed while the answer was on its way stays, on top of what is stored now.
      if (draft && done.action === "save" && now && !same(draft.messages, now.messages)) draft.expected = copy(now.messages);
      else drafts.delete(done.id);
      grid.redraw();
      if (done.id === id) {
        if (!now) { close(); return; }
        notice = { kind: "good", text: w("saved") };
        draw();
      }
    }
    function told(got) {
      if (got.id !== id) return;
      notice = { kind: "bad", text: got.text, row: got.type === "conflict" ? got.row : undefined };
      status();
    }
    function refresh() {
      if (id === null) return;
      if (!grid.row(id)) { if (drafts.has(id)) { notice = { kind: "bad", text: w("gone") }; status(); } else close(); return; }
      if (!drafts.has(id)) draw();
      else findings();
    }

    // --- the drawer ---------------------------------------------------------------------------

    let parts = {};
    function draw() {
      const drawer = grid.drawer();
      drawer.hidden = false;
      parts = { turns: el("div", "turns"), findings: el("div", "rowfindings"), status: el("div", "rowstatus") };
      const head = el("header");
      head.append(el("b", "", id), ...(grid.edited(id) ? [el("span", "chip live", w("edited"))] : []), el("span", "spacer"),
        button("tool", "↑", () => show(grid.neighbour(-1)), w("before")), button("tool", "↓", () => show(grid.neighbour(1)), w("after")),
        button("tool", "×", close, w("close")));
      const foot = el("footer");
      parts.save = button("small primary", w("save"), save, w("keys"));
      parts.save.dataset.save = "";
      parts.revert = button("small", w("revert"), () => { drafts.delete(id); notice = null; draw(); grid.redraw(); });
      const restore = button("small", w("restore"), () => grid.send("restore", { id }));
      restore.dataset.restore = "";
      restore.hidden = !grid.edited(id);
      const drop = button("small danger", w("drop"), () => grid.send("delete", { id, expected: grid.row(id).messages }));
      drop.dataset.drop = "";
      foot.append(parts.save, parts.revert, el("span", "spacer"), restore, drop);
      const add = button("small", `＋ ${w("add")}`, () => {
        const messages = messagesOf();
        const last = messages[messages.length - 1];
        messages.push([last && last[0] === "user" ? "assistant" : "user", ""]);
        typed(messages);
        turns();
        parts.turns.lastElementChild.querySelector("textarea").focus();
      });
      add.dataset.add = "";
      const scroll = el("div", "drawerbody");
      scroll.append(parts.findings, parts.turns, add, parts.status);
      // The keys work on, whatever was in focus before it was drawn anew.
      const inside = drawer.contains(document.activeElement);
      drawer.tabIndex = -1;
      drawer.replaceChildren(head, scroll, foot);
      drawer.onkeydown = keys;
      if (inside) drawer.focus();
      findings();
      turns();
      status();
    }
    function keys(event) {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
      if (event.key === "Escape") { event.stopPropagation(); close(); }
    }
    function findings() {
      parts.findings.replaceChildren(...grid.findings(id).map((found) => {
        const node = el("p", found.serious ? "bad" : "");
        node.append(el("b", "", found.label || found.code), el("span", "", found.text));
        if (found.other && grid.row(found.other)) node.append(button("link", found.other, () => show(found.other)));
        return node;
      }));
    }
    function turns() {
      const messages = messagesOf();
      parts.turns.replaceChildren(...messages.map((message, place) => turn(messages, place)));
      parts.turns.querySelectorAll("textarea").forEach(fit);
    }
    function turn(messages, place) {
      const [role, text] = messages[place];
      const node = el("div", `drawerturn ${role}`);
      const speaker = el("select");
      speaker.setAttribute("aria-label", `${w("role")} ${place + 1}`);
      for (const name of ROLES) speaker.append(Object.assign(el("option", "", w(name)), { value: name, selected: name === role }));
      speaker.addEventListener("change", () => { messages[place][0] = speaker.value; typed(messages); node.className = `drawerturn ${speaker.value}`; });
      const area = el("textarea");
      area.value = text;
      area.rows = 1;
      area.dataset.place = place;
      area.setAttribute("aria-label", `${w(role)} ${place + 1}`);
      area.addEventListener("input", () => { messages[place][1] = area.value; typed(messages); fit(area); });
      const remove = button("tool", "×", () => { messages.splice(place, 1); typed(messages); turns(); }, w("remove"));
      const bar = el("div", "turnbar");
      bar.append(speaker, el("span", "spacer"), el("span", "note", String([...text.trim()].length)), remove);
      area.addEventListener("input", () => { bar.querySelector(".note").textContent = String([...area.value.trim()].length); });
      node.append(bar, area);
      return node;
    }
    function status() {
      const dirty = drafts.has(id);
      parts.save.disabled = !dirty;
      parts.revert.hidden = !dirty;
      const said = notice || (dirty ? { kind: "", text: w("unsaved") } : null);
      parts.status.replaceChildren();
      if (!said) return;
      parts.status.append(el("p", `said ${said.kind}`, said.text));
      if (said.row === undefined) { if (said.kind === "good") notice = null; return; }
      if (said.row) stored(said.row[1]);
      else parts.status.append(el("p", "note", w("gone")));
    }
    // Both texts are there; which one stays is the user's choice.
    function stored(messages) {
      const box = el("div", "theirs");
      box.append(el("b", "", w("theirs")), ...messages.map(([role, text]) => el("p", "", `${w(role)}: ${text}`)));
      box.append(
        button("small", w("take"), () => { drafts.delete(id); grid.send("load"); notice = null; }),
        button("small", w("mine"), () => { const draft = drafts.get(id); if (draft) { draft.expected = copy(messages); save(); } }));
      parts.status.append(box);
    }
    return { dataset, show, saved, told, refresh, drafted: (of) => drafts.has(of), open: () => id };
  };
})();
