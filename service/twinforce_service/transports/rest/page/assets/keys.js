// The key of the user: asked for once, for all calls that wait for it, and forgotten on request.

import { key, onKeyNeeded, setKey } from "./api.js";
import { element, find } from "./dom.js";

const why = element("p", { id: "ask-why" });
const input = element("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: "" });
const dialog = element(
  "dialog",
  { id: "ask", "aria-labelledby": "ask-title" },
  element(
    "form",
    { method: "dialog" },
    element("h2", { id: "ask-title" }, "Key"),
    why,
    element("p", {}, element("label", { for: "key" }, "Key"), " ", input),
    element("p", { class: "note" }, "It is kept in this tab until it is closed, and sent to this service only."),
    element("div", { class: "buttons" }, element("button", { type: "submit", id: "ask-ok" }, "Use key")),
  ),
);

let asked = null;

function ask(reason) {
  asked ??= new Promise((resolve) => {
    why.textContent = reason || "This service asks for a key.";
    input.value = "";
    dialog.addEventListener(
      "close",
      () => {
        const text = input.value.trim();
        input.value = "";
        setKey(text);
        find("forget").hidden = !text;
        asked = null;
        resolve(text || null);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asked;
}

// Ask the user for a key whenever the service wants one.
export function handleKeys() {
  document.body.append(dialog);
  onKeyNeeded(ask);
  find("forget").hidden = !key();
  find("forget").addEventListener("click", () => {
    setKey(null);
    location.reload();
  });
}
