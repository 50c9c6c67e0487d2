// Files of what is shown: thresholds, switches and refined masks as they are on the screen.
import { maskPng } from "./png.js";
import { drawMasks } from "./view.js";
import { zip } from "./zip.js";

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // a large file is still being written
}

const json = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });

/** The picture at its own size with the masks over it. */
export async function pictureFile(bitmap, shown) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  drawMasks(context, shown, 1);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** The answer with the instances shown in place of the candidates: `pipeline.Result.from_json` reads it. */
export function answerFile(answer, shown, removed) {
  return json({ ...answer, detections: shown, removed });
}

/** A COCO dataset of one picture, as `pipeline/formats/coco.py` makes it. */
export function cocoFile(answer, shown, fileName) {
  const names = new Map(shown.map((one) => [one.class_id + 1, one.label]).sort(([a], [b]) => a - b));
  const annotations = shown.map((one, index) => {
    const { box, area, mask, score } = one.toJSON();
    return {
      id: index + 1,
      image_id: 1,
      category_id: one.class_id + 1,
      bbox: [box[0], box[1], box[2] - box[0], box[3] - box[1]],
      area,
      iscrowd: 0,
      segmentation: { size: mask.size, counts: mask.counts },
      score,
    };
  });
  return json({
    info: { description: `made with text2mask: ${answer.model}` },
    licenses: [],
    images: [{ id: 1, file_name: fileName, width: answer.image.width, height: answer.image.height }],
    annotations,
    categories: [...names].map(([id, name]) => ({ id, name, supercategory: "" })),
  });
}

/** One PNG an instance: `001-red-circle.png`. */
export async function masksFile(shown) {
  const files = [];
  for (const [index, one] of shown.entries()) {
    const label = one.label.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
    files.push([`${String(index + 1).padStart(3, "0")}${label && "-"}${label}.png`, await maskPng(one.shape.mask)]);
  }
  return zip(files);
}
