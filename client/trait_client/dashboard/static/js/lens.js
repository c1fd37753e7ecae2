// What the model would say from a layer, in place of each token: the layers that are read, and their tokens as a text.

export const TOP_K = 5;

// Layers of a text such as "8,16", each once, as far as the model has them.
export function readLayers(text, nLayers) {
  const layers = (text ?? "").split(",").map((part) => part.trim()).filter((part) => /^\d+$/.test(part)).map(Number);
  return [...new Set(layers)].filter((layer) => layer < nLayers);
}

// A line for each layer: its likeliest tokens with their probabilities.
export function lensText(layers, guesses) {
  return guesses.map((each, i) => `layer ${layers[i]} says: ` +
    each.map((guess) => `${JSON.stringify(guess.text)} ${Math.exp(guess.logprob).toFixed(2)}`).join("  ")).join("\n");
}
