// The page of the service.

import { getJson } from "./api.js";
import { find } from "./dom.js";
import { handleKeys } from "./keys.js";
import { follow } from "./live.js";
import { showModels } from "./models.js";
import { Playground } from "./playground.js";

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

handleKeys();
await loadModels();
follow(loadModels);
