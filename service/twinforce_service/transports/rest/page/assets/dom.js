// Elements of the document. Texts are set as texts, never as HTML.

export const find = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function fill(parent, ...children) {
  parent.replaceChildren(...children);
}

export function row(...cells) {
  const [head, ...rest] = cells;
  const row = element("tr", {}, element("th", { scope: "row" }, head));
  row.append(...rest.map((each) => element("td", { class: "number" }, each)));
  return row;
}

export function options(select, values) {
  const before = select.value;
  fill(select, ...values.map(([value, text]) => element("option", { value }, text)));
  if (values.some(([value]) => value === before)) {
    select.value = before;
  }
}

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function number(value, digits = 3) {
  if (value === 0) {
    return "0";
  }
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

export function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
