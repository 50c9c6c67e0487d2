// What the parts of the page share: its state, what is said, and the one request under way.
import { ApiError, key } from "./api.js";
import { askKey } from "./key.js";
import { fill } from "./list.js";
import { select } from "./selection.js";
import { View } from "./view.js";
import { explain } from "./words.js";

export const $ = (id) => document.getElementById(id);
export const view = new View($("stage"), $("frame"), $("picture"), $("masks"), $("tip"));

export const state = {
  cards: [], // of GET /v1/models
  source: null, name: "", pictures: 0, // the picture, and how many were chosen
  answer: null, floor: 0, classes: 0, roundTrip: 0, // what the words found, down to which score, of how many, and ms
  instances: [], clicked: [], // of the words, and of clicks
  kept: [], removed: {}, // of the words, what the thresholds leave
  picked: null, lit: null, cross: null, // an instance each, and the keyboard's cross as [x, y]
  running: null, // an AbortController
  looking: null, // the signal of what looks for words
};

export const card = () => state.cards.find((one) => one.name === $("model").value) ?? {};
export const listed = () => [...state.kept, ...state.clicked.filter((one) => one.shape)];
export const shown = () => listed().filter((one) => one.on);

export function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

/** Run `work(signal)`; the last one wins. Its value, or undefined where there is none: then the reason was said. */
export async function run(text, work) {
  state.running?.abort();
  const mine = (state.running = new AbortController());
  const began = performance.now();
  const seconds = () => Math.floor((performance.now() - began) / 1000);
  const clock = setInterval(() => ($("cancel").textContent = `Cancel · ${seconds()} s`), 1000);
  $("cancel").textContent = "Cancel";
  say(text);
  busy(true);
  try {
    const value = await work(mine.signal);
    state.roundTrip = performance.now() - began;
    return value;
  } catch (error) {
    if (state.running === mine) fail(error);
    return undefined;
  } finally {
    clearInterval(clock);
    if (state.running === mine) {
      state.running = null;
      busy(false);
    }
  }
}

/** Give up what is under way without a word: its caller has something else to say. */
export function quit() {
  state.running?.abort();
  state.running = null;
  busy(false);
}

function busy(on) {
  const focused = document.activeElement === $(on ? "go" : "cancel");
  $("working").hidden = $("cancel").hidden = !on;
  $("go").hidden = on;
  if (focused) $(on ? "cancel" : "go").focus(); // a control that hides would take the focus with it
}

function fail(error) {
  if (error.name === "AbortError") return say("Cancelled.");
  if (error.code === "unauthenticated") {
    say("The service asks for a key.");
    return askKey({ refused: key.get() !== "" });
  }
  if (error instanceof ApiError) return say(explain(error, card().limits), true);
  console.warn(error.message);
  return say("The service gave an answer that this page cannot read.", true);
}

/** Apply the thresholds, and show what they leave. No request. */
export function update() {
  const { kept, removed } = select(state.instances.map((one) => one.found), $("box").value, $("text").value);
  const wanted = new Set(kept);
  state.kept = state.instances.filter((one) => wanted.has(one.found));
  state.removed = removed;
  if (state.picked && ![...state.kept, ...state.clicked].includes(state.picked)) state.picked = null;
  render();
}

/** Everything that depends on the state, anew. */
export function render() {
  const all = listed();
  fill($("classes"), all, state.picked, { change, pick, hover });
  const visible = shown().length;
  $("count").textContent = all.length ? (visible < all.length ? `${visible} of ${all.length}` : `${all.length}`) : "";
  $("nothing").hidden = all.length > 0;
  $("nothing").textContent = nothing();
  for (const [id, name] of [["box", "box-value"], ["text", "text-value"]]) $(name).textContent = (+$(id).value).toFixed(2);
  const low = +$("box").value <= state.floor + 1e-9;
  $("floor").textContent = low
    ? `The floor: the page asks for nothing below ${state.floor.toFixed(2)}.`
    : "Higher: fewer, surer. Nothing is asked again.";
  for (const id of ["save-png", "save-coco", "save-masks", "save-json"]) $(id).disabled = visible === 0;
  const points = state.picked?.points.length ?? 0;
  $("undo").disabled = $("reset").disabled = points === 0;
  $("done").hidden = state.picked === null;
  $("stage-help").textContent = state.picked
    ? `Refining “${state.picked.label}”: click what belongs to it; Shift or right click what does not.`
    : "Click a mask to refine it, or anything else to make a mask of it.";
  redraw();
}

export function redraw() {
  if (view.bitmap) view.draw(shown(), state);
}
view.redraw = redraw;

function nothing() {
  if (!state.answer) return "Type what to look for, and press Enter.";
  const best = state.instances[0];
  if (!best) return `Nothing found, even at a score of ${state.floor.toFixed(2)}. Try other words.`;
  return `Nothing is above both thresholds. The best is “${best.label}” at ${best.score.toFixed(2)}: lower the sliders.`;
}

function change(instances, on) {
  for (const one of instances) one.on = on;
  if (!on && instances.includes(state.picked)) state.picked = null;
  render();
}

/** Begin to refine `one`, or stop for null. */
export function pick(one) {
  if (one) one.on = true;
  state.picked = one;
  state.lit = null;
  view.say(null);
  render();
}

function hover(one) {
  state.lit = one;
  redraw();
}
