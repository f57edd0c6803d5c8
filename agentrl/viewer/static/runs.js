// The list of runs, benchmarks and stores.

import { api, h, heads, percent, short } from "./dom.js";

const last = totals => totals[totals.length - 1];

function row(run) {
  const played = last(run.totals), { episodes, whole } = run.progress;
  return h("tr", { className: "item" },
    h("td", {}, h("a", { href: `#/run/${run.id}` }, run.name)),
    h("td", { className: "words" }, run.kind),
    h("td", { className: "words" }, run.policy || "–"),
    h("td", { className: "words" }, run.status || "–"),
    h("td", {}, short(episodes), whole ? "" : " …"),
    h("td", {}, played ? percent(played.solved, played.scored) : "–"),
    h("td", { className: "words soft" }, played ? [played.stage, played.mode].filter(Boolean).join(", ").replaceAll("_", " ") : ""));
}

export async function show(root) {
  const body = h("tbody"), empty = h("p", { className: "soft", hidden: true },
    "No run and no store yet: a folder with metrics.jsonl or trajectories.jsonl appears here by itself.");
  const full = h("p", { className: "problem", hidden: true });
  let waiting = null;
  async function load() {
    const { runs, most } = await api("/api/runs");
    const selected = [...body.children].findIndex(item => item.classList.contains("selected"));
    body.replaceChildren(...runs.map(row));
    body.children[Math.max(0, selected)]?.classList.add("selected");
    empty.hidden = runs.length > 0;
    full.hidden = runs.length < most;
    full.textContent = `Only the first ${short(most)} are shown: name a folder with fewer.`;
  }
  await load();
  root.append(h("h1", {}, "Runs"), empty, full,
    h("section", { className: "card scroll" }, h("table", { className: "list runs" },
      heads([".run", ".kind", ".policy", ".state", "episodes", "success", ".of the last"]), body)));
  const update = () => { waiting ??= setTimeout(() => { waiting = null; load(); }, 300); };
  return { update, leave: () => clearTimeout(waiting), trail: [] };
}
