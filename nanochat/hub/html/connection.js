// The page's end of the line to the worker.

/**
 * @typedef {import("./protocol.js").Header} Header
 * @typedef {import("./protocol.js").FromWorker} FromWorker
 * @typedef {import("./protocol.js").ToWorker} ToWorker
 */

/** Starts the worker and sends it the model, block by block.
 * @param {string} script
 * @param {Header} header
 * @param {(block: number) => string} blockAt
 * @param {(message: FromWorker) => void} hear
 */
export function connect(script, header, blockAt, hear) {
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  /** @type {Worker} */
  let worker;
  try {
    worker = new Worker(address);
  } catch (error) {
    hear({ type: "broken", error: error instanceof Error ? error.message : String(error) });
    return () => {};
  }
  /** @param {ToWorker} message */
  const send = (message) => worker.postMessage(message);
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    hear({ type: "broken", error: event.message || "the browser does not start a worker here" });
  });
  worker.addEventListener("message", ({ data }) => {
    const message = /** @type {FromWorker} */ (data);
    if (message.type === "wanted") send({ type: "block", text: blockAt(message.block) });
    if (message.type === "ready") URL.revokeObjectURL(address);
    hear(message);
  });
  send({ type: "load", header });
  return send;
}
