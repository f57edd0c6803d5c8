// One run: its counts, its curves while it trains, and its episodes.

import { api, h, heads, percent, problem, short, words } from "./dom.js";
import { chart, legend } from "./charts.js";
import { table } from "./episodes.js";

function totals(rows) {
  return h("table", {}, heads([".stage", "attempted", "scored", "discarded", "success", "mean reward"]),
    h("tbody", {}, ...rows.map(row => h("tr", {}, h("td", {}, [words(row.stage), row.mode].filter(Boolean).join(", ")), h("td", {}, short(row.attempted)),
      h("td", {}, short(row.scored)), h("td", {}, short(row.attempted - row.scored)), h("td", {}, percent(row.solved, row.scored)),
      h("td", {}, row.scored ? short(row.reward / row.scored) : "–")))));
}

function head(run) {
  const facts = [["", run.kind], ["policy", run.policy], ["state", run.status], ["episodes", short(run.progress.episodes)]];
  return [h("h1", {}, run.name), h("ul", { className: "facts" }, ...facts.filter(([, value]) => value).map(([name, value]) =>
    h("li", {}, h("span", { className: "soft" }, name), " ", h("b", {}, value)))),
  run.problems ? problem(`${short(run.problems)} lines of the store cannot be read. Look for status "unreadable".`) : null].filter(Boolean);
}

export async function show(root, [, id], params) {
  let run = await api(`/api/runs/${id}`), drawn = -1, waiting = null;
  const base = `#/run/${id}`, tab = params.get("tab") || (run.kind === "training" ? "curves" : "episodes");
  const top = h("div", {}, ...head(run)), sums = h("section", { className: "card scroll" }, totals(run.totals)), below = h("div");
  const episodes = table(id, run, params);
  const tabs = [["curves", "Curves"], ["episodes", "Episodes"]].filter(([name]) => name !== "curves" || run.kind === "training");
  root.append(top, h("div", { className: "tabs" }, ...tabs.map(([name, text]) =>
    h("a", { href: `${base}?tab=${name}`, "aria-current": name === tab ? "page" : null }, text))), below);
  below.replaceChildren(...(tab === "curves" ? [h("p", { className: "soft" }, "Reading the metrics")] : [episodes.element, sums]));
  async function draw() {
    if (drawn === run.progress.metrics) return;
    drawn = run.progress.metrics;
    const curves = await api(`/api/runs/${id}/curves`);
    const note = `${short(curves.rows)} lines of metrics.` + (curves.every > 1 ? ` Of long stages one step of ${curves.every} is drawn.` : "") + " Bands and bars are 95% intervals.";
    below.replaceChildren(h("div", { className: "charts" }, ...curves.main.map(one => { const made = chart(one); made.firstChild.after(legend()); return made; })),
      h("p", { className: "soft" }, note), sums, h("h2", {}, "Every metric"), h("div", { className: "small" }, ...curves.small.map(chart)));
  }
  await (tab === "curves" ? draw() : episodes.load());
  async function refresh() {
    waiting = null;
    const generation = run.progress.generation;
    const [found] = await Promise.all([api(`/api/runs/${id}`), tab === "episodes" ? episodes.grow() : null]);
    run = found;
    top.replaceChildren(...head(run));
    sums.replaceChildren(totals(run.totals));
    if (tab === "curves") await draw();
    else if (run.progress.generation !== generation) await episodes.load();
  }
  return {
    update: event => {
      if (!event.moved[id]) return;
      // Rows appear at once; curves, which are redrawn as a whole, at most once a second.
      waiting ??= setTimeout(() => refresh().catch(error => top.append(problem(error))), tab === "curves" ? 1000 : 0);
    },
    leave: () => clearTimeout(waiting),
    key: event => { if (event.key === "ArrowRight") episodes.older(); },
    up: "#/",
    trail: [[run.name, base]],
  };
}
