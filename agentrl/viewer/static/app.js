// Routes, keys, and the stream of events. Each view is a module with `show(root, parts, params)`, which returns what it
// does with events and keys: { update(event), key(event), leave(), up }.

import { h, problem } from "./dom.js";
import * as runs from "./runs.js";
import * as run from "./run.js";
import * as episode from "./episode.js";
import * as task from "./task.js";
import * as fork from "./fork.js";

const root = document.getElementById("view"), live = document.getElementById("live");
let view = {}, visit = 0;

function routed() {
  const [path, query = ""] = (location.hash.slice(1) || "/").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent), params = new URLSearchParams(query);
  if (parts[0] === "run" && parts[2] === "episode") return [episode, parts, params];
  return [{ run, task, fork }[parts[0]] || runs, parts, params];
}

async function go() {
  const number = ++visit, [module, parts, params] = routed();
  view.leave?.();
  // Escape works while the view is still loading.
  view = { up: parts[0] === "run" && parts.length > 2 ? `#/run/${parts[1]}?tab=episodes` : "#/" };
  const place = h("div");
  try {
    const shown = await module.show(place, parts, params);
    if (number !== visit) return shown.leave?.();
    view = shown;
  } catch (error) {
    if (number !== visit) return;
    place.replaceChildren(problem(error));
  }
  root.replaceChildren(place);
  trail(view.trail || []);
  document.title = [...(view.trail || []).map(([text]) => text).reverse(), "AgentRL"].join(" · ");
  scrollTo(0, 0);
}

function trail(steps) {
  const links = [["Runs", "#/"], ...steps].map(([text, href], n, all) =>
    n === all.length - 1 ? h("b", {}, text) : h("a", { href }, text));
  document.getElementById("trail").replaceChildren(...links.flatMap((link, n) => (n ? [h("span", { className: "soft" }, "/"), link] : [link])));
}

// A hidden page listens no longer: a browser keeps few connections to one address, and each tab takes one.
function listen() {
  if (document.hidden) { document.addEventListener("visibilitychange", listen, { once: true }); return; }
  const events = new EventSource("/api/events");
  events.onopen = () => { live.textContent = "live"; live.className = "on"; };
  events.onerror = () => { live.textContent = "not connected"; live.className = "off"; };
  events.onmessage = event => view.update?.(JSON.parse(event.data));
  document.addEventListener("visibilitychange", () => { events.close(); listen(); }, { once: true });
}

addEventListener("hashchange", go);
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(input|textarea|select)$/i.test(event.target.tagName);
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (location.hash.length > 2) location.hash = view.up || "#/";
  } else if (typing) return;
  else if (event.key === "/") {
    const search = root.querySelector("input[type=search]");
    if (search) { search.focus(); search.select(); event.preventDefault(); }
  } else if (event.key === "j" || event.key === "k" || event.key === "ArrowDown" || event.key === "ArrowUp") move(event);
  else if (event.key === "Enter" && event.target === document.body) root.querySelector(".selected a")?.click();
  else view.key?.(event);
});

function move(event) {
  const items = [...root.querySelectorAll(".item")];
  if (!items.length || (event.key.startsWith("Arrow") && !root.querySelector("table.list"))) return;
  const now = items.findIndex(item => item.classList.contains("selected"));
  const next = Math.max(0, Math.min(items.length - 1, now + (event.key === "j" || event.key === "ArrowDown" ? 1 : -1)));
  items[now]?.classList.remove("selected");
  items[next].classList.add("selected");
  items[next].scrollIntoView({ block: "nearest" });
  event.preventDefault();
}

// The cookie has the token now: the address that is kept and shown need not.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);
listen();
go();
