// The description of the API, shown by Swagger UI. A service with keys tells it with a key only.

import { getJson, key } from "./api.js";
import { find } from "./dom.js";
import { handleKeys } from "./keys.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const useColors = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", useColors);
useColors();

handleKeys();
try {
  const spec = await getJson("openapi.json");
  spec.servers = [{ url: new URL(".", location.href).href.replace(/\/$/, "") }];
  window.SwaggerUIBundle({
    spec,
    dom_id: "#description",
    deepLinking: true,
    validatorUrl: null,
    // Calls that are tried out are sent with the key, which is not shown.
    showMutatedRequest: false,
    requestInterceptor: (request) => {
      if (key()) {
        request.headers.Authorization ??= `Bearer ${key()}`;
      }
      return request;
    },
  });
  find("state").textContent = "";
} catch (error) {
  find("state").textContent = error.message;
  find("state").classList.add("away");
}
