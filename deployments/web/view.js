// The picture, and over it the masks: two canvases, as sharp as the screen.
import { colourOf, css, inkOn } from "./palette.js";

const FILL = 0.5; // how much of its colour a mask's pixels take on
const MOST_PIXELS = 2048; // of a mask's longer side on the screen
const LARGEST_SCALE = 3; // small pictures are not blown up further

/** A mask as a canvas of its own: filled, with an outline of `line` pixels. */
function paint(mask, colour, step, line) {
  const { x, y, width, height, bits } = mask.window(step);
  const canvas = document.createElement("canvas");
  if (!width || !height) return null;
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer); // little-endian: ABGR
  const rgb = colour[0] | (colour[1] << 8) | (colour[2] << 16);
  const [inner, edge] = [rgb | (Math.round(FILL * 255) << 24), rgb | (0xe6 << 24)];
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++, at++) {
      if (!bits[at]) continue;
      const border = row < line || column < line || row >= height - line || column >= width - line
        || !bits[at - line] || !bits[at + line] || !bits[at - line * width] || !bits[at + line * width];
      words[at] = border ? edge : inner;
    }
  }
  context.putImageData(image, 0, 0);
  return { canvas, x, y, width: width * step, height: height * step };
}

/** Draw instances over `context`, whose unit is a pixel of the picture; the best last, on top. */
export function drawMasks(context, instances, scale, { lit = null, cache = new Map() } = {}) {
  for (const one of [...instances].reverse()) {
    const { mask } = one.shape;
    if (!cache.has(mask)) {
      const side = mask.box ? Math.max(mask.box[2] - mask.box[0], mask.box[3] - mask.box[1]) : 0;
      const step = Math.max(1, Math.ceil(side / MOST_PIXELS), Math.floor(1 / scale));
      cache.set(mask, paint(mask, colourOf(one.class_id), step, Math.max(1, Math.round(2 / scale / step))));
    }
    const drawn = cache.get(mask);
    if (!drawn) continue;
    for (let times = one === lit ? 2 : 1; times > 0; times--) {
      context.drawImage(drawn.canvas, drawn.x, drawn.y, drawn.width, drawn.height);
    }
  }
}

export class View {
  constructor(stage, frame, picture, masks, tip) {
    Object.assign(this, { stage, frame, picture, masks, tip, bitmap: null });
    this.forget();
    new ResizeObserver(() => this.fit()).observe(stage);
    addEventListener("resize", () => this.fit());
    this.redraw = () => {};
  }

  show(bitmap) {
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.forget();
    this.fit(true);
  }

  /** Masks as canvases: no longer than the masks themselves are there. */
  forget() {
    this.cache = new WeakMap();
  }

  /** As large as the window has room for; drawn again only where that changed. */
  fit(always = false) {
    if (!this.bitmap || !this.stage.clientWidth) return;
    const { width, height } = this.bitmap;
    const room = Math.max(240, innerHeight * 0.64);
    const scale = Math.min(this.stage.clientWidth / width, room / height, LARGEST_SCALE);
    const shown = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    const pixels = shown.map((side) => Math.round(side * devicePixelRatio));
    if (!always && pixels[0] === this.picture.width && pixels[1] === this.picture.height) return;
    for (const canvas of [this.picture, this.masks]) {
      [canvas.width, canvas.height] = pixels;
      [canvas.style.width, canvas.style.height] = shown.map((side) => `${side}px`);
    }
    this.forget(); // outlines are as wide as the screen wants them
    const context = this.picture.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff"; // the service lays transparent pictures on white
    context.fillRect(0, 0, ...pixels);
    context.drawImage(this.bitmap, 0, 0, ...pixels);
    this.redraw();
  }

  /** @param marks {lit, picked, cross}: instances, or a place of the keyboard's cross, or null each */
  draw(instances, { lit, picked, cross }) {
    const context = this.masks.getContext("2d");
    const scale = this.masks.width / this.bitmap.width;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.masks.width, this.masks.height);
    context.setTransform(scale, 0, 0, this.masks.height / this.bitmap.height, 0, 0);
    drawMasks(context, instances.filter((one) => one.shape), scale, { lit: lit ?? picked, cache: this.cache });
    const pixel = devicePixelRatio / scale;
    if (picked) drawPicked(context, picked, pixel);
    if (cross) drawCross(context, cross, pixel);
  }

  /** The place of a pointer event, in pixels of the picture. */
  at(event) {
    const { left, top, width, height } = this.masks.getBoundingClientRect();
    const inside = (value, size) => Math.min(Math.max(value * size, 0), size - 0.01);
    return [
      inside((event.clientX - left) / width, this.bitmap.width),
      inside((event.clientY - top) / height, this.bitmap.height),
    ];
  }

  /** The label of `one` beside `place`, or none. */
  say(one, place) {
    this.tip.hidden = !one;
    if (!one) return;
    const colour = colourOf(one.class_id);
    this.tip.style.setProperty("--c", css(colour));
    this.tip.style.setProperty("--ink", inkOn(colour));
    this.tip.textContent = `${one.label} ${one.score.toFixed(2)}`;
    const [x, y] = [place[0] / this.bitmap.width, place[1] / this.bitmap.height];
    const { clientWidth, clientHeight } = this.frame;
    const left = Math.min(x * clientWidth + 14, clientWidth - this.tip.offsetWidth - 4);
    const top = y * clientHeight > 46 ? y * clientHeight - this.tip.offsetHeight - 12 : y * clientHeight + 18;
    this.tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.min(top, clientHeight - 30)}px)`;
  }
}

function drawPicked(context, picked, pixel) {
  const [x0, y0, x1, y1] = picked.shape?.box ?? [0, 0, 0, 0];
  context.lineWidth = 1.5 * pixel;
  for (const [colour, dash] of [["#000a", []], ["#fff", [6 * pixel, 5 * pixel]]]) {
    context.strokeStyle = colour;
    context.setLineDash(dash);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  context.setLineDash([]);
  for (const [x, y, label] of picked.points) {
    context.beginPath();
    context.arc(x, y, 7 * pixel, 0, 7);
    context.fillStyle = label ? "#14803c" : "#c22b22";
    context.fill();
    context.lineWidth = 2 * pixel;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - 3 * pixel, y);
    context.lineTo(x + 3 * pixel, y);
    if (label) {
      context.moveTo(x, y - 3 * pixel);
      context.lineTo(x, y + 3 * pixel);
    }
    context.stroke();
  }
}

function drawCross(context, [x, y], pixel) {
  for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
    context.lineWidth = width * pixel;
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(x - 12 * pixel, y);
    context.lineTo(x + 12 * pixel, y);
    context.moveTo(x, y - 12 * pixel);
    context.lineTo(x, y + 12 * pixel);
    context.stroke();
  }
}
