// The ask box and the list of standing queries.

import {request} from "./connection.js";
import {queryColour} from "./drawing.js";

const RATES = [["0", "as often as possible"], ["10", "10 a second"], ["5", "5 a second"], ["2", "2 a second"],
  ["1", "once a second"], ["0.2", "every 5 s"], ["0.05", "every 20 s"]];
const IDEAS = ["point: the red mug", "count: mugs", "track: the lemon", "How many mugs are there?", "Is the drawer open?"];
const WAIT_S = 45;

const paths = {
  pause: "M8 5v14M16 5v14",
  resume: "M8 5l11 7-11 7z",
  remove: "M6 6l12 12M18 6L6 18",
};

/** An element with properties, attributes and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export class Ask {
  /** @param {object} on asked(name, text), failed(text) */
  constructor(answers) {
    this.answers = answers;
    this.node = null; // that is asked; the server's first where none speaks of the camera
    this.form = document.getElementById("ask");
    this.text = document.getElementById("ask-text");
    this.trouble = document.getElementById("ask-trouble");
    this.once = document.getElementById("ask-once");
    this.keep = document.getElementById("ask-keep");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(false);
    });
    this.keep.addEventListener("click", () => this.send(true));
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      this.send(event.shiftKey);
    });
  }

  async send(stands) {
    const text = this.text.value.trim();
    if (!text) {
      this.text.focus();
      return;
    }
    this.trouble.hidden = true;
    const button = stands ? this.keep : this.once;
    button.disabled = true;
    try {
      if (stands) {
        await request("POST", "/queries", {text, node: this.node});
        this.text.value = "";
      } else {
        this.answers.expect(text);
        const told = await request("POST", "/ask", {text, wait_s: WAIT_S, node: this.node});
        if (told.answer) this.answers.show(told.answer, true);
        else this.answers.fail("No answer came in time; the model is busy or stands still.");
      }
    } catch (error) {
      this.answers.forget();
      this.trouble.textContent = error.message;
      this.trouble.hidden = false;
    } finally {
      button.disabled = false;
    }
  }

  /** Offer what can be asked to whoever has not asked anything. */
  suggest(skills) {
    const ideas = document.getElementById("ideas");
    if (ideas.childElementCount) return;
    const known = IDEAS.filter((text) => !text.includes(":") ? skills.includes(text.startsWith("How") ? "count" : "ask")
      : skills.includes(text.split(":")[0]));
    ideas.replaceChildren(...known.slice(0, 4).map((text) => make("button", {
      type: "button", textContent: text, onclick: () => {
        this.text.value = text;
        this.text.focus();
      },
    })));
  }
}

/** The list; rows stay while their query does, so that whoever types in one is not disturbed. */
export class Queries {
  constructor(say) {
    this.say = say;
    this.list = document.getElementById("queries");
    this.rows = new Map(); // by node and id
    this.told = new Map(); // what was answered, by node and id
  }

  /** All entries of all nodes, as on ~/queries with `node`. */
  show(entries) {
    const present = new Set();
    for (const entry of entries) {
      const key = `${entry.node}/${entry.id}`;
      present.add(key);
      if (!this.rows.has(key)) {
        this.rows.set(key, this.row(entry));
        this.list.append(this.rows.get(key).element);
      }
      this.fill(this.rows.get(key), entry);
    }
    for (const [key, row] of this.rows) {
      if (present.has(key)) continue;
      const hadFocus = row.element.contains(document.activeElement);
      row.element.remove();
      this.rows.delete(key);
      this.told.delete(key);
      if (hadFocus) document.getElementById("ask-text").focus();
    }
    document.getElementById("queries-empty").hidden = entries.length > 0;
    document.getElementById("queries-count").textContent = entries.length || "";
  }

  /** What was answered to a query: a count, an absence, words; while it is written, too. */
  answered(answer) {
    const key = `${answer.node}/${answer.query.id}`;
    const text = brief(answer);
    this.told.set(key, text);
    const row = this.rows.get(key);
    if (row && !row.entry.refused) row.told.textContent = text;
  }

  row(entry) {
    const row = {entry};
    const change = (content) => this.change(row.entry, content);
    row.kind = make("span", {className: "kind"});
    row.words = make("span", {className: "words"});
    row.told = make("p", {className: "told"});
    row.name = make("button", {type: "button", className: "name", onclick: () => this.rename(row)});
    row.rate = make("select", {onchange: () => change({rate_hz: Number(row.rate.value)})},
      ...RATES.map(([value, text]) => make("option", {value, textContent: text})));
    row.measured = make("span");
    row.pause = make("button", {type: "button", className: "plain", onclick: () => change({paused: !row.entry.paused})});
    row.remove = make("button", {type: "button", className: "plain", onclick: () => this.remove(row.entry)}, icon(paths.remove));
    row.swatch = make("span", {className: "swatch"});
    row.swatch.style.setProperty("--colour", queryColour(entry.id));
    row.element = make("li", {className: "query"},
      row.swatch,
      make("div", {className: "about"}, row.kind, row.words),
      make("div", {className: "acts"}, row.pause, row.remove),
      row.told,
      make("div", {className: "terms"}, row.name, row.rate, row.measured));
    return row;
  }

  fill(row, entry) {
    row.entry = entry;
    row.kind.textContent = entry.kind;
    row.words.textContent = entry.words;
    row.name.textContent = entry.name;
    row.name.setAttribute("aria-label", `Rename ${entry.name}`);
    row.rate.setAttribute("aria-label", `Rate of ${entry.name}`);
    row.remove.setAttribute("aria-label", `Remove ${entry.name}`);
    row.element.toggleAttribute("data-paused", entry.paused);
    row.pause.setAttribute("aria-label", `${entry.paused ? "Resume" : "Pause"} ${entry.name}`);
    if (row.isPaused !== entry.paused) {
      row.isPaused = entry.paused;
      row.pause.replaceChildren(icon(entry.paused ? paths.resume : paths.pause));
    }
    if (document.activeElement !== row.rate) this.fillRate(row, entry);
    row.measured.textContent = entry.paused ? "paused" : `${entry.rate_hz.toFixed(1)}/s now`;
    row.told.classList.toggle("trouble", Boolean(entry.refused));
    row.told.textContent = entry.refused ?? this.told.get(`${entry.node}/${entry.id}`) ?? "";
  }

  fillRate(row, entry) {
    const value = String(entry.wanted_rate_hz ?? 0);
    if (![...row.rate.options].some((option) => option.value === value)) {
      row.rate.append(make("option", {value, textContent: `${value} a second`}));
    }
    row.rate.value = value;
  }

  rename(row) {
    const before = row.entry.name;
    const field = make("input", {type: "text", className: "rename", value: before, maxLength: 64,
      "aria-label": `New name of ${before}`});
    const end = (name) => {
      field.onblur = null;
      field.replaceWith(row.name);
      row.name.focus();
      if (name && name !== before) this.change(row.entry, {name});
    };
    field.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault(); // else the key also presses the button that gets the focus
      event.stopPropagation();
      end(event.key === "Enter" ? field.value.trim() : "");
    };
    field.onblur = () => end(field.value.trim());
    row.name.replaceWith(field);
    field.select();
  }

  async change(entry, content) {
    try {
      await request("PATCH", `/queries/${encodeURIComponent(entry.name)}`, {...content, node: entry.node});
    } catch (error) {
      this.say(error.message);
    }
  }

  async remove(entry) {
    try {
      await request("DELETE", `/queries/${encodeURIComponent(entry.name)}?node=${encodeURIComponent(entry.node)}`);
    } catch (error) {
      this.say(error.message);
    }
  }
}

/** One line about an answer. */
export function brief(answer) {
  const {query} = answer;
  if (answer.problems.length && !answer.points.length && !answer.text) return answer.problems[0];
  if (query.kind === "ask" || query.kind === "caption") return answer.text;
  if (answer.none) return "none";
  if (query.kind === "count" && answer.count !== null) return `${answer.count}`;
  const number = new Set(answer.points.map((point) => point.object_id)).size;
  return number === 1 ? "1 found" : `${number} found`;
}
