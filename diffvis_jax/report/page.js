"use strict";
const { frames, columns, maps, pictures, full_ms, tiles, axes, start } =
  JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function add(name, parent, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

// ---- totals ----

for (const [value, text] of tiles) {
  const box = add("div", $("tiles"), undefined, "tile");
  add("b", box, value);
  add("span", box, text);
}
if (!frames[0].elements) {
  for (const label of document.querySelectorAll(".has-elements")) label.style.display = "none";
}

// ---- table ----

const rows = [];
{
  const head = add("tr", add("thead", $("table")));
  const kind = (name) => (name === "path" ? "text" : "");
  for (const name of columns) add("th", head, name, kind(name));
  add("th", head, "what happened before", "text");
  const body = add("tbody", $("table"));
  for (const frame of frames) {
    const row = add("tr", body);
    frame.cells.forEach((cell, index) => add("td", row, cell, kind(columns[index])));
    add("td", row, frame.label, "text");
    row.addEventListener("click", () => show(frame.index));
    rows.push(row);
  }
}

// ---- charts ----

const hits = [];
const CHART = { width: 1272, height: 170, left: 66, right: 12, top: 16, bottom: 24 };
const inner = CHART.width - CHART.left - CHART.right;
const slot = inner / frames.length;
const middle = (index) => CHART.left + (index + 0.5) * slot;

function line(root, y, kind) {
  svg("line", { x1: CHART.left, x2: CHART.width - CHART.right, y1: y, y2: y, class: kind }, root);
}

function chart(id, { top, ticks }, legend) {
  const root = $(id);
  root.setAttribute("viewBox", `0 0 ${CHART.width} ${CHART.height}`);
  const y = (value) =>
    CHART.height - CHART.bottom
    - (Math.min(value, top) / top) * (CHART.height - CHART.top - CHART.bottom);
  ticks.forEach((text, index) => {
    const at = y((index * top) / (ticks.length - 1));
    line(root, at, "grid");
    svg("text", { x: CHART.left - 8, y: at + 4, "text-anchor": "end" }, root, text);
  });
  const every = Math.ceil(frames.length / 40);
  for (const frame of frames) {
    if (frame.index % every) continue;
    const at = { x: middle(frame.index), y: CHART.height - 7, "text-anchor": "middle" };
    svg("text", at, root, frame.index);
  }
  svg("text", { x: CHART.width - CHART.right, y: 12, "text-anchor": "end" }, root, legend);
  return { root, y };
}

function clickable(root) {
  for (const frame of frames) {
    const hit = svg("rect", {
      x: CHART.left + frame.index * slot, y: CHART.top, width: slot,
      height: CHART.height - CHART.top, class: "hit",
    }, root);
    svg("title", {}, hit, `${frame.index}: ${frame.label}`);
    hit.addEventListener("click", () => show(frame.index));
    (hits[frame.index] ??= []).push(hit);
  }
}

{
  const { root, y } = chart("chart-time", axes.time, "dashed: a full encode (median)");
  for (const frame of frames) {
    svg("rect", {
      x: middle(frame.index) - slot * 0.32, width: slot * 0.64, y: y(frame.step_ms),
      height: Math.max(0.8, y(0) - y(frame.step_ms)), class: frame.path,
    }, root);
  }
  line(root, y(full_ms), "median");
  clickable(root);
}
{
  const { root, y } = chart(
    "chart-missed", axes.missed, "dots: at changed tokens; rings: over all tokens");
  const size = Math.min(5, slot * 0.3);
  for (const frame of frames) {
    if (frame.missed_all === null) continue;
    for (const [value, r, kind] of [
      [frame.missed_all, size, "over-all"], [frame.missed_changed, size * 0.8, "at-changed"],
    ]) svg("circle", { cx: middle(frame.index), cy: y(value), r, class: kind }, root);
  }
  clickable(root);
}

// ---- one frame ----

// Shares are shown as they are, errors and ages against the largest of the session.
function strongest(map) {
  if (map < maps.length - 2) return 1;
  return Math.max(...frames.flatMap((frame) => frame.maps[map])) || 1;
}

function drawPatches(frame) {
  const { count, left, top, width, height } = frame.grid;
  const marked = new Set(frame.index ? frame.changed : []);
  const x = (column) => left + column * width;
  const y = (row) => top + row * height;
  $("heat").replaceChildren();
  const chosen = $("map").selectedIndex, most = strongest(chosen);
  $("strongest").textContent = most === 1 ? "" : `(full colour: ${Number(most.toPrecision(2))})`;
  frame.maps[chosen].forEach((heat, cell) => {
    if (heat <= 0) return;
    svg("rect", {
      x: x(cell % count), y: y(Math.floor(cell / count)), width, height,
      "fill-opacity": (0.34 * Math.min(1, heat / most)).toFixed(3),
    }, $("heat"));
  });
  let tint = "", contour = "";
  for (const cell of marked) {
    const row = Math.floor(cell / count), column = cell % count;
    tint += `M${x(column)} ${y(row)}h${width}v${height}h${-width}z`;
    if (!marked.has(cell - count)) contour += `M${x(column)} ${y(row)}h${width}`;
    if (!marked.has(cell + count)) contour += `M${x(column)} ${y(row + 1)}h${width}`;
    if (column === 0 || !marked.has(cell - 1)) contour += `M${x(column)} ${y(row)}v${height}`;
    if (column === count - 1 || !marked.has(cell + 1)) {
      contour += `M${x(column + 1)} ${y(row)}v${height}`;
    }
  }
  $("tint").setAttribute("d", tint);
  $("contour").setAttribute("d", contour);
}

function drawElements(id, elements) {
  $(id).replaceChildren();
  for (const [left, top, right, bottom, kind] of elements ?? []) {
    const box = svg("rect", { x: left, y: top, width: right - left, height: bottom - top }, $(id));
    svg("title", {}, box, kind.replace("_", " "));
  }
}

// Of the changed patches the largest group that hangs together.
function largestGroup(cells, count) {
  const left = new Set(cells);
  let best = [];
  for (const first of cells) {
    if (!left.delete(first)) continue;
    const group = [first];
    for (const cell of group) {
      for (const other of [...left]) {
        const across = Math.abs((other % count) - (cell % count));
        const down = Math.abs(Math.floor(other / count) - Math.floor(cell / count));
        if (across <= 1 && down <= 1 && left.delete(other)) group.push(other);
      }
    }
    if (group.length > best.length) best = group;
  }
  return best;
}

// What changed, enlarged: a part of the picture of the shape of the whole.
function magnify(frame) {
  const { count, left, top, width, height } = frame.grid;
  const [wide, high] = frame.size;
  const shown = frame.index > 0 && frame.changed.length > 0;
  $("magnifier").style.display = shown ? "" : "none";
  if (!shown) return;
  const group = largestGroup(frame.changed, count);
  const columns = group.map((cell) => cell % count);
  const rows = group.map((cell) => Math.floor(cell / count));
  const from = [left + Math.min(...columns) * width, top + Math.min(...rows) * height];
  const to = [left + (Math.max(...columns) + 1) * width, top + (Math.max(...rows) + 1) * height];
  const side = Math.min(wide, Math.max(to[0] - from[0] + width, ((to[1] - from[1] + height) * 4) / 3));
  const other = Math.min(high, (side * 3) / 4);
  const x = Math.max(0, Math.min(wide - side, (from[0] + to[0] - side) / 2));
  const y = Math.max(0, Math.min(high - other, (from[1] + to[1] - other) / 2));
  $("magnifier").setAttribute("viewBox", `${x} ${y} ${side} ${other}`);
  $("enlarged").setAttribute("width", wide);
  $("enlarged").setAttribute("height", high);
  $("around").setAttribute("d", $("contour").getAttribute("d"));
}

function setPicture(frame) {
  for (const id of ["picture", "enlarged"]) $(id).setAttribute("href", pictures[frame.picture]);
}

let now = 0;
let timer = null;

function show(index) {
  now = (index + frames.length) % frames.length;
  const frame = frames[now];
  const [width, height] = frame.size;
  $("screen").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const picture = $("picture");
  picture.setAttribute("width", width);
  picture.setAttribute("height", height);
  setPicture(frame);
  drawPatches(frame);
  magnify(frame);
  drawElements("full-elements", frame.full_elements);
  drawElements("elements", frame.elements);
  $("slider").value = now;
  $("position").textContent = `${now} / ${frames.length - 1}`;
  $("label").textContent = frame.label || `frame ${now}`;
  $("path").textContent = frame.cells[columns.indexOf("path")];
  $("path").className = `pill ${frame.path}`;
  $("numbers").replaceChildren();
  for (const [name, value] of frame.facts) {
    add("dt", $("numbers"), name);
    add("dd", $("numbers"), value);
  }
  const longest = Math.max(frame.step_ms, frame.full_ms);
  $("bar-full").style.width = `${(100 * frame.full_ms) / longest}%`;
  $("bar-step").style.width = `${(100 * frame.step_ms) / longest}%`;
  $("time-full").textContent = frame.cells[columns.indexOf("full encode")];
  $("time-step").textContent = frame.cells[columns.indexOf("step")];
  $("verdict").textContent = frame.verdict;
  rows.forEach((row, i) => row.classList.toggle("now", i === now));
  hits.forEach((pair, i) => pair.forEach((hit) => hit.classList.toggle("now", i === now)));
  history.replaceState(null, "", `#${now}`);
}

function before(on) {
  setPicture(frames[on ? Math.max(0, now - 1) : now]);
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => show(now + 1), 900) : null;
  $("play").textContent = on ? "Pause" : "Play";
}

for (const name of maps) add("option", $("map"), name);
$("map").addEventListener("change", () => drawPatches(frames[now]));
$("slider").max = frames.length - 1;
$("slider").addEventListener("input", (event) => show(Number(event.target.value)));
$("previous").addEventListener("click", () => show(now - 1));
$("next").addEventListener("click", () => show(now + 1));
$("play").addEventListener("click", () => play(timer === null));
for (const [box, layers] of [["show-changed", ["tint", "contour"]], ["show-heat", ["heat"]],
  ["show-elements", ["elements"]], ["show-full-elements", ["full-elements"]]]) {
  $(box).addEventListener("change", (event) => {
    for (const layer of layers) $(layer).style.display = event.target.checked ? "" : "none";
  });
}
document.addEventListener("keydown", (event) => {
  if ([$("slider"), $("map")].includes(event.target)) return;
  if (event.key === "ArrowRight") show(now + 1);
  else if (event.key === "ArrowLeft") show(now - 1);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(frames.length - 1);
  else if (event.key === "b") before(true);
  else if (event.key === " " && event.target === document.body) play(timer === null);
  else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => event.key === "b" && before(false));
$("before").addEventListener("pointerdown", () => before(true));
for (const end of ["pointerup", "pointerleave"]) $("before").addEventListener(end, () => before(false));
let touched = null;
$("screen").addEventListener("touchstart", (event) => { touched = event.touches[0].clientX; });
$("screen").addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - touched;
  if (Math.abs(moved) > 40) show(now + (moved < 0 ? 1 : -1));
});
for (const layer of ["elements", "full-elements"]) $(layer).style.display = "none";
// page.html#12 opens frame 12; without a number, a typical step.
const asked = Number.parseInt(location.hash.slice(1), 10);
show(Number.isNaN(asked) ? start : Math.max(0, Math.min(frames.length - 1, asked)));
