// ---- elements of the page, and what lies over the screen ----

const $ = (id) => document.getElementById(id);
const { pictures, screens, columns, maps, layers, start, runs } = JSON.parse($("data").textContent);
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
  if (text) element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

// A text that says nothing takes no room.
function say(id, text) {
  $(id).textContent = text ?? "";
  $(id).hidden = !text;
}

// Shares are shown as they are, errors and ages against the largest of the run.
function drawMap(run, step, screen) {
  $("heat").replaceChildren();
  const chosen = $("map").selectedIndex;
  const values = step.maps[chosen] ?? [];
  const largest = (most, { maps }) => Math.max(most, ...maps[chosen]);
  const most = maps[chosen]?.relative ? run.steps.reduce(largest, 0) || 1 : 1;
  say("strongest", most === 1 ? "" : `(full colour: ${Number(most.toPrecision(2))})`);
  const { count, left, top, width, height } = screen.grids[maps[chosen]?.grid ?? 0] ?? {};
  values.forEach((heat, cell) => {
    if (heat <= 0) return;
    svg("rect", {
      x: left + (cell % count) * width, y: top + Math.floor(cell / count) * height, width, height,
      "fill-opacity": (0.34 * Math.min(1, heat / most)).toFixed(3),
    }, $("heat"));
  });
}

function drawChanged(step, screen) {
  const { count, left, top, width, height } = screen.grids[0] ?? {};
  const marked = new Set(step.changed);
  const x = (column) => left + column * width;
  const y = (row) => top + row * height;
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

// Boxes, and points as crosses in a ring, of the layers that are asked for.
function drawMarks(step, screen) {
  $("marks").replaceChildren();
  layers.forEach(({ kind }, index) => {
    if (!$(`show-${index}`).checked) return;
    for (const mark of step.marks[index] ?? []) {
      const group = svg("g", { class: kind }, $("marks"));
      svg("title", {}, group, mark.at(-1));
      if (mark.length === 5) {
        const [x, y, right, bottom] = mark;
        svg("rect", { x, y, width: right - x, height: bottom - y }, group);
        continue;
      }
      const [x, y] = mark, r = Math.max(...screen.size) / 64;
      const d = `M${x - 2 * r} ${y}h${4 * r}M${x} ${y - 2 * r}v${4 * r}`;
      for (const className of ["halo", "line"]) {
        svg("path", { d, class: className }, group);
        svg("circle", { cx: x, cy: y, r, class: className }, group);
      }
    }
  });
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
function magnify(step, screen) {
  const shown = step.changed.length > 0;
  $("magnifier").style.display = shown ? "" : "none";
  if (!shown) return;
  const { count, left, top, width, height } = screen.grids[0];
  const [wide, high] = screen.size;
  const group = largestGroup(step.changed, count);
  const across = group.map((cell) => cell % count);
  const down = group.map((cell) => Math.floor(cell / count));
  const from = [left + Math.min(...across) * width, top + Math.min(...down) * height];
  const to = [left + (Math.max(...across) + 1) * width, top + (Math.max(...down) + 1) * height];
  const side = Math.min(wide, Math.max(to[0] - from[0] + width, ((to[1] - from[1] + height) * 4) / 3));
  const other = Math.min(high, (side * 3) / 4);
  const x = Math.max(0, Math.min(wide - side, (from[0] + to[0] - side) / 2));
  const y = Math.max(0, Math.min(high - other, (from[1] + to[1] - other) / 2));
  $("magnifier").setAttribute("viewBox", `${x} ${y} ${side} ${other}`);
  $("enlarged").setAttribute("width", wide);
  $("enlarged").setAttribute("height", high);
  $("around").setAttribute("d", $("contour").getAttribute("d"));
}
