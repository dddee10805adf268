// The spot-check desk: one reply at a time, scored by hand with the keys 1-9 or the buttons.
// What the judge said is not in the page before the hand score is given. Text by textContent only.
(() => {
  "use strict";
  const WORDS = {
    en: {
      question: "Question", reply: "Reply", before: "What was said before", gold: "Facts it needs",
      hint: "The character", user: "User", assistant: "Character", system: "System",
      skip: "Skip", undo: "Undo", note: "Note", next: "Next", notePlaceholder: "A note on this reply, if any (Esc: back to the keys)",
      keys: "Keys: the number gives a score, s skips, n writes a note, u takes the last one back.",
      keysAfter: "Enter or space: the next reply. u: take the score back.",
      yours: "You", judge: "Judge", flaws: "Flaws it names", reasons: "Its reasons", gate: "Stopped by the gate",
      same: "the same", apart: "apart by", hidden: "The judge's score appears after yours.",
      none: "no score", why: "The queue mixes:",
    },
    ja: {
      question: "質問", reply: "返答", before: "それまでのやりとり", gold: "必要な事実",
      hint: "キャラクター", user: "相手", assistant: "キャラクター", system: "システム",
      skip: "飛ばす", undo: "取り消す", note: "メモ", next: "次へ", notePlaceholder: "この返答についてのメモ（任意。Esc でキー操作に戻ります）",
      keys: "キー操作: 数字で採点、s で飛ばす、n でメモ、u で直前の採点を取り消し。",
      keysAfter: "Enter かスペースで次の返答へ。u でこの採点を取り消し。",
      yours: "あなた", judge: "ジャッジ", flaws: "指摘された欠点", reasons: "ジャッジの理由", gate: "ゲートが止めた理由",
      same: "一致", apart: "差", hidden: "ジャッジのスコアは、採点した後に表示されます。",
      none: "スコアなし", why: "出題の内訳:",
    },
  };
  const w = (key) => WORDS[window.charllmLanguage || "en"][key];
  const PATIENCE = 4000; // after so many milliseconds without an answer the keys work again
  function el(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) node.textContent = text;
    return node;
  }
  function button(className, text, onClick, key) {
    const node = el("button", className);
    node.type = "button";
    if (key) node.append(el("kbd", "", key));
    node.append(el("span", "", text));
    node.addEventListener("click", onClick);
    return node;
  }
  const typing = (target) => Boolean(target && target.closest("input, textarea, select, [contenteditable=true]"));
  const shown = (score) => String(Math.round(score * 100) / 100);

  // value: {serial, message, card, rubric, reveal, progress, undo, language}. ``card`` null: the
  // message tells what to do. ``reveal`` null: the score has not been given yet.
  window.charllmDesk = function (element, props, trigger, watch) {
    const host = element.querySelector(".desk");
    let value = null;
    let waiting = 0;
    const note = { subject: "", text: "" };

    function send(action, more) {
      if (waiting && Date.now() - waiting < PATIENCE) return;
      waiting = Date.now();
      host.classList.add("waiting");
      trigger("select", { action, subject: value.card ? value.card.subject : "", ...more });
    }
    const give = (score) => {
      host.querySelectorAll(".desklevel").forEach((b) => b.classList.toggle("yours", Number(b.dataset.level) === score));
      send("give", { score, note: note.text });
    };
    const next = () => send("next");
    const undo = () => { if (value.undo) send("undo"); };
    const skip = () => send("skip", { note: note.text });

    function key(event) {
      if (!host.isConnected) { document.removeEventListener("keydown", key); return; }
      if (!value || value.serial === undefined || host.offsetParent === null) return;
      if (event.isComposing || event.keyCode === 229 || event.ctrlKey || event.metaKey || event.altKey) return;
      const area = host.querySelector(".desknote");
      if (area && event.target === area && event.key === "Escape") { area.blur(); event.preventDefault(); return; }
      if (typing(event.target) || event.repeat) return;
      if (acted(event)) event.preventDefault();
    }
    function acted(event) {
      if (event.key === "u" && value.undo) { undo(); return true; }
      if (!value.card) return false;
      if (value.reveal) {
        if (event.key !== "Enter" && event.key !== " ") return false;
        if (event.target.closest("button:not(.desk *), summary, [role=tab]")) return false;
        next();
        return true;
      }
      const level = value.rubric.levels.find(([number]) => String(number) === event.key);
      if (level) { give(level[0]); return true; }
      if (event.key === "s") { skip(); return true; }
      if (event.key === "n") { host.querySelector(".desknote").focus(); return true; }
      return false;
    }

    function exchange(card) {
      const box = el("div", "deskcard");
      box.lang = value.language;
      if (card.history.length) {
        const talk = el("details", "deskbefore");
        talk.open = card.history.length <= 6;
        talk.append(el("summary", "", w("before")));
        for (const message of card.history) {
          const line = el("p", message.role);
          line.append(el("b", "", w(message.role) || message.role), el("span", "", message.content));
          talk.append(line);
        }
        box.append(talk);
      }
      const part = (name, text, className) => {
        const section = el("section", className);
        section.append(el("h4", "", w(name)), el("p", "", text));
        box.append(section);
      };
      part("question", card.question, "deskquestion");
      part("reply", card.reply, "deskreply");
      if (card.gold.length) {
        const section = el("section", "deskgold");
        const list = el("ul");
        for (const fact of card.gold) list.append(el("li", "", fact));
        section.append(el("h4", "", w("gold")), list);
        box.append(section);
      }
      if (card.hint) part("hint", card.hint, "deskhint");
      return box;
    }
    function scale(rubric, reveal) {
      const box = el("div", "deskscale");
      box.append(el("h4", "", rubric.label), el("p", "note", rubric.criterion));
      for (const [level, words] of [...rubric.levels].reverse()) {
        const line = button("desklevel", words, () => give(level), String(level));
        line.dataset.level = level;
        if (reveal) mark(line, level, reveal);
        box.append(line);
      }
      return box;
    }
    function mark(line, level, reveal) {
      line.disabled = true;
      if (level === reveal.score) { line.classList.add("yours"); line.append(el("em", "mine", w("yours"))); }
      for (const judge of reveal.judges) {
        if (judge.score === null || Math.round(judge.score) !== level) continue;
        line.classList.add("judged");
        line.append(el("em", "", reveal.judges.length > 1 ? judge.short : w("judge")));
      }
    }
    function compared(reveal, judge) {
      const apart = judge.score === null ? null : Math.abs(judge.score - reveal.score);
      const box = el("div", `verdict ${apart === null ? "" : apart < 1 ? "near" : apart < 2 ? "off" : "far"}`);
      const head = el("div", "deskpair");
      const cell = (name, text, kind) => {
        const one = el("div", kind);
        one.append(el("span", "note", name), el("b", "", text));
        head.append(one);
      };
      cell(w("yours"), String(reveal.score), "mine");
      cell(judge.name, judge.score === null ? w("none") : shown(judge.score), "");
      if (apart !== null) cell("", apart < 0.05 ? w("same") : `${w("apart")} ${shown(apart)}`, "apart");
      box.append(head);
      if (judge.parts) box.append(el("p", "", judge.parts));
      for (const [name, text] of [["reasons", judge.rationale], ["flaws", judge.flaws], ["gate", judge.gate], ["none", judge.unscored]]) {
        if (!text) continue;
        const line = el("p");
        line.append(el("b", "", `${w(name)}  `), el("span", "said", text));
        box.append(line);
      }
      return box;
    }
    function tools() {
      const bar = el("div", "desktools");
      const back = button("small", w("undo"), undo, "u");
      back.disabled = !value.undo;
      bar.append(back, button("small deskskip", w("skip"), skip, "s"));
      return bar;
    }
    function answer() {
      const box = el("div", "deskanswer");
      if (value.reveal) {
        const bar = el("div", "desktools");
        bar.append(button("small", w("undo"), undo, "u"), button("small primary desknext", w("next"), next, "⏎"));
        for (const judge of value.reveal.judges) box.append(compared(value.reveal, judge));
        box.append(bar, el("p", "note", w("keysAfter")), scale(value.rubric, value.reveal));
        return box;
      }
      box.append(scale(value.rubric, null));
      const area = el("textarea", "desknote");
      area.rows = 2;
      area.placeholder = w("notePlaceholder");
      area.setAttribute("aria-label", w("note"));
      area.value = note.text;
      area.addEventListener("input", () => { note.text = area.value; });
      box.append(area, tools(), el("p", "note", `${w("keys")} ${w("hidden")}`));
      return box;
    }
    function progress(told) {
      const box = el("div", "deskprogress");
      const bar = el("div", "bar");
      const fill = el("i");
      fill.style.width = `${100 * told.share}%`;
      bar.append(fill);
      const line = el("div", "deskmix");
      line.append(el("b", "", told.words));
      if (value.card) {
        const kinds = el("span", "deskkinds");
        kinds.append(el("span", "note", w("why")));
        // Not which of them this card is: "near the threshold" would tell the judge's score.
        for (const [, name] of told.kinds) kinds.append(el("span", "chip", name));
        line.append(kinds);
      }
      box.append(line, bar);
      return box;
    }
    function draw() {
      // A key is answered directly, a choice through the queue: what was asked first may come last.
      if (value && props.value && props.value.serial < value.serial) return;
      value = props.value;
      waiting = 0;
      host.classList.remove("waiting");
      host.replaceChildren();
      if (!value || value.serial === undefined) return;
      if (!value.card || value.card.subject !== note.subject) {
        note.subject = value.card ? value.card.subject : "";
        note.text = "";
      }
      if (value.progress) host.append(progress(value.progress));
      if (value.message) {
        const told = el("div", "deskempty");
        told.append(el("p", "", value.message));
        if (value.undo && !value.card) told.append(button("small", w("undo"), undo, "u"));
        host.append(told);
      }
      host.dataset.state = value.card ? (value.reveal ? "reveal" : "card") : "empty";
      if (!value.card) return;
      const body = el("div", "deskbody");
      body.append(exchange(value.card), answer());
      host.append(body);
    }
    document.addEventListener("keydown", key);
    watch("value", draw);
    draw();
  };
})();
