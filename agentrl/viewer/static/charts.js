// Charts are SVG that the server draws, as in the report; here they are put into the page, and answer the pointer.

import { h, short } from "./dom.js";

const tip = document.getElementById("tip");

export function chart({ title, svg }) {
  // Parsed as a document of its own: nothing in it runs, and only the picture is taken.
  const picture = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
  if (picture) { document.adoptNode(picture); hover(picture); }
  return h("section", { className: "card" }, h("h3", {}, title), picture);
}

function hover(picture) {
  const series = JSON.parse(picture.dataset.hover), cursor = picture.querySelector(".cursor");
  picture.addEventListener("pointermove", event => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width;
    const points = series.flatMap(one => one.points);
    const best = points.reduce((found, point) => (Math.abs(point[4] - at) < Math.abs(found[4] - at) ? point : found));
    const lines = series.flatMap(one => one.points.filter(point => point[0] === best[0]).map(point =>
      `${one.name}: ${short(point[1])}` + (point[2] !== point[3] ? ` (${short(point[2])} to ${short(point[3])})` : "")));
    tip.textContent = [`step ${best[0]}`, ...lines].join("\n");
    tip.style.visibility = "visible";
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
    cursor.setAttribute("x1", best[4]);
    cursor.setAttribute("x2", best[4]);
    cursor.setAttribute("visibility", "visible");
  });
  picture.addEventListener("pointerleave", () => {
    tip.style.visibility = "hidden";
    cursor.setAttribute("visibility", "hidden");
  });
}

export function legend() {
  return h("div", { className: "legend" }, h("span", {}, h("i", { className: "train" }), "training, 5-step mean"),
    h("span", {}, h("i", { className: "eval" }), "held-out tasks"));
}
