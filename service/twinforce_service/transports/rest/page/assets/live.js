// The live state of the service: what each second has brought.

import { events } from "./api.js";
import { element, fill, find, number, row } from "./dom.js";
import { plotBars, plotLine } from "./plot.js";

const LONGEST_HISTORY = 120; // seconds
const PAUSE_MS = 2000;

const FIGURES = [
  ["rate", "Evaluations/s"],
  ["waiting", "Systems in the queue"],
  ["fill", "Systems per batch"],
  ["busy", "Device busy, %"],
  ["runs", "Runs under way"],
];

const sum = (values) => values.reduce((total, each) => total + each, 0);
const ratio = (a, b) => (b > 0 ? a / b : 0);

// Return what happened between two states of the service.
function between(before, after) {
  const seconds = after.time_s - before.time_s;
  const changes = (group, name) =>
    Object.fromEntries(
      Object.entries(after[group]).map(([key, value]) => [key, (value[name] ?? 0) - (before[group][key]?.[name] ?? 0)]),
    );
  const evaluations = changes("models", "n_evaluations");
  const batches = changes("models", "n_batches");
  const busy = changes("models", "device_s");
  const byCaller = changes("callers", "device_s");
  const share = (value) => 100 * ratio(value, seconds);
  return {
    rate: ratio(sum(Object.values(evaluations)), seconds),
    fill: ratio(sum(Object.values(evaluations)), sum(Object.values(batches))),
    busy: share(sum(Object.values(busy))),
    waiting: after.n_waiting,
    runs: after.n_runs,
    model: (name) => ({
      rate: ratio(evaluations[name], seconds),
      fill: ratio(evaluations[name], batches[name]),
      busy: share(busy[name]),
    }),
    caller: (name) => share(byCaller[name]),
  };
}

// Return the counts of a histogram from its cumulative counts.
const counts = (buckets) => buckets.map(([, count], i) => count - (i ? buckets[i - 1][1] : 0));

class Live {
  constructor() {
    this.before = null;
    this.history = Object.fromEntries(FIGURES.map(([name]) => [name, []]));
    fill(
      find("figures"),
      ...FIGURES.map(([name, title]) =>
        element("div", {}, element("dt", {}, title), element("dd", { id: `live-${name}` }, "–"),
          element("canvas", { id: `line-${name}`, "aria-hidden": "true" })),
      ),
    );
  }

  show(state) {
    const change = between(this.before ?? state, state);
    this.before = state;
    for (const [name] of FIGURES) {
      const past = this.history[name];
      past.push(change[name]);
      past.splice(0, past.length - LONGEST_HISTORY);
      find(`live-${name}`).textContent = number(change[name]);
      plotLine(find(`line-${name}`), past.map((_, i) => i), past, { axes: false });
    }
    const models = Object.entries(state.models).map(([name, { is_available: isThere }]) => {
      const { rate, fill: perBatch, busy } = change.model(name);
      return row(name, isThere ? "ready" : "away", number(rate), number(perBatch), `${number(busy)} %`);
    });
    fill(find("live-models"), ...models);
    const callers = Object.entries(state.callers).sort(([, a], [, b]) => b.device_s - a.device_s);
    fill(
      find("live-callers"),
      ...callers.map(([name, used]) =>
        row(name, String(used.n_evaluations ?? 0), number(used.device_s ?? 0), `${number(change.caller(name))} %`),
      ),
    );
    this.#showDisagreement(Object.values(state.models).map((each) => each.disagreement));
  }

  #showDisagreement(histograms) {
    const found = histograms.filter((each) => each.length);
    const figure = find("disagreement");
    figure.hidden = !found.length;
    if (found.length) {
      const totals = found.map(counts).reduce((a, b) => a.map((each, i) => each + b[i]));
      plotBars(figure.querySelector("canvas"), found[0].map(([edge]) => edge.replace("+Inf", "more")), totals);
    }
  }
}

function tell(isReady, text) {
  find("state").textContent = isReady ? "ready" : text;
  find("state").classList.toggle("away", !isReady);
  find("live-state").textContent = isReady ? "connected" : text;
}

// Follow the state of the service for good. `onReady` is called whenever the service is ready again.
export async function follow(onReady) {
  const live = new Live();
  let wasReady = true;
  for (;;) {
    try {
      for await (const state of events("v1/events")) {
        if (!state.models) {
          break; // the service stops
        }
        live.show(state);
        tell(state.is_ready, "the service is not ready: its engine starts or is replaced");
        if (state.is_ready && !wasReady) {
          onReady();
        }
        wasReady = state.is_ready;
      }
      tell(false, "the service has stopped; waiting for it");
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        // To ask again and again would open the dialog that was closed.
        const hint = error.status === 401 ? " Reload the page to give a key." : "";
        find("live-state").textContent = `${error.message}${hint}`;
        find("state").textContent = "";
        return;
      }
      tell(false, error.message);
    }
    wasReady = false;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
