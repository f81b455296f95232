// The product in instructions for four numbers at a time: what wat2wasm makes of product.wat.

const CODE =
  "AGFzbQEAAAABCgFgBn9/f39/fwACEAEEcGFnZQZtZW1vcnkCAAEDAgEABwsBB3Byb2R1Y3QAAAqWAgGTAgIDfwZ7IAMgBUECdGohBwNAIAIhCC" +
  "AAIARqIQb9DAAAAAAAAAAAAAAAAAAAAAAhCyALIQwgCyENIAshDgNAIAD9AAAAIQkgCf2HASEKIAsgCv2nAf36ASAI/QACAP3mAf3kASELIAwg" +
  "Cv2oAf36ASAI/QACEP3mAf3kASEMIAn9iAEhCiANIAr9pwH9+gEgCP0AAiD95gH95AEhDSAOIAr9qAH9+gEgCP0AAjD95gH95AEhDiAIQcAAai" +
  "EIIABBEGoiACAGSQ0ACyALIA395AEgDCAO/eQB/eQBIQsgAyABKgIAIAv9HwAgC/0fApIgC/0fASAL/R8DkpKUOAIAIAFBBGohASADQQRqIgMg" +
  "B0kNAAsL";

/** Null where a browser has no such instructions, or may not run them. */
export function compiledProduct() {
  try {
    return new WebAssembly.Module(Uint8Array.from(atob(CODE), (character) => character.charCodeAt(0)));
  } catch {
    return null;
  }
}
