// The playground: one prompt to several models, each answer shown as it is written. Nothing leaves this page but requests.
"use strict";

(() => {
  const root = document.getElementById("playground");
  if (!root) return;

  const talks = document.getElementById("talks");
  const form = document.getElementById("ask");
  const prompt = document.getElementById("prompt");
  const send = document.getElementById("send");
  const stop = document.getElementById("stop");
  const headers = { ...JSON.parse(document.body.getAttribute("hx-headers")), "content-type": "application/json" };
  const open = []; // the talks: {element, select, messages, speed, told, history, running}

  root.hidden = false;
  addTalk(root.dataset.first || names()[0] || "");

  document.getElementById("add").addEventListener("click", () => {
    const used = open.map((talk) => talk.select.value);
    addTalk(names().find((name) => !used.includes(name)) || names()[0] || "");
  });
  document.getElementById("clear").addEventListener("click", () => {
    stopAll();
    for (const talk of open) {
      talk.history = [];
      talk.messages.replaceChildren();
      talk.speed.textContent = talk.told.textContent = "";
    }
    prompt.focus();
  });
  stop.addEventListener("click", stopAll);
  window.addEventListener("pagehide", stopAll);
  document.body.addEventListener("htmx:afterSettle", () => open.forEach((talk) => fillSelect(talk)));
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (!text || open.some((talk) => talk.running)) return;
    prompt.value = "";
    for (const talk of open) ask(talk, text);
  });

  function names() {
    return [...document.querySelectorAll("#models [data-model]")].map((one) => one.dataset.model);
  }

  function addTalk(model) {
    const element = document.getElementById("talk").content.cloneNode(true).firstElementChild;
    const talk = {
      element,
      select: element.querySelector("select"),
      messages: element.querySelector(".messages"),
      speed: element.querySelector(".speed"),
      told: element.querySelector(".told"), // to who cannot see: once an answer, not at each of its tokens
      history: [],
      running: null,
    };
    fillSelect(talk, model);
    element.querySelector(".remove").addEventListener("click", () => {
      if (talk.running) talk.running.abort();
      open.splice(open.indexOf(talk), 1);
      element.remove();
      show();
    });
    open.push(talk);
    talks.append(element);
    show();
  }

  function fillSelect(talk, model) {
    const wanted = model || talk.select.value;
    const all = names();
    if (wanted && !all.includes(wanted)) all.push(wanted);
    talk.select.replaceChildren(...all.map((name) => new Option(name, name, false, name === wanted)));
  }

  function show() {
    const busy = open.some((talk) => talk.running);
    send.disabled = busy || open.length === 0;
    stop.disabled = !busy;
    document.getElementById("add").disabled = open.length >= Number(root.dataset.most);
    for (const talk of open) talk.element.querySelector(".remove").hidden = open.length === 1;
  }

  function stopAll() {
    for (const talk of open) if (talk.running) talk.running.abort();
  }

  function say(talk, role, text) {
    const said = document.createElement("p");
    said.className = "said " + role;
    said.textContent = text;
    talk.messages.append(said);
    talk.messages.scrollTop = talk.messages.scrollHeight;
    return said;
  }

  function body(talk) {
    const system = document.getElementById("system").value.trim();
    const temperature = document.getElementById("temperature").value;
    const most = document.getElementById("most-tokens").value;
    return JSON.stringify({
      model: talk.select.value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...talk.history],
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature ? { temperature: Number(temperature) } : {}),
      ...(most ? { max_tokens: Number(most) } : {}),
    });
  }

  async function ask(talk, text) {
    talk.running = new AbortController();
    show();
    say(talk, "user", text);
    talk.history.push({ role: "user", content: text });
    const model = talk.select.value;
    let ended = "";
    talk.told.textContent = "";
    talk.messages.setAttribute("aria-busy", "true");
    const answer = { text: "", thought: "", tokens: 0, usage: null, began: performance.now(), first: 0 };
    talk.speed.textContent = "waiting for the first token";
    try {
      const response = await fetch("/playground/chat", { method: "POST", headers, body: body(talk), signal: talk.running.signal });
      if (!response.ok) throw new Error(await refusal(response));
      for await (const chunk of events(response)) take(talk, answer, chunk);
    } catch (error) {
      if (error.name !== "AbortError") say(talk, "error", error.message);
      ended = error.name === "AbortError" ? "stopped" : error.message;
    }
    talk.running = null;
    if (answer.text) talk.history.push({ role: "assistant", content: answer.text });
    else talk.history.pop(); // a question without an answer is not part of what comes next
    talk.speed.textContent = speed(answer);
    talk.messages.removeAttribute("aria-busy");
    talk.told.textContent = `${model}: ${ended || "answered, " + speed(answer)}`;
    show();
  }

  function take(talk, answer, chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) answer.usage = chunk.usage;
    const delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta;
    if (!delta) return;
    for (const [field, kind, key] of [["reasoning_content", "thought", "thought"], ["content", "assistant", "text"]]) {
      if (!delta[field]) continue;
      if (!answer.first) answer.first = performance.now();
      answer.tokens += 1;
      if (!answer[key]) answer[kind + "Element"] = say(talk, kind, "");
      answer[key] += delta[field];
      answer[kind + "Element"].append(delta[field]);
      talk.messages.scrollTop = talk.messages.scrollHeight;
      talk.speed.textContent = speed(answer);
    }
  }

  function speed(answer) {
    if (!answer.first) return "";
    const tokens = answer.usage ? answer.usage.completion_tokens : answer.tokens;
    const seconds = (performance.now() - answer.first) / 1000;
    const rate = tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s, ` : "";
    return `${tokens} tokens, ${rate}first after ${((answer.first - answer.began) / 1000).toFixed(2)} s`;
  }

  async function refusal(response) {
    try {
      return (await response.json()).error.message;
    } catch {
      return `The server answered ${response.status}.`;
    }
  }

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line.startsWith("data: [DONE]")) continue;
        yield JSON.parse(line.slice(6));
      }
    }
  }
})();
