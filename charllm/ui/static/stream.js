// Gradio (6.31) tells the page everything through one stream, which the server closes whenever no
// event is under way. Where the browser is busy, the word that it has closed is read after the next
// press was taken: Gradio thinks then that the stream is open, and the press, or the reply that is
// being written, is never heard of. So the page is given a stream that stays open; what lies behind
// it is opened and closed as events are under way.
(() => {
  "use strict";
  const fetch = window.fetch.bind(window);
  const waiting = new Set(); // events that were taken and have not ended
  const early = new Set(); // events whose end was read before it was read that they were taken
  let stream = null; // what the page reads: the request for it, where to write, whether one is open

  const taken = (event) => { if (!early.delete(event)) waiting.add(event); };
  const ended = (event) => { if (!waiting.delete(event)) early.add(event); };

  async function hand(response, to) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const told = (rest + value).split("\n\n");
      rest = told.pop();
      for (const one of told) {
        const { msg, event_id: event } = JSON.parse(one.slice("data:".length));
        if (msg === "process_completed") ended(event);
        if (msg !== "close_stream") to.controller.enqueue(new TextEncoder().encode(`${one}\n\n`));
      }
    }
  }

  // Hand on what is told until nothing is under way.
  async function listen(to, first) {
    to.open = true;
    try {
      for (let response = first; stream === to; response = null) {
        await hand(response ?? await fetch(to.request.clone()), to);
        if (!waiting.size) break;
      }
    } catch (error) {
      if (stream === to) stream = null;
      to.controller.error(error);
    }
    to.open = false;
  }

  async function opened(request) {
    const response = await fetch(request.clone());
    if (!response.ok) return response;
    const to = { request: new Request(request, { cache: "no-store" }) };
    const body = new ReadableStream({ start: (controller) => { to.controller = controller; } });
    request.signal.addEventListener("abort", () => { if (stream === to) stream = null; });
    stream = to;
    listen(to, response);
    return new Response(body, { headers: response.headers });
  }

  window.fetch = async (resource, options) => {
    const path = new URL(resource.url ?? resource, location.href).pathname;
    if (path.endsWith("/queue/data")) return opened(new Request(resource, options));
    const response = await fetch(resource, options);
    if (path.endsWith("/queue/join") && response.ok) {
      taken((await response.clone().json()).event_id);
      if (stream && !stream.open) listen(stream);
    }
    return response;
  };
})();
