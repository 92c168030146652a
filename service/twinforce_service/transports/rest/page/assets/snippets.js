// What the playground does, for programs: in Python, and with curl.

import { key, modelPath } from "./api.js";

const quoted = (text) => JSON.stringify(text);

const PYTHON = {
  predict: ({ model, body }) => `    prediction = client.predict(atoms, ${JSON.stringify(body.outputs)}, model=${quoted(model)})
    print(prediction.energy)${body.outputs.includes("direct_forces") ? "\n    print(prediction.direct_forces - prediction.conservative_forces)" : ""}
`,
  relax: ({ model, body }) => `    for relaxed in client.relax(atoms, force_kind=${quoted(body.force_kind)}, fmax=${body.fmax}, model=${quoted(model)}):
        print(relaxed.step, relaxed.energy, relaxed.largest_force)
    atoms.positions = relaxed.positions
`,
  run: ({ model, body, temperature }) => {
    const { force_kind: kind, inner_steps: inner, time_step_fs: fs, svr } = body.start.integrator;
    const bath = svr ? `, ensemble=SVR(temperature_k=${svr.temperature_k}, relaxation_fs=${svr.relaxation_fs})` : "";
    return `    integrator = Integrator(force_kind=${quoted(kind)}, time_step_fs=${fs}, inner_steps=${inner}${bath})
    draw_velocities(atoms, ${temperature}, np.random.default_rng(1))
    start = Start(system_of(atoms), atoms.get_velocities(), integrator, random=1)
    for snapshot in client.propagate(start, ${body.n_steps}, ${body.interval}, model=${quoted(model)}):
        print(snapshot.step, snapshot.energy)
`;
  },
};

const IMPORTS = {
  predict: () => "\nfrom twinforce import Client",
  relax: () => "\nfrom twinforce import Client",
  run: ({ body }) =>
    `import numpy as np

from twinforce import Client, Integrator, Start
from twinforce.ase import system_of${body.start.integrator.svr ? "\nfrom twinforce.ensembles import SVR" : ""}
from twinforce.md import draw_velocities`,
};

const CALLS = { predict: "predict", relax: "relax", run: "propagate" };

// Return the address of the service, without the name of the page.
const address = () => new URL(".", location.href).href.replace(/\/$/, "");

export function python(action, call) {
  const note = key() ? "# The key is in the variable TWINFORCE_KEY.\n" : "";
  return `${note}import ase.io
${IMPORTS[action](call)}

atoms = ase.io.read("system.xyz")  # "Download system" saves it
with Client(${quoted(address())}) as client:
${PYTHON[action](call)}`;
}

export function curl(action, { model, body }) {
  const header = key() ? ` \\\n  -H "Authorization: Bearer $TWINFORCE_KEY"` : "";
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -N ${address()}/${modelPath(model, CALLS[action])}${header} \\
  -H 'Content-Type: application/json' -d '${text}'`;
}
