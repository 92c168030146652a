// Systems as files: extended XYZ, and CIF with its symmetry.
//
// A system has symbols, positions (in Å), and a cell (lattice vectors as rows) with pbc, or neither.

import { SYMBOLS } from "./elements.js";

export const multiply = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((sum, x, k) => sum + x * b[k][j], 0)));

export function inverse(m) {
  const [a, b, c] = m;
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  const volume = a[0] * columns[0][0] + a[1] * columns[0][1] + a[2] * columns[0][2];
  return [0, 1, 2].map((i) => columns.map((column) => column[i] / volume));
}

// Return the system with atoms moved into its cell, for display.
export function wrapped(system) {
  if (!system.cell) {
    return system;
  }
  const fractions = multiply(system.positions, inverse(system.cell));
  const inside = fractions.map((row) => row.map((x, i) => (system.pbc[i] ? x - Math.floor(x) : x)));
  return { ...system, positions: multiply(inside, system.cell) };
}

export function parse(name, text) {
  const system = /\.cif$/i.test(name) ? parseCif(text) : parseXyz(text);
  for (const symbol of system.symbols) {
    if (SYMBOLS.indexOf(symbol) < 1) {
      throw new Error(`${name}: expected the symbol of an element, got "${symbol}"`);
    }
  }
  if (!system.symbols.length || !system.positions.flat().every(Number.isFinite)) {
    throw new Error(`${name}: expected atoms with three coordinates each`);
  }
  return system;
}

export function parseXyz(text) {
  const lines = text.split(/\r?\n/);
  const n = Number(lines[0]);
  if (!Number.isInteger(n) || n < 1 || lines.length < n + 2) {
    throw new Error("XYZ: expected the number of atoms, a comment, and a line for each atom");
  }
  const members = {};
  for (const [, name, quoted, plain] of lines[1].matchAll(/(\w+)=(?:"([^"]*)"|(\S+))/g)) {
    members[name.toLowerCase()] = quoted ?? plain;
  }
  let [symbolAt, positionAt, column] = [0, 1, 0];
  const fields = (members.properties ?? "").split(":");
  for (let i = 0; i + 2 < fields.length; i += 3) {
    if (fields[i] === "species") {
      symbolAt = column;
    } else if (fields[i] === "pos") {
      positionAt = column;
    }
    column += Number(fields[i + 2]);
  }
  const rows = lines.slice(2, n + 2).map((line) => line.trim().split(/\s+/));
  const system = {
    symbols: rows.map((row) => row[symbolAt]),
    positions: rows.map((row) => row.slice(positionAt, positionAt + 3).map(Number)),
  };
  if (members.lattice) {
    const values = members.lattice.trim().split(/\s+/).map(Number);
    system.cell = [values.slice(0, 3), values.slice(3, 6), values.slice(6, 9)];
    const flags = (members.pbc ?? "T T T").trim().split(/[\s,]+/);
    system.pbc = flags.map((flag) => /^(t|true|1)$/i.test(flag));
  }
  return system;
}

function words(line) {
  return [...line.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map((found) => found[1] ?? found[2] ?? found[3]);
}

// Return the values and the loops of the first block of a CIF. Texts between lines that begin with a
// semicolon are single values, whatever is in them.
function readCif(text) {
  const values = {};
  const loops = [];
  let loop = null;
  let name = "";
  let isInBlock = false;
  let field = null;
  const add = (...found) => {
    if (loop) {
      loop.cells.push(...found);
    } else if (name && found.length) {
      [values[name]] = found;
    }
  };
  for (const raw of text.split(/\r?\n/)) {
    if (field !== null || raw.startsWith(";")) {
      if (field === null) {
        field = [raw.slice(1)];
      } else if (raw.startsWith(";")) {
        add(field.join("\n").trim());
        field = null;
      } else {
        field.push(raw);
      }
      continue;
    }
    const line = raw.replace(/^#.*|\s#.*/, "").trim();
    if (/^loop_$/i.test(line)) {
      loop = { names: [], cells: [] };
      loops.push(loop);
    } else if (line.startsWith("_") && loop && !loop.cells.length) {
      loop.names.push(line.toLowerCase());
    } else if (line.startsWith("_")) {
      loop = null;
      const [tag, ...found] = words(line);
      name = tag.toLowerCase();
      add(...found);
    } else if (/^data_/i.test(line)) {
      if (isInBlock) {
        break;
      }
      isInBlock = true;
      loop = null;
      name = "";
    } else if (line) {
      add(...words(line));
    }
  }
  return { values, loops };
}

function rowsOf(loops, name) {
  const loop = loops.find((each) => each.names.includes(name));
  if (!loop) {
    return [];
  }
  const rows = [];
  for (let i = 0; i + loop.names.length <= loop.cells.length; i += loop.names.length) {
    rows.push(Object.fromEntries(loop.names.map((each, j) => [each, loop.cells[i + j]])));
  }
  return rows;
}

const plain = (text) => Number(String(text).replace(/\(.*\)/, ""));

// Return the function of an operation such as "-x+1/2, y, z".
function operation(text) {
  const rows = text.toLowerCase().replace(/\s/g, "").split(",").map((part) => {
    const row = [0, 0, 0, 0];
    const terms = [...part.matchAll(/([+-]?)(?:(\d*\.?\d+)(?:\/(\d+))?)?\*?([xyz]?)/g)];
    if (!part || terms.map(([term]) => term).join("") !== part) {
      throw new Error(`CIF: expected a symmetry operation such as -x+1/2,y,z, got ${text}`);
    }
    for (const [, sign, over, by, axis] of terms) {
      if (over === undefined && !axis) {
        continue;
      }
      const size = (sign === "-" ? -1 : 1) * (over === undefined ? 1 : Number(over) / Number(by ?? 1));
      row[axis ? "xyz".indexOf(axis) : 3] += size;
    }
    return row;
  });
  if (rows.length !== 3) {
    throw new Error(`CIF: expected a symmetry operation such as -x+1/2,y,z, got ${text}`);
  }
  return (x) => rows.map((row) => row[0] * x[0] + row[1] * x[1] + row[2] * x[2] + row[3]);
}

// Return the name or the number of the space group, if there is one and it is not that without symmetry.
function groupWithSymmetry(values) {
  const without = { "_symmetry_int_tables_number": "1", "_space_group_it_number": "1" };
  for (const name of ["_symmetry_space_group_name_h-m", "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_hall", "_space_group_name_hall"]) {
    without[name] = "P1";
  }
  const found = Object.entries(without).find(([name, plainGroup]) => {
    const value = (values[name] ?? "?").replace(/\s/g, "").toUpperCase();
    return ![plainGroup, "?", "."].includes(value);
  });
  return found && values[found[0]];
}

export function parseCif(text) {
  const { values, loops } = readCif(text);
  const [a, b, c] = ["a", "b", "c"].map((each) => plain(values[`_cell_length_${each}`]));
  const [alpha, beta, gamma] = ["alpha", "beta", "gamma"].map(
    (each) => (plain(values[`_cell_angle_${each}`] ?? 90) * Math.PI) / 180,
  );
  const sites = rowsOf(loops, "_atom_site_fract_x");
  if (![a, b, c].every((each) => each > 0) || !sites.length) {
    throw new Error("CIF: expected the lengths of a cell and atoms with fractional coordinates");
  }
  const symmetry = [
    ...rowsOf(loops, "_symmetry_equiv_pos_as_xyz").map((row) => row["_symmetry_equiv_pos_as_xyz"]),
    ...rowsOf(loops, "_space_group_symop_operation_xyz").map((row) => row["_space_group_symop_operation_xyz"]),
  ];
  const group = groupWithSymmetry(values);
  if (!symmetry.length && group) {
    throw new Error(`CIF: expected the symmetry operations of the space group ${group}`);
  }
  const cx = c * Math.cos(beta);
  const cy = (c * (Math.cos(alpha) - Math.cos(beta) * Math.cos(gamma))) / Math.sin(gamma);
  const cell = [
    [a, 0, 0],
    [b * Math.cos(gamma), b * Math.sin(gamma), 0],
    [cx, cy, Math.sqrt(c * c - cx * cx - cy * cy)],
  ];
  const system = { symbols: [], positions: [], cell, pbc: [true, true, true] };
  const operations = (symmetry.length ? symmetry : ["x,y,z"]).map(operation);
  for (const site of sites) {
    if (plain(site["_atom_site_occupancy"] ?? 1) !== 1) {
      throw new Error("CIF: expected sites that are fully occupied");
    }
    const [symbol] = (site["_atom_site_type_symbol"] ?? site["_atom_site_label"]).match(/^[A-Z][a-z]?/i) ?? ["?"];
    const name = symbol[0].toUpperCase() + symbol.slice(1).toLowerCase();
    const x = ["x", "y", "z"].map((each) => plain(site[`_atom_site_fract_${each}`]));
    const images = [];
    for (const apply of operations) {
      const image = apply(x).map((each) => each - Math.floor(each + 1e-6));
      const isNew = images.every((other) => other.some((y, i) => Math.abs(y - image[i] - Math.round(y - image[i])) > 1e-3));
      if (isNew) {
        images.push(image);
      }
    }
    system.symbols.push(...images.map(() => name));
    system.positions.push(...multiply(images, cell));
  }
  return system;
}

// Return a system in extended XYZ, with values in the comment and columns of three numbers.
export function toXyz(system, info = {}, columns = {}) {
  const names = Object.keys(columns);
  const comment = [];
  if (system.cell) {
    comment.push(`Lattice="${system.cell.flat().join(" ")}"`);
  }
  comment.push(`Properties=species:S:1:pos:R:3${names.map((name) => `:${name}:R:3`).join("")}`);
  comment.push(...Object.entries(info).map(([name, value]) => `${name}=${value}`));
  comment.push(`pbc="${(system.pbc ?? [false, false, false]).map((each) => (each ? "T" : "F")).join(" ")}"`);
  const atoms = system.symbols.map((symbol, i) =>
    [symbol, ...system.positions[i], ...names.flatMap((name) => columns[name][i])].join(" "),
  );
  return [system.symbols.length, comment.join(" "), ...atoms, ""].join("\n");
}

// Return a system as the API takes it.
export function body(system) {
  const found = {
    atomic_numbers: system.symbols.map((symbol) => SYMBOLS.indexOf(symbol)),
    positions: system.positions,
  };
  return system.cell ? { ...found, cell: system.cell, pbc: system.pbc } : found;
}
