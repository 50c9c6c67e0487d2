// COCO's compressed run lengths, as pipeline/masks.py writes them: column by column, background first.

/** A mask as the places where it changes. `ends[i]` is where run i ends; odd runs are foreground. */
export class Mask {
  /** @param {{size: [number, number], counts: string}} rle `size` is [height, width]. Throws where it is damaged. */
  constructor({ size, counts }) {
    [this.height, this.width] = size;
    this.counts = counts;
    this.ends = endsOf(counts, this.height * this.width);
    this.area = 0;
    this.box = this.#measure();
  }

  /** Area, and the window of the foreground as [x0, y0, x1, y1]; null for an empty mask. */
  #measure() {
    const { ends, height } = this;
    let [x0, y0, x1, y1] = [Infinity, Infinity, -1, -1];
    for (let i = 1; i < ends.length; i += 2) {
      const [start, end] = [ends[i - 1], ends[i]];
      if (start === end) continue;
      this.area += end - start;
      const [first, last] = [Math.floor(start / height), Math.floor((end - 1) / height)];
      x0 = Math.min(x0, first);
      x1 = Math.max(x1, last + 1);
      y0 = first === last ? Math.min(y0, start % height) : 0;
      y1 = first === last ? Math.max(y1, ((end - 1) % height) + 1) : height;
    }
    return x1 < 0 ? null : [x0, y0, x1, y1];
  }

  /** Whether the pixel in column x and row y is foreground. */
  has(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return false;
    const place = x * this.height + y;
    let [low, high] = [0, this.ends.length]; // the first run that ends behind `place`
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > place) high = middle;
      else low = middle + 1;
    }
    return low % 2 === 1;
  }

  /**
   * The window of the foreground, row by row, every `step`-th pixel: {x, y, step, width, height, bits}. So a mask of
   * 50 megapixels costs as much as the window on the screen, not as itself.
   */
  window(step = 1) {
    const [x0, y0, x1, y1] = this.box ?? [0, 0, 0, 0];
    const [width, height] = [Math.ceil((x1 - x0) / step), Math.ceil((y1 - y0) / step)];
    const bits = new Uint8Array(width * height);
    for (let i = 1; i < this.ends.length; i += 2) {
      let start = this.ends[i - 1];
      while (start < this.ends[i]) {
        const column = Math.floor(start / this.height);
        const end = Math.min(this.ends[i], (column + 1) * this.height);
        if ((column - x0) % step === 0) {
          const x = (column - x0) / step;
          const last = end - column * this.height;
          for (let y = Math.ceil((start - column * this.height - y0) / step); y0 + y * step < last; y++) {
            bits[y * width + x] = 1;
          }
        }
        start = end;
      }
    }
    return { x: x0, y: y0, step, width, height, bits };
  }
}

/** ASCII -> where each run ends. Every number comes in groups of five bits, lowest first; from the fourth on, it is a
 * difference to the number two before. */
function endsOf(text, total) {
  const runs = [];
  let [value, shift] = [0, 0];
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i) - 48;
    if (code < 0 || code > 63 || shift > 30) throw new Error("damaged mask");
    value += (code & 31) * 2 ** shift;
    shift += 5;
    if (code & 32) continue;
    if (code & 16) value -= 2 ** shift;
    runs.push(value + (runs.length > 2 ? runs[runs.length - 2] : 0));
    [value, shift] = [0, 0];
  }
  const ends = new Uint32Array(runs.length);
  let end = 0;
  for (const [index, run] of runs.entries()) {
    end += run;
    if (run < 0 || end > total) throw new Error("damaged mask");
    ends[index] = end;
  }
  if (shift || end !== total) throw new Error("damaged mask");
  return ends;
}
