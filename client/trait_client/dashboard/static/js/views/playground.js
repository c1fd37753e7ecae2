// Chat with the live service: baseline and steered side by side, coloured by the monitored trait.
import { get, lines } from "../api.js";
import { asCli, asCurl, asPython } from "../commands.js";
import { emptyState, failure, field, h, select } from "../dom.js";
import { short, signed } from "../format.js";
import { gateControls, gateText, readGate } from "../gate.js";
import { TOP_K, lensText, readLayers } from "../lens.js";
import { diverging } from "../scale.js";
import { quietly } from "../url.js";
import { copied } from "./sql.js";

const STREAM = "resid_post";
const PLACES = { resid_post: "resid_post: the stream behind the block", attn_out: "attn_out: what attention adds",
  mlp_out: "mlp_out: what the MLP adds" };
const MOST_MONITORED = 8;
const REACH = 6;
const MOST_HELD = 6; // characters of text that a token may be found behind

export async function playgroundView(params) {
  let service;
  try {
    service = await get("service");
  } catch (error) {
    return { element: h("div", {}, h("h1", {}, "Playground"), noService(error)) };
  }
  const vectors = service.vectors.filter((each) => each.metadata.method !== "random");
  const holds = service.service.holds ?? [];
  const places = service.service.hook_points ?? [STREAM];
  // A gate is read in the stream; a vector is steered where it was made.
  const inStream = vectors.filter((each) => placeOf(each) === STREAM);
  const given = new Map((params.s ?? "").split(",").filter(Boolean).map((part) => part.split(":")).map(([name, coefficient, layer]) => [name,
    { coefficient: Number(coefficient), layer: layer === undefined || layer === "" ? null : Number(layer) }]));
  const readsLens = (service.service.limits.max_lens_readings ?? 0) > 0;
  const state = {
    terms: new Map(vectors.map((each) => [each.name, given.get(each.name) ?? { coefficient: 0, layer: null }])),
    colour: vectors.some((each) => each.name === params.m) ? params.m : vectors[0]?.name ?? null,
    gate: holds.length ? readGate(params.when) : null, place: places.includes(params.at) ? params.at : null,
    lens: readsLens ? readLayers(params.lens, service.service.n_layers) : [],
    maxTokens: Number(params.tokens ?? 96) || 96, temperature: Number(params.temp ?? 0) || 0,
    chats: { baseline: [], steered: [] }, abort: null,
  };
  // The colouring and steering vectors come first: a registry may hold more vectors than a request may monitor.
  const monitored = () => [...new Set([state.colour, ...termList().map((term) => term.vector), ...vectors.map((each) => each.name)])].slice(0, MOST_MONITORED);
  const scaleOf = (name) => {
    const found = vectors.find((each) => each.name === name);
    const layer = found?.metadata.chosen_layer;
    return Math.abs(found?.metadata.layers[layer]?.separation ?? 2) / 2 || 1;
  };
  const active = () => [...state.terms].filter(([, term]) => term.coefficient !== 0);
  const placed = new Map(vectors.map((each) => [each.name, placeOf(each)]));
  const termList = () => active().map(([vector, { coefficient, layer }]) => ({
    vector, coefficient, ...(layer === null ? {} : { layers: [layer] }), ...(placed.get(vector) === STREAM ? {} : { at: placed.get(vector) }),
    ...(state.gate === null ? {} : { when: state.gate }) }));
  const remember = () => {
    const terms = active().map(([name, { coefficient, layer }]) => [name, coefficient, ...(layer === null ? [] : [layer])].join(":"));
    quietly({
      s: terms.join(",") || null, when: state.gate === null ? null : gateText(state.gate), at: state.place, m: state.colour === vectors[0]?.name ? null : state.colour,
      lens: state.lens.join(",") || null, tokens: state.maxTokens === 96 ? null : state.maxTokens, temp: state.temperature || null, q: ask.value || null });
    drawCommands();
  };
  const ask = h("textarea",
    { rows: 2, "data-search": true, "aria-label": "message",
      placeholder: "Write a message…  (Enter sends, Shift+Enter starts a new line)", value: params.q ?? "" });
  ask.addEventListener("input", () => remember());
  ask.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  const sides = { baseline: h("div", { class: "log", "data-side": "baseline" }), steered: h("div", { class: "log", "data-side": "steered" }) };
  const sendButton = h("button", { class: "primary", onclick: () => send() }, "Send");
  const stopButton = h("button", { onclick: () => state.abort?.abort(), disabled: true }, "Stop");
  const commands = h("div", {});

  async function send() {
    const text = ask.value.trim();
    if (!text || state.abort) return;
    state.abort = new AbortController();
    sendButton.disabled = true;
    stopButton.disabled = false;
    const { signal } = state.abort;
    const terms = termList();
    const wanted = [["baseline", []], ...(terms.length ? [["steered", terms]] : [])];
    state.last = { text, terms };
    await Promise.all(wanted.map(([side, using]) => reply(side, text, using, signal)));
    state.abort = null;
    sendButton.disabled = false;
    stopButton.disabled = true;
    drawCommands();
  }

  async function reply(side, text, terms, signal) {
    const turns = state.chats[side];
    const messages = [...turns, { role: "user", content: text }];
    const body = h("div", { class: "text" });
    const foot = h("div", { class: "scores num" });
    const block = h("div", { class: "turn" }, h("div", { class: "who" }, "you"), h("div", { class: "text ask" }, text),
      h("div", { class: "who" }, side), body, foot);
    sides[side].append(block);
    const seen = { tokens: [], directions: [], layers: [], usage: null, steering: null, unread: h("span", { class: "unread" }) };
    let said = "";
    try {
      const request = { messages, max_tokens: state.maxTokens, temperature: state.temperature,
        monitor: vectors.length || state.lens.length ? { vectors: vectors.length ? monitored() : [], prompt: false, tokens: true,
          ...(state.lens.length ? { lens: { layers: state.lens, top_k: TOP_K } } : {}) } : null,
        steering: terms.length ? { terms } : null };
      for await (const delta of lines("chat", request, signal)) {
        if (delta.error) throw new Error(delta.error.message);
        if (delta.reasoning) think(delta.reasoning, seen, body);
        take(delta, seen, body);
        said += delta.text ?? "";
      }
      state.chats[side] = [...messages, { role: "assistant", content: said || "…" }];
    } catch (error) {
      body.append(error.name === "AbortError" ? h("i", { class: "muted" }, " (stopped)") : failure(error));
      if (error.name === "AbortError" && said) state.chats[side] = [...messages, { role: "assistant", content: said }];
    }
    block.seen = seen;
    foot.replaceChildren(...summary(seen));
  }

  // The reasoning is folded above the reply, and is not sent again with the next turn.
  function think(text, seen, body) {
    if (!seen.thought) {
      seen.thought = h("div", { class: "thought" });
      body.before(h("details", { class: "reasoning" }, h("summary", {}, "reasoning"), seen.thought));
    }
    seen.thought.append(text);
  }

  // A token is measured when it is fed back to the engine, so its value comes after its text, and the last token has none.
  function take(delta, seen, body) {
    const report = delta.monitor;
    if (report?.directions.length) seen.directions = report.directions;
    if (report?.lens_layers?.length) seen.layers = report.lens_layers;
    const choice = report?.choices?.[0];
    const values = choice?.generated ?? [];
    const tokens = choice?.generated_tokens ?? [];
    seen.unread.append(delta.text ?? "");
    if (seen.unread.parentNode !== body) body.append(seen.unread);
    tokens.forEach((token, i) => {
      const at = token ? seen.unread.textContent.indexOf(token) : -1;
      if (at < 0 || at > MOST_HELD) return; // not in the text: a special token, or a part of a character
      const end = at + token.length;
      seen.unread.before(piece(seen.unread.textContent.slice(0, end), values[i], choice?.lens?.[i], seen));
      seen.unread.textContent = seen.unread.textContent.slice(end);
    });
    seen.tokens.push(...values);
    if (delta.usage) seen.usage = delta.usage;
    if (delta.steering) seen.steering = delta.steering;
    if (delta.finish_reason) seen.finish = delta.finish_reason;
  }

  function piece(text, values, guesses, seen) {
    const span = h("span", { class: "piece" }, text);
    if (guesses) span.title = span.said = lensText(seen.layers, guesses);
    if (values?.length) {
      span.values = values;
      span.directions = seen.directions;
      paint(span);
    }
    return span;
  }

  function paint(span) {
    const column = span.directions.findIndex((each) => each.vector === state.colour);
    if (column < 0) return;
    const value = span.values[column] / scaleOf(state.colour);
    span.style.setProperty("background-color",
      `color-mix(in oklab, ${diverging(Math.sign(value))} ${Math.round(Math.min(Math.abs(value) / 1.5, 1) * 55)}%, transparent)`);
    span.title = span.directions.map((each, i) => `${each.vector} (layer ${each.layer}): ${signed(span.values[i] / scaleOf(each.vector), 2)}`)
      .concat(span.said ?? []).join("\n");
  }

  function summary(seen) {
    const means = seen.directions.map((each, i) => `${each.vector} ${signed(seen.tokens.reduce((sum, row) => sum + row[i], 0) / (seen.tokens.length || 1) / scaleOf(each.vector), 2)}`);
    const applied = seen.steering?.applied?.map(appliedText) ?? [];
    return [seen.usage ? `${seen.usage.completion_tokens} tokens${seen.finish === "length" ? " (the limit)" : ""}` : null,
      ...means, ...applied].filter(Boolean).map((text) => h("span", {}, text));
  }

  function drawCommands() {
    const prompt = ask.value.trim() || state.last?.text || "Can you give me a simple recipe for pancakes?";
    const request = { url: service.url, model: service.model, prompt, messages: [{ role: "user", content: prompt }],
      terms: termList(), monitored: state.colour ? [state.colour] : [], lens: state.lens, maxTokens: state.maxTokens,
      temperature: state.temperature };
    const forms = [["command line", asCli(request)], ["curl", asCurl(request)], ["Python", asPython(request)]];
    commands.replaceChildren(...forms.map(([name, text]) => h("details", { "data-form": name },
      h("summary", {}, name),
      h("button", { class: "plain", "aria-label": `Copy the ${name} form`, onclick: (event) => copied(event.target, text) }, "Copy"),
      h("pre", { class: "copy" }, text))));
  }

  const limit = service.service.limits.max_relative_dose * 10;
  const termBox = h("div", {});
  const drawTerms = () => {
    const shown = vectors.filter((each) => state.place === null || placed.get(each.name) === state.place);
    termBox.replaceChildren(...shown.map((each) => termRow(each, state.terms.get(each.name), limit, places, remember)));
    if (vectors.length && !shown.length) termBox.replaceChildren(h("p", { class: "muted" }, `No vector was made at ${state.place}.`));
  };
  drawTerms();
  const element = h("div", {},
    h("div", { class: "head" }, h("h1", {}, "Playground"),
      h("p", { class: "muted" },
        `${service.model}, ${service.service.n_layers} layers, ${service.service.dtype}${service.service.quantization ? ", " + service.service.quantization : ""}, at `,
        h("code", {}, service.url))),
    h("section", { class: "card" }, h("h2", {}, "Steering"),
      vectors.length ? h("p", { class: "muted small" },
        "Coefficients are tenths of the layer's residual norm: 3 moves every token by 0.3 of it. " +
        `Small models stay coherent up to about 3. The service allows ±${short(limit)}.`)
        : h("p", {}, "No vector is registered: ", h("code", {}, "trait-extract run --trait refusal --register")),
      places.length > 1 ? h("div", { class: "row" }, field("hook point", select(
        [["", "all"], ...places.map((each) => [each, PLACES[each] ?? each])], state.place ?? "",
        (value) => { state.place = value || null; remember(); drawTerms(); }, { "aria-label": "hook point of the vectors" }))) : null,
      termBox,
      holds.length && inStream.length ? gateControls(inStream, holds, state.gate, (gate) => { state.gate = gate; remember(); }) : null,
      readsLens ? h("div", { class: "row under" }, field("layers whose next token is shown, under the pointer",
        h("input", { type: "text", value: state.lens.join(","), placeholder: "for example 8,16", "aria-label": "layers of the lens",
          onchange: (event) => {
            state.lens = readLayers(event.target.value, service.service.n_layers);
            event.target.value = state.lens.join(",");
            remember();
          } }))) : null,
      h("div", { class: "row under" }, field("colour tokens by",
        select(vectors.map((each) => each.name), state.colour,
          (value) => {
            state.colour = value;
            element.querySelectorAll(".piece").forEach((span) => span.values && paint(span));
            remember();
          })),
        h("span", { class: "ramp small" }, "−1.5", h("i", { class: "diverging" }), "+1.5 (±1: the average example of either side)"),
        field("longest reply, tokens",
          h("input",
            { type: "number", min: 1, max: 4096, value: state.maxTokens,
              onchange: (event) => {
                state.maxTokens = Math.min(Math.max(Number(event.target.value) || 96, 1), 4096);
                remember();
              } })),
        field("temperature",
          h("input",
            { type: "number", min: 0, max: 2, step: 0.1, value: state.temperature,
              onchange: (event) => { state.temperature = Math.min(Math.max(Number(event.target.value) || 0, 0), 2); remember(); } })))),
    h("section", { class: "card" }, ask, h("div", { class: "row under" }, sendButton, stopButton,
      h("button",
        {
          onclick: () => {
            state.chats = { baseline: [], steered: [] };
            Object.values(sides).forEach((side) => side.replaceChildren());
          } }, "New conversation")),
      h("div", { class: "sides chat" }, h("section", { class: "side" }, h("h3", {}, "baseline"), sides.baseline),
        h("section", { class: "side steered" }, h("h3", {}, "steered"), sides.steered))),
    h("section", { class: "card" }, h("h2", {}, "The same request from other tools"),
      h("p", { class: "muted small" }, "Without the earlier conversation. The key is read from TRAIT_API_KEY."), commands));
  drawCommands();
  return { element, leave: () => state.abort?.abort() };
}

function noService(error) {
  return emptyState(h("p", { role: "alert" }, error.message), h("p", {}, "Start a service here:"), h("code", {}, "trait-service serve smollm2"),
    h("p", {}, "A service at another address: ", h("code", {}, "trait-client dashboard --service URL")),
    h("button", { onclick: () => dispatchEvent(new HashChangeEvent("hashchange")) }, "Try again"));
}

function placeOf(vector) {
  return vector.metadata.hook_point ?? STREAM;
}

function appliedText(term) {
  const where = term.at && term.at !== STREAM ? `${term.at} of layer ${term.layer}` : `layer ${term.layer}`;
  const acted = term.acted ? ` acted at ${term.acted.prompt} + ${term.acted.generated} positions (prompt + reply)` : "";
  return `${term.vector} ${where}: a ${short(term.a, 4)}, relative dose ${short(term.relative_dose, 3)}` +
    (term.when ? `; when ${gateText(term.when)}:${acted}` : "");
}

function termRow(vector, term, limit, places, changed) {
  const reach = Math.min(limit, REACH);
  const number = h("input",
    { type: "number", step: 0.1, min: -limit, max: limit, value: term.coefficient, "aria-label": `coefficient of ${vector.name}` });
  const slider = h("input",
    { type: "range", min: -reach, max: reach, step: 0.25, value: term.coefficient, "aria-label": `${vector.name} slider`,
      "data-slider": vector.name });
  const set = (value) => {
    term.coefficient = Math.min(Math.max(value, -limit), limit);
    changed();
  };
  slider.addEventListener("input", () => { number.value = slider.value; set(Number(slider.value)); });
  number.addEventListener("change", () => { set(Number(number.value) || 0); number.value = term.coefficient; slider.value = term.coefficient; });
  const place = placeOf(vector);
  const served = places.includes(place);
  if (!served) for (const control of [number, slider]) control.disabled = true;
  const layers = Object.keys(vector.metadata.layers).map(Number).sort((a, b) => a - b);
  const layer = select([["", `layer ${vector.metadata.chosen_layer} (chosen)`], ...layers.map((each) => [each, `layer ${each}`])],
    term.layer ?? "", (value) => { term.layer = value === "" ? null : Number(value); changed(); },
    { "aria-label": `layer of ${vector.name}` });
  const off = h("button", { class: "plain", onclick: () => { slider.value = 0; number.value = 0; set(0); } }, "0");
  return h("div", { class: "term" },
    h("div", { class: "name" }, h("b", {}, vector.name),
      h("div", { class: "muted small" }, vector.metadata.method, place === STREAM ? "" : `, at ${place}`,
        served ? "" : `: the service has no ${place} (--hook-points)`)),
    h("div", { class: "slide" }, slider), number, layer, off);
}

