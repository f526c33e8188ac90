// Pictures with points, trails and names, drawn together by stamp; clicks, drags and keys on them.

import {drawCrosshair, drawHandle, drawMarks, Trails} from "./drawing.js";

const REACH_PX = 18; // so near a pointer takes a handle up
const KEY_STEP = 0.01; // of the picture's width, for a key
const ACCENT = "#ff6ea9";

export const stampMs = (stamp) => stamp.sec * 1e3 + stamp.nanosec / 1e6;

export class Stage {
  /**
   * @param {object} on drawn(head), pick(u, v, head), and of a draft: take(index), move(index, u, v),
   *   moved(), add(u, v), remove()
   */
  constructor(on) {
    this.on = on;
    this.box = document.getElementById("stage");
    this.picture = document.getElementById("picture");
    this.marks = document.getElementById("marks");
    this.waiting = document.getElementById("waiting");
    this.paper = this.picture.getContext("2d", {alpha: false});
    this.overlay = this.marks.getContext("2d");
    this.trails = new Trails();
    this.head = null; // of the scene that is shown
    this.describe = () => ({colour: ACCENT, label: ""}); // of a mark
    this.draft = null; // {points, taken, colour} while correcting
    this.crosshair = null; // [u, v] for those who use keys
    this.isStopped = false;
    this.newest = 0; // number of the newest scene whose picture was decoded
    this.epoch = 0; // of the server's numbers
    new ResizeObserver(() => this.redraw()).observe(this.box);
    this.listen();
  }

  /** Decode a picture, then draw it together with its points, unless a newer one was quicker. */
  async show(head, blob) {
    const {epoch} = this;
    let bitmap = null;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      // A picture that cannot be decoded is left out; the next one follows.
    }
    if (bitmap && !this.isStopped && epoch === this.epoch && head.number > this.newest) {
      this.newest = head.number;
      this.put(head, bitmap);
    }
    bitmap?.close();
    this.on.drawn(head);
  }

  put(head, bitmap) {
    if (this.picture.width !== bitmap.width || this.picture.height !== bitmap.height) {
      this.picture.width = bitmap.width;
      this.picture.height = bitmap.height;
      this.box.parentElement.style.setProperty("--ratio", (bitmap.width / bitmap.height).toFixed(4));
    }
    this.paper.drawImage(bitmap, 0, 0);
    if (this.head?.camera !== head.camera) this.trails = new Trails();
    this.head = head;
    this.waiting.hidden = true;
    this.trails.add(head.points ?? [], stampMs(head.stamp));
    this.redraw();
  }

  /** Another camera, or a server that began anew: numbers may be smaller again. */
  forget() {
    this.newest = 0;
    this.epoch += 1;
    this.trails = new Trails();
  }

  redraw() {
    if (!this.head) return;
    const {clientWidth: width, clientHeight: height} = this.marks;
    const dense = window.devicePixelRatio || 1;
    const size = [Math.round(width * dense), Math.round(height * dense)];
    if (this.marks.width !== size[0] || this.marks.height !== size[1]) [this.marks.width, this.marks.height] = size;
    const canvas = this.overlay;
    canvas.setTransform(dense, 0, 0, dense, 0, 0);
    canvas.clearRect(0, 0, width, height);
    const place = (u, v) => [((u + 0.5) / this.head.width) * width, ((v + 0.5) / this.head.height) * height];
    if (this.draft) {
      this.draft.points.forEach(([u, v], index) =>
        drawHandle(canvas, place(u, v), this.draft.colour, index === this.draft.taken));
    } else {
      const marks = (this.head.points ?? []).map((mark) => ({...mark, ...this.describe(mark)}));
      drawMarks(canvas, marks, this.trails, place, width);
    }
    if (this.crosshair && document.activeElement === this.marks) {
      drawCrosshair(canvas, place(...this.crosshair), ACCENT);
    }
    this.marks.dataset.number = this.head.number;
    this.marks.dataset.stamp = `${this.head.stamp.sec}.${String(this.head.stamp.nanosec).padStart(9, "0")}`;
  }

  /** Where a pointer is in the picture's pixels, inside it. */
  pixel(event) {
    const {left, top, width, height} = this.marks.getBoundingClientRect();
    return this.inside(
      ((event.clientX - left) / width) * this.head.width - 0.5,
      ((event.clientY - top) / height) * this.head.height - 0.5);
  }

  inside(u, v) {
    return [Math.max(0, Math.min(this.head.width - 1, u)), Math.max(0, Math.min(this.head.height - 1, v))];
  }

  /** The handle within reach of a place, -1 for none. */
  handle(u, v) {
    const scale = this.marks.clientWidth / this.head.width;
    let best = -1;
    let nearest = REACH_PX;
    this.draft.points.forEach(([pu, pv], index) => {
      const far = Math.hypot(pu - u, pv - v) * scale;
      if (far < nearest) [nearest, best] = [far, index];
    });
    return best;
  }

  listen() {
    const {marks} = this;
    let dragged = -1;
    let hasMoved = false;
    marks.addEventListener("pointerdown", (event) => {
      if (!this.head || event.button !== 0) return;
      this.crosshair = null;
      if (!this.draft) return;
      event.preventDefault();
      marks.focus({preventScroll: true});
      const place = this.pixel(event);
      dragged = this.handle(...place);
      hasMoved = false;
      if (dragged >= 0) this.on.take(dragged);
      else this.on.add(...place);
      if (dragged >= 0) marks.setPointerCapture(event.pointerId);
    });
    marks.addEventListener("pointermove", (event) => {
      if (!this.draft || !this.head) return;
      if (dragged < 0) {
        marks.style.cursor = this.handle(...this.pixel(event)) >= 0 ? "grab" : "";
        return;
      }
      hasMoved = true;
      this.on.move(dragged, ...this.pixel(event));
    });
    const release = () => {
      if (dragged >= 0 && hasMoved) this.on.moved();
      dragged = -1;
    };
    marks.addEventListener("pointerup", release);
    marks.addEventListener("pointercancel", release);
    marks.addEventListener("click", (event) => {
      if (this.head && !this.draft) this.on.pick(...this.pixel(event), this.head);
    });
    marks.addEventListener("keydown", (event) => this.key(event));
    marks.addEventListener("blur", () => {
      this.crosshair = null;
      this.redraw();
    });
  }

  key(event) {
    if (!this.head || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const {draft} = this;
    if (arrows[event.key]) {
      const step = Math.max(1, this.head.width * KEY_STEP) * (event.shiftKey ? 0.2 : 1);
      const [dx, dy] = arrows[event.key].map((part) => part * step);
      if (draft && draft.taken >= 0) {
        const [u, v] = draft.points[draft.taken];
        this.on.move(draft.taken, ...this.inside(u + dx, v + dy));
        this.on.moved();
      } else {
        const [u, v] = this.crosshair ?? [this.head.width / 2, this.head.height / 2];
        this.crosshair = this.inside(u + dx, v + dy);
      }
    } else if (event.key === "Enter" || event.key === " ") {
      if (draft && draft.taken >= 0) this.on.take(-1);
      else if (!this.crosshair) this.crosshair = [this.head.width / 2, this.head.height / 2];
      else if (!draft) this.on.pick(...this.crosshair, this.head);
      else if (this.handle(...this.crosshair) >= 0) this.on.take(this.handle(...this.crosshair));
      else this.on.add(...this.crosshair);
    } else if (draft && (event.key === "Delete" || event.key === "Backspace")) {
      this.on.remove();
    } else if (draft && (event.key === "," || event.key === ".") && draft.points.length) {
      const {length} = draft.points;
      const from = draft.taken < 0 && event.key === "," ? 0 : draft.taken;
      this.on.take((from + (event.key === "." ? 1 : -1) + length) % length);
    } else {
      return;
    }
    event.preventDefault();
    this.redraw();
  }
}
