// The board: a conversation with several columns, drawn from the state the server sends.
// Every text is set with textContent; nothing that a model or a user wrote is read as HTML.
(() => {
  "use strict";
  const WORDS = {
    en: {
      waiting: "waiting", writing: "writing", thinking: "…", facts: "Facts", prompt: "Prompt",
      score: "Score", run: "What ran", scoring: "scoring…", unscored: "not scored",
      noFacts: "This column answers without retrieval.", noneUsed: "No fact reached the threshold.",
      threshold: "threshold", tokens: "tokens", first: "first token", total: "total", weights: "weights",
      preset: "preset", edit: "Edit and resend", copy: "Copy", copied: "Copied", again: "Again",
      regenerate: "Regenerate this answer", stopColumn: "Stop this column", you: "You",
      vote: "Which answer is best?", tie: "Tie", bad: "All bad", voted: "Your vote",
      blindNote: "Names and scores appear after your vote.", save: "Send again", cancel: "Cancel",
      reason: { end: "ended by itself", stop_string: "stopped at the next turn", repetition: "looped, cut off",
        length: "cut at the limit", cancelled: "stopped by you", error: "failed", edited: "edited" },
      editReply: "Edit this answer", saveReply: "Save", restore: "Back to the original", original: "Original",
      editedNote: "You have edited this answer, so it has no score: the model did not say it.",
      editReplyNote: "What should the character have said? Ctrl+Enter saves, Esc cancels.",
      gate: "gate", style: "style", relevance: "relevance", passed: "passed", failed: "failed",
      similarity: "similarity", used: "in the prompt", notUsed: "below the threshold", details: "Details",
      emptyTitle: "Ask, and compare", tryOne: "Try one of these", of7: "of 7",
    },
    ja: {
      waiting: "待機中", writing: "生成中", thinking: "…", facts: "参照した事実", prompt: "プロンプト",
      score: "採点", run: "実行内容", scoring: "採点中…", unscored: "未採点",
      noFacts: "この列は検索（RAG）を使わずに答えています。", noneUsed: "しきい値に届いた事実はありません。",
      threshold: "しきい値", tokens: "トークン", first: "最初のトークン", total: "合計", weights: "重み",
      preset: "プリセット", edit: "編集して再送信", copy: "コピー", copied: "コピーしました", again: "もう一度",
      regenerate: "この答えを生成し直す", stopColumn: "この列を止める", you: "あなた",
      vote: "いちばん良い答えは？", tie: "引き分け", bad: "どれも良くない", voted: "あなたの投票",
      blindNote: "投票すると、名前と採点が表示されます。", save: "送り直す", cancel: "やめる",
      reason: { end: "自然に終了", stop_string: "次の発言の手前で停止", repetition: "繰り返しのため打ち切り",
        length: "上限で打ち切り", cancelled: "手動で停止", error: "失敗", edited: "編集済み" },
      editReply: "この答えを編集", saveReply: "保存", restore: "元の答えに戻す", original: "元の答え",
      editedNote: "編集した答えです。モデルの発言ではないため、採点は付きません。",
      editReplyNote: "この人物なら何と言うべきでしたか？　Ctrl+Enter で保存、Esc で取り消し。",
      gate: "ゲート", style: "口調", relevance: "関連度", passed: "合格", failed: "不合格",
      similarity: "類似度", used: "プロンプトに使用", notUsed: "しきい値未満", details: "詳細",
      emptyTitle: "話しかけて、くらべる", tryOne: "たとえば、こんな質問から", of7: "／7",
    },
  };
  const language = () => window.charllmLanguage || "en";
  const w = (key) => WORDS[language()][key];
  const pick = (text) => (text ? text[language()] || text.en || "" : "");

  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const ICONS = {
    copy: ["M9 9h10v11H9z", "M5 15V4h10"],
    again: ["M20 11a8 8 0 1 0-2.3 6", "M20 5v6h-6"],
    stop: ["M7 7h10v10H7z"],
    edit: ["M4 20h4L19 9l-4-4L4 16z"],
    done: ["M5 13l4 4L19 7"],
    back: ["M9 14L4 9l5-5", "M4 9h10a6 6 0 0 1 0 12h-3"],
  };
  function icon(name) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    for (const d of ICONS[name]) {
      const path = document.createElementNS(space, "path");
      path.setAttribute("d", d);
      svg.append(path);
    }
    return svg;
  }
  function iconButton(name, title, onClick) {
    const node = button("tool", "", title, onClick);
    node.append(icon(name));
    return node;
  }
  function button(className, text, title, onClick) {
    const node = el("button", className, text);
    node.type = "button";
    if (title) { node.title = title; node.setAttribute("aria-label", title); }
    node.addEventListener("click", onClick);
    return node;
  }
  const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  window.charllmBoard = function (element, props, trigger, watch) {
    const host = element.querySelector(".board");
    const drawn = new Map(); // turn id → {node, cards: Map(column id → {node, key}), key}
    const open = new Set(); // "<turn>/<column>" whose details are open
    const tab = new Map();
    const drafts = new Map(); // "<turn>/<column>" → {reply, text, focus, sent} of an answer being edited
    let conversation = null;

    function send(action, data) { trigger("select", { action, conversation, ...data }); }

    function scoreChip(column) {
      const chip = el("span", "score");
      const score = column.score;
      if (!score || score.state === "waiting") { chip.classList.add("pending"); chip.textContent = w("scoring"); return chip; }
      if (score.value === null) { chip.classList.add("none"); chip.textContent = w("unscored"); chip.title = pick(score.unscored); return chip; }
      chip.classList.add(score.value >= 5 ? "good" : score.value >= 3 ? "fair" : "poor");
      chip.append(el("b", "", number(score.value, 1)), el("span", "of", w("of7")));
      return chip;
    }

    function chips(column, hidden) {
      const row = el("div", "chips");
      if (column.state === "writing" || column.state === "waiting") {
        const state = el("span", "chip live", column.state === "writing" ? w("writing") : w("waiting"));
        row.append(state);
        return row;
      }
      if (column.state === "failed") { row.append(el("span", "chip bad", w("reason").error)); return row; }
      if (!hidden && column.score !== undefined && column.score !== null) row.append(scoreChip(column));
      const fine = ["end", "stop_string", "edited"].includes(column.reason);
      const reason = el("span", "chip" + (fine ? "" : " bad"), w("reason")[column.reason] || "");
      row.append(reason);
      if (!hidden && column.score && column.score.parts)
        for (const part of column.score.parts)
          row.append(el("span", "chip quiet", `${pick(part.name)} ${part.shown}`));
      if (!hidden && column.reason !== "edited") row.append(el("span", "chip quiet", `${column.tokens} tok · ${number(column.seconds, 1)} s`));
      return row;
    }

    function factsPane(column) {
      const pane = el("div", "pane");
      if (!column.rag) { pane.append(el("p", "note", w("noFacts"))); return pane; }
      if (!column.facts.some((hit) => hit.used)) pane.append(el("p", "note", w("noneUsed")));
      for (const hit of column.facts) {
        const row = el("div", "fact" + (hit.used ? " used" : ""));
        row.append(el("span", "", hit.fact));
        const value = el("span", "value", number(hit.similarity, 3));
        value.title = hit.used ? w("used") : w("notUsed");
        row.append(value);
        pane.append(row);
      }
      if (column.threshold !== null) pane.append(el("p", "note", `${w("threshold")} ${number(column.threshold, 3)}`));
      return pane;
    }
    function scorePane(column) {
      const pane = el("div", "pane");
      if (column.reason === "edited") { pane.append(el("p", "note", w("editedNote"))); return pane; }
      const score = column.score;
      if (!score || score.state === "waiting") { pane.append(el("p", "note", w("scoring"))); return pane; }
      if (score.value === null) { pane.append(el("p", "note", pick(score.unscored))); return pane; }
      for (const part of score.parts) {
        const row = el("div", "part");
        row.append(el("b", "", `${pick(part.name)} ${part.shown}`), el("span", "", pick(part.text)));
        pane.append(row);
      }
      pane.append(el("p", "note", pick(score.about)));
      return pane;
    }
    function originalPane(column) {
      const pane = el("div", "pane");
      pane.append(el("pre", "", column.original));
      return pane;
    }
    function promptPane(column) {
      const pane = el("div", "pane");
      pane.append(el("p", "note", `${column.prompt_tokens} ${w("tokens")}`), el("pre", "", column.prompt));
      return pane;
    }
    function runPane(column) {
      const pane = el("div", "pane");
      const list = el("dl");
      const add = (key, value) => { list.append(el("dt", "", key), el("dd", "", value)); };
      add(w("weights"), column.weights || "–");
      add(w("preset"), column.preset);
      add(w("first"), `${number(column.first, 2)} s`);
      add(w("total"), `${number(column.seconds, 2)} s · ${column.tokens} ${w("tokens")}`);
      pane.append(list);
      return pane;
    }
    const PANES = [["score", scorePane], ["original", originalPane], ["facts", factsPane], ["prompt", promptPane], ["run", runPane]];
    const panesOf = (column) => PANES.filter(([name]) => name !== "original" || column.original !== null);

    function details(turn, column) {
      const key = `${turn.id}/${column.id}`;
      const box = el("details", "more");
      box.open = open.has(key);
      const summary = el("summary", "", w("details"));
      box.append(summary);
      box.addEventListener("toggle", () => { if (box.open) open.add(key); else open.delete(key); });
      const tabs = el("div", "panetabs");
      const body = el("div");
      const show = (name) => {
        tab.set(key, name);
        tabs.querySelectorAll("button").forEach((b) => b.classList.toggle("on", b.dataset.pane === name));
        body.replaceChildren(PANES.find(([n]) => n === name)[1](column));
      };
      const panes = panesOf(column).map(([name]) => name);
      for (const name of panes) {
        const b = button("", w(name), "", () => show(name));
        b.dataset.pane = name;
        tabs.append(b);
      }
      box.append(tabs, body);
      show(panes.includes(tab.get(key)) ? tab.get(key) : "score");
      return box;
    }

    function replyEditor(turn, column) {
      const key = `${turn.id}/${column.id}`;
      const draft = drafts.get(key);
      const box = el("div", "pane");
      const area = el("textarea", "editarea");
      area.style.width = "100%";
      area.rows = 5;
      area.lang = turn.language;
      area.value = draft.text;
      area.setAttribute("aria-label", w("editReply"));
      area.addEventListener("input", () => { draft.text = area.value; });
      const close = () => { drafts.delete(key); drawn.get(turn.id).cards.get(column.id).key = ""; draw(); };
      const save = () => {
        if (area.value.trim() === column.text.trim()) close();
        else if (area.value.trim()) {
          draft.sent = true;
          send("edit-reply", { turn: turn.id, column: column.id, text: area.value, reply: draft.reply });
        }
      };
      area.addEventListener("keydown", (event) => {
        if (event.isComposing || event.keyCode === 229) return;
        if (event.key === "Escape") { event.stopPropagation(); close(); }
        else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
      });
      const bar = el("div", "editbar");
      bar.append(button("small primary", w("saveReply"), "", save), button("small", w("cancel"), "", close));
      box.append(el("p", "note", w("editReplyNote")), area, bar);
      if (draft.focus) { draft.focus = false; setTimeout(() => area.focus()); }
      return box;
    }

    function drawCard(turn, column, node) {
      const hidden = turn.blind && !turn.vote;
      const key = `${turn.id}/${column.id}`;
      node.className = "card " + (hidden ? "k-blind" : "k-" + column.kind);
      node.dataset.column = column.id;
      node.dataset.state = column.state;
      const head = el("div", "cardhead");
      head.append(el("span", "name", hidden ? column.id : pick(column.label)));
      const tools = el("span", "tools");
      const live = column.state === "writing" || column.state === "waiting";
      if (live) tools.append(iconButton("stop", w("stopColumn"), () => send("stop", { turn: turn.id, column: column.id })));
      else {
        tools.append(iconButton("copy", w("copy"), (event) => {
          navigator.clipboard.writeText(column.text);
          event.currentTarget.replaceChildren(icon("done"));
        }));
        if (!hidden && column.original !== null)
          tools.append(iconButton("back", w("restore"), () => send("restore-reply", { turn: turn.id, column: column.id })));
        if (!hidden && turn.done && column.state === "done" && column.reply !== null)
          tools.append(iconButton("edit", w("editReply"), () => {
            drafts.set(key, { reply: column.reply, text: column.text.trim(), focus: true });
            drawCard(turn, column, node);
          }));
        if (turn.last && !hidden) tools.append(iconButton("again", w("regenerate"), () => send("regenerate", { turn: turn.id, column: column.id })));
      }
      head.append(tools);
      const text = el("div", "text");
      text.lang = turn.language;
      if (column.state === "failed") { text.classList.add("error"); text.textContent = pick(column.error); }
      else text.textContent = column.text.trimStart() || (live ? w("thinking") : "");
      if (column.state === "writing") text.append(el("span", "caret"));
      if (drafts.has(key)) {
        tools.replaceChildren();
        node.replaceChildren(head, replyEditor(turn, column));
        return;
      }
      const parts = [head, text, chips(column, hidden)];
      if (!live && !hidden && column.state !== "failed") parts.push(details(turn, column));
      node.replaceChildren(...parts);
    }

    function drawQuestion(turn, node) {
      node.replaceChildren();
      const bubble = el("div", "bubble");
      bubble.append(el("span", "who", w("you")), el("span", "said", turn.question));
      node.append(bubble);
      if (turn.done && turn.last) {
        node.append(iconButton("edit", w("edit"), () => {
          const area = el("textarea", "editarea");
          area.value = turn.question;
          area.rows = 3;
          const bar = el("div", "editbar");
          bar.append(
            button("small primary", w("save"), "", () => { if (area.value.trim()) send("edit", { turn: turn.id, text: area.value }); }),
            button("small", w("cancel"), "", () => drawQuestion(turn, node)));
          node.replaceChildren(area, bar);
          area.focus();
        }));
      }
    }

    function drawVote(turn, node) {
      node.replaceChildren();
      if (!turn.blind) return;
      if (turn.vote) {
        node.append(el("span", "note", `${w("voted")}: ${turn.vote_label ? pick(turn.vote_label) : turn.vote === "tie" ? w("tie") : w("bad")}`));
        return;
      }
      if (!turn.done) { node.append(el("span", "note", w("blindNote"))); return; }
      node.append(el("b", "", w("vote")));
      turn.columns.forEach((column, index) => {
        const b = button("small vote", column.id, "", () => send("vote", { turn: turn.id, choice: column.id }));
        b.dataset.vote = String(index + 1);
        node.append(b);
      });
      node.append(
        button("small vote", w("tie"), "", () => send("vote", { turn: turn.id, choice: "tie" })),
        button("small vote", w("bad"), "", () => send("vote", { turn: turn.id, choice: "all-bad" })));
      node.append(el("span", "note", w("blindNote")));
    }

    function drawTurn(turn) {
      let entry = drawn.get(turn.id);
      if (!entry) {
        const node = el("section", "turn");
        node.dataset.turn = turn.id;
        entry = { node, question: el("div", "question"), grid: el("div", "grid"), vote: el("div", "votes"), stage: el("div", "stage"), cards: new Map(), key: "" };
        node.append(entry.question, entry.stage, entry.grid, entry.vote);
        drawn.set(turn.id, entry);
        host.append(node);
      }
      entry.stage.textContent = turn.done ? "" : pick(turn.stage);
      entry.stage.hidden = turn.done || !turn.stage;
      const key = JSON.stringify([turn.question, turn.done, turn.last, turn.blind, turn.vote, turn.columns.map((c) => c.id)]);
      if (key !== entry.key) {
        entry.key = key;
        drawQuestion(turn, entry.question);
        drawVote(turn, entry.vote);
      }
      entry.grid.style.setProperty("--n", turn.columns.length);
      entry.grid.dataset.n = turn.columns.length;
      const present = new Set();
      turn.columns.forEach((column) => {
        present.add(column.id);
        let card = entry.cards.get(column.id);
        if (!card) { card = { node: el("article"), key: "" }; entry.cards.set(column.id, card); entry.grid.append(card.node); }
        const columnKey = JSON.stringify([column, turn.done, turn.last, turn.blind, turn.vote, language()]);
        if (columnKey === card.key) return;
        const key = `${turn.id}/${column.id}`;
        const draft = drafts.get(key);
        if (draft && draft.sent && draft.text.trim() === column.text.trim()) drafts.delete(key);
        // Whatever else becomes of the answer, what is being typed stays, with its cursor.
        if (drafts.has(key) && card.node.querySelector(".editarea")) return;
        card.key = columnKey;
        drawCard(turn, column, card.node);
      });
      for (const [id, card] of entry.cards) if (!present.has(id)) { card.node.remove(); entry.cards.delete(id); }
    }

    function drawEmpty(state) {
      const node = el("section", "empty");
      node.append(el("h2", "", w("emptyTitle")), el("p", "", pick(state.intro)));
      if (state.suggestions.length) {
        node.append(el("p", "note", w("tryOne")));
        const row = el("div", "suggestions");
        for (const text of state.suggestions) row.append(button("suggestion", text, "", () => window.charllmFill(text)));
        node.append(row);
      }
      return node;
    }

    function draw() {
      const state = props.value;
      if (!state || !state.turns) return;
      if (state.conversation && state.conversation !== conversation) window.charllmSaw(state.conversation);
      const atEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 160;
      if (state.conversation !== conversation) { conversation = state.conversation; drawn.clear(); drafts.clear(); host.replaceChildren(); }
      host.querySelector(".empty")?.remove();
      const keep = new Set(state.turns.map((turn) => turn.id));
      for (const [id, entry] of drawn) if (!keep.has(id)) { entry.node.remove(); drawn.delete(id); }
      if (!state.turns.length) host.append(drawEmpty(state));
      const before = drawn.size;
      state.turns.forEach(drawTurn);
      const live = state.turns.some((turn) => !turn.done);
      document.body.classList.toggle("charllm-live", live);
      document.querySelector("#stop")?.classList.toggle("live", live);
      if (drawn.size > before || (live && atEnd)) window.scrollTo({ top: document.body.scrollHeight });
    }
    watch("value", draw);
    draw();
  };
})();
