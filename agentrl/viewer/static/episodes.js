// The table of episodes of a run: filters, pages by key, and rows that appear as they are written.

import { api, badge, h, heads, problem, short, words } from "./dom.js";

const MOST = 500;
const LISTS = ["stage", "mode", "status", "ending", "env", "split"];
const RANGES = [["reward", "any"], ["step", "1"], ["version", "1"]];

export const query = (id, line, filters) => {
  const text = filters.toString();
  return `#/run/${id}/episode/${line}${text ? `?${text}` : ""}`;
};

export const address = (id, filters) => `#/run/${id}?${new URLSearchParams([["tab", "episodes"], ...filters])}`;

export function filtersOf(params) {
  const kept = new URLSearchParams();
  for (const [name, value] of params) if (name !== "tab" && value !== "") kept.set(name, value);
  return kept;
}

function row(id, found, filters, fresh) {
  const ending = found.problem || [words(found.ending), found.detail].filter(Boolean).join(": ");
  return h("tr", { className: fresh ? "item fresh" : "item" },
    h("td", {}, h("a", { href: query(id, found.line, filters) }, short(found.line))),
    h("td", { className: "words" }, found.task || "–"),
    h("td", { className: "words" }, badge(found), found.superseded ? h("span", { className: "soft" }, " attempt ", found.attempt) : "", found.forked ? h("span", { className: "soft" }, " fork") : ""),
    h("td", {}, short(found.reward)),
    h("td", {}, short(found.turns)),
    h("td", { className: "words" }, [words(found.stage), found.mode].filter(Boolean).join(", ")),
    h("td", {}, short(found.step)),
    h("td", {}, short(found.version)),
    h("td", { className: "words soft cut", title: ending }, ending));
}

export function table(id, run, params) {
  const filters = filtersOf(params), body = h("tbody"), note = h("p", { className: "soft" }), failed = h("div");
  const more = h("button", { className: "plain", onclick: () => older() }, "Older");
  let next = null, newest = 0, queue = Promise.resolve(), growing = false;

  function set(name, value) {
    if (value === "") filters.delete(name); else filters.set(name, value);
    // The address holds the filters, so that a view can be kept and sent.
    history.replaceState(null, "", address(id, filters));
    load();
  }
  const input = (name, attributes) => h("input", { value: filters.get(name) || "", ...attributes, onchange: event => set(name, event.target.value.trim()) });
  const lists = LISTS.filter(name => (run.facets[name] || []).length > 1).map(name =>
    h("label", {}, name, h("select", { onchange: event => set(name, event.target.value) }, h("option", { value: "" }, "any"),
      ...run.facets[name].map(([value, n]) => h("option", { value, selected: filters.get(name) === value }, `${words(value) || "none"} (${short(n)})`)))));
  const solved = h("label", {}, "solved", h("select", { onchange: event => set("success", event.target.value) },
    ...[["", "any"], ["true", "solved"], ["false", "not solved"]].map(([value, text]) => h("option", { value, selected: (filters.get("success") || "") === value }, text))));
  const ranges = RANGES.map(([name, step]) => h("fieldset", {}, h("legend", {}, name),
    ...["min", "max"].map(end => input(`${name}_${end}`, { type: "number", step, placeholder: end, "aria-label": `${name} ${end}` }))));
  const bar = h("form", { className: "filters", onsubmit: event => event.preventDefault() },
    h("label", {}, "text in the record", input("text", { type: "search", placeholder: "/" })),
    h("label", {}, "task begins with", input("task", { type: "text" })), solved,
    h("details", { open: innerWidth > 640 }, h("summary", {}, "More filters"), h("div", { className: "filters" }, ...lists, ...ranges)));

  async function page(extra) {
    const asked = new URLSearchParams(filters);
    for (const [name, value] of Object.entries(extra)) asked.set(name, value);
    return api(`/api/runs/${id}/episodes?${asked}`);
  }
  // One after the other: a page that comes late must not join the rows of other filters.
  const guarded = work => (queue = queue.then(async () => {
    try { await work(); failed.replaceChildren(); } catch (error) { failed.replaceChildren(problem(error)); }
  }));
  function finish(found) {
    next = found.next;
    more.hidden = next === null;
    more.textContent = found.scanned ? "Search on" : "Older";
    note.textContent = body.children.length ? "" : found.scanned ? "Not found so far." : "No such episode.";
    if (!body.querySelector(".selected")) body.firstChild?.classList.add("selected");
  }
  const load = () => guarded(async () => {
    const found = await page({});
    newest = Math.max(0, ...found.rows.map(one => one.line));
    if (!found.rows.length && filters.size) newest = (await api(`/api/runs/${id}`)).progress.episodes;
    body.replaceChildren(...found.rows.map(one => row(id, one, filters)));
    finish(found);
  });
  const older = () => guarded(async () => {
    if (next === null) return;
    const found = await page({ before: next });
    body.append(...found.rows.map(one => row(id, one, filters)));
    finish(found);
  });
  const grow = () => growing || (growing = guarded(async () => {
    growing = false;
    const found = await page({ after: newest });
    for (const one of found.rows) {
      newest = Math.max(newest, one.line);
      body.prepend(row(id, one, filters, true));
    }
    while (body.children.length > MOST) { body.lastChild.remove(); more.hidden = false; next = lineOf(body.lastChild); }
    if (found.rows.length) note.textContent = "";
    if (found.next !== null) { newest = Math.max(newest, found.next); grow(); }
  }));
  const lineOf = item => Number(item.querySelector("a").textContent.replaceAll(",", ""));
  const element = h("div", {}, h("section", { className: "card" }, bar), failed, h("section", { className: "card scroll" },
    h("table", { className: "list" }, heads([".line", ".task", ".result", "reward", "turns", ".stage", "step", "version", ".ended by"]), body), note, more));
  return { element, load, grow, older };
}
