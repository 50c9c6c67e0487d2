// A mask as an 8-bit grey PNG of 0 and 255, as the service writes it. A canvas would make four bytes of each pixel.
import { crc32 } from "./zip.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

function chunk(type, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

/** @returns {Promise<Uint8Array>} the file */
export async function maskPng(mask) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, mask.width);
  header.setUint32(4, mask.height);
  header.setUint8(8, 8); // bits; then grey, and the only compression, filter and interlace that are wanted
  const rows = new Uint8Array((mask.width + 1) * mask.height); // each begins with its filter: none
  const { x, y, width, height, bits } = mask.window();
  for (let row = 0; row < height; row++) {
    const start = (y + row) * (mask.width + 1) + 1 + x;
    for (let column = 0; column < width; column++) rows[start + column] = bits[row * width + column] * 255;
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(packed).arrayBuffer());
  const parts = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", data), chunk("IEND", [])];
  return new Uint8Array(await new Blob([new Uint8Array(SIGNATURE), ...parts]).arrayBuffer());
}
