// Three things that Gradio (6.31) does in the browser over and over, done only where they count.
// Without this file the page works the same and takes several times the processor.
(() => {
  "use strict";
  const LOADING = /\/assets\/statustracker-[^/]*\.js$/;

  // Its LoadingStatus keeps the state of every output, and of every input once an event has ended,
  // of all events that have run since the page was opened. Whenever any event begins, is told about
  // or ends, all of them are told again; each is searched for in the whole page, and its data and
  // its children's are copied: half a second for a tick of a timer, once some forms were seen.
  // Here only the components that show an event's progress are told, and only until it has ended.
  function calm(LoadingStatus) {
    const { resolve_args: resolve, update } = LoadingStatus.prototype;
    LoadingStatus.prototype.resolve_args = function (event) {
      const shown = this.show_progress[event.fn_index] !== "hidden";
      // One that began before this script was there has told that it began: it must tell the end.
      const begun = (one) => this.current[one.id]?.fn_index === event.fn_index;
      return resolve.call(this, event).filter((one) => begun(one) || (shown && one.type === "output"));
    };
    LoadingStatus.prototype.update = function (event) {
      update.call(this, event);
      // Gradio tells them right after the update; what goes on is told again.
      queueMicrotask(() => {
        for (const [id, one] of Object.entries(this.current)) if (!["pending", "generating"].includes(one.status)) delete this.current[id];
      });
    };
    window.charllmCalm = true;
  }
  new PerformanceObserver((list, observer) => {
    const found = list.getEntries().find((entry) => LOADING.test(entry.name));
    if (!found) return;
    observer.disconnect();
    import(found.name).then((module) => { // the one that the page has loaded already
      const made = Object.values(module).find((one) => one.prototype?.resolve_args && one.prototype.update);
      if (made) calm(made);
    });
  }).observe({ type: "resource", buffered: true });

  // When the page is built, every component looks through the list of all events. Svelte makes
  // plain arrays reactive, which makes that several times slower, and leaves other classes alone.
  class Events extends Array {}
  document.addEventListener("readystatechange", () => { // the first: scripts of modules come after it
    if (Array.isArray(window.gradio_config?.dependencies)) Object.setPrototypeOf(window.gradio_config.dependencies, Events.prototype);
  }, { once: true });

  // The clock of "Loading…" is drawn 60 times a second for ever: it is taken out of the page without
  // being told that loading has ended. What began before the page was there and asks for one frame
  // after the other gets one a second from then on; what ends by itself only ends later.
  const frame = window.requestAnimationFrame.bind(window);
  let built = false;
  let early = false; // whether what runs now began before the page was there
  window.requestAnimationFrame = (callback) => {
    built ||= document.querySelector("#tabs") !== null;
    const began = early || !built;
    const run = (time) => {
      early = began;
      try { callback(time); } finally { early = false; }
    };
    if (!early || !built) return frame(run);
    setTimeout(frame, 1000, run);
    return 0;
  };
})();
