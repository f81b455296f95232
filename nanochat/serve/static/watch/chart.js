// A chart of curves over steps, tokens or time. A pointer, or the arrow keys, read its values.

import { makeScale } from "./scale.js";
import { smooth } from "./smooth.js";
import { count, span } from "./words.js";

/**
 * @typedef {(number | null)[]} Column
 * @typedef {{name: string, look: "mine" | "other", x: Column, y: Column, dots?: boolean}} Curve
 * @typedef {{curves: Curve[], over: string, log: boolean, smoothing: number, moment: number | null,
 *   show: (value: number) => string}} View
 */

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 8, 20];

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** @param {string} title */
export function createChart(title) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("strong");
  const readout = document.createElement("output");
  const svg = document.createElementNS(SVG, "svg");
  name.textContent = title;
  caption.append(name, readout);
  figure.append(caption, svg);
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "img");
  /** @type {View | null} */
  let view = null;
  /** @type {{places: number[], values: number[]}} */
  let read = { places: [], values: [] };
  /** @type {number | null} */
  let cursor = null; // index in `read`
  const line = element("line", { class: "cursor" });

  function draw() {
    if (!view) return;
    const { curves, over, log, smoothing, show } = view;
    const { width, height } = svg.getBoundingClientRect();
    if (!width) return; // it is not shown
    const smoothed = curves.map((curve) => ({ ...curve, y: curve.dots ? curve.y : smooth(curve.y, smoothing) }));
    const xs = smoothed.flatMap((curve) => curve.x.filter((value) => value !== null));
    const ys = smoothed.flatMap((curve) => curve.y.filter((value) => value !== null));
    const x = makeScale(xs, LEFT, width - RIGHT, false, width / 90);
    const y = makeScale(ys, height - BOTTOM, TOP, log, height / 45);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    for (const tick of y.ticks) {
      svg.append(
        element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y.at(tick), y2: y.at(tick) }),
        element("text", { x: LEFT - 6, y: y.at(tick) + 4, "text-anchor": "end" }, show(tick)),
      );
    }
    for (const tick of x.ticks) {
      const words = over === "seconds" ? span(tick) : count(tick);
      svg.append(element("text", { x: x.at(tick), y: height - 4, "text-anchor": "middle" }, words));
    }
    if (view.moment !== null && view.moment >= x.low && view.moment <= x.high) {
      const at = x.at(view.moment);
      svg.append(element("line", { class: "moment", x1: at, x2: at, y1: TOP, y2: height - BOTTOM }));
    }
    const clip = { low: y.low, high: y.high };
    curves.forEach((curve, index) => {
      if (!curve.dots && smoothing > 0) {
        svg.append(element("path", { class: `curve raw ${curve.look}`, d: path(curve.x, curve.y, x.at, y.at, log, clip) }));
      }
      const shown = smoothed[index];
      svg.append(element("path", { class: `curve ${curve.look}`, d: path(shown.x, shown.y, x.at, y.at, log, clip) }));
      if (curve.dots) {
        shown.y.forEach((value, at) => {
          const place = shown.x[at];
          if (value === null || place === null || (log && value <= 0)) return;
          svg.append(element("circle", { class: curve.look, cx: x.at(place), cy: y.at(value), r: 3 }));
        });
      }
    });
    line.setAttribute("y1", String(TOP));
    line.setAttribute("y2", String(height - BOTTOM));
    svg.append(line);
    const first = smoothed[0];
    read = { places: [], values: [] };
    first?.x.forEach((place, at) => {
      const value = first.y[at];
      if (place !== null && value !== null) {
        read.places.push(place);
        read.values.push(value);
      }
    });
    point(x.at);
  }

  /** @param {(value: number) => number} at */
  function point(at) {
    if (!view) return;
    const last = read.places.length - 1;
    const index = cursor === null ? last : Math.max(0, Math.min(last, cursor));
    const over = view.over === "step" ? "step" : view.over === "tokens" ? "tokens" : "after";
    const place = view.over === "seconds" ? span(read.places[index] ?? 0) : (read.places[index] ?? 0).toLocaleString("en");
    const words = last < 0 ? "nothing yet" : `${view.show(read.values[index])} at ${over} ${place}`.replace("at after", "after");
    readout.textContent = words;
    svg.setAttribute("aria-label", `${title}: ${words}. Arrow keys read other values.`);
    line.classList.toggle("cursor", cursor !== null && last >= 0);
    const where = last < 0 ? LEFT : at(read.places[index]);
    line.setAttribute("x1", String(where));
    line.setAttribute("x2", String(where));
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    const [low, high] = [read.places[0] ?? 0, read.places[read.places.length - 1] ?? 0];
    const wanted = low + share * (high - low);
    let best = 0;
    read.places.forEach((place, at) => {
      if (Math.abs(place - wanted) < Math.abs(read.places[best] - wanted)) best = at;
    });
    cursor = best;
    draw();
  });
  const leave = () => {
    cursor = null;
    draw();
  };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const last = read.places.length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (event.key === "Home") cursor = 0;
    else if (event.key === "End") cursor = last;
    else if (step) cursor = Math.max(0, Math.min(last, (cursor ?? last) + step));
    else return;
    event.preventDefault();
    draw();
  });
  new ResizeObserver(draw).observe(svg);

  return {
    figure,
    /** @param {View} next */
    show(next) {
      view = next;
      draw();
    },
  };
}

/**
 * An SVG path through the points. It breaks where a value is missing, and stays on the chart.
 * @param {Column} xs
 * @param {Column} ys
 * @param {(value: number) => number} atX
 * @param {(value: number) => number} atY
 * @param {boolean} log
 * @param {{low: number, high: number}} clip
 */
function path(xs, ys, atX, atY, log, clip) {
  let drawn = "";
  let pen = "M";
  xs.forEach((x, at) => {
    const y = ys[at];
    if (x === null || y === null || (log && y <= 0)) {
      pen = "M";
      return;
    }
    drawn += `${pen}${atX(x).toFixed(1)} ${atY(Math.max(clip.low, Math.min(clip.high, y))).toFixed(1)}`;
    pen = "L";
  });
  return drawn;
}

