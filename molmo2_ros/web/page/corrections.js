// Corrections: a draft on a stopped picture, the list, and undo.

import {request} from "./connection.js";
import {queryColour} from "./drawing.js";
import {make} from "./queries.js";

const MOST_SHOWN = 12;
const STATES = {sent: "sent", recorded: "recorded", undone: "taken back"};

export class Corrections {
  /** @param {object} on changed(): the draft looks otherwise; say(text, label, act) */
  constructor(on) {
    this.on = on;
    this.list = document.getElementById("corrections");
    this.select = document.getElementById("fix-query");
    this.save = document.getElementById("fix-save");
    this.back = document.getElementById("fix-back");
    this.erase = document.getElementById("fix-delete");
    this.head = null;
    this.drafts = new Map(); // by the words for the thing
    this.select.addEventListener("change", () => this.choose(this.select.value));
    this.save.addEventListener("click", () => this.send());
    this.back.addEventListener("click", () => this.undoStep());
    this.erase.addEventListener("click", () => this.remove());
  }

  /** Begin with a picture, and the queries that can be corrected. */
  begin(head, entries) {
    this.head = head;
    this.drafts.clear();
    for (const entry of entries) {
      if (entry.kind === "ask" || entry.kind === "caption" || this.drafts.has(entry.label)) continue;
      const points = (head.points ?? [])
        .filter((mark) => mark.node === entry.node && mark.query_id === entry.id)
        .map((mark) => [mark.u, mark.v]);
      this.drafts.set(entry.label, {
        label: entry.label, colour: queryColour(entry.id), points, taken: -1, before: [],
      });
    }
    this.select.replaceChildren(...[...this.drafts.keys()].map((label) => make("option", {value: label, textContent: label})));
    this.choose(this.select.value);
    return this.drafts.size > 0;
  }

  end() {
    this.head = null;
    this.draft = null;
    this.on.changed();
  }

  choose(label) {
    this.draft = this.drafts.get(label) ?? null;
    this.on.changed();
    this.fill();
  }

  fill() {
    const {draft} = this;
    this.save.disabled = !draft;
    this.save.textContent = draft?.before.length ? "Save correction" : "Save as right";
    this.back.disabled = !draft?.before.length;
    this.erase.disabled = !draft || draft.taken < 0;
  }

  note() {
    this.draft.before.push(this.draft.points.map((point) => [...point]));
  }

  take(index) {
    this.draft.taken = index;
    if (index >= 0) this.held = this.draft.points.map((point) => [...point]);
    this.redraw();
  }

  move(index, u, v) {
    this.draft.points[index] = [u, v];
    this.on.changed();
  }

  moved() {
    if (this.held) this.draft.before.push(this.held);
    this.held = this.draft.points.map((point) => [...point]);
    this.redraw();
  }

  add(u, v) {
    this.note();
    this.draft.points.push([u, v]);
    this.draft.taken = -1;
    this.redraw();
  }

  remove() {
    if (!this.draft || this.draft.taken < 0) return;
    this.note();
    this.draft.points.splice(this.draft.taken, 1);
    this.draft.taken = -1;
    this.redraw();
    document.getElementById("marks").focus({preventScroll: true});
  }

  undoStep() {
    this.draft.points = this.draft.before.pop() ?? this.draft.points;
    this.draft.taken = -1;
    this.redraw();
  }

  redraw() {
    this.on.changed();
    this.fill();
  }

  async send() {
    const {draft, head} = this;
    this.save.disabled = true;
    try {
      const told = await request("POST", "/corrections", {
        camera: head.camera, stamp: head.stamp, query: draft.label,
        points: draft.points.map(([u, v]) => ({u, v})),
      });
      draft.before = [];
      this.on.say(`Correction of ${draft.label} saved`, "Undo", () => this.undo(told.id));
    } catch (error) {
      this.on.say(error.message);
    } finally {
      this.fill();
    }
  }

  async undo(id) {
    try {
      await request("DELETE", `/corrections/${encodeURIComponent(id)}`);
      this.on.say("Correction taken back");
    } catch (error) {
      this.on.say(error.message);
    }
  }

  /** All corrections of this server, newest last. */
  show(reviews) {
    document.getElementById("corrections-empty").hidden = reviews.length > 0;
    document.getElementById("corrections-count").textContent =
      reviews.filter((review) => review.state !== "undone").length || "";
    this.list.replaceChildren(...reviews.slice(-MOST_SHOWN).reverse().map((review) => {
      const number = review.points.length;
      const what = number === 0 ? "nowhere" : number === 1 ? "1 place" : `${number} places`;
      const item = make("li", {dataset: {state: review.state, id: review.id}},
        make("span", {}, `${review.query}: ${what}`),
        make("small", {className: "state"}, STATES[review.state]));
      if (review.state !== "undone") {
        item.append(make("button", {type: "button", textContent: "Undo", onclick: () => this.undo(review.id),
          "aria-label": `Undo the correction of ${review.query}`}));
      }
      return item;
    }));
  }
}
