// Clicks and keys on the picture: pick an instance, set points, see SAM refine it.
import { Instance } from "./instance.js";
import { $, pick, quit, redraw, render, run, say, shown, state, view } from "./page.js";

const canvas = $("masks");
const under = ([x, y]) => shown().find((one) => one.shape.mask.has(Math.floor(x), Math.floor(y))) ?? null;
const chosenLabel = () => Number(document.querySelector("input[name=mark]:checked").value);

/** A point at `place`: 1 belongs to the picked instance, 0 does not. Without one, pick or begin one. */
function mark(place, label) {
  if (!view.bitmap) return;
  if (state.running && state.looking === state.running.signal) return say("Still looking. Cancel, or Escape, ends that.");
  if (state.picked) return void addPoint(state.picked, place, label);
  const hit = under(place);
  if (hit) return pick(hit);
  const begun = new Instance({ class_id: state.classes, label: "clicked" });
  state.clicked.push(begun);
  pick(begun);
  addPoint(begun, place, 1);
}

function addPoint(one, [x, y], label) {
  one.points.push([Math.round(x * 10) / 10, Math.round(y * 10) / 10, label]);
  return ask(one);
}

async function ask(one) {
  const count = one.points.length;
  render();
  const model = state.answer?.model ?? $("model").value;
  const fields = { ...one.prompt(), masks: "rle", ...(model && { model }) };
  const answer = await run(`Refining “${one.label}”…`, (signal) => state.source.ask("v1/masks", fields, signal));
  if (answer) {
    one.refined(answer.detections[0], count);
    state.answer ??= { ...answer, detections: [], passes: 0, removed: {} }; // nothing was looked for, only clicked
    const { masks, total } = answer.timings_ms;
    $("timings").textContent = `Refined: masks ${Math.round(masks)} ms, total ${Math.round(total)} ms; round trip ${Math.round(state.roundTrip)} ms`;
    say(`“${one.label}” refined with ${count} ${count === 1 ? "point" : "points"}: ${one.shape.area} pixels.`);
  } else if (one.points.length === count) {
    one.points.length = one.shape?.count ?? 0; // no answer, no point: neither this one nor one that it overtook
    drop(one);
  }
  render();
}

/** What was begun by a click and has nothing left is gone. */
function drop(one) {
  if (!one.clicked || one.points.length) return;
  state.clicked = state.clicked.filter((other) => other !== one);
  if (state.picked === one) state.picked = null;
}

export function undo() {
  const one = state.picked;
  if (!one?.points.length) return;
  quit();
  const missing = one.undo();
  drop(one);
  say("The last point is taken back.");
  if (missing) ask(one);
  else render();
}

$("undo").addEventListener("click", undo);
$("reset").addEventListener("click", () => {
  quit();
  state.picked.reset();
  drop(state.picked);
  say("Back to the mask as it was found.");
  render();
});
$("done").addEventListener("click", () => {
  pick(null);
  canvas.focus({ preventScroll: true });
});

canvas.addEventListener("click", (event) => {
  if (event.detail === 0) return; // made by a key, not by a pointer
  state.cross = null;
  mark(view.at(event), event.shiftKey ? 0 : chosenLabel());
});
canvas.addEventListener("contextmenu", (event) => {
  event.preventDefault();
  if (state.picked) mark(view.at(event), 0);
});
canvas.addEventListener("pointermove", (event) => {
  if (!view.bitmap || event.pointerType === "touch") return;
  const place = view.at(event);
  const one = under(place);
  canvas.classList.toggle("over", one !== null && state.picked === null);
  view.say(one, place);
  if (one === state.lit) return;
  state.lit = one;
  redraw();
});
canvas.addEventListener("pointerleave", () => {
  view.say(null);
  state.lit = null;
  redraw();
});

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  if (!view.bitmap || event.ctrlKey || event.metaKey || event.altKey) return;
  const { width, height } = view.bitmap;
  if (event.key in MOVES) {
    const step = (event.shiftKey ? 0.1 : 0.0125) * Math.max(width, height);
    const [x, y] = state.cross ?? [width / 2, height / 2];
    const [dx, dy] = MOVES[event.key];
    const inside = (value, size) => Math.min(Math.max(value, 0), size - 1);
    state.cross = [inside(x + dx * step, width), inside(y + dy * step, height)];
    const one = under(state.cross);
    view.say(one, state.cross);
    redraw();
  } else if (event.key === " " || event.key === "Enter") {
    state.cross ??= [width / 2, height / 2];
    mark(state.cross, event.shiftKey ? 0 : chosenLabel());
  } else {
    return;
  }
  event.preventDefault();
});
canvas.addEventListener("blur", () => {
  state.cross = null;
  view.say(null);
  redraw();
});
