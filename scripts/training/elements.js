// Lists what can be clicked in the visible part of the page.
//
// Returns [{box: [left, top, right, bottom], kind}], in px of the screenshot, in document order.
// A box is the part of the element that can be seen and hit: cut at scrolling and hidden-overflow
// ancestors and at whatever lies over it. An inline link has one box for each of its lines.
//
// Nesting: what lies inside a button, a field or a link is part of it. Rows, tabs and cells are
// listed along with the controls in them, since clicking either does something of its own.
// The text beside a checkbox is not part of the checkbox.
(() => {
  const SMALLEST = 4;        // px; a side shorter than this is not a target
  const LARGEST_ICON = 72;   // px; a wordless control with a longer side is a button
  const FIELDS = new Set(["text", "password", "email", "search", "number", "date", "url", "tel",
    "time", "month", "week", "datetime-local"]);
  const ROLES = {
    textbox: "text_field", searchbox: "text_field", gridcell: "text_field", spinbutton: "text_field",
    checkbox: "checkbox", radio: "checkbox", switch: "checkbox", menuitemcheckbox: "menu_item",
    menuitem: "menu_item", option: "menu_item", treeitem: "menu_item", listitem: "menu_item",
    tab: "tab", combobox: "select", listbox: "select", slider: "select", link: "link",
    button: "button",
  };
  const HOLDS_OTHERS = new Set(["menu_item", "tab"]);
  const SELECTOR = "a[href],button,input,select,textarea,summary,[contenteditable=true],[onclick]," +
    Object.keys(ROLES).map((role) => `[role=${role}]`).join(",");

  function baseKind(element) {
    const tag = element.localName, role = element.getAttribute("role");
    if (tag === "li" || (role === "listitem" && element.tabIndex < 0 && !element.hasAttribute("tabindex")))
      return null;           // an entry of a plain list
    if (role in ROLES) return ROLES[role];
    if (tag === "a") return "link";
    if (tag === "select") return "select";
    if (tag === "textarea" || element.isContentEditable) return "text_field";
    if (tag === "input") {
      if (FIELDS.has(element.type)) return "text_field";
      if (element.type === "checkbox" || element.type === "radio") return "checkbox";
      if (element.type === "range") return "select";
      return element.type === "hidden" ? null : "button";
    }
    return "button";
  }

  function kindOf(element, base, box) {
    if (base !== "button" && base !== "link") return base;
    const wordless = !/[\p{L}\p{N}]/u.test(element.innerText || element.value || "");
    const small = Math.max(box[2] - box[0], box[3] - box[1]) <= LARGEST_ICON;
    return wordless && small ? "icon" : base;
  }

  function shown(element) {
    const style = getComputedStyle(element);
    if (style.visibility !== "visible" || style.pointerEvents === "none") return false;
    let opacity = 1;
    for (let node = element; node; node = node.parentElement)
      opacity *= parseFloat(getComputedStyle(node).opacity);
    return opacity > 0.15;
  }

  const cut = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]),
    Math.min(a[2], b[2]), Math.min(a[3], b[3])];
  const large = (box) => box[2] - box[0] >= SMALLEST && box[3] - box[1] >= SMALLEST;
  const edges = (r) => [r.left, r.top, r.right, r.bottom];

  // The part of the viewport in which `element` may paint.
  function paintArea(element) {
    let area = [0, 0, innerWidth, innerHeight];
    let position = getComputedStyle(element).position;
    for (let node = element.parentElement; node; node = node.parentElement) {
      if (position === "fixed") break;
      const style = getComputedStyle(node);
      // An absolutely placed element leaves ancestors that are not placed themselves.
      if (position === "absolute" && style.position === "static") continue;
      position = style.position;
      // The overflow of the root and the body is that of the viewport.
      if (node === document.body || node === document.documentElement) continue;
      if (style.overflowX !== "visible" || style.overflowY !== "visible") {
        const r = node.getBoundingClientRect(), zoom = node.currentCSSZoom || 1;
        const left = r.left + node.clientLeft * zoom, top = r.top + node.clientTop * zoom;
        // clientWidth leaves out the scroll bar.
        area = cut(area, [left, top, left + node.clientWidth * zoom, top + node.clientHeight * zoom]);
      }
    }
    return area;
  }

  function pieces(element) {
    if (getComputedStyle(element).display !== "inline") return [element.getBoundingClientRect()];
    const rects = [...element.getClientRects()];
    // The rectangle of a line does not reach round a picture or a block in it.
    for (const child of element.querySelectorAll("img,svg,div,p,h1,h2,h3,h4"))
      rects.push(child.getBoundingClientRect());
    return rects;
  }

  // Pieces of one line that touch become one.
  function joined(rects) {
    const boxes = [];
    for (const box of rects.map(edges).filter(large)) {
      const other = boxes.find((known) => {
        const common = Math.min(known[3], box[3]) - Math.max(known[1], box[1]);
        const height = Math.min(known[3] - known[1], box[3] - box[1]);
        return common > 0.6 * height && box[0] <= known[2] + 4 && known[0] <= box[2] + 4;
      });
      if (!other) boxes.push(box);
      else {
        other[0] = Math.min(other[0], box[0]); other[1] = Math.min(other[1], box[1]);
        other[2] = Math.max(other[2], box[2]); other[3] = Math.max(other[3], box[3]);
      }
    }
    return boxes;
  }

  const hits = (element, x, y) => {
    const found = document.elementFromPoint(x, y);
    return found !== null && (element === found || element.contains(found));
  };

  // What can be hit of `box` along the horizontal and the vertical through its centre, or, when
  // the centre is covered, through a point a quarter in from a corner. Null: as good as covered.
  function uncovered(element, box) {
    const [l, t, r, b] = box, width = r - l, height = b - t;
    for (const [fx, fy] of [[.5, .5], [.25, .25], [.75, .25], [.25, .75], [.75, .75]]) {
      const x = l + fx * width, y = t + fy * height;
      if (!hits(element, x, y)) continue;
      // From the border inwards: the first point that is hit ends the element there.
      const reach = (from, to, at) => {
        const step = Math.sign(to - from) * Math.max(1, Math.abs(to - from) / 64);
        const first = from + Math.sign(step) * 0.6;
        if (at(first)) return from;
        for (let place = first; (to - place) * step > 0; place += step) if (at(place)) return place;
        return to;
      };
      const seen = [reach(l, x, (p) => hits(element, p, y)), reach(t, y, (p) => hits(element, x, p)),
        reach(r, x, (p) => hits(element, p, y)), reach(b, y, (p) => hits(element, x, p))];
      if (!large(seen)) return null;
      return hits(element, (seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2) ? seen : null;
    }
    return null;
  }

  const found = [];
  for (const element of document.querySelectorAll(SELECTOR)) {
    const base = baseKind(element);
    if (base === null || element.disabled || element.ariaDisabled === "true") continue;
    const outer = element.parentElement && element.parentElement.closest(SELECTOR);
    if (outer && baseKind(outer) !== null && !HOLDS_OTHERS.has(baseKind(outer))) continue;
    const rects = pieces(element).filter((r) => r.bottom > 0 && r.right > 0 &&
      r.top < innerHeight && r.left < innerWidth);
    if (!rects.length || !shown(element)) continue;
    const area = paintArea(element);
    for (const piece of joined(rects)) {
      let box = cut(piece, area);
      if (!large(box)) continue;
      box = uncovered(element, box);
      if (box) found.push({box: box.map((v) => Math.round(v * 100) / 100), kind: kindOf(element, base, box)});
    }
  }
  return found;
})()
