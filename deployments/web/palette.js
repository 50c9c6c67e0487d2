// pipeline/palette.py's colours, so that a class looks the same here and in the overlay that the service draws.
// A test holds the two together.
const PALETTE = [
  "e11e2d", "00f000", "0096ff", "ffb42d", "ff96ff", "961eff", "788700", "a55a00", "f00096", "ff875a", "00f0f0", "007869",
  "69b487", "0f5ac3", "e1e196", "9678b4", "b4c3ff", "2da5b4", "f096a5", "964b5a", "00781e", "78d2ff", "b4965a", "0fa500",
  "f02dff", "b4b400", "6978ff", "00f0a5", "963c96", "ffc396", "b4785a", "78692d", "0078a5", "ff5a69", "e17800", "695a96",
  "d278b4", "e14b00", "96a569", "b487ff", "87c33c", "a54b2d", "5a875a", "e10f5a", "ffc3f0", "b4f000", "a5e196", "00b4a5",
];

/** [red, green, blue] of a class. */
export function colourOf(classId) {
  const value = parseInt(PALETTE[classId % PALETTE.length], 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** Black or white, whichever is easier to read on the colour. */
export function inkOn(colour) {
  const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

export const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;
