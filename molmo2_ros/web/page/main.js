// Puts the parts of the page together.

import {Answers} from "./answers.js";
import {request, Stream} from "./connection.js";
import {Corrections} from "./corrections.js";
import {queryColour} from "./drawing.js";
import {Ask, make, Queries} from "./queries.js";
import {Stage, stampMs} from "./stage.js";
import {showStatus} from "./status.js";
import {Targets} from "./targets.js";

const TOAST_MS = 6000;
const HINTS = {
  track: "Click a thing in the picture: the model tracks it from there.",
  correct: "Drag a point to where the thing is, click where one is missing, delete what is wrong; then save.",
  nothing: "Nothing is asked that has points. Ask for one first, then stop the picture.",
};
const byId = (id) => document.getElementById(id);

const queries = new Map(); // entries of ~/queries by node
let camera = "";
let toastTimer = 0;

function say(text, label, act) {
  const toast = byId("toast");
  toast.replaceChildren(make("span", {}, text));
  if (label) {
    toast.append(make("button", {type: "button", textContent: label, onclick: () => {
      toast.hidden = true;
      act();
    }}));
  }
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, TOAST_MS);
}

// Nodes that speak of the camera that is shown; with several cameras each has its own.
let speakers = [];
const isShown = (node) => speakers.length === 0 || speakers.includes(node);
const entries = () => [...queries].filter(([node]) => isShown(node))
  .flatMap(([node, list]) => list.map((entry) => ({...entry, node})));

function hear(nodes) {
  if (!nodes.length || nodes.join() === speakers.join()) return;
  speakers = nodes;
  ask.node = nodes[0];
  list.show(entries());
}

const labels = new Map(); // by node and query id
function describe(mark) {
  return {colour: queryColour(mark.query_id), label: labels.get(`${mark.node}/${mark.query_id}`) ?? ""};
}

const corrections = new Corrections({
  say,
  changed: () => {
    stage.draft = corrections.draft ?? null;
    stage.redraw();
  },
});
const stage = new Stage({
  drawn: (head) => {
    stream.drawn(head.number);
    document.dispatchEvent(new CustomEvent("molmo2:drawn", {detail: {
      number: head.number, latencyMs: performance.timeOrigin + performance.now() - head.arrived_ms,
    }}));
  },
  pick,
  take: (index) => corrections.take(index),
  move: (index, u, v) => corrections.move(index, u, v),
  moved: () => corrections.moved(),
  add: (u, v) => corrections.add(u, v),
  remove: () => corrections.remove(),
});
stage.describe = describe;
const answers = new Answers();
const ask = new Ask(answers);
const list = new Queries(say);
const targets = new Targets();

async function pick(u, v, head) {
  try {
    const words = byId("called-text").value.trim();
    const told = await request("POST", "/track", {
      camera: head.camera, stamp: head.stamp, u, v, words, node: head.nodes[0] ?? null,
    });
    say(`Tracking ${told.query ? told.query.label : "it"} from there`);
  } catch (error) {
    say(error.message);
  }
}

function setMode(mode) {
  const corrects = mode === "correct" && stage.head !== null;
  byId("mode-track").setAttribute("aria-pressed", String(!corrects));
  byId("mode-correct").setAttribute("aria-pressed", String(corrects));
  byId("called").hidden = corrects;
  stage.box.dataset.mode = corrects ? "correct" : "track";
  stage.isStopped = corrects;
  stage.crosshair = null;
  byId("stopped").hidden = !corrects;
  if (corrects) {
    const {head} = stage;
    byId("stopped").textContent = `Stopped at ${new Date(stampMs(head.stamp)).toISOString().slice(11, 23)}`;
    const has = corrections.begin(head, entries());
    byId("fix").hidden = !has;
    byId("hint").textContent = has ? HINTS.correct : HINTS.nothing;
    request("POST", "/keep", {camera: head.camera, stamp: head.stamp}).catch(() => {});
  } else {
    byId("fix").hidden = true;
    byId("hint").textContent = HINTS.track;
    corrections.end();
  }
  watch();
}

function watch() {
  stream.watch(camera ? [camera] : null, !document.hidden && !stage.isStopped);
}

function showCameras(cameras) {
  const names = cameras.map((entry) => entry.name);
  if (!names.includes(camera)) {
    camera = names[0] ?? "";
    watch();
  }
  const group = byId("cameras");
  group.hidden = names.length < 2;
  group.replaceChildren(...names.map((name) => make("button", {
    type: "button", textContent: name, "aria-pressed": String(name === camera), onclick: () => {
      camera = name;
      speakers = [];
      stage.forget();
      setMode("track");
      showCameras(cameras);
    },
  })));
  byId("marks").setAttribute("aria-label", `Picture of camera ${camera}`);
}

const stream = new Stream({
  link: (state, text) => {
    byId("link").dataset.state = state;
    byId("link").textContent = text;
    byId("banner").hidden = state !== "lost";
    byId("banner").textContent = state === "lost" ? `${text}; trying again. What you see is not live.` : "";
  },
  hello: (message) => {
    stage.forget();
    showCameras(message.cameras);
    watch();
  },
  cameras: (message) => showCameras(message.cameras),
  scene: (head, blob) => stage.show(head, blob).then(() => {
    if (head.camera === camera) hear(head.nodes);
    if (stage.head) targets.show((stage.head.points ?? []).map((mark) => ({...mark, ...describe(mark)})));
  }),
  queries: (message) => {
    queries.set(message.node, message.queries);
    for (const entry of message.queries) labels.set(`${message.node}/${entry.id}`, entry.label);
    list.show(entries());
    if (message.skills.length) ask.suggest(message.skills);
  },
  answer: (message) => {
    if (message.query.id) list.answered(message);
    else if (message.partial) answers.show(message, false);
  },
  reviews: (message) => corrections.show(message.reviews),
  status: showStatus,
});

byId("mode-track").addEventListener("click", () => setMode("track"));
byId("mode-correct").addEventListener("click", () => setMode("correct"));
document.addEventListener("visibilitychange", watch);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && stage.isStopped) setMode("track");
});

const THEME = "molmo2-theme";
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}
const light = matchMedia("(prefers-color-scheme: light)");
setTheme(localStorage.getItem(THEME) ?? (light.matches ? "light" : "dark"));
light.addEventListener("change", () => {
  if (!localStorage.getItem(THEME)) setTheme(light.matches ? "light" : "dark");
});
byId("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  localStorage.setItem(THEME, theme);
  setTheme(theme);
});

byId("hint").textContent = HINTS.track;
