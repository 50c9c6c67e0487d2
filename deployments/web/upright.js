// A picture's file -> its pixels, upright by its EXIF, as the service has them.
//
// Browsers turn JPEG and PNG, but of WebP not all do. So a WebP's EXIF is hidden from them, and it is turned here.
const ORIENTATION = 0x0112;

/** By orientation: where a pixel at (x, y) of a picture of (w, h) goes, as for `setTransform`. */
const TURNS = {
  2: (w) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

/** @returns {Promise<ImageBitmap>} Throws where the file is no picture that the browser knows. */
export async function upright(file) {
  const exif = await findExif(file);
  const turn = exif && TURNS[exif.orientation];
  if (!turn) return createImageBitmap(file);
  const plain = new Blob([file.slice(0, exif.at), "JUNK", file.slice(exif.at + 4)], { type: "image/webp" });
  const stored = await createImageBitmap(plain);
  const { width, height } = stored;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = exif.orientation < 5 ? [width, height] : [height, width];
  const context = canvas.getContext("2d");
  context.setTransform(...turn(width, height));
  context.drawImage(stored, 0, 0);
  stored.close();
  return createImageBitmap(canvas);
}

/** A WebP's EXIF: {at, orientation}, `at` where its chunk begins; null for other files and without one. */
async function findExif(file) {
  const read = async (start, length) => new DataView(await file.slice(start, start + length).arrayBuffer());
  const name = (view, at) => (view.byteLength < at + 4 ? "" : String.fromCharCode(...new Uint8Array(view.buffer, at, 4)));
  const head = await read(0, 12);
  if (name(head, 0) !== "RIFF" || name(head, 8) !== "WEBP") return null;
  for (let at = 12; at + 8 <= file.size; ) {
    const chunk = await read(at, 8);
    const length = chunk.getUint32(4, true);
    if (name(chunk, 0) === "EXIF") return { at, orientation: orientationIn(await read(at + 8, Math.min(length, 65536))) };
    at += 8 + length + (length % 2);
  }
  return null;
}

/** The orientation in a TIFF header's first directory; 1 where there is none, or it is damaged. */
function orientationIn(view) {
  const start = view.byteLength > 6 && view.getUint32(0) === 0x45786966 ? 6 : 0; // some begin with "Exif\0\0"
  try {
    const little = view.getUint16(start) === 0x4949;
    const directory = start + view.getUint32(start + 4, little);
    const entries = view.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * entries; entry += 12) {
      if (view.getUint16(entry, little) === ORIENTATION) return view.getUint16(entry + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}
