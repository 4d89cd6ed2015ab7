"use strict";

// What the reader has chosen; it outlives a refresh.
const chosen = {metric: null, axis: "frames", filter: "", sort: null, off: new Set()};
const AXES = {frames: "Environment frames", seconds: "Wall time of training"};
const CHARTS = {"learning": null, "frames-per-second": "throughput/fps", "steps-per-second": "throughput/steps_per_s"};
const figures = {};
let numbers = JSON.parse(byId("numbers").textContent);

function byId(id) { return document.getElementById(id); }

// ---- charts

async function drawCharts() {
  const items = JSON.parse(byId("charts").textContent);
  for (const [id, item] of Object.entries(items)) {
    const views = await Bokeh.embed.embed_item(item, id);
    figures[id] = views.roots[0].model;
  }
  colourCharts();
  fillCharts(true);
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);  // by now what the first frame was asked for has been painted
  document.body.dataset.drawn = performance.now();
}

/** Put the numbers of the chosen metric and axis into all charts; `whole` shows all of them again. */
function fillCharts(whole) {
  const shown = shownRuns();
  const unit = timeUnit(shown);
  for (const [id, fixed] of Object.entries(CHARTS)) {
    const metric = fixed || chosen.metric;
    fillChart(figures[id], metric, shown, unit, whole);
    figures[id].below[0].axis_label = chosen.axis === "frames" ? AXES.frames : `${AXES.seconds} (${unit.name})`;
  }
  byId("what").textContent = numbers.groups.some(group => group.members.length > 1)
    ? "Thick: median over seeds; band: interquartile range; thin: each run." : "";
}

function fillChart(figure, metric, shown, unit, whole) {
  const lines = {xs: [], ys: [], colour: [], alpha: [], label: []};
  const bands = {xs: [], ys: [], colour: [], alpha: [], label: []};
  const medians = {xs: [], ys: [], colour: [], alpha: [], label: []};
  const add = (to, xs, ys, colour, alpha, label) => {
    to.xs.push(xs); to.ys.push(ys); to.colour.push(colour); to.alpha.push(alpha); to.label.push(label);
  };
  const scaled = xs => chosen.axis === "frames" ? xs : xs.map(x => x / unit.seconds);
  for (const group of numbers.groups) {
    const band = group.bands[`${metric} ${chosen.axis}`];
    const members = group.members.filter(member => shown.has(member));
    for (const member of members) {
      const run = numbers.runs[member];
      const ys = run.values[metric];
      if (!ys) continue;
      const xs = scaled(run.axes[chosen.axis]);
      const known = ys.map((y, index) => index).filter(index => ys[index] !== null);
      add(lines, known.map(index => xs[index]), known.map(index => ys[index]), group.colour, band ? 0.32 : 1, run.id);
    }
    if (band && members.length) {
      const [x, low, middle, high] = band;
      const at = scaled(x);
      add(bands, [...at, ...at.toReversed()], [...low, ...high.toReversed()], group.colour, 1, group.label);
      add(medians, at, middle, group.colour, 1, `${group.label}, median`);
    }
  }
  const source = kind => figure.document.get_model_by_name(`${figure.name} ${kind}`);
  source("runs").data = lines;
  source("bands").data = bands;
  source("medians").data = medians;
  if (whole) showAll(figure, lines, metric.startsWith("throughput/"));
}

function showAll(figure, lines, fromZero) {
  const [left, right] = extent(lines.xs), [lowest, high] = extent(lines.ys);
  const low = fromZero ? 0 : lowest;
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  setRange(figure.x_range, left, right > left ? right : left + 1);
  setRange(figure.y_range, low - room, high + room);
}

function setRange(range, start, end) {
  range.setv({start, end, reset_start: start, reset_end: end});
}

function extent(rows) {
  let low = Infinity, high = -Infinity;
  for (const row of rows) for (const value of row) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 1] : [low, high];
}

function timeUnit(shown) {
  const last = Math.max(0, ...numbers.runs.map((run, index) => shown.has(index) ? run.axes.seconds.at(-1) || 0 : 0));
  if (last > 2 * 3600) return {name: "hours", seconds: 3600};
  return last > 120 ? {name: "minutes", seconds: 60} : {name: "seconds", seconds: 1};
}

/** Bokeh draws on a canvas, which takes no colours from a style sheet. */
function colourCharts() {
  const probe = document.body.appendChild(document.createElement("span"));
  const colour = name => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  const quiet = colour("quiet"), line = colour("line");
  probe.remove();
  for (const figure of Object.values(figures)) {
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv({major_label_text_color: quiet, axis_label_text_color: quiet, axis_label_text_font_style: "normal"});
    }
    for (const grid of figure.center) grid.setv({grid_line_color: line});
  }
}

function fillChoices() {
  const select = byId("metric");
  const names = Object.keys(numbers.metrics);
  if (!names.includes(chosen.metric)) chosen.metric = names[0] || null;
  select.replaceChildren(...names.map(name => new Option(numbers.metrics[name], name, false, name === chosen.metric)));
  byId("curves").hidden = names.length === 0;
  const legend = numbers.groups.map((group, index) => {
    const button = document.createElement("button");
    const swatch = button.appendChild(document.createElement("i"));
    swatch.style.background = group.colour;
    const seeds = group.members.length > 1 ? ` · ${group.members.length} runs` : "";
    button.append(group.label + seeds);
    button.type = "button";
    button.ariaPressed = String(!chosen.off.has(index));
    button.onclick = () => {
      if (!chosen.off.delete(index)) chosen.off.add(index);
      button.ariaPressed = String(!chosen.off.has(index));
      fillCharts(true);
    };
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  byId("legend").replaceChildren(...(numbers.groups.length > 1 ? legend : []));
}

/** Positions of the runs that neither the filter nor the legend leaves out. */
function shownRuns() {
  const passed = new Set([...rows()].filter(row => !row.hidden).map(row => Number(row.dataset.run)));
  numbers.groups.forEach((group, index) => {
    if (chosen.off.has(index)) group.members.forEach(member => passed.delete(member));
  });
  return passed;
}

// ---- table

function rows() { return byId("rows").rows; }

/** Every word must stand somewhere in the row. */
function filterRows() {
  const words = chosen.filter.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  const hidden = {};
  for (const row of rows()) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    hidden[row.dataset.run] = row.hidden;
    shown += !row.hidden;
  }
  for (const other of document.querySelectorAll(".line[data-run], .detail[data-run]")) {
    other.hidden = hidden[other.dataset.run];
  }
  byId("shown").textContent = words.length ? `${shown} of ${rows().length}` : `${rows().length} in all`;
}

function sortRows() {
  const heads = [...byId("table").tHead.rows[0].cells];
  heads.forEach((head, index) => {
    head.ariaSort = chosen.sort?.column === index ? (chosen.sort.up ? "ascending" : "descending") : "none";
  });
  if (!chosen.sort) return;
  const {column, up} = chosen.sort;
  const numeric = heads[column].classList.contains("number");
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (one, two) => {
    const a = value(one), b = value(two);
    if (!numeric) return (up ? 1 : -1) * a.localeCompare(b, "en", {numeric: true});
    if (a === "" || b === "") return (a === "") - (b === "");  // what is not known comes last, either way
    return (up ? 1 : -1) * (a - b);
  };
  byId("rows").append(...[...rows()].sort(compare));
}

function onSort(column) {
  const numeric = byId("table").tHead.rows[0].cells[column].classList.contains("number");
  const again = chosen.sort?.column === column;
  chosen.sort = {column, up: again ? !chosen.sort.up : !numeric};
  sortRows();
}

// ---- a live page

async function refresh() {
  const words = byId("connection");
  try {
    const answer = await fetch("part", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = new Set([...document.querySelectorAll("details[open]")].map(details => details.id));
    const known = new Set([...document.querySelectorAll("details")].map(details => details.id));
    for (const part of fresh.querySelectorAll("[data-part]")) byId(part.id).replaceWith(part);
    for (const details of document.querySelectorAll("details")) {
      if (known.has(details.id)) details.open = open.has(details.id);
    }
    const before = numbers;
    numbers = JSON.parse(byId("numbers").textContent);
    const zoomed = Object.values(figures).some(figure => figure.x_range.start !== figure.x_range.reset_start
      || figure.x_range.end !== figure.x_range.reset_end);
    fillChoices();
    sortRows();
    filterRows();
    fillCharts(!zoomed || before.runs.length !== numbers.runs.length);
  } catch {
    words.textContent = "· not connected";
  }
}

// ---- what the reader does

byId("filter").oninput = event => { chosen.filter = event.target.value; filterRows(); fillCharts(true); };
byId("metric").onchange = event => { chosen.metric = event.target.value; fillCharts(true); };
for (const button of document.querySelectorAll("[data-axis]")) {
  button.onclick = () => {
    chosen.axis = button.dataset.axis;
    for (const other of document.querySelectorAll("[data-axis]")) other.ariaPressed = String(other === button);
    fillCharts(true);
  };
}
[...byId("table").tHead.rows[0].cells].forEach((head, column) => {
  const button = head.querySelector("button");
  if (button) button.onclick = () => onSort(column);
});
byId("theme").onclick = () => {
  const dark = getComputedStyle(document.body).backgroundColor === "rgb(20, 23, 28)";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  colourCharts();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colourCharts);
function openTarget() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);

fillChoices();
filterRows();
openTarget();
drawCharts();
const seconds = Number(document.body.dataset.refresh);
async function keepFresh() {
  await refresh();
  setTimeout(keepFresh, 1000 * seconds);
}
if (seconds > 0) setTimeout(keepFresh, 1000 * seconds);
