// What a pointer does on the picture, told to `gestures.py` in fractions of the picture.
const LONG = 6;
let stroke = null;
let cross = null;
let keyed = false;

const over = () => element.querySelector("svg.ts-over");
const size = () => over().viewBox.baseVal;
const tool = () => document.querySelector("#ts-tool input:checked")?.value ?? "plus";
const brush = () =>
  Number(document.querySelector("#ts-brush input[type=number]")?.value ?? 4) / 100;
const place = ({ clientX, clientY }) => {
  const at = new DOMPoint(clientX, clientY).matrixTransform(over().getScreenCTM().inverse());
  return [at.x / size().width, at.y / size().height];
};
const inside = ([x, y]) => x >= 0 && x < 1 && y >= 0 && y < 1;
const long = () => Math.max(size().width, size().height);
const shape = (name, given) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  return made;
};
const show = (...shapes) => over()?.querySelector(".ts-live")?.replaceChildren(...shapes);
const dot = ([x, y], kind) => shape("circle", {
  class: `ts-dot ts-${kind}`, cx: x * size().width, cy: y * size().height, r: long() / 70,
});
const line = (path, erase) => shape("polyline", {
  class: erase ? "ts-erasing" : "ts-painting", "stroke-width": brush() * long(),
  points: path.map(([x, y]) => `${x * size().width},${y * size().height}`).join(" "),
});
const frame = ([a, b], [c, d]) => shape("rect", {
  x: Math.min(a, c) * size().width, y: Math.min(b, d) * size().height,
  width: Math.abs(a - c) * size().width, height: Math.abs(b - d) * size().height,
});
const paints = () => ["brush", "eraser"].includes(tool());
const point = (at, takes) => {
  show(dot(at, takes ? "minus" : "plus"));
  trigger("input", { kind: "point", at, label: takes ? 0 : 1 });
};

element.addEventListener("contextmenu", (event) => event.preventDefault());
element.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || ![0, 2].includes(event.button) || !over()) return;
  const at = place(event);
  keyed = false;
  if (!inside(at)) return;
  const other = event.shiftKey || event.button === 2;
  stroke = { start: event, path: [at], other, moved: false };
  // A finger that points may also scroll; the browser then cancels the pointer.
  if (event.pointerType !== "touch" || tool() === "box" || paints()) {
    element.setPointerCapture(event.pointerId);
  }
  if (paints()) show(line([at, at], (tool() === "eraser") !== other));
});
element.addEventListener("pointermove", (event) => {
  if (!over()) return;
  if (!stroke) {
    if (paints() && event.pointerType !== "touch") {
      show(line([place(event), place(event)], tool() === "eraser"));
    }
    return;
  }
  if (event.pointerId !== stroke.start.pointerId) return;
  const far = Math.hypot(event.clientX - stroke.start.clientX, event.clientY - stroke.start.clientY);
  stroke.moved ||= far > LONG;
  if (paints()) {
    for (const one of event.getCoalescedEvents?.() ?? [event]) stroke.path.push(place(one));
    show(line(stroke.path, (tool() === "eraser") !== stroke.other));
  } else if (stroke.moved && (event.pointerType !== "touch" || tool() === "box")) {
    show(frame(stroke.path[0], place(event)));
  }
});
element.addEventListener("pointerup", (event) => {
  if (!stroke || event.pointerId !== stroke.start.pointerId || !over()) return;
  const { path, other, moved } = stroke;
  stroke = null;
  if (paints()) {
    const kind = (tool() === "eraser") !== other ? "erase" : "add";
    trigger("input", { kind, path, width: brush() });
  } else if (moved) {
    if (event.pointerType === "touch" && tool() !== "box") return;
    trigger("input", { kind: "box", from: path[0], to: place(event) });
  } else {
    point(path[0], (tool() === "minus") !== other);
  }
});
element.addEventListener("pointercancel", () => { stroke = null; show(); });
element.addEventListener("pointerleave", () => { if (!stroke) show(); });
element.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!event.target.closest("svg.ts-over") || !(step || event.key === "Enter")) return;
  event.preventDefault();
  keyed = true;
  cross ??= [0.5, 0.5];
  if (step) {
    const far = event.shiftKey ? 0.05 : 0.01;
    cross = cross.map((value, i) => Math.min(Math.max(value + far * step[i], 0), 0.999));
    show(dot(cross, "cross"));
  } else {
    point(cross, (tool() === "minus") !== event.shiftKey);
  }
});
// Every answer draws the places anew: the keyboard goes on where it was.
watch("value", () => {
  if (!keyed || ![document.body, null].includes(document.activeElement)) return;
  over().focus({ preventScroll: true });
  show(dot(cross, "cross"));
});
