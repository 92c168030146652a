// The models with their errors and cards.

import { element, fill, find, number, row } from "./dom.js";
import { SYMBOLS } from "./elements.js";

// Return the elements of a card in Markdown: headings, lists, tables, code and paragraphs, as texts.
function markdown(text) {
  const made = [];
  let block = null;
  const open = (name, kind) => {
    if (block?.kind !== kind) {
      block = { kind, node: element(name) };
      made.push(block.node);
    }
    return block.node;
  };
  let isCode = false;
  for (const line of text.split("\n")) {
    const heading = line.match(/^(#+) (.*)/);
    if (line.startsWith("```")) {
      isCode = !isCode;
      block = null;
    } else if (isCode) {
      open("pre", "code").append(`${line}\n`);
    } else if (!line.trim()) {
      block = null;
    } else if (heading) {
      block = null;
      made.push(element("h4", {}, inline(heading[2])));
    } else if (line.startsWith("|")) {
      const cells = line.split("|").slice(1, -1).map((each) => each.trim());
      if (!cells.every((each) => /^:?-+:?$/.test(each))) {
        open("table", "table").append(row(...cells.map(inline)));
      }
    } else if (/^(- |\d+\. )/.test(line)) {
      const isOrdered = /^\d/.test(line);
      open(isOrdered ? "ol" : "ul", isOrdered ? "ol" : "ul").append(
        element("li", {}, inline(line.replace(/^(- |\d+\. )/, ""))),
      );
    } else if (block?.kind === "ul" || block?.kind === "ol") {
      block.node.lastElementChild.append(" ", inline(line.trim()));
    } else {
      open("p", "p").append(inline(line), " ");
    }
  }
  return made;
}

const inline = (text) => text.replaceAll(/[`*]/g, "");

function errors(values, prefix = "") {
  return Object.entries(values ?? {}).flatMap(([name, value]) => {
    const title = prefix + name.replaceAll("_", " ");
    if (typeof value === "number") {
      return [row(title, number(value))];
    }
    return value && typeof value === "object" ? errors(value, `${title}: `) : [];
  });
}

function article(model) {
  const elements = model.elements.map((each) => SYMBOLS[each] ?? each);
  const facts = element("tbody");
  facts.append(
    row("version", model.version),
    row("architecture", `${model.architecture}, ${model.n_parameters} parameters`),
    row("elements", elements.length > 30 ? `${elements.length} elements` : elements.join(" ")),
    row("outputs", model.outputs.join(", ").replaceAll("_", " ")),
    row("cutoff", `${number(model.cutoff)} Å`),
    row("computes in", `${model.dtype} on ${model.device}`),
    row("weights", model.sha256.slice(0, 12)),
  );
  const made = element("article", {}, element("h3", {}, model.name));
  if (model.metadata?.description) {
    made.append(element("p", {}, model.metadata.description));
  }
  made.append(element("table", {}, facts));
  const found = [...errors(model.metadata?.errors), ...errors(model.metadata?.force_disagreement, "difference of forces, ")];
  if (found.length) {
    const table = element("table", {}, element("tbody", {}, ...found));
    made.append(element("details", {}, element("summary", {}, "Errors"), table));
  }
  if (model.card) {
    const card = element("div", { class: "card" }, ...markdown(model.card));
    made.append(element("details", {}, element("summary", {}, "Card"), card));
  }
  return made;
}

export function showModels(models) {
  fill(find("cards"), ...models.map(article));
}
