// The page of the service.

import { getJson, key, onKeyNeeded, setKey } from "./api.js";
import { find } from "./dom.js";
import { follow } from "./live.js";
import { showModels } from "./models.js";
import { Playground } from "./playground.js";

let asked = null;

// Ask the user for a key, once for all calls that wait for it.
function ask(reason) {
  asked ??= new Promise((resolve) => {
    const dialog = find("ask");
    find("ask-why").textContent = reason || "This service asks for a key.";
    find("key").value = "";
    dialog.addEventListener(
      "close",
      () => {
        const text = find("key").value.trim();
        find("key").value = "";
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

const playground = new Playground();

async function loadModels() {
  try {
    const { models } = await getJson("v1/models");
    showModels(models);
    playground.setModels(models);
  } catch (error) {
    find("state").textContent = error.message;
    find("state").classList.add("away");
  }
}

onKeyNeeded(ask);
find("forget").hidden = !key();
find("forget").addEventListener("click", () => {
  setKey(null);
  location.reload();
});
await loadModels();
follow(loadModels);
