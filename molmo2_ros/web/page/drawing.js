// Colours, and how targets and trails are drawn on a canvas.

const GOLDEN = 0.618034; // successive multiples spread evenly over the circle of hues
const FRESH_S = 0.5; // older targets show their age
const TRAIL_MS = 1500;
const LOW_QUALITY = 0.5;

/** A bright colour for a query, [red, green, blue]. */
export function queryRgb(id) {
  const hue = (id * GOLDEN) % 1;
  const part = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (1 - 0.75 * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [part(5), part(3), part(1)];
}

export const queryColour = (id) => `rgb(${queryRgb(id).join(" ")})`;

/** Where targets have been in the last seconds. */
export class Trails {
  constructor() {
    this.points = new Map();
  }

  add(marks, timeMs) {
    const present = new Map();
    for (const mark of marks) {
      const key = `${mark.node}/${mark.query_id}/${mark.track_id}`;
      let trail = this.points.get(key) ?? [];
      if (trail.length && trail[trail.length - 1].timeMs > timeMs) trail = [];
      trail.push({timeMs, u: mark.u, v: mark.v});
      while (trail[0].timeMs < timeMs - TRAIL_MS) trail.shift();
      present.set(key, trail);
    }
    this.points = present;
  }

  of(mark) {
    return this.points.get(`${mark.node}/${mark.query_id}/${mark.track_id}`) ?? [];
  }
}

/**
 * Draw all targets of a scene.
 * @param {CanvasRenderingContext2D} canvas in CSS pixels
 * @param {object[]} marks with `colour` and `label`
 * @param {Trails|null} trails
 * @param {(u: number, v: number) => [number, number]} place picture's pixels to the canvas's
 * @param {number} width of the canvas
 */
export function drawMarks(canvas, marks, trails, place, width) {
  const unit = Math.max(0.85, Math.min(1.35, width / 760));
  canvas.lineJoin = canvas.lineCap = "round";
  if (trails) for (const mark of marks) drawTrail(canvas, trails.of(mark), mark.colour, place, unit);
  for (const mark of marks) drawPoint(canvas, mark, place(mark.u, mark.v), unit);
  const taken = [];
  for (const mark of marks) drawName(canvas, mark, place(mark.u, mark.v), unit, width, taken);
}

function drawTrail(canvas, trail, colour, place, unit) {
  canvas.strokeStyle = colour;
  canvas.lineWidth = 2 * unit;
  for (let i = 1; i < trail.length; i++) {
    canvas.globalAlpha = 0.75 * (i / trail.length);
    canvas.beginPath();
    canvas.moveTo(...place(trail[i - 1].u, trail[i - 1].v));
    canvas.lineTo(...place(trail[i].u, trail[i].v));
    canvas.stroke();
  }
  canvas.globalAlpha = 1;
}

// Filled: the model answered on this very frame. A ring: carried here; thin: held badly.
function drawPoint(canvas, mark, [x, y], unit) {
  const radius = 7.5 * unit;
  const stroke = (mark.quality < LOW_QUALITY ? 1.4 : 3) * unit;
  canvas.beginPath();
  canvas.arc(x, y, radius, 0, 2 * Math.PI);
  canvas.strokeStyle = "rgb(0 0 0 / .75)";
  canvas.lineWidth = stroke + 2.4 * unit;
  canvas.stroke();
  if (mark.measured) {
    canvas.fillStyle = mark.colour;
    canvas.fill();
  }
  canvas.strokeStyle = mark.colour;
  canvas.lineWidth = stroke;
  canvas.stroke();
  canvas.beginPath();
  canvas.arc(x, y, 2 * unit, 0, 2 * Math.PI);
  canvas.fillStyle = mark.measured ? "#000" : mark.colour;
  canvas.fill();
}

function drawName(canvas, mark, [x, y], unit, width, taken) {
  const parts = [mark.label ? `${mark.label} ${mark.track_id}` : `${mark.track_id}`];
  if (mark.confidence !== null) parts.push(`${Math.round(100 * mark.confidence)} %`);
  if (mark.xyz) parts.push(`${mark.xyz[2].toFixed(2)} m`);
  if (mark.age >= FRESH_S) parts.push(`${mark.age.toFixed(1)} s`);
  const text = parts.join("  ");
  canvas.font = `600 ${12.5 * unit}px system-ui, sans-serif`;
  const box = {w: canvas.measureText(text).width + 12 * unit, h: 20 * unit};
  box.x = Math.max(2, Math.min(x + 12 * unit, width - box.w - 2));
  box.y = Math.max(2, y - 12 * unit - box.h);
  for (const other of taken) {
    const beside = box.x + box.w <= other.x || other.x + other.w <= box.x;
    if (!beside && box.y < other.y + other.h && other.y < box.y + box.h) box.y = other.y + other.h + 2;
  }
  taken.push(box);
  canvas.fillStyle = "rgb(8 10 13 / .78)";
  canvas.beginPath();
  canvas.roundRect(box.x, box.y, box.w, box.h, 6 * unit);
  canvas.fill();
  canvas.fillStyle = mark.colour;
  canvas.textBaseline = "middle";
  canvas.fillText(text, box.x + 6 * unit, box.y + box.h / 2 + 0.5);
}

/** A crosshair for those who use keys. */
export function drawCrosshair(canvas, [x, y], colour) {
  for (const [style, width] of [["rgb(0 0 0 / .8)", 5], [colour, 2]]) {
    canvas.strokeStyle = style;
    canvas.lineWidth = width;
    canvas.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      canvas.moveTo(x + 5 * dx, y + 5 * dy);
      canvas.lineTo(x + 18 * dx, y + 18 * dy);
    }
    canvas.stroke();
  }
}

/** A point that can be dragged. */
export function drawHandle(canvas, [x, y], colour, isTaken) {
  canvas.beginPath();
  canvas.arc(x, y, isTaken ? 13 : 10, 0, 2 * Math.PI);
  canvas.strokeStyle = "rgb(0 0 0 / .85)";
  canvas.lineWidth = 6;
  canvas.stroke();
  canvas.fillStyle = "rgb(255 255 255 / .18)";
  canvas.fill();
  canvas.strokeStyle = isTaken ? "#fff" : colour;
  canvas.lineWidth = 3;
  canvas.stroke();
  canvas.beginPath();
  canvas.arc(x, y, 2.5, 0, 2 * Math.PI);
  canvas.fillStyle = colour;
  canvas.fill();
}
