// ---- the frame that is shown, and of which run ----

let now = 0;
let run = runs[0];
let rows = [];
let timer = null;

function showRun(number) {
  run = runs[(number + runs.length) % runs.length];
  [...$("switch").children].forEach((button, index) =>
    button.setAttribute("aria-pressed", runs[index] === run));
  $("tiles").replaceChildren();
  for (const [value, text] of run.tiles) {
    const box = add("div", $("tiles"), undefined, "tile");
    add("b", box, value);
    add("span", box, text);
  }
  drawCharts(run.charts, show);
  const body = document.createElement("tbody");
  rows = run.steps.map((step, index) => {
    const row = add("tr", body, undefined, step.other ? "differs" : "");
    step.cells.forEach((cell, at) => add("td", row, cell, columns[at][1] ? "text" : ""));
    row.addEventListener("click", () => show(index));
    return row;
  });
  $("table").tBodies[0].replaceWith(body);
  show(now);
}

function show(index) {
  now = (index + screens.length) % screens.length;
  const screen = screens[now], step = run.steps[now];
  const [width, height] = screen.size;
  $("screen").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("picture").setAttribute("width", width);
  $("picture").setAttribute("height", height);
  setPicture(now);
  drawMap(run, step, screen);
  drawChanged(step, screen);
  drawMarks(step, screen);
  magnify(step, screen);
  $("slider").value = now;
  $("position").textContent = `${now} / ${screens.length - 1}`;
  $("label").textContent = screen.label || `frame ${now}`;
  say("answer", step.answer);
  say("other", step.other);
  $("lines").replaceChildren();
  for (const line of step.lines) add("li", $("lines"), line);
  $("path").textContent = step.path;
  $("path").className = `pill ${step.kind}`;
  $("numbers").replaceChildren();
  for (const [name, value] of step.facts) {
    add("dt", $("numbers"), name);
    add("dd", $("numbers"), value);
  }
  $("bars").replaceChildren();
  const longest = Math.max(...step.bars.map((bar) => bar[1]));
  for (const [name, value, text, kind] of step.bars) {
    const line = add("div", $("bars"));
    add("span", line, name);
    const bar = add("b", add("div", line, undefined, "track"), undefined, kind);
    bar.style.width = `${(100 * value) / longest}%`;
    add("em", line, text);
  }
  say("verdict", step.verdict);
  rows.forEach((row, i) => row.classList.toggle("now", i === now));
  hits.forEach((both, i) => both.forEach((hit) => hit.classList.toggle("now", i === now)));
  const number = runs.indexOf(run);
  history.replaceState(null, "", `#${now}${number ? `,${number}` : ""}`);
}

function setPicture(index) {
  const { picture } = screens[index];
  for (const id of ["picture", "enlarged"]) $(id).setAttribute("href", pictures[picture]);
}

function before(on) {
  setPicture(on ? Math.max(0, now - 1) : now);
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => show(now + 1), 900) : null;
  $("play").textContent = on ? "Pause" : "Play";
}

// ---- controls ----

if (runs.length > 1) {
  runs.forEach(({ name, about }, index) => {
    const button = add("button", $("switch"));
    button.title = "Show this policy (P: the next)";
    add("b", button, name);
    add("span", button, about);
    button.addEventListener("click", () => showRun(index));
  });
}
layers.forEach(({ name, kind, shown }, index) => {
  const some = runs.some(({ steps }) => steps.some(({ marks }) => marks[index]?.length));
  const label = add("label", $("layers"));
  label.hidden = !some;
  const box = add("input", label);
  Object.assign(box, { type: "checkbox", id: `show-${index}`, checked: shown });
  box.addEventListener("change", () => drawMarks(run.steps[now], screens[now]));
  add("i", label, undefined, `key ${kind}`);
  label.append(name);
});
for (const { name } of maps) add("option", $("map"), name);
document.querySelector(".of-maps").hidden = !maps.length;
document.querySelector(".of-changed").hidden =
  !runs.some(({ steps }) => steps.some(({ changed }) => changed.length));
$("tiles").hidden = !runs[0].tiles.length;
const head = add("tr", add("thead", $("table")));
for (const [name, text] of columns) add("th", head, name, text ? "text" : "");
add("tbody", $("table"));

$("map").addEventListener("change", () => drawMap(run, run.steps[now], screens[now]));
$("slider").max = screens.length - 1;
$("slider").addEventListener("input", (event) => show(Number(event.target.value)));
$("previous").addEventListener("click", () => show(now - 1));
$("next").addEventListener("click", () => show(now + 1));
$("play").addEventListener("click", () => play(timer === null));
for (const [box, ids] of [["show-changed", ["tint", "contour"]], ["show-heat", ["heat"]]]) {
  $(box).addEventListener("change", (event) => {
    for (const id of ids) $(id).style.display = event.target.checked ? "" : "none";
  });
}
const KEYS = {
  ArrowRight: () => show(now + 1),
  ArrowLeft: () => show(now - 1),
  Home: () => show(0),
  End: () => show(screens.length - 1),
  b: () => before(true),
  p: () => showRun(runs.indexOf(run) + 1),
};
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  // The browser's own keys: those with Ctrl, and those that move the slider or choose a map.
  if (event.ctrlKey || event.metaKey || event.altKey || target === $("map")) return;
  if (target === $("slider") && key.length > 1) return;
  if (key === " " && target === document.body) play(timer === null);
  else if (KEYS[key]) KEYS[key]();
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

// page.html#12 opens frame 12, #12,1 under the second policy; without a number, a typical step.
const [frame, number] = location.hash.slice(1).split(",").map((text) => Number.parseInt(text, 10));
now = Number.isNaN(frame) ? start : Math.max(0, Math.min(screens.length - 1, frame));
showRun(runs[number] ? number : 0);
