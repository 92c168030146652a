// Lines and bars on a canvas, in the colors of the page.

import { color, number } from "./dom.js";

// What is drawn on each canvas, to draw it again in another size or other colors.
const drawn = new Map();

function remember(canvas, draw) {
  drawn.set(canvas, draw);
  draw();
}

function redraw() {
  drawn.forEach((draw) => draw());
}

window.addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = color("ink");
  return { context, width, height };
}

// Draw y against x, with axes unless the canvas is a small one beside a figure.
export function plotLine(canvas, x, y, options = {}) {
  remember(canvas, () => drawLine(canvas, x, y, options));
}

function drawLine(canvas, x, y, { title = "", stroke = "accent", axes = true }) {
  const { context, width, height } = prepared(canvas);
  canvas.dataset.points = y.length;
  const [left, right, top, bottom] = axes ? [88, 8, 24, 22] : [0, 0, 2, 2];
  const [low, high] = [Math.min(...y), Math.max(...y)];
  const span = high - low || Math.max(Math.abs(high), 1) * 1e-3;
  const digits = Math.min(Math.max(1 - Math.floor(Math.log10(span)), 0), 12);
  const reach = x.at(-1) - x[0] || 1;
  const toX = (value) => left + ((value - x[0]) / reach) * (width - left - right);
  const toY = (value) => height - bottom - ((value - low) / span) * (height - top - bottom);
  if (axes) {
    context.fillText(title, left, 15);
    context.textAlign = "right";
    context.fillText(high.toFixed(digits), left - 4, top + 8);
    context.fillText(low.toFixed(digits), left - 4, height - bottom);
    context.fillText(`step ${x.at(-1) ?? 0}`, width - right, height - 6);
    context.textAlign = "left";
    context.fillText(String(x[0] ?? 0), left, height - 6);
  }
  context.strokeStyle = color(stroke);
  context.lineWidth = 1.5;
  context.beginPath();
  y.forEach((value, i) => context.lineTo(toX(x[i]), toY(value)));
  context.stroke();
  if (axes) {
    canvas.setAttribute("aria-label", `${title}: from ${number(y[0], 6)} to ${number(y.at(-1), 6)} in ${y.length} points`);
  }
}

export function plotBars(canvas, labels, counts) {
  remember(canvas, () => drawBars(canvas, labels, counts));
}

function drawBars(canvas, labels, counts) {
  const { context, width, height } = prepared(canvas);
  const most = Math.max(...counts, 1);
  const step = width / counts.length;
  const bottom = 20;
  context.textAlign = "center";
  counts.forEach((count, i) => {
    const size = (count / most) * (height - bottom - 8);
    context.fillStyle = color("difference");
    context.fillRect(i * step + 1, height - bottom - size, Math.max(step - 2, 1), size);
    if (i % 3 === 0) {
      context.fillStyle = color("ink");
      context.fillText(labels[i], (i + 0.5) * step, height - 5);
    }
  });
}
