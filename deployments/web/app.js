// The page: a picture, words, an answer; and what can be done with it.
import { key, models, ownFile, Source } from "./api.js";
import * as downloads from "./downloads.js";
import { Instance } from "./instance.js";
import { onKey } from "./key.js";
import { fillSamples } from "./list.js";
import { $, card, listed, pick, quit, render, run, say, shown, state, update, view } from "./page.js";
import { undo } from "./refine.js";
import { upright } from "./upright.js";
import { tooLarge } from "./words.js";

// What is asked for once, so that the sliders need no further request. With the embedded model, 0.1 gives 6 to 18
// candidates where 4 to 7 are answered by default, and 0.05 most often two to three times as many.
const FLOOR = 0.1;
const MOST_CANDIDATES = 200;
const SAMPLES = [
  "blue cross, yellow cross, white triangle, blue triangle, white ring",
  "red star, red square, black triangle, black circle, green crescent",
  "yellow circle, white star, white ring, orange hexagon, black square",
].map((words, index) => ({ words, name: `sample-${index + 1}.png`, url: `./static/page/sample-${index + 1}.png` }));

// ---- models

async function loadModels() {
  const cards = await run("Asking for the models…", models);
  if (!cards) return false;
  state.cards = cards;
  const options = cards.map(({ name, aliases }) => new Option(aliases.length ? `${aliases[0]} (${name})` : name, name));
  $("model").replaceChildren(...options);
  $("model").value = (cards.find((one) => one.default) ?? cards[0])?.name;
  useCard();
  say("");
  return true;
}

/** The thresholds of the chosen model. */
function useCard() {
  const { detector } = card();
  $("tiny").hidden = detector?.name !== "tiny";
  if (!state.answer) setFloor(lowest()); // an answer that is on the screen keeps its own
  $("box").value = detector?.box_threshold ?? 0.3;
  $("text").value = detector?.text_threshold ?? 0.25;
  update();
}

const lowest = () => Math.min(FLOOR, card().detector?.box_threshold ?? FLOOR);

function setFloor(floor) {
  state.floor = floor;
  $("box").min = floor;
}

// ---- the picture

async function usePicture(file, name) {
  const { max_image_bytes: most } = card().limits ?? {};
  if (most && file.size > most) return say(tooLarge(card().limits), true);
  const turn = ++state.pictures;
  let bitmap;
  try {
    bitmap = await upright(file);
  } catch {
    return say("This is not a picture, or a damaged one. Use JPEG, PNG or WebP.", true);
  }
  if (turn !== state.pictures) return bitmap.close(); // a later one was smaller, and is there already
  quit();
  const nothing = { answer: null, classes: 0, instances: [], clicked: [], picked: null, lit: null };
  Object.assign(state, { source: new Source(file), name, ...nothing });
  setFloor(lowest());
  $("empty").hidden = true;
  $("view").hidden = $("side").hidden = false;
  view.show(bitmap);
  $("masks").setAttribute("aria-label", `${name}, ${bitmap.width} by ${bitmap.height} pixels`);
  $("timings").textContent = "";
  say("");
  update();
  return $("words").value.trim() ? ask() : $("words").focus();
}

const fromFiles = (files) => {
  const file = [...(files ?? [])].find((one) => one.type.startsWith("image/")) ?? files?.[0];
  if (file) usePicture(file, file.name || "pasted.png");
};

async function useSample({ url, name, words }) {
  $("words").value = words;
  const blob = await run("Fetching the sample…", (signal) => ownFile(url, signal));
  if (blob) usePicture(blob, name);
}

// ---- the words

async function ask() {
  const words = $("words").value;
  if (!words.trim()) {
    say("Type what to look for first.", true);
    return $("words").focus();
  }
  if (!state.source) return say("Choose a picture first: drop, paste or pick one, or try a sample.", true);
  if (!state.cards.length && !(await loadModels())) return undefined;
  const floor = lowest();
  const fields = {
    prompt: words, mode: $("phrase").checked ? "phrase" : "classes", model: $("model").value,
    box_threshold: floor, text_threshold: 0, nms: "off", max_detections: MOST_CANDIDATES, masks: "rle",
  };
  const { source } = state;
  const about = words.trim().length > 80 ? `${[...words.trim()].slice(0, 80).join("")}…` : words.trim();
  const answer = await run(`Looking for “${about}”…`, (signal) => {
    state.looking = signal;
    return source.ask("v1/segment", fields, signal);
  });
  if (!answer) return undefined;
  return take(answer, floor, fields);
}

function take(answer, floor, { mode, prompt }) {
  state.answer = answer;
  state.classes = mode === "phrase" ? 1 : prompt.split(/[,.;\n]/).filter((piece) => piece.trim()).length;
  setFloor(floor);
  state.instances = answer.detections.map((one) => new Instance(one));
  Object.assign(state, { clicked: [], picked: null, lit: null });
  if (answer.removed.cap) setFloor(Math.ceil((state.instances.at(-1).score + 1e-6) * 100) / 100); // below it, some are missing
  update();
  const { width, height } = answer.image;
  const fits = width === view.bitmap.width && height === view.bitmap.height;
  const notes = fits ? answer.warnings : [...answer.warnings, "the browser turns this picture another way than the service"];
  const found = listed().length;
  say([found ? `${found} found.` : $("nothing").textContent, ...notes.map((one) => `Note: ${one}.`)].join(" "));
  const times = Object.entries(answer.timings_ms).map(([name, ms]) => `${name} ${Math.round(ms)} ms`);
  $("timings").textContent = `${times.join(", ")}; round trip ${Math.round(state.roundTrip)} ms; ${state.instances.length} candidates`;
}

// ---- files

const stem = () => state.name.replace(/\.[^.]*$/, "") || "picture";

async function download(ending, make) {
  downloads.save(await make(), `${stem()}-${ending}`);
}

// ---- wiring

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("cancel").addEventListener("click", () => state.running?.abort());
$("model").addEventListener("change", useCard);
for (const id of ["box", "text"]) $(id).addEventListener("input", update);

$("pick").addEventListener("click", () => $("file").click());
$("another").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  fromFiles($("file").files);
  $("file").value = ""; // the same file again is a change, too
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) fromFiles(event.clipboardData.files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  fromFiles(event.dataTransfer.files);
});

$("save-png").addEventListener("click", () => download("masks.png", () => downloads.pictureFile(view.bitmap, shown())));
$("save-masks").addEventListener("click", () => download("masks.zip", () => downloads.masksFile(shown())));
$("save-coco").addEventListener("click", () => download("coco.json", () => downloads.cocoFile(state.answer, shown(), state.name)));
$("save-json").addEventListener("click", () => download("answer.json", () => downloads.answerFile(state.answer, shown(), state.removed)));

addEventListener("keydown", (event) => {
  if ($("key-dialog").open) return;
  if (event.key === "Escape") {
    if (state.running) state.running.abort();
    else if (state.picked) pick(null);
    return;
  }
  const typing = event.target.matches("input[type=text], input[type=password], select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { "/": () => $("words").focus(), o: () => $("file").click(), a: switchAll, z: undo }[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

function switchAll() {
  const on = shown().length < listed().length;
  for (const one of listed()) one.on = on;
  if (!on) state.picked = null;
  render();
}

onKey(async () => {
  $("open-key").hidden = key.get() === "";
  if ((state.cards.length || (await loadModels())) && state.source && $("words").value.trim()) ask();
});
fillSamples($("samples"), SAMPLES, useSample);
render();
loadModels();
