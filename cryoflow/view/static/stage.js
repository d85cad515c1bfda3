// @ts-check
/** The micrograph on its canvas: tiles below, circles above, moved and zoomed together. */

import { address, getPicture } from "./server.js";
import { isDrawn } from "./picks.js";

/** @typedef {import("./types.js").Micrograph} Micrograph */
/** @typedef {import("./picks.js").Shown} Shown */

/** Colors of Okabe and Ito's palette, lightened for a dark ground; each kind also has a line of its own. */
export const COLORS = { kept: "#4cc3ff", removed: "#ff8a5c", doubtful: "#ffe45c", missed: "#f09ad0", mask: "#b48cff" };
export const OTHERS = ["#7ddc8a", "#c9a7ff", "#f2f2f2", "#5fd6c4"];
const MOST_TILES = 240;
const MOST_MASKS = 12;
const HIT_PX = 14;
const LEAST_STAMPED = 40;
const LARGEST_STAMP_PX = 120;
const MOST_STAMPS = 64;
const WHOLE_WITHIN_MS = 1500;

/** Half the side of a circle's stamp: whole pixels, so that its middle lies between two of them. @param {number} radius @param {number} width */
function stampReach(radius, width) {
  return Math.ceil(radius + width + 2);
}

/**
 * @typedef {object} Drawn
 * @property {Micrograph} micrograph
 * @property {Shown[]} picks
 * @property {[number, number][]} missed
 * @property {number} selected
 * @property {Set<string>} hidden
 * @property {{x: number, y: number, radius: number} | null} brush
 * @property {boolean} crosshair
 */

export class Stage {
  /** @param {HTMLElement} host @param {HTMLCanvasElement} picture @param {HTMLCanvasElement} mask @param {HTMLCanvasElement} circles */
  constructor(host, picture, mask, circles) {
    this.host = host;
    this.maskCanvas = mask;
    this.picture = picture;
    this.circles = circles;
    /** Screen pixels of one micrograph pixel, and the micrograph position in the middle of the canvas. */
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
    this.entry = "";
    this.lowpass = 0;
    this.tilePx = 512;
    /** @type {Drawn | null} */
    this.drawn = null;
    /** @type {Map<string, HTMLImageElement>} */
    this.tiles = new Map();
    /** Masks in their color, and the share of the micrograph that each covers. @type {Map<number, {picture: HTMLCanvasElement, share: number}>} */
    this.masks = new Map();
    this.maskOpacity = 0.4;
    this.asked = false;
    this.circlesChanged = false;
    /** Called when the whole picture is drawn. @type {(() => void)[]} */
    this.onWhole = [];
    /** Circles that were drawn once, by their looks. @type {Map<string, HTMLCanvasElement>} */
    this.stamps = new Map();
    new ResizeObserver(() => this.resized()).observe(host);
  }

  get width() {
    return this.host.clientWidth;
  }

  get height() {
    return this.host.clientHeight;
  }

  resized() {
    if (this.fitted) this.fit();
    else this.draw();
  }

  /** @param {Drawn} drawn @param {boolean} keepPlace */
  show(drawn, keepPlace) {
    const before = this.drawn?.micrograph;
    const m = drawn.micrograph;
    const other = !before || before.micrograph !== m.micrograph || before.nx !== m.nx || before.ny !== m.ny;
    this.drawn = drawn;
    if (other && !keepPlace) this.fit();
    else this.draw();
    if (other && this.width && !m.problem) this.inSight(m, this.levelFor(m)); // asked for now, not at the next frame
  }

  /** Return when the whole picture is drawn, or after a while where it is not. @returns {Promise<void>} */
  drawnWhole() {
    return new Promise((done) => {
      this.onWhole.push(done);
      setTimeout(done, WHOLE_WITHIN_MS);
    });
  }

  /** Show the whole micrograph. */
  fit() {
    const m = this.drawn?.micrograph;
    if (!m || !this.width || !this.height) return;
    this.scale = Math.min(this.width / m.nx, this.height / m.ny) * 0.985;
    this.x = (m.nx - 1) / 2;
    this.y = (m.ny - 1) / 2;
    this.fitted = true;
    this.draw();
  }

  /** @param {number} factor @param {number} [sx] @param {number} [sy] Screen position that stays where it is. */
  zoom(factor, sx = this.width / 2, sy = this.height / 2) {
    const m = this.drawn?.micrograph;
    if (!m) return;
    const [mx, my] = this.toMicrograph(sx, sy);
    const least = Math.min(this.width / m.nx, this.height / m.ny) * 0.5;
    this.scale = Math.min(16, Math.max(least, this.scale * factor));
    this.x = mx - (sx - this.width / 2) / this.scale;
    this.y = my - (sy - this.height / 2) / this.scale;
    this.moved();
  }

  /** @param {number} dx @param {number} dy In screen pixels. */
  move(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.moved();
  }

  /** @param {number} x @param {number} y @param {number} [least] */
  center(x, y, least = 0) {
    if (least && this.scale < least) this.scale = least;
    this.x = x;
    this.y = y;
    this.moved();
  }

  moved() {
    const m = this.drawn?.micrograph;
    if (!m) return;
    this.fitted = false;
    this.x = Math.min(m.nx, Math.max(0, this.x));
    this.y = Math.min(m.ny, Math.max(0, this.y));
    this.draw();
  }

  /** @param {number} sx @param {number} sy @returns {[number, number]} */
  toMicrograph(sx, sy) {
    return [this.x + (sx - this.width / 2) / this.scale, this.y + (sy - this.height / 2) / this.scale];
  }

  /** @param {number} x @param {number} y @returns {[number, number]} */
  toScreen(x, y) {
    return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2];
  }

  /** The drawn pick at a screen position, -1 where there is none. @param {number} sx @param {number} sy */
  pickAt(sx, sy) {
    if (!this.drawn) return -1;
    const [x, y] = this.toMicrograph(sx, sy);
    const reach = Math.max(this.drawn.micrograph.diameter_px / 2, HIT_PX / this.scale);
    let best = -1;
    let nearest = reach;
    this.drawn.picks.forEach((pick, i) => {
      const distance = Math.hypot(pick.x - x, pick.y - y);
      if (distance <= nearest && isDrawn(pick) && !this.isHidden(pick)) {
        best = i;
        nearest = distance;
      }
    });
    return best;
  }

  /** @param {Shown} pick */
  isHidden(pick) {
    const hidden = this.drawn?.hidden;
    return !!hidden && (hidden.has(pick.kept ? "kept" : "removed") || (pick.doubtful && hidden.has("doubtful")));
  }

  /** Draw at the browser's next frame. @param {boolean} circles Whether the circles have changed, too. */
  draw(circles = true) {
    this.circlesChanged ||= circles;
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.drawPicture();
      if (this.circlesChanged) this.drawCircles();
      this.circlesChanged = false;
    });
  }

  /** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
  context(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
    }
    const context = canvas.getContext("2d");
    if (!context) throw new Error("this browser has no canvas");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    return context;
  }

  drawPicture() {
    const m = this.drawn?.micrograph;
    const context = this.context(this.picture);
    if (!m || m.problem) return;
    const level = this.levelFor(m);
    context.imageSmoothingEnabled = this.scale < 3;
    const whole = this.inSight(m, level).every((tile) => tile.complete);
    // Coarser tiles that are there already stand in for those that are on their way.
    for (let l = m.levels - 1; !whole && l > level; l--) this.drawLevel(context, m, l);
    this.drawLevel(context, m, level);
    this.drawMask();
    const pictured = String(m.micrograph);
    if (whole && this.host.dataset.pictured !== pictured) {
      this.host.dataset.pictured = pictured;
      performance.mark(`picture ${pictured}`);
    }
    if (whole) for (const done of this.onWhole.splice(0)) done();
  }

  /** The level whose pixels are as large as the screen's, or the next finer one. @param {Micrograph} m @param {number} scale */
  levelFor(m, scale = this.scale) {
    const wanted = Math.log2(1 / (scale * (window.devicePixelRatio || 1)));
    return Math.max(0, Math.min(m.levels - 1, Math.floor(wanted)));
  }

  /** Tiles in sight. All are asked for, also where the first is not there yet. @param {Micrograph} m @param {number} level */
  inSight(m, level) {
    return this.visible(m, level).map(([row, column]) => this.tile(m, level, row, column));
  }

  /** Fetch the mask of a micrograph that has one. @param {Micrograph} m */
  async loadMask(m) {
    const mask = await getPicture("mask", { entry: this.entry, micrograph: m.micrograph });
    const picture = document.createElement("canvas");
    picture.width = mask.width;
    picture.height = mask.height;
    const context = picture.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("this browser has no canvas");
    context.drawImage(mask, 0, 0);
    const pixels = context.getImageData(0, 0, mask.width, mask.height).data;
    let masked = 0;
    for (let i = 3; i < pixels.length; i += 4) if ((pixels[i] ?? 0) > 127) masked++;
    context.globalCompositeOperation = "source-in";
    context.fillStyle = COLORS.mask;
    context.fillRect(0, 0, mask.width, mask.height);
    this.masks.set(m.micrograph, { picture, share: (4 * masked) / pixels.length });
    for (const old of this.masks.keys()) {
      if (this.masks.size <= MOST_MASKS) break;
      this.masks.delete(old);
    }
    this.draw();
  }

  /** Draw the mask over the picture, on a canvas of its own: contrast and inversion change the picture alone. */
  drawMask() {
    const m = this.drawn?.micrograph;
    const mask = m && this.masks.get(m.micrograph);
    const shown = !!mask && !this.drawn?.hidden.has("mask");
    this.maskCanvas.hidden = !shown;
    if (!m || !shown) return;
    const context = this.context(this.maskCanvas);
    const [x0, y0] = this.toScreen(-0.5, -0.5);
    const [x1, y1] = this.toScreen(m.nx - 0.5, m.ny - 0.5);
    context.globalAlpha = this.maskOpacity;
    context.drawImage(mask.picture, x0, y0, x1 - x0, y1 - y0);
    context.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} context @param {Micrograph} m @param {number} level */
  drawLevel(context, m, level) {
    const block = 2 ** level;
    for (const [row, column] of this.visible(m, level)) {
      const image = this.tiles.get(this.key(m.micrograph, level, row, column));
      if (!image?.complete || !image.naturalWidth) continue;
      const [left, top] = [column * this.tilePx * block - 0.5, row * this.tilePx * block - 0.5];
      const [x0, y0] = this.onDevice(...this.toScreen(left, top));
      const [x1, y1] = this.onDevice(...this.toScreen(left + image.naturalWidth * block, top + image.naturalHeight * block));
      context.drawImage(image, x0, y0, x1 - x0, y1 - y0);
    }
  }

  /** The nearest position between two of the screen's pixels: tiles meet there without a seam. @param {number} sx @param {number} sy @returns {[number, number]} */
  onDevice(sx, sy) {
    const ratio = window.devicePixelRatio || 1;
    return [Math.round(sx * ratio) / ratio, Math.round(sy * ratio) / ratio];
  }

  /** Tiles of a level that are in sight. @param {Micrograph} m @param {number} level @returns {[number, number][]} */
  visible(m, level) {
    const span = this.tilePx * 2 ** level;
    const [x0, y0] = this.toMicrograph(0, 0);
    const [x1, y1] = this.toMicrograph(this.width, this.height);
    /** @type {[number, number][]} */
    const found = [];
    const last = (/** @type {number} */ n, /** @type {number} */ v) => Math.min(Math.ceil(n / span) - 1, Math.floor(v / span));
    for (let row = Math.max(0, Math.floor(y0 / span)); row <= last(m.ny, y1); row++) {
      for (let column = Math.max(0, Math.floor(x0 / span)); column <= last(m.nx, x1); column++) found.push([row, column]);
    }
    return found;
  }

  /** @param {number} micrograph @param {number} level @param {number} row @param {number} column */
  key(micrograph, level, row, column) {
    return `${this.entry} ${micrograph} ${this.lowpass} ${level} ${row} ${column}`;
  }

  /** A tile, asked for where it is not there yet. @param {Micrograph} m @param {number} level @param {number} row @param {number} column */
  tile(m, level, row, column) {
    const key = this.key(m.micrograph, level, row, column);
    const held = this.tiles.get(key);
    if (held) {
      this.tiles.delete(key);
      this.tiles.set(key, held);
      return held;
    }
    const image = new Image();
    image.onload = () => {
      if (this.drawn?.micrograph.micrograph === m.micrograph) this.draw(false); // else it was fetched ahead
    };
    image.onerror = () =>
      setTimeout(() => {
        this.tiles.delete(key);
        this.draw(false);
      }, 2000);
    image.src = address("tile", { entry: this.entry, micrograph: m.micrograph, level, row, column, lowpass: this.lowpass });
    this.tiles.set(key, image);
    for (const old of this.tiles.keys()) {
      if (this.tiles.size <= MOST_TILES) break;
      this.tiles.delete(old);
    }
    return image;
  }

  /** Ask for the tiles that another micrograph will need when it is fitted. @param {Micrograph} m */
  prefetch(m) {
    const level = this.levelFor(m, Math.min(this.width / m.nx, this.height / m.ny));
    const span = this.tilePx * 2 ** level;
    for (let row = 0; row * span < m.ny; row++) {
      for (let column = 0; column * span < m.nx; column++) this.tile(m, level, row, column);
    }
  }

  drawCircles() {
    const context = this.context(this.circles);
    const drawn = this.drawn;
    if (!drawn) return;
    const m = drawn.micrograph;
    const radius = Math.max(2, (m.diameter_px / 2) * this.scale);
    const width = Math.max(1.25, Math.min(2.5, radius / 9));
    if (!drawn.hidden.has("all")) {
      m.others.forEach((other, k) => {
        if (drawn.hidden.has(`other ${other.name}`)) return;
        this.strokeAll(context, other.xy, radius * (0.86 - 0.12 * k), OTHERS[k % 4] ?? "#fff", width * 0.8, []);
      });
      if (!drawn.hidden.has("missed")) {
        this.strokeAll(context, drawn.missed, radius * 1.06, COLORS.missed, width * 1.4, [1.5, width * 2.6]);
      }
      /** @type {[string, boolean, boolean, number[]][]} */
      const kinds = [
        [COLORS.removed, false, false, [radius * 0.35, radius * 0.25]],
        [COLORS.kept, true, false, []],
        [COLORS.doubtful, false, true, [radius * 0.35, radius * 0.25]],
        [COLORS.doubtful, true, true, []],
      ];
      for (const [color, kept, doubtful, dash] of kinds) {
        const these = drawn.picks.filter((p) => isDrawn(p) && p.kept === kept && p.doubtful === doubtful && !this.isHidden(p));
        this.strokeAll(context, these.map((p) => [p.x, p.y]), radius, color, width, dash);
        this.dotAll(context, these.filter((p) => p.decided), color, Math.max(1.6, radius / 9));
      }
    }
    const chosen = drawn.picks[drawn.selected];
    if (chosen) {
      this.strokeAll(context, [[chosen.x, chosen.y]], radius + 4, "#ffffff", 2, []);
    }
    if (drawn.brush) {
      context.strokeStyle = "#ffffff";
      context.lineWidth = 1.25;
      context.setLineDash([4, 4]);
      context.beginPath();
      context.arc(drawn.brush.x, drawn.brush.y, drawn.brush.radius, 0, 2 * Math.PI);
      context.stroke();
      context.setLineDash([]);
    }
    if (drawn.crosshair) this.drawCrosshair(context);
    if (m.pixel_size_A) this.drawScaleBar(context, m.pixel_size_A);
  }

  /** @param {CanvasRenderingContext2D} context @param {[number, number][]} xy @param {number} radius @param {string} color @param {number} width @param {number[]} dash */
  strokeAll(context, xy, radius, color, width, dash) {
    const reach = radius + width + 2;
    /** @type {[number, number][]} */
    const inSight = [];
    for (const [x, y] of xy) {
      const [sx, sy] = this.toScreen(x, y);
      if (sx > -reach && sy > -reach && sx < this.width + reach && sy < this.height + reach) inSight.push([sx, sy]);
    }
    if (inSight.length < LEAST_STAMPED || radius > LARGEST_STAMP_PX) {
      this.stroke(context, inSight, radius, color, width, dash);
      return;
    }
    const stamp = this.stamp(radius, color, width, dash);
    const side = 2 * stampReach(radius, width);
    for (const [sx, sy] of inSight) context.drawImage(stamp, sx - side / 2, sy - side / 2, side, side);
  }

  /**
   * A circle to copy: stroking thousands of dashed circles at each frame would take most of a second.
   *
   * @param {number} radius @param {string} color @param {number} width @param {number[]} dash
   */
  stamp(radius, color, width, dash) {
    const ratio = window.devicePixelRatio || 1;
    const key = [ratio, radius, color, width, ...dash].join(" ");
    const there = this.stamps.get(key);
    if (there) return there;
    if (this.stamps.size >= MOST_STAMPS) this.stamps.clear();
    const made = document.createElement("canvas");
    const reach = stampReach(radius, width);
    made.width = made.height = Math.ceil(2 * reach * ratio);
    const context = made.getContext("2d");
    if (!context) throw new Error("this browser has no canvas");
    context.scale(made.width / (2 * reach), made.height / (2 * reach));
    this.stroke(context, [[reach, reach]], radius, color, width, dash);
    this.stamps.set(key, made);
    return made;
  }

  /** @param {CanvasRenderingContext2D} context @param {[number, number][]} centers @param {number} radius @param {string} color @param {number} width @param {number[]} dash */
  stroke(context, centers, radius, color, width, dash) {
    context.beginPath();
    for (const [sx, sy] of centers) {
      context.moveTo(sx + radius, sy);
      context.arc(sx, sy, radius, 0, 2 * Math.PI);
    }
    context.setLineDash(dash);
    context.lineCap = dash.length ? "round" : "butt";
    context.strokeStyle = "rgba(0, 0, 0, 0.55)"; // an edge that shows on bright and on dark ground
    context.lineWidth = width + 1.6;
    context.stroke();
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
    context.setLineDash([]);
  }

  /** @param {CanvasRenderingContext2D} context @param {Shown[]} picks @param {string} color @param {number} radius */
  dotAll(context, picks, color, radius) {
    context.fillStyle = color;
    context.beginPath();
    for (const pick of picks) {
      const [x, y] = this.toScreen(pick.x, pick.y);
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.fill();
  }

  /** @param {CanvasRenderingContext2D} context */
  drawCrosshair(context) {
    const [x, y] = [this.width / 2, this.height / 2];
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * (dx ?? 0), y + 5 * (dy ?? 0));
      context.lineTo(x + 16 * (dx ?? 0), y + 16 * (dy ?? 0));
    }
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context @param {number} pixelSize */
  drawScaleBar(context, pixelSize) {
    const wanted = (90 / this.scale) * (pixelSize / 10);
    const lengths = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
    const nm = lengths.reduce((a, b) => (Math.abs(Math.log(b / wanted)) < Math.abs(Math.log(a / wanted)) ? b : a));
    const length = ((nm * 10) / pixelSize) * this.scale;
    const [x, y] = [this.width - 18 - length, this.height - 20];
    context.fillStyle = "rgba(10, 13, 16, 0.72)";
    context.beginPath();
    context.roundRect(x - 10, y - 24, length + 20, 36, 6);
    context.fill();
    context.fillStyle = "#ffffff";
    context.fillRect(x, y, length, 3.5);
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(`${nm} nm`, x + length / 2, y - 7);
  }
}
