// The page's end of the line to the worker.

/**
 * @typedef {import("./protocol.js").Header} Header
 * @typedef {import("./protocol.js").FromWorker} FromWorker
 * @typedef {import("./protocol.js").ToWorker} ToWorker
 */

/** Starts the worker and sends it the model, block by block.
 * @param {string} script
 * @param {Header} header
 * @param {(block: number) => Promise<string | null>} blockAt null: it is missing
 * @param {(message: FromWorker) => void} hear
 */
export function connect(script, header, blockAt, hear) {
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  /** @type {Worker} */
  let worker;
  try {
    worker = new Worker(address);
  } catch (error) {
    hear({ type: "broken", error: error instanceof Error ? error.message : String(error), file: false });
    return () => {};
  }
  /** @param {ToWorker} message */
  const send = (message) => worker.postMessage(message);
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    hear({ type: "broken", error: event.message || "the browser does not start a worker here", file: false });
  });
  worker.addEventListener("message", async ({ data }) => {
    const message = /** @type {FromWorker} */ (data);
    hear(message);
    if (message.type === "ready") URL.revokeObjectURL(address);
    if (message.type !== "wanted") return;
    const text = await blockAt(message.block);
    if (text === null) hear({ type: "broken", error: "a part of it is missing", file: true });
    else send({ type: "block", text });
  });
  send({ type: "load", header });
  return send;
}
