// The blocks of data that the file holds. Each leaves the page when it is taken: it is needed once, and large.

const REST = 30; // ms between two looks for a block that is still on its way

/**
 * @param {string} id
 * @returns {string}
 */
export function taken(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page lacks ${id}`);
  element.remove();
  return element.textContent ?? "";
}

/**
 * The text of a block of weights, once all of it is here: the file may be coming over a network.
 * @param {number} number
 * @returns {Promise<string | null>} null: it is missing
 */
export async function blockOf(number) {
  const id = `weights-${number}`;
  for (;;) {
    const element = document.getElementById(id);
    if (element?.nextElementSibling || document.readyState !== "loading") return element && taken(id);
    await new Promise((resolve) => setTimeout(resolve, REST));
  }
}
