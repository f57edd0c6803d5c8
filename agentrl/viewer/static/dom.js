// Elements, requests and numbers. Text becomes text nodes alone, so that no transcript is ever read as HTML.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

export async function api(path, options = {}) {
  const answer = await fetch(path, options);
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

export const send = (path, body, method = "POST") =>
  api(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const short = value =>
  value === null || value === undefined ? "–" : Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toString();
export const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "–");
export const words = text => (text || "").replaceAll("_", " ");

export function verdict(row) {
  if (row.problem) return ["bad", "unreadable"];
  if (row.status === "fault") return ["warned", "discarded"];
  return row.success ? ["good", "solved"] : ["bad", "not solved"];
}

export function badge(row) {
  const [tone, text] = verdict(row);
  return h("span", { className: `verdict ${tone}` }, text);
}

// The heads of a table; those of columns that hold words begin with a dot.
export const heads = names => h("thead", {}, h("tr", {}, ...names.map(name => h("th", { className: name[0] === "." ? "words" : "" }, name.replace(".", "")))));

export const problem = error => h("p", { className: "problem", role: "alert" }, error.message || String(error));
