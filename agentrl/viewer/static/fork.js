// A fork: the episode up to a turn, then what a person types, or a policy.

import { api, badge, h, problem, send, short } from "./dom.js";
import { message } from "./episode.js";

const LOOK_MS = 250;

function argumentsOf(tool) {
  let schema = {};
  try { schema = JSON.parse(tool.parameters); } catch { /* shown as it is */ }
  return JSON.stringify(Object.fromEntries(Object.entries(schema.properties || {}).map(([name, part]) =>
    [name, part.default ?? { string: "", integer: 0, number: 0, boolean: false, array: [], object: {} }[part.type] ?? ""])));
}

export async function show(root, [, id]) {
  const base = `/api/forks/${id}`, { policies } = await api("/api/runs");
  let fork = await api(base), seen = "", timer = null, left = false;
  const talk = h("section", { className: "card side" }), state = h("ul", { className: "facts" }), failed = h("div"), note = h("div"), panel = h("section", { className: "card act" });
  const text = h("textarea", { rows: 2, placeholder: "A message or the answer", "aria-label": "Message" });
  const tool = h("select", { "aria-label": "Tool" }), given = h("textarea", { rows: 2, className: "code", "aria-label": "Arguments as JSON" });
  const policy = h("select", { "aria-label": "Policy" }, ...policies.map(name => h("option", {}, name)));
  const about = h("p", { className: "soft" });
  const guarded = async work => { try { fork = await work(); failed.replaceChildren(); draw(); return true; } catch (error) { failed.replaceChildren(problem(error)); return false; } };
  const act = body => guarded(() => send(`${base}/act`, body));
  const call = () => {
    let parsed;
    try { parsed = JSON.parse(given.value || "{}"); } catch (error) { return failed.replaceChildren(problem(`The arguments are not JSON: ${error.message}`)); }
    return act({ calls: [{ name: tool.value, arguments: parsed }] });
  };
  const say = async () => { if (await act({ text: text.value })) text.value = ""; };
  const pick = () => { const one = fork.tools.find(each => each.name === tool.value); if (one) { given.value = argumentsOf(one); about.textContent = one.description; } };
  tool.addEventListener("change", pick);
  const enter = work => event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) work(); };
  text.addEventListener("keydown", enter(say));
  given.addEventListener("keydown", enter(call));
  panel.append(h("h2", {}, "What to do next"),
    h("div", { className: "how" }, h("div", {}, h("label", {}, "Call a tool", tool), about, given, h("button", { className: "plain", onclick: call }, "Call")),
      h("div", {}, h("label", {}, "Say", text), h("button", { className: "plain", onclick: say }, "Send")),
      h("div", {}, h("label", {}, "Let a policy play to the end", policy), h("button", { className: "plain", onclick: () => act({ policy: policy.value }) }, "Play on"))));

  function draw() {
    const now = JSON.stringify(fork);
    if (now === seen) return;
    seen = now;
    const names = fork.tools.map(one => one.name).join();
    if (tool.dataset.names !== names) { tool.dataset.names = names; tool.replaceChildren(...fork.tools.map(one => h("option", {}, one.name))); pick(); }
    talk.replaceChildren(...fork.messages.map(message));
    const done = fork.result;
    const words = { restoring: "replaying the recorded turns", waiting: "waiting for you", playing: "playing", ended: "ended", failed: "failed" }[fork.state];
    state.replaceChildren(...[done && fork.state === "ended" ? h("li", {}, badge(done)) : null, h("li", {}, h("b", {}, words)), done && fork.state === "ended" ? h("li", {}, h("span", { className: "soft" }, "reward "), h("b", {}, short(done.reward))) : null,
      fork.saved ? h("li", {}, h("span", { className: "soft" }, "saved in "), h("code", {}, fork.saved)) : null].filter(Boolean));
    note.replaceChildren(...(fork.note ? [problem(fork.note)] : []));
    if (fork.problem) failed.replaceChildren(problem(fork.problem));
    panel.hidden = fork.state !== "waiting";
    after.hidden = fork.state !== "ended" && fork.state !== "failed";
    keep.hidden = fork.state !== "ended" || Boolean(fork.saved);
    talk.lastChild?.scrollIntoView({ block: "nearest" });
  }
  const origin = `#/run/${fork.run}/episode/${fork.line}`;
  const keep = h("button", { onclick: () => guarded(() => send(`${base}/save`, {})) }, "Save in the store of forks");
  const again = h("button", { onclick: async () => { try { location.hash = `#/fork/${(await send("/api/forks", { run: fork.run, line: fork.line, turn: fork.turn })).id}`; } catch (error) { failed.replaceChildren(problem(error)); } } }, "Fork again");
  const drop = h("button", { onclick: async () => { await send(base, {}, "DELETE").catch(() => {}); location.hash = origin; } }, "Throw away");
  const after = h("div", { className: "tabs" }, keep, again, drop);
  root.append(h("h1", {}, fork.task), h("div", { className: "soft" }, h("code", {}, fork.env), ` · forked from turn ${fork.turn} of line ${fork.line}`), state,
    note, talk, failed, panel, after);
  draw();
  async function look() {
    if (left) return;
    if (fork.state === "playing" || fork.state === "restoring") { try { fork = await api(base); draw(); } catch (error) { failed.replaceChildren(problem(error)); } }
    timer = setTimeout(look, LOOK_MS);
  }
  look();
  return { leave: () => { left = true; clearTimeout(timer); }, up: origin, trail: [[`episode ${fork.line}`, origin], [`fork from turn ${fork.turn}`, ""]] };
}
