// What the server knows of a run, of which only what is new is asked for.

/**
 * @typedef {(number | null)[]} Column
 * @typedef {{generation: number, stride: number, columns: Record<string, Column>}} Points
 * @typedef {{kind: string, text: string, step: number | null}} Alert
 * @typedef {{
 *   name: string, stage: string, tag: string, state: string, machine: string, ranks: number, dataset: string,
 *   params: number | null, step: number, steps: number | null, share: number | null, tokens: number | null,
 *   loss: number | null, smoothed: number | null, reward: number | null, measured: Record<string, number>,
 *   measured_at: number | null, lr: number | null, tok_per_s: number | null, mfu: number | null,
 *   memory: number | null, seconds: number | null, eta: number | null, price: number | null, about: boolean,
 *   cost: number | null, cost_in_all: number | null, free: number | null, idle: number | null, alerts: Alert[]
 * }} Status
 * @typedef {{status: Status, points: Points, evals: Record<string, number>[], problem: string}} Run
 * @typedef {{answer: string, right: boolean | null}} Given
 * @typedef {{question: string, kind: string, expected: string, answers: (Given | null)[]}} Question
 * @typedef {{kind: string, questions: number, shares: (number | null)[], learnt: number | null}} Kind
 * @typedef {{steps: Record<string, number>[], questions: Question[], kinds: Kind[], problem: string}} Answers
 */

/** @param {string} path */
async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error(answer.status === 404 ? "gone" : `status ${answer.status}`);
  return answer.json();
}

/** @returns {Promise<{every: number, runs: string[]}>} */
export const askRuns = () => ask("/train/runs");

/**
 * @param {string} name
 * @returns {Promise<Answers>}
 */
export const askAnswers = (name) => ask(`/train/runs/${encodeURIComponent(name)}/answers`);

/**
 * The run as it is now. `held`: what the page had of the same run.
 * @param {string} name
 * @param {Run | null} held
 * @returns {Promise<Run>}
 */
export async function askRun(name, held) {
  const points = held?.points;
  const query = points
    ? `?generation=${points.generation}&stride=${points.stride}&have=${points.columns.step.length}`
    : "";
  const run = await ask(`/train/runs/${encodeURIComponent(name)}${query}`);
  const first = run.points.first;
  if (points && first > 0) run.points.columns = joined(points.columns, run.points.columns, first);
  return run;
}

/**
 * The first `first` rows of `held`, then those of `more`. A column that one of them lacks is null there.
 * @param {Record<string, Column>} held
 * @param {Record<string, Column>} more
 * @param {number} first
 */
export function joined(held, more, first) {
  /** @type {Record<string, Column>} */
  const found = {};
  for (const name of new Set([...Object.keys(held), ...Object.keys(more)])) {
    const empty = () => null;
    const before = held[name]?.slice(0, first) ?? Array.from({ length: first }, empty);
    found[name] = [...before, ...(more[name] ?? Array.from({ length: more.step.length }, empty))];
  }
  return found;
}
