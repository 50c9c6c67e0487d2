// What was found, by class: switches for a class and for each instance. Labels are text, never HTML.
import { colourOf, css } from "./palette.js";

function element(name, { className = "", text = "" } = {}, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function toggle(on, text, about, change) {
  const box = element("input");
  Object.assign(box, { type: "checkbox", checked: on });
  box.setAttribute("aria-label", about);
  box.addEventListener("change", () => change(box.checked));
  return [box, element("span", { className: "name", text })];
}

/**
 * Fill `list` with `selected` instances.
 * @param hooks {change(instances, on), pick(instance), hover(instance or null)}
 */
export function fill(list, selected, picked, hooks) {
  const focused = place(list, document.activeElement);
  const classes = Map.groupBy(selected, (one) => one.class_id);
  const rows = [...classes.keys()].sort((a, b) => a - b).map((id) => {
    const members = classes.get(id);
    const { label } = members[0];
    const [box, name] = toggle(members.some((one) => one.on), label, `all ${label}`, (on) => hooks.change(members, on));
    box.indeterminate = members.some((one) => one.on) && members.some((one) => !one.on);
    const swatch = element("span", { className: "swatch" });
    swatch.style.setProperty("--c", css(colourOf(id)));
    const count = element("span", { className: "score", text: `${members.length}` });
    if (members.length === 1) return lone(members[0], swatch, members[0] === picked, hooks);
    const items = members.map((one, index) => item(one, index + 1, one === picked, hooks));
    return element("li", {}, element("label", {}, box, swatch, name, count), element("ul", {}, ...items));
  });
  list.replaceChildren(...rows);
  if (focused >= 0) list.querySelectorAll("input, button")[focused]?.focus();
}

/** Which of the controls in `list` has the focus; -1 for none. It stays there when the list is made anew. */
function place(list, focused) {
  return list.contains(focused) ? [...list.querySelectorAll("input, button")].indexOf(focused) : -1;
}

/** A class of one instance: one row for both. */
function lone(one, swatch, isPicked, hooks) {
  const row = item(one, "", isPicked, hooks);
  row.querySelector(".name").before(swatch);
  row.querySelector(".name").textContent = one.points.length ? `${one.label}, refined` : one.label;
  row.classList.add("lone");
  return row;
}

function item(one, number, isPicked, hooks) {
  const about = `${one.label} ${number}`.trim();
  const [box, name] = toggle(one.on, one.points.length ? `${number}, refined` : `${number}`, about, (on) => hooks.change([one], on));
  const score = element("span", { className: "score", text: one.score.toFixed(2) });
  const refine = element("button", { text: isPicked ? "Let go" : "Refine" });
  refine.type = "button";
  refine.setAttribute("aria-label", `${refine.textContent} ${about}`);
  refine.addEventListener("click", () => hooks.pick(isPicked ? null : one));
  const row = element("li", { className: isPicked ? "row-of-one lit" : "row-of-one" }, element("label", {}, box, name, score), refine);
  row.addEventListener("pointerenter", () => hooks.hover(one));
  row.addEventListener("pointerleave", () => hooks.hover(null));
  row.addEventListener("focusin", () => hooks.hover(one));
  row.addEventListener("focusout", () => hooks.hover(null));
  return row;
}

/** Sample pictures to choose from. */
export function fillSamples(list, samples, choose) {
  const rows = samples.map((sample) => {
    const image = element("img");
    Object.assign(image, { src: sample.url, alt: "", width: 640, height: 480 });
    const button = element("button", {}, image, element("span", { text: sample.words }));
    button.type = "button";
    button.addEventListener("click", () => choose(sample));
    return element("li", {}, button);
  });
  list.replaceChildren(...rows);
}
