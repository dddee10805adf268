// Keys, the language and theme switches, and a draft that survives a reload.
(() => {
  "use strict";
  const DRAFT = "charllm_draft";
  const box = () => document.querySelector("#composer textarea");
  const press = (id) => {
    const node = document.querySelector(id);
    const target = node && (node.matches("button") ? node : node.querySelector("button"));
    if (target && !target.disabled) target.click();
  };
  const fill = (text) => {
    const area = box();
    if (!area) return;
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
  };
  window.charllmFill = fill;

  const KEPT = "charllm_chat";
  window.charllmRecall = () => localStorage.getItem(KEPT) || "{}";
  window.charllmRemember = (profile, conversation, columns, blind, score) => {
    localStorage.setItem(KEPT, JSON.stringify({ profile, conversation, columns, blind, score }));
  };
  // The board knows its conversation before anything else of the page does.
  window.charllmSaw = (conversation) => {
    const kept = JSON.parse(window.charllmRecall());
    if (kept.conversation !== conversation) localStorage.setItem(KEPT, JSON.stringify({ ...kept, conversation }));
  };

  // See beat.py.
  window.charllmPulse = (element, trigger) => {
    setInterval(() => { if (document.visibilityState === "visible" && element.checkVisibility()) trigger("tick"); }, 1000);
  };

  document.addEventListener("keydown", (event) => {
    // Enter and Esc belong to the input method while it composes.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target === box()) {
      event.preventDefault();
      press("#send");
    } else if (event.key === "Escape" && document.body.classList.contains("charllm-live")) {
      press("#stop");
    } else if (!/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && !event.target.isContentEditable) {
      if (/^[1-6]$/.test(event.key)) {
        const votes = document.querySelectorAll(`[data-vote="${event.key}"]`);
        if (votes.length) votes[votes.length - 1].click();
      } else if (event.key === "/" && box()) {
        event.preventDefault();
        box().focus();
      }
    }
  });

  document.addEventListener("click", (event) => {
    const language = event.target.closest("[data-language]");
    if (language) {
      document.cookie = `charllm_lang=${language.dataset.language};path=/;max-age=31536000;samesite=lax`;
      location.reload();
    }
    if (event.target.closest("[data-theme-switch]")) {
      const dark = document.body.classList.toggle("dark");
      localStorage.setItem("charllm_theme", dark ? "dark" : "light");
    }
  });

  document.addEventListener("input", (event) => {
    if (event.target === box()) sessionStorage.setItem(DRAFT, box().value);
  });
  // The box is emptied by the server when a question is sent, without an input event.
  window.addEventListener("pagehide", () => { if (box()) sessionStorage.setItem(DRAFT, box().value); });
  const waiting = setInterval(() => {
    if (!box()) return;
    clearInterval(waiting);
    const draft = sessionStorage.getItem(DRAFT);
    if (draft && !box().value) fill(draft);
  }, 200);
})();
