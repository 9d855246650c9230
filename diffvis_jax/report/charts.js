// ---- charts: a column for each frame, which shows it when clicked ----

let hits = [];

function drawCharts(charts, onFrame) {
  hits = [];
  $("charts").replaceChildren();
  for (const chart of charts) {
    const head = add("h2", $("charts"), chart.title);
    for (const [kind, text] of chart.legend) {
      const entry = add("span", head, undefined, "legend");
      add("i", entry, undefined, `key ${kind}`);
      entry.append(text);
    }
    drawChart(chart, onFrame);
  }
}

function drawChart({ title, top, ticks, bars, dots, line }, onFrame) {
  // As wide as there is room, so that texts are as large on a phone.
  const width = $("charts").clientWidth, height = 170;
  const left = 66, right = width - 12, low = height - 24, high = 10;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, $("charts"));
  root.setAttribute("aria-label", title);
  const slot = (right - left) / screens.length;
  const middle = (index) => left + (index + 0.5) * slot;
  const y = (value) => low - (Math.min(value, top) / top) * (low - high);
  const across = (at, kind) => svg("line", { x1: left, x2: right, y1: at, y2: at, class: kind }, root);

  ticks.forEach((text, index) => {
    const at = y((index * top) / (ticks.length - 1));
    across(at, "grid");
    svg("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, root, text);
  });
  const every = Math.ceil((26 * screens.length) / (right - left));
  bars.forEach((stack, index) => {
    let below = 0;
    for (const [value, kind] of stack) {
      const at = y(below + value);
      const tall = Math.max(0.8, y(below) - at);
      svg("rect", {
        x: middle(index) - slot * 0.32, width: slot * 0.64, y: at, height: tall, class: kind,
      }, root);
      below += value;
    }
  });
  const size = Math.max(2, Math.min(5, slot * 0.3));
  dots.forEach((values, index) => {
    for (const [value, kind] of values) {
      const r = kind === "dot" ? 0.7 * size : size;  // a ring around it stays to be seen
      svg("circle", { cx: middle(index), cy: y(value), r, class: kind }, root);
    }
  });
  if (line !== null) across(y(line), "line");
  screens.forEach((screen, index) => {
    if (index % every === 0) {
      svg("text", { x: middle(index), y: height - 7, "text-anchor": "middle" }, root, index);
    }
    const hit = svg("rect", {
      x: left + index * slot, y: high, width: slot, height: height - high, class: "hit",
    }, root);
    svg("title", {}, hit, `${index}: ${screen.label}`);
    hit.addEventListener("click", () => onFrame(index));
    (hits[index] ??= []).push(hit);
  });
}
