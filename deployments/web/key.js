// The dialog that asks for the service's key.
import { key } from "./api.js";

const $ = (id) => document.getElementById(id);
let again = () => {};

/** What to do once there is another key. */
export function onKey(work) {
  again = work;
}

export function askKey({ refused = false } = {}) {
  wrong(refused ? "The service does not know this key." : "");
  $("open-key").hidden = false;
  $("forget").hidden = key.get() === "";
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
  $("key").focus();
}

function wrong(text) {
  $("key-wrong").hidden = text === "";
  $("key-wrong").textContent = text;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return wrong("A key has letters, digits and signs, and no spaces.");
  key.set(given);
  $("key").value = "";
  $("key-dialog").close();
  again();
});
$("forget").addEventListener("click", () => {
  key.forget();
  $("forget").hidden = true;
  wrong("");
  $("key").focus();
});
$("key-close").addEventListener("click", () => $("key-dialog").close());
$("open-key").addEventListener("click", () => askKey());
$("open-key").hidden = key.get() === "";
