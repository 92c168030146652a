// The system in three dimensions, with forces as arrows.

import { color, element, fill } from "./dom.js";
import { wrapped } from "./structures.js";

const LONGEST = 3; // Å, of the longest arrow
// Å, beside the atom, so that arrows of about the same force are both seen.
const BESIDE = { conservative: -0.12, direct: 0.12, difference: 0 };
const TURN = 15; // degrees
const KEYS = {
  ArrowLeft: (scene) => scene.rotate(-TURN, "y"),
  ArrowRight: (scene) => scene.rotate(TURN, "y"),
  ArrowUp: (scene) => scene.rotate(-TURN, "x"),
  ArrowDown: (scene) => scene.rotate(TURN, "x"),
  "+": (scene) => scene.zoom(1.2),
  "-": (scene) => scene.zoom(1 / 1.2),
};

function corners(cell) {
  const [a, b, c] = cell;
  const at = (i, j, k) => [0, 1, 2].map((x) => i * a[x] + j * b[x] + k * c[x]);
  const edges = [];
  for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    edges.push([at(0, i, j), at(1, i, j)], [at(i, 0, j), at(i, 1, j)], [at(i, j, 0), at(i, j, 1)]);
  }
  return edges;
}

const point = ([x, y, z]) => ({ x, y, z });

export class Viewer {
  constructor(place) {
    this.place = place;
    try {
      this.scene = window.$3Dmol.createViewer(place, { backgroundAlpha: 0 });
    } catch {
      this.scene = null;
    }
    if (!this.scene) {
      fill(place, element("p", {}, "This browser cannot draw in three dimensions (WebGL)."));
      return;
    }
    place.addEventListener("keydown", (event) => {
      if (KEYS[event.key]) {
        KEYS[event.key](this.scene);
        event.preventDefault();
      }
    });
  }

  // Show a system, and forces: a list of {name, forces}. The view stays if it is the same system that moved.
  show(system, arrows, { scale = 1, keepView = false } = {}) {
    this.place.dataset.atoms = system.symbols.length;
    if (!this.scene) {
      return;
    }
    const scene = this.scene;
    const shown = wrapped(system);
    scene.removeAllModels();
    scene.removeAllShapes();
    const rows = shown.symbols.map((symbol, i) => [symbol, ...shown.positions[i]].join(" "));
    scene.addModel([rows.length, "", ...rows].join("\n"), "xyz");
    scene.setStyle({}, { sphere: { scale: 0.22 }, stick: { radius: 0.09 } });
    for (const [start, end] of system.cell ? corners(system.cell) : []) {
      scene.addLine({ start: point(start), end: point(end), color: color("faint") });
    }
    const n = this.#addArrows(shown, arrows, scale);
    this.place.dataset.arrows = n;
    if (!keepView) {
      scene.zoomTo();
    }
    scene.render();
  }

  #addArrows(system, arrows, scale) {
    const longest = Math.max(...arrows.flatMap(({ forces }) => forces.map((f) => Math.hypot(...f))), 0);
    let n = 0;
    for (const { name, forces } of longest > 0 ? arrows : []) {
      forces.forEach((force, i) => {
        const factor = (scale * LONGEST) / longest;
        if (Math.hypot(...force) * factor < 0.05) {
          return;
        }
        const start = system.positions[i].map((x) => x + BESIDE[name]);
        const end = start.map((x, k) => x + factor * force[k]);
        this.scene.addArrow({ start: point(start), end: point(end), radius: 0.07, mid: 0.8, color: color(name) });
        n += 1;
      });
    }
    return n;
  }

  resize() {
    this.scene?.resize();
  }
}
