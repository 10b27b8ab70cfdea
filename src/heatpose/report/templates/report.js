"use strict";
// Plots take the page's colours, also when the system changes from light to dark.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function pageColours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: of("--grid"), linecolor: of("--line"), tickcolor: of("--line") };
  const found = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": of("--text"),
    "hoverlabel.bgcolor": of("--card"), "hoverlabel.bordercolor": of("--soft"), "hoverlabel.font.color": of("--text"), "hoverlabel.font.family": "system-ui, sans-serif",
  };
  for (const name of ["xaxis", "yaxis"]) {
    for (const [key, value] of Object.entries(axis)) found[name + "." + key] = value;
  }
  return found;
}

function withColours(layout) {
  const merged = structuredClone(layout);
  for (const [path, value] of Object.entries(pageColours())) {
    const keys = path.split(".");
    const last = keys.pop();
    let place = merged;
    for (const key of keys) place = place[key] ??= {};
    place[last] = value;
  }
  return merged;
}

// A finger on a plot scrolls the page; a mouse draws a rectangle to zoom into.
const dragmode = window.matchMedia("(hover: hover)").matches ? "zoom" : false;
const settings = { responsive: true, displayModeBar: false, displaylogo: false };

function draw(element) {
  const { data, layout } = JSON.parse(element.dataset.spec);
  const size = { ...layout, dragmode, height: element.clientHeight, font: { ...layout.font, family: "system-ui, sans-serif" } };
  Plotly.newPlot(element, data, withColours(size), settings).then(() => element.classList.add("drawn"));
}

const canvases = [...document.querySelectorAll(".canvas")];
canvases.forEach(draw);
dark.addEventListener("change", () => canvases.forEach((element) => Plotly.relayout(element, pageColours())));

// Tables: a click on a heading sorts, another one turns the order around; cells without a value stay last.
function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.order;
  const compare = (a, b) => {
    const numbers = Number(a) - Number(b);
    return Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
  };
  const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("total"));
  const fixed = [...table.tBodies[0].rows].filter((row) => row.classList.contains("total"));
  const known = rows.filter((row) => value(row) !== undefined).sort((a, b) => (up ? 1 : -1) * compare(value(a), value(b)));
  table.tBodies[0].append(...known, ...rows.filter((row) => value(row) === undefined), ...fixed);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => cell.addEventListener("click", () => sortBy(table, column)));
}

for (const person of document.querySelectorAll(".person")) {
  const toggle = () => person.classList.toggle("large");
  person.addEventListener("click", toggle);
  person.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
}
