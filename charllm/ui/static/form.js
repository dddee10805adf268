// Buttons inside server-made HTML, and the marks of a form's fields.
// [data-do] tells the server all of its data; [data-copy] and [data-save] take the text of the
// element that they name; [data-tab] opens a tab.
(() => {
  "use strict";
  const text = (selector) => document.querySelector(selector)?.textContent || "";

  async function copy(button) {
    const words = text(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(words);
    } catch {
      // Only addresses that the browser trusts have a clipboard; the old way works everywhere.
      const area = document.createElement("textarea");
      area.value = words;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  }

  window.charllmSave = function (name, content, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // See downloads.py: a file that the server has made.
  window.charllmFetch = function (file) {
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name || "";
    link.click();
  };

  // The chat shows what the browser remembers of it: these columns, in a new conversation.
  window.charllmCompare = function (text) {
    if (!text) return;
    const { profile, columns } = JSON.parse(text);
    window.charllmRemember(profile, null, columns, false, true);
    location.reload();
  };

  window.charllmView = (form, view) => document.querySelector(form).classList.toggle("simple", view !== "full");
  // A form's values stay in the browser, so that a reload loses nothing.
  window.charllmKeep = function (name, values) {
    localStorage.setItem(`charllm_${name}`, JSON.stringify(values));
    return values;
  };
  window.charllmKept = (name) => localStorage.getItem(`charllm_${name}`) || "";

  function mark(element) {
    const host = element.querySelector("[data-form]");
    if (!host) return;
    const form = host.dataset.form;
    for (const node of document.querySelectorAll(`#${form}-form .setting`)) node.classList.remove("changed", "wrong");
    for (const pair of host.dataset.marks.split(" ").filter(Boolean)) {
      const [name, kind] = pair.split(":");
      document.querySelector(`#${form}-${name.replaceAll("_", "-")}`)?.classList.add(kind);
    }
  }

  window.charllmForm = function (element, props, trigger, watch) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || button.disabled) return;
      const data = button.dataset;
      if ("copy" in data) copy(button);
      else if ("save" in data) window.charllmSave(data.name, text(data.save), "text/yaml;charset=utf-8");
      else if ("tab" in data) document.querySelector(data.tab)?.click();
      else if ("do" in data) trigger("select", { ...data });
    });
    // The new HTML is in the page only after the watchers were told.
    const later = () => setTimeout(() => mark(element), 0);
    watch("value", later);
    later();
  };
})();
