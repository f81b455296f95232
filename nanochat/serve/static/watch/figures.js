// How the run is now: figures, progress, alerts.

import { bytes, count, digits, dollars, percent, span } from "./words.js";

/** @typedef {import("./data.js").Run} Run */

/**
 * Names and texts of what is known.
 * @param {import("./data.js").Status} now
 */
export function figures(now) {
  /**
   * @param {number | null} value
   * @param {(value: number) => string} show
   */
  const text = (value, show) => (value === null ? null : show(value));
  const money = now.cost === null || now.price === null ? null : dollars(now.cost);
  const inAll = now.cost_in_all === null || now.state === "finished" ? "" : ` of ${dollars(now.cost_in_all)}`;
  const known = /** @type {[string, string | null][]} */ ([
    ["Step", now.step.toLocaleString("en") + (now.steps ? ` of ${now.steps.toLocaleString("en")}` : "")],
    ["Loss, smoothed", text(now.smoothed, digits)],
    ["Reward", text(now.reward, digits)],
    ...Object.entries(now.measured).map(([name, value]) => [`${name} at step ${now.measured_at?.toLocaleString("en")}`, digits(value)]),
    ["Tokens", text(now.tokens, count)],
    ["Learning rate", text(now.lr, (value) => `${percent(value)} of its peak`)],
    ["Tokens/s", text(now.tok_per_s, digits)],
    ["MFU", text(now.mfu, percent)],
    ["Memory", text(now.memory, bytes)],
    ["Time", text(now.seconds, span)],
    ["ETA", now.state === "finished" ? null : text(now.eta, span)],
    [now.about ? "Cost, at the usual price" : "Cost", money && `${money}${inAll}`],
    ["Free on disk", text(now.free, bytes)],
  ]);
  return /** @type {[string, string][]} */ (known.filter(([, value]) => value !== null));
}

/** @param {Run[]} runs */
export function showFigures(runs) {
  const [run, other] = runs;
  const now = run.status;
  const where = now.machine ? ` on ${now.ranks > 1 ? `${now.ranks} x ` : ""}${now.machine}` : "";
  const learns = now.dataset ? `, learns from ${now.dataset}` : "";
  const size = now.params ? `, ${count(now.params)} parameters` : "";
  place("state").textContent = `${now.name} is ${now.state}${where}${learns}${size}`;
  const progress = /** @type {HTMLProgressElement} */ (place("progress"));
  progress.hidden = now.share === null;
  progress.value = now.share ?? 0;
  const beside = new Map(other ? figures(other.status) : []);
  place("figures").replaceChildren(
    ...figures(now).map(([name, text]) => {
      const box = document.createElement("div");
      const term = document.createElement("dt");
      const told = document.createElement("dd");
      term.textContent = name;
      told.textContent = text;
      box.append(term, told);
      if (beside.has(name)) {
        const also = document.createElement("dd");
        also.className = "other";
        also.textContent = beside.get(name) ?? "";
        box.append(also);
      }
      return box;
    }),
  );
  const alerts = runs.flatMap((one) => [
    ...one.status.alerts.map((alert) => `${one.status.name}: ${alert.text}`),
    ...(one.problem ? [`${one.status.name}: ${one.problem}`] : []),
  ]);
  const list = place("alerts");
  if (alerts.join("\n") === [...list.children].map((item) => item.textContent).join("\n")) return; // nothing to announce
  list.replaceChildren(
    ...alerts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

/** @param {string} id */
const place = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
