// DESIGN.md's order, in the browser: score -> text score -> NMS within a class -> area -> cap. The service labels the
// boxes; it is asked once, at low thresholds and with NMS off. So a threshold can be moved without another request.
//
// It computes in float32 as pipeline/selection.py does: a box at the very edge of a threshold falls on the same side.
const f = Math.fround;

export const NMS_IOU = 0.7;
export const CAP = 100;

/**
 * What the service would answer at these thresholds.
 * @param {{score: number, text_score: number, class_id: number, box: number[]}[]} candidates best score first
 * @returns {{kept: object[], removed: object}} the same objects, best score first; how many each step removed
 */
export function select(candidates, boxThreshold, textThreshold) {
  const wanted = candidates.filter((one) => f(one.score) >= f(boxThreshold) && f(one.text_score) >= f(textThreshold));
  const apart = suppress(wanted, NMS_IOU);
  const kept = apart.slice(0, CAP); // area: from 0 to 1 by default, which drops nothing
  const removed = { negatives: 0, nms: wanted.length - apart.length, area: 0, cap: apart.length - kept.length };
  return { kept, removed };
}

/** Each kept box removes the later ones of its class whose IoU with it is above the threshold. */
function suppress(sorted, threshold) {
  const kept = [];
  for (const one of sorted) {
    const covered = (other) => other.class_id === one.class_id && iou(other.box, one.box) > f(threshold);
    if (!kept.some(covered)) kept.push(one);
  }
  return kept;
}

function iou(a, b) {
  const width = Math.max(0, f(Math.min(f(a[2]), f(b[2])) - Math.max(f(a[0]), f(b[0]))));
  const height = Math.max(0, f(Math.min(f(a[3]), f(b[3])) - Math.max(f(a[1]), f(b[1]))));
  const shared = f(width * height);
  const union = f(f(area(a) + area(b)) - shared);
  return union > 0 ? f(shared / union) : 0;
}

function area([x0, y0, x1, y1]) {
  return f(f(f(x1) - f(x0)) * f(f(y1) - f(y0)));
}
