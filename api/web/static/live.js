// Listens to /live while the page can be seen, and tells htmx which parts to fetch anew: `live:TOPIC` on the body.
"use strict";

(() => {
  const topics = document.body.dataset.live;
  const state = document.getElementById("live-state");
  let source = null;
  let again = 0;

  function say(text) {
    if (state && state.textContent !== text) state.textContent = text;
  }

  function open() {
    if (source || document.hidden) return;
    source = new EventSource("/live?topics=" + encodeURIComponent(topics));
    source.addEventListener("open", () => say(""));
    source.addEventListener("changed", (event) => {
      document.body.dispatchEvent(new CustomEvent("live:" + event.data));
    });
    source.addEventListener("stale", () => say("The server cannot read what has changed. What you see may be old."));
    source.addEventListener("fresh", () => say(""));
    source.addEventListener("signed-out", () => {
      close();
      const here = window.location.pathname + window.location.search;
      window.location.assign("/sign-in?next=" + encodeURIComponent(here));
    });
    source.addEventListener("error", () => {
      say("The server does not answer. What you see may be old; it is tried again.");
      if (source.readyState === EventSource.CLOSED) {
        close();
        again = window.setTimeout(open, 3000);
      }
    });
  }

  function close() {
    window.clearTimeout(again);
    if (source) source.close();
    source = null;
  }

  if (topics) {
    // A browser opens only a few connections to one server: pages that nobody sees leave theirs to others.
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", open);
    open();
  }

  // What somebody has opened stays open when its section comes anew.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (!event.detail.shouldSwap) return; // no afterSwap follows that would take the listener away
    const opened = [...event.detail.target.querySelectorAll("details[id][open]")].map((one) => one.id);
    const closed = [...event.detail.target.querySelectorAll("details[id]:not([open])")].map((one) => one.id);
    document.body.addEventListener(
      "htmx:afterSwap",
      () => {
        for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
        for (const id of closed) document.getElementById(id)?.removeAttribute("open");
      },
      { once: true },
    );
  });
})();
