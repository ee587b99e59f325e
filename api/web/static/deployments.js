// Deployments: logs while they are written, and suggestions that fill the form.
"use strict";

(() => {
  const MOST_CHARACTERS = 400000; // of a log that are kept on the page

  // --- logs ---

  const panel = document.getElementById("logs");
  let reading = null;

  async function follow(instance) {
    stop();
    const log = document.getElementById("log");
    const state = document.getElementById("log-state");
    const atEnd = document.getElementById("log-follow");
    const mine = (reading = new AbortController());
    document.getElementById("log-name").textContent = instance;
    log.textContent = "";
    state.textContent = "";
    panel.hidden = false;
    panel.scrollIntoView({ block: "nearest" });
    try {
      const answer = await fetch(panel.dataset.logs + encodeURIComponent(instance) + "?follow=true", { signal: mine.signal });
      if (!answer.ok || !(answer.headers.get("content-type") || "").startsWith("text/plain")) {
        state.textContent = "There is no log of it now.";
        return;
      }
      state.textContent = "live";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        log.append(piece.value);
        while (log.textContent.length > MOST_CHARACTERS && log.firstChild !== log.lastChild) log.firstChild.remove();
        if (atEnd.checked) log.scrollTop = log.scrollHeight;
      }
      state.textContent = "It has ended.";
    } catch (error) {
      if (error.name !== "AbortError") state.textContent = "The server does not answer.";
    }
  }

  function stop() {
    if (reading) reading.abort();
    reading = null;
  }

  if (panel) {
    document.addEventListener("click", (event) => {
      const link = event.target.closest("[data-log]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      follow(link.dataset.log);
    });
    document.getElementById("log-close").addEventListener("click", () => {
      stop();
      panel.hidden = true;
    });
    window.addEventListener("pagehide", stop);
  }

  // --- the form ---

  const form = document.getElementById("draft");
  if (form) {
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-fields]");
      if (!button) return;
      for (const [name, value] of Object.entries(JSON.parse(button.dataset.fields))) {
        const field = form.elements.namedItem(name);
        if (!field) continue;
        if (field.type === "checkbox") field.checked = Boolean(value);
        else field.value = value;
      }
      form.dispatchEvent(new Event("change", { bubbles: true }));
    });
    document.body.addEventListener("htmx:afterSettle", () => {
      for (const error of form.querySelectorAll(".field-error")) {
        const field = form.elements.namedItem(error.id.replace(/-error$/, ""));
        if (field) field.setAttribute("aria-invalid", error.textContent.trim() ? "true" : "false");
      }
    });
  }
})();
