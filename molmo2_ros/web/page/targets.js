// The targets as a table: for eyes, keyboards and screen readers.

import {make} from "./queries.js";

const PERIOD_MS = 250; // numbers that change faster cannot be read

export class Targets {
  constructor() {
    this.body = document.querySelector("#targets tbody");
    this.count = document.getElementById("targets-count");
    this.due = 0;
  }

  /** Marks of the scene that is shown, with `colour` and `label`. */
  show(marks) {
    if (performance.now() < this.due) return;
    this.due = performance.now() + PERIOD_MS;
    this.count.textContent = marks.length || "";
    while (this.body.rows.length > marks.length) this.body.deleteRow(-1);
    marks.forEach((mark, index) => this.fill(this.body.rows[index] ?? this.row(), mark));
  }

  row() {
    const row = this.body.insertRow();
    row.append(make("td", {}, make("span", {className: "swatch"}), make("span")), ...Array.from({length: 4}, () => make("td")));
    return row;
  }

  fill(row, mark) {
    const [thing, pixel, metres, age, sure] = row.cells;
    thing.firstChild.style.setProperty("--colour", mark.colour);
    thing.lastChild.textContent = `${mark.label} ${mark.track_id}`;
    pixel.textContent = `${Math.round(mark.u)}, ${Math.round(mark.v)}`;
    metres.textContent = mark.xyz ? mark.xyz.map((part) => part.toFixed(2)).join(", ") : "unknown";
    age.textContent = mark.measured ? "now" : `${mark.age.toFixed(1)} s`;
    sure.textContent = mark.confidence === null ? "unknown" : `${Math.round(100 * mark.confidence)} %`;
  }
}
