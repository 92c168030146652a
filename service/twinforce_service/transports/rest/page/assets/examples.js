// Systems to begin with. A model is offered those whose elements it knows.

import { SYMBOLS } from "./elements.js";
import { parseXyz } from "./structures.js";

function crystal(symbol, length, sites, n) {
  const positions = [];
  for (let i = 0; i < n; i += 1) {
    for (let j = 0; j < n; j += 1) {
      for (let k = 0; k < n; k += 1) {
        positions.push(...sites.map(([x, y, z]) => [(i + x) * length, (j + y) * length, (k + z) * length]));
      }
    }
  }
  // A small displacement, so that there are forces.
  positions[0] = positions[0].map((x) => x + 0.1);
  const size = n * length;
  return {
    symbols: positions.map(() => symbol),
    positions,
    cell: [[size, 0, 0], [0, size, 0], [0, 0, size]],
    pbc: [true, true, true],
  };
}

const FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]];
const BCC = [[0, 0, 0], [0.5, 0.5, 0.5]];
const DIAMOND = [...FCC, ...FCC.map((site) => site.map((x) => x + 0.25))];

const molecule = (text) => () => {
  const rows = text.trim().split("\n").map((line) => line.trim().split(/\s+/));
  return { symbols: rows.map((row) => row[0]), positions: rows.map((row) => row.slice(1).map(Number)) };
};

const ALL = [
  ["water", "Water, 64 molecules in a periodic box", ["H", "O"], async () => {
    const reply = await fetch("page/water64.xyz");
    return parseXyz(await reply.text());
  }],
  ["molecule", "A water molecule", ["H", "O"], molecule("O 0 0 0.119\nH 0 0.783 -0.487\nH 0 -0.743 -0.467")],
  ["methane", "Methane", ["C", "H"], molecule("C 0 0 0\nH 0.65 0.63 0.63\nH -0.63 -0.63 0.63\nH -0.63 0.63 -0.63\nH 0.63 -0.63 -0.63")],
  ["copper", "Copper, 32 atoms", ["Cu"], () => crystal("Cu", 3.61, FCC, 2)],
  ["aluminum", "Aluminum, 32 atoms", ["Al"], () => crystal("Al", 4.05, FCC, 2)],
  ["lithium", "Lithium, 54 atoms", ["Li"], () => crystal("Li", 3.44, BCC, 3)],
  ["silicon", "Silicon, 64 atoms", ["Si"], () => crystal("Si", 5.43, DIAMOND, 2)],
  ["argon", "Argon, a cluster of 13 atoms", ["Ar"], () => {
    const golden = (1 + Math.sqrt(5)) / 2;
    const corners = [];
    for (const a of [1, -1]) {
      for (const b of [golden, -golden]) {
        corners.push([0, a, b], [a, b, 0], [b, 0, a]);
      }
    }
    const positions = [[0.1, 0, 0], ...corners.map((row) => row.map((x) => 1.95 * x))];
    return { symbols: positions.map(() => "Ar"), positions };
  }],
];

// Return the examples for a model: [name, title, function that returns the system].
export function examplesFor(model) {
  const known = new Set(model.elements.map((each) => SYMBOLS[each]));
  const found = ALL.filter(([, , elements]) => elements.every((each) => known.has(each)));
  const shown = found.map(([name, title, , make]) => [name, title, make]);
  const symbol = SYMBOLS[model.elements.find((each) => each > 0 && each < SYMBOLS.length)];
  if (!shown.length && symbol) {
    shown.push(["crystal", `${symbol}, 32 atoms`, () => crystal(symbol, 4.2, FCC, 2)]);
  }
  return shown;
}
