// The playground: a system, what a model says of it, and how it moves.

import { getJson, lines, modelPath } from "./api.js";
import { fill, find, number, options, row, save } from "./dom.js";
import { velocities } from "./dynamics.js";
import { examplesFor } from "./examples.js";
import { plotLine } from "./plot.js";
import { curl, python } from "./snippets.js";
import { body, parse, toXyz } from "./structures.js";
import { Viewer } from "./viewer.js";

const N_STEPS = 200;
const INNER_STEPS = 4;
const TIME_STEP_FS = 0.5;
const FMAX = 0.05;
const LARGEST_FILE = 4 * 2 ** 20;
const ARROWS = ["conservative", "direct", "difference"];

const norm = (vector) => Math.hypot(...vector);
const rmse = (rows) => Math.sqrt(rows.flat().reduce((sum, x) => sum + x * x, 0) / rows.flat().length);

export class Playground {
  constructor() {
    this.models = [];
    this.system = null;
    this.prediction = null;
    this.result = "";
    this.work = null;
    this.viewer = new Viewer(find("viewer"));
    this.#listen();
  }

  get model() {
    return this.models.find((each) => each.name === find("model").value);
  }

  setModels(models) {
    const isFirst = !this.models.length;
    this.models = models;
    options(find("model"), models.map(({ name }) => [name, name]));
    if (isFirst && models.length) {
      this.#chooseModel();
    }
  }

  #listen() {
    const on = (id, type, work) => find(id).addEventListener(type, work);
    on("model", "change", () => this.#chooseModel());
    on("example", "change", () => this.#chooseExample());
    on("file", "change", () => this.#openFile(find("file").files[0]));
    on("predict", "click", () => this.#attempt((signal) => this.#predict(signal)));
    on("relax", "click", () => this.#attempt((signal) => this.#relax(signal)));
    on("run", "click", () => this.#attempt((signal) => this.#run(signal)));
    on("stop", "click", () => this.work?.abort());
    on("arrows", "input", () => this.#draw(true));
    on("download", "click", () => save(`${this.resultName}.xyz`, this.result));
    on("download-start", "click", () => save("system.xyz", toXyz(this.system)));
    for (const id of ["action", "forces", "temperature", "thermostat"]) {
      on(id, "change", () => this.#showEquivalent());
    }
    on("equivalent", "toggle", () => this.#showEquivalent());
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", () => copy(button.dataset.copy));
    }
    this.#listenToDrops(find("drop"));
    window.addEventListener("resize", () => this.viewer.resize());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw(true));
  }

  #listenToDrops(place) {
    place.addEventListener("dragover", (event) => {
      event.preventDefault();
      place.classList.add("over");
    });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      this.#openFile(event.dataTransfer.files[0]);
    });
  }

  async #chooseModel() {
    const { outputs } = this.model;
    const kinds = ["conservative", "direct"].filter((each) => outputs.includes(`${each}_forces`));
    const hybrid = [["hybrid", `hybrid, conservative forces every ${INNER_STEPS} steps`]];
    options(find("forces"), [...(kinds.length > 1 ? hybrid : []), ...kinds.map((each) => [each, each])]);
    this.examples = examplesFor(this.model);
    options(find("example"), this.examples.map(([name, title]) => [name, title]));
    await this.#chooseExample();
  }

  async #chooseExample() {
    const example = this.examples.find(([name]) => name === find("example").value);
    if (example) {
      await this.#choose(Promise.resolve(example[2]()), example[1]);
    }
  }

  // Show a system once it has arrived, unless another one was chosen meanwhile.
  async #choose(arriving, title) {
    this.arriving = arriving;
    const system = await arriving;
    if (this.arriving === arriving) {
      this.#setSystem(system, title);
    }
  }

  async #openFile(file) {
    if (!file) {
      return;
    }
    try {
      if (file.size > LARGEST_FILE) {
        throw new Error(`${file.name}: expected at most ${LARGEST_FILE / 2 ** 20} MiB`);
      }
      await this.#choose(file.text().then((text) => parse(file.name, text)), file.name);
    } catch (error) {
      this.#tell(error.message);
    }
  }

  #setSystem(system, title) {
    this.work?.abort();
    this.system = system;
    this.prediction = null;
    this.result = "";
    const box = system.cell ? "in a cell" : "without a cell";
    find("system").textContent = `${title}: ${system.symbols.length} atoms, ${box}`;
    find("values").hidden = true;
    find("plots").hidden = true;
    this.#tell("");
    this.#enable(true);
    this.#draw(false);
    this.#showEquivalent();
  }

  #enable(isFree) {
    for (const id of ["predict", "relax", "run", "download-start"]) {
      find(id).disabled = !isFree || !this.system;
    }
    find("download").disabled = !isFree || !this.result;
    find("stop").hidden = isFree;
  }

  #tell(problem) {
    find("problem").hidden = !problem;
    find("problem").textContent = problem;
  }

  // Do something that takes time; what is under way is stopped first, and errors are shown.
  async #attempt(action) {
    this.work?.abort();
    const work = new AbortController();
    this.work = work;
    this.#tell("");
    this.#enable(false);
    try {
      await action(work.signal);
    } catch (error) {
      if (error.name !== "AbortError") {
        this.#tell(error.message);
      }
    }
    if (this.work === work) {
      this.#enable(true);
    }
  }

  // Return the call of an action: the model, and the body of the request.
  #call(action) {
    const system = body(this.system);
    const outputs = ["energy", "conservative_forces", "direct_forces"].filter((each) => this.model.outputs.includes(each));
    const forces = find("forces").value;
    const model = this.model.name;
    if (action === "predict") {
      return { model, body: { systems: [system], outputs } };
    }
    if (action === "relax") {
      return { model, body: { system, force_kind: forces, fmax: FMAX, max_steps: 500, interval: 2 } };
    }
    const temperature = Number(find("temperature").value) || 0;
    const inner = forces === "hybrid" ? INNER_STEPS : 1;
    const integrator = { force_kind: forces, inner_steps: inner, time_step_fs: TIME_STEP_FS };
    if (find("thermostat").checked) {
      integrator.svr = { temperature_k: temperature, relaxation_fs: 100 };
    }
    const seed = Math.floor(Math.random() * 2 ** 32);
    const start = { system, velocities: velocities(this.system.symbols, temperature), integrator, seed };
    return { model, temperature, body: { start, n_steps: N_STEPS, interval: INNER_STEPS } };
  }

  async #predict(signal) {
    const call = this.#call("predict");
    const reply = await getJson(modelPath(call.model, "predict"), { body: call.body, signal });
    [this.prediction] = reply.predictions;
    this.#showValues(reply);
    this.#draw(true);
    const columns = {};
    for (const name of ["conservative_forces", "direct_forces"]) {
      if (this.prediction[name]) {
        columns[name] = this.prediction[name];
      }
    }
    this.#keep("prediction", toXyz(this.system, { energy: this.prediction.energy, model: call.model }, columns));
  }

  #showValues({ timings }) {
    const { energy, conservative_forces: conservative, direct_forces: direct } = this.prediction;
    const rows = [row("energy", `${number(energy, 9)} eV`)];
    for (const [name, forces] of [["conservative", conservative], ["direct", direct]]) {
      if (forces) {
        rows.push(row(`largest ${name} force`, `${number(Math.max(...forces.map(norm)))} eV/Å`));
      }
    }
    if (conservative && direct) {
      rows.push(row("difference, RMSE", `${number(rmse(difference(this.prediction)))} eV/Å`));
    }
    rows.push(row("time on the device", `${number(1000 * timings.compute_s)} ms`));
    fill(find("values").tBodies[0], ...rows);
    find("values").hidden = false;
  }

  async #relax(signal) {
    const call = this.#call("relax");
    await this.#follow(call, "relax", signal, "Largest force, eV/Å", (line) => line.largest_force);
  }

  async #run(signal) {
    const call = this.#call("run");
    await this.#follow(call, "propagate", signal, "Temperature, K", (line) => line.temperature_k);
  }

  // Show the updates of a run as they come, and predict for where it ends.
  async #follow(call, path, signal, title, second) {
    const steps = [];
    const energies = [];
    const seconds = [];
    const frames = [];
    find("plots").hidden = false;
    find("values").hidden = true;
    this.prediction = null;
    try {
      for await (const line of lines(modelPath(call.model, path), { body: call.body, signal })) {
        this.system = { ...this.system, positions: line.positions };
        steps.push(line.step);
        energies.push(line.conserved_energy ?? line.energy);
        seconds.push(second(line));
        frames.push(toXyz(this.system, { step: line.step, energy: line.energy }));
        const label = line.conserved_energy === undefined ? "Energy, eV" : "Conserved energy, eV";
        plotLine(find("energy"), steps, energies, { title: label, stroke: "conservative" });
        plotLine(find("kinetic"), steps, seconds, { title, stroke: "direct" });
        this.#draw(true);
      }
    } finally {
      this.#keep(path === "relax" ? "relaxation" : "trajectory", frames.join(""));
    }
    const trajectory = this.result;
    await this.#predict(signal);
    this.#keep(path === "relax" ? "relaxation" : "trajectory", trajectory);
  }

  #keep(name, text) {
    this.resultName = name;
    this.result = text;
    find("download").disabled = !text;
  }

  #draw(keepView) {
    if (!this.system) {
      return;
    }
    const chosen = [...find("arrows").querySelectorAll("input:checked")].map((each) => each.value);
    const arrows = this.prediction ? ARROWS.filter((each) => chosen.includes(each)) : [];
    const shown = arrows.map((name) => ({ name, forces: forcesOf(this.prediction, name) }));
    const scale = 2 ** Number(find("scale").value);
    this.viewer.show(this.system, shown.filter(({ forces }) => forces), { scale, keepView });
  }

  #showEquivalent() {
    if (this.system && this.model && find("equivalent").open) {
      const action = find("action").value;
      const call = this.#call(action);
      find("python").textContent = python(action, call);
      find("curl").textContent = curl(action, call);
    }
  }
}

function difference({ conservative_forces: conservative, direct_forces: direct }) {
  return direct.map((row, i) => row.map((x, k) => x - conservative[i][k]));
}

function forcesOf(prediction, name) {
  if (name !== "difference") {
    return prediction[`${name}_forces`];
  }
  return prediction.direct_forces && prediction.conservative_forces ? difference(prediction) : undefined;
}

async function copy(id) {
  const text = find(id);
  try {
    await navigator.clipboard.writeText(text.textContent);
    find("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(text);
    find("copied").textContent = "selected: press Ctrl+C";
  }
}

