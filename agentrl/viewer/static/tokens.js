// The tokens of an episode, coloured by one of the numbers that training had for them.

import { api, h, problem, short } from "./dom.js";

const NAMES = { logprobs: "log-probability", advantages: "advantage", ratios: "ratio, trainer to sampler", versions: "policy version", turns: "turn" };
const tip = document.getElementById("tip");

// Strength and side of the colour of a number, in [-1, 1].
const SCALES = {
  logprobs: () => value => -Math.min(1, -value / 4),
  advantages: values => { const most = Math.max(1e-9, ...values.map(Math.abs)); return value => value / most; },
  ratios: () => value => Math.max(-1, Math.min(1, Math.log(value) / 0.2)),
  versions: values => { const low = Math.min(...values), range = Math.max(1, Math.max(...values) - low); return value => 0.2 + (0.8 * (value - low)) / range; },
  turns: () => value => (value % 2 ? 0.55 : 0.2),
};

function paint(elements, piece, name) {
  const column = piece[name] || [], known = column.filter((value, n) => piece.mask[n] && value !== null && value >= (name === "versions" || name === "turns" ? 0 : -Infinity));
  const scale = SCALES[name](known);
  elements.forEach((element, n) => {
    const value = column[n], shown = piece.mask[n] && value !== null && value !== undefined;
    const strength = shown ? scale(value) : 0, side = name === "versions" || name === "turns" ? "plain" : strength < 0 ? "bad" : "good";
    element.style.backgroundColor = shown ? `color-mix(in srgb, var(--${side}) ${Math.round(Math.abs(strength) * 60)}%, transparent)` : "";
  });
}

function told(piece, n) {
  const lines = [`id ${piece.ids[n]}`];
  if (!piece.mask[n]) lines.push("context: does not train");
  else for (const name of Object.keys(NAMES)) if (piece[name] && piece[name][n] !== null) lines.push(`${NAMES[name]} ${short(piece[name][n])}`);
  return lines.join("\n");
}

function pieceOf(piece) {
  const shown = text => text.replaceAll("\n", "⏎\n");
  const elements = piece.ids.map((id, n) => h("span", { className: piece.mask[n] ? "token" : "token context" }, piece.texts ? shown(piece.texts[n]) : `${id} `));
  elements.forEach((element, n) => element.addEventListener("pointerenter", event => {
    tip.textContent = told(piece, n);
    tip.style.visibility = "visible";
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  }));
  return elements;
}

export function tokens(base) {
  const text = h("pre", { className: "tokens", onpointerleave: () => { tip.style.visibility = "hidden"; } }), bar = h("div", { className: "tabs" }), notes = h("div");
  const pieces = [];
  let name = "logprobs", row = 0;
  const repaint = () => {
    pieces.forEach(([elements, piece]) => paint(elements, piece, name));
    for (const button of bar.querySelectorAll("[data-name]")) button.setAttribute("aria-pressed", button.dataset.name === name);
  };
  async function load(start) {
    try {
      const piece = await api(`${base}/tokens?row=${row}&start=${start}`);
      notes.replaceChildren(...piece.notes.map(note => h("p", { className: "soft" }, note)));
      if (!piece.rows) return;
      if (start === 0) { pieces.length = 0; text.replaceChildren(); }
      const elements = pieceOf(piece);
      pieces.push([elements, piece]);
      text.append(...elements);
      const end = piece.start + piece.ids.length, names = Object.keys(NAMES).filter(one => piece[one] && piece[one].some((value, n) => piece.mask[n] && value !== null));
      if (!names.includes(name)) name = names[0] || "turns";
      bar.replaceChildren(...names.map(one => h("button", { "data-name": one, onclick: () => { name = one; repaint(); } }, NAMES[one])),
        ...(piece.rows > 1 ? Array.from({ length: piece.rows }, (_, n) => h("button", { "aria-pressed": n === row, onclick: () => { row = n; load(0); } }, `row ${n + 1}`)) : []),
        end < piece.size ? h("button", { onclick: () => load(end) }, `${short(piece.size - end)} more tokens`) : "");
      repaint();
    } catch (error) { notes.replaceChildren(problem(error)); }
  }
  load(0);
  return h("div", {}, bar, notes, text, h("p", { className: "soft" }, "Grey tokens are context and do not train. Point at a token for its numbers."));
}
