// One task in every run: who solved it at which step, and the transcripts side by side.

import { api, badge, h, heads, problem, short, words } from "./dom.js";
import { header, transcript } from "./episode.js";

const MOST = 4;

export async function show(root, _, params) {
  const env = params.get("env") || "", task = params.get("task") || "";
  const [{ rows }, { runs }] = await Promise.all([api(`/api/task?${new URLSearchParams({ env, task, limit: 100 })}`), api("/api/runs")]);
  const names = new Map(runs.map(run => [run.id, run])), sides = h("div", { className: "pair" }), chosen = [], body = h("tbody");
  async function choose(found, mark) {
    const at = chosen.findIndex(([one]) => one === found);
    if (at >= 0) { chosen.splice(at, 1)[0][1].remove(); mark.classList.remove("chosen"); return; }
    const place = h("section", { className: "card side" });
    chosen.push([found, place, mark]);
    mark.classList.add("chosen");
    sides.append(place);
    if (chosen.length > MOST) { const [, old, its] = chosen.shift(); old.remove(); its.classList.remove("chosen"); }
    try {
      const episode = await api(`/api/runs/${found.source}/episodes/${found.line}`), run = names.get(found.source);
      place.append(h("header", {}, h("a", { href: `#/run/${found.source}/episode/${found.line}` }, `${run?.name ?? found.source}, line ${found.line}`)), header(episode), ...transcript(episode));
    } catch (error) { place.append(problem(error)); }
  }
  const groups = Map.groupBy ? Map.groupBy(rows, row => row.source) : rows.reduce((map, row) => map.set(row.source, [...(map.get(row.source) || []), row]), new Map());
  for (const [source, own] of groups) for (const found of own) {
    const run = names.get(source);
    const line = h("tr", { className: "item" }, h("td", {}, h("a", { href: location.hash, onclick: event => { event.preventDefault(); choose(found, line); } }, run?.name ?? source)),
      h("td", { className: "words" }, run?.policy || run?.kind || ""), h("td", { className: "words" }, [words(found.stage), found.mode].filter(Boolean).join(", ")), h("td", {}, short(found.step)), h("td", {}, short(found.version)),
      h("td", { className: "words" }, badge(found)), h("td", {}, short(found.reward)), h("td", {}, short(found.turns)), h("td", {}, short(found.line)));
    body.append(line);
  }
  const contents = new Set(rows.map(row => row.content));
  root.append(h("h1", {}, task), h("div", { className: "soft" }, h("code", {}, env), ` · ${short(rows.length)} episodes in ${short(groups.size)} ${groups.size === 1 ? "store" : "stores"}; choose up to ${MOST}`),
    contents.size > 1 ? problem(`This id names ${contents.size} different contents: episodes of different contents are not comparable.`) : "",
    h("section", { className: "card scroll short" }, h("table", { className: "list" }, heads([".run", ".policy", ".stage", "step", "version", ".result", "reward", "turns", "line"]), body)), sides);
  // To begin with the newest episode of each run; of a single run also the newest that ended otherwise, or the oldest.
  const first = [...groups.values()].map(own => own[0]);
  if (first.length === 1 && rows.length > 1) first.unshift(rows.find(one => one.success !== rows[0].success) || rows[rows.length - 1]);
  for (const found of first.slice(0, 2)) await choose(found, body.children[rows.indexOf(found)]);
  body.firstChild?.classList.add("selected");
  return { up: "#/", trail: [[`task ${task}`, ""]] };
}
