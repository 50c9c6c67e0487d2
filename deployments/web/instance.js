// One thing in the picture: as it was found, and as it was refined since.
import { Mask } from "./rle.js";

export class Instance {
  /** @param {object} found a detection of `/v1/segment`, or {class_id, label} of what a click begins. */
  constructor(found) {
    this.found = found;
    this.on = true;
    this.points = []; // [x, y, 1 or 0], in pixels of the picture
    this.steps = found.mask ? [{ count: 0, ...shapeOf(found, found.box) }] : [];
  }

  get class_id() { return this.found.class_id; }
  get label() { return this.found.label; }
  /** What was clicked was not looked for: SAM's own opinion of the mask stands for the detector's. */
  get score() { return this.found.score ?? this.shape?.mask_score ?? 0; }
  get clicked() { return this.found.score === undefined; }
  /** The newest {mask, box, mask_score, area}; undefined before a click's first answer. */
  get shape() { return this.steps.at(-1); }

  /** What to ask `/v1/masks` for all points so far: the newest mask goes in, to be refined. */
  prompt() {
    const fields = { points: [this.points], low_res: true };
    if (!this.clicked) fields.boxes = [around(this.found.box, this.points)];
    if (this.shape?.low_res) fields.mask_input = [this.shape.low_res];
    return fields;
  }

  /** Take the answer for the first `count` points. */
  refined(answer, count) {
    this.steps = this.steps.filter((step) => step.count < count);
    this.steps.push({ count, low_res: answer.low_res, ...shapeOf(answer, null) });
  }

  /** Take the last point back. Returns whether its mask has to be asked for, as it never was there. */
  undo() {
    this.points.pop();
    this.steps = this.steps.filter((step) => step.count <= this.points.length);
    return this.shape?.count !== this.points.length && this.points.length > 0;
  }

  reset() {
    this.points = [];
    this.steps = this.steps.filter((step) => step.count === 0);
  }

  /** As `/v1/segment` would answer it. */
  toJSON() {
    const { mask, box, mask_score, area } = this.shape;
    const { class_id, label, score, text_score } = { score: mask_score, text_score: mask_score, ...this.found };
    const rle = { format: "rle", size: [mask.height, mask.width], counts: mask.counts };
    return { class_id, label, score, text_score, box, mask: rle, mask_score, area };
  }
}

/** `box` is kept as it was found; a refined mask has its own. */
function shapeOf({ mask: rle, mask_score, area, box: asked }, box) {
  const mask = new Mask(rle);
  return { mask, box: box ?? mask.box ?? asked ?? [0, 0, 0, 0], mask_score, area };
}

/** The box, made larger by the points that belong to the thing and lie outside. */
function around(box, points) {
  const inside = points.filter(([, , label]) => label === 1);
  const [xs, ys] = [inside.map(([x]) => x), inside.map(([, y]) => y)];
  return [Math.min(box[0], ...xs), Math.min(box[1], ...ys), Math.max(box[2], ...xs), Math.max(box[3], ...ys)];
}
