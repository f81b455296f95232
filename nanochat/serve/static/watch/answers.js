// The same questions at one evaluation after the other.

import { digits } from "./words.js";

/** @typedef {import("./data.js").Answers} Answers */

/** @param {string} id */
const place = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {string} kind */
const words = (kind) => kind.replaceAll("_", " ");

/**
 * @param {Answers} answers
 * @param {number} at index of the evaluation
 */
export function showAnswers(answers, at) {
  const { steps, questions, kinds, problem } = answers;
  place("answers").hidden = steps.length === 0 && !problem;
  if (problem) place("questions").textContent = problem;
  if (steps.length === 0) return;
  const slider = /** @type {HTMLInputElement} */ (place("moment"));
  slider.max = String(steps.length - 1);
  slider.value = String(at);
  const measured = Object.entries(steps[at]).filter(([name]) => name !== "step").map(([name, value]) => `${name} ${digits(value)}`);
  const told = [steps[at].step.toLocaleString("en"), ...measured].join(", ");
  place("moment-value").textContent = told;
  slider.setAttribute("aria-valuetext", `step ${told}`);
  place("kinds").replaceChildren(
    ...kinds.map((kind) => {
      const item = document.createElement("li");
      const share = kind.shares[at];
      const right = share === null ? "not asked" : `${Math.round(share * kind.questions)} of ${kind.questions} right`;
      const since = kind.learnt === null ? "not learnt yet" : `learnt at step ${kind.learnt.toLocaleString("en")}`;
      item.textContent = `${words(kind.kind)}: ${right}, ${since}`;
      item.classList.toggle("learnt", kind.learnt !== null && kind.learnt <= steps[at].step);
      return item;
    }),
  );
  place("questions").replaceChildren(...questions.map((question) => article(question, at)));
}

/**
 * @param {import("./data.js").Question} question
 * @param {number} at
 */
function article(question, at) {
  const given = question.answers[at];
  const box = document.createElement("article");
  const asked = document.createElement("h3");
  const said = document.createElement("p");
  const mark = document.createElement("p");
  asked.textContent = question.question;
  said.textContent = given ? given.answer || "(nothing)" : "(not asked)";
  mark.className = "mark";
  const right = given?.right ?? null;
  const grade = right === null ? "" : right ? "✓ right, " : "✗ wrong, ";
  const expected = right === false && question.expected ? `; right would be: ${question.expected}` : "";
  mark.textContent = `${grade}${words(question.kind)}${expected}`;
  if (right !== null) box.className = right ? "right" : "wrong";
  box.append(asked, said, mark);
  return box;
}
