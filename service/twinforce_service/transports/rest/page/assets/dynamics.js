// Velocities to begin a run with.

import { MASSES, SYMBOLS } from "./elements.js";

const BOLTZMANN_EV_PER_K = 8.617333262e-5;
// 1 eV/amu in Å²/fs².
const EV_PER_AMU = 9.648533212e-3;

function normal() {
  const u = 1 - Math.random();
  return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * Math.random());
}

// Return velocities in Å/fs from the distribution of Maxwell and Boltzmann, without net momentum.
export function velocities(symbols, temperature) {
  const masses = symbols.map((symbol) => MASSES[SYMBOLS.indexOf(symbol)]);
  const drawn = masses.map((mass) => {
    const width = Math.sqrt((BOLTZMANN_EV_PER_K * temperature * EV_PER_AMU) / mass);
    return [width * normal(), width * normal(), width * normal()];
  });
  const total = masses.reduce((sum, mass) => sum + mass, 0);
  const drift = [0, 1, 2].map((i) => drawn.reduce((sum, row, k) => sum + masses[k] * row[i], 0) / total);
  return drawn.map((row) => row.map((x, i) => x - drift[i]));
}
