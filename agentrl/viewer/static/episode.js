// One episode: its turns as a transcript, its tokens, and the places from which it can be played on.

import { api, badge, h, problem, send, short, words } from "./dom.js";
import { address, filtersOf, query } from "./episodes.js";
import { tokens } from "./tokens.js";

export function message(one) {
  const empty = !one.content && !one.calls.length && !one.reasoning;
  return h("div", { className: `turn ${one.role}` }, h("span", { className: "who" }, one.name ? `${one.role} · ${one.name}` : one.role),
    one.reasoning ? h("pre", { className: "thought" }, one.reasoning) : null,
    one.content ? h("pre", {}, one.content) : null,
    one.calls.map(call => [h("pre", { className: "call" }, h("b", {}, call.name), " ", call.arguments), call.error ? h("pre", { className: "bad" }, call.error) : null]),
    empty ? h("pre", { className: "soft" }, "(nothing)") : null);
}

export function transcript(episode, fork) {
  const parts = [];
  episode.turns.forEach((turn, number) => {
    parts.push(...turn.observation.map(message));
    const facts = [`turn ${number}`, `reward ${short(turn.reward)}`, turn.tokens ? `${short(turn.tokens)} tokens` : "", turn.own ? "" : "of the episode it continues",
      turn.finish_reason === "stop" || turn.finish_reason === "tool_calls" ? "" : `stopped by ${words(turn.finish_reason)}`];
    parts.push(h("div", { className: "acted" }, message(turn.action), h("div", { className: "under soft" }, facts.filter(Boolean).join(" · "),
      fork ? h("button", { className: "link", onclick: () => fork(number) }, "fork from this turn") : null)));
  });
  parts.push(...episode.final.map(message));
  if (episode.turns_left_out) parts.push(h("p", { className: "soft" }, `${episode.turns_left_out} more turns are in the raw record.`));
  if (episode.ending.kind === "error" || episode.ending.kind === "fault") parts.push(h("pre", { className: "ended bad" }, episode.ending.detail));
  return parts;
}

export function header(episode) {
  const { ending } = episode, how = [words(ending.kind), ending.detail].filter(Boolean).join(": ");
  const facts = [["reward", short(episode.reward)], ["ended by", ending.kind === "fault" ? "a fault" : how], ["stage", [words(episode.stage), episode.mode].filter(Boolean).join(", ")],
    ["step", short(episode.step)], ["seed", episode.seed], ["attempt", episode.attempt || ""], ["group", episode.group_id],
    ["continues", episode.fork ? `${episode.fork.episode_id} from turn ${episode.fork.turn}` : ""]];
  return h("ul", { className: "facts" }, h("li", {}, badge(episode)), ...facts.filter(([, value]) => value !== "" && value !== ", ").map(([name, value]) =>
    h("li", {}, h("span", { className: "soft" }, name), " ", h("b", {}, value))));
}

function details(title, text) {
  return h("details", {}, h("summary", {}, title), h("pre", {}, text));
}

export async function show(root, [, id, , line], params) {
  const base = `/api/runs/${id}/episodes/${line}`, filters = filtersOf(params);
  const [episode, run] = await Promise.all([api(base), api(`/api/runs/${id}`)]);
  const failed = h("div"), step = async older => {
    const asked = new URLSearchParams(filters);
    asked.set("limit", "1");
    asked.set(older ? "before" : "after", line);
    const found = await api(`/api/runs/${id}/episodes?${asked}`);
    if (found.rows.length) location.hash = query(id, found.rows[0].line, filters);
  };
  const fork = async turn => {
    try { location.hash = `#/fork/${(await send("/api/forks", { run: id, line: Number(line), turn })).id}`; } catch (error) { failed.replaceChildren(problem(error)); }
  };
  const indexed = text => [...text].slice(0, 300).join("");  // the index holds no more of an id
  const across = `#/task?${new URLSearchParams({ env: indexed(episode.env_id), task: indexed(episode.task) })}`;
  const ids = h("section", { className: "card", hidden: true });
  let asked = false;
  const button = episode.has_tokens ? h("button", { className: "plain", onclick: () => {
    ids.hidden = !ids.hidden;
    if (!asked) { asked = true; ids.append(tokens(base)); }
  } }, "Tokens") : null;
  root.append(h("h1", {}, episode.task), h("div", { className: "soft" }, h("code", {}, episode.env), ` · line ${short(Number(line))} of ${run.name}`), header(episode),
    h("div", { className: "tabs" }, h("button", { onclick: () => step(true), title: "←" }, "← Older"), h("button", { onclick: () => step(false), title: "→" }, "Newer →"),
      h("a", { href: across }, "This task elsewhere"), button, h("a", { href: `${base}/raw`, download: `episode-${line}.json` }, "Raw record")),
    failed, ids, h("section", { className: "card side" }, ...transcript(episode, fork)),
    h("section", { className: "card folded" }, details(`Tools (${episode.tools.length})`, episode.tools.map(tool => `${tool.name} ${tool.parameters}\n  ${tool.description}`).join("\n")),
      details("Task data", episode.task_data), details("Final info", episode.info)));
  return {
    key: event => { if (event.key === "ArrowLeft") step(true); if (event.key === "ArrowRight") step(false); },
    up: address(id, filters),
    trail: [[run.name, `#/run/${id}`], [`episode ${line}`, ""]],
  };
}
