// The strip of figures.

import {make} from "./queries.js";

const WARNING = 1;

/** Values of all lines of all nodes by name; of equal names the last. */
function values(nodes) {
  const found = {};
  for (const lines of Object.values(nodes)) for (const line of lines) Object.assign(found, line.values, {
    [`rate of ${line.name.split(": ")[1]}`]: line.values.rate_hz,
  });
  return found;
}

const number = (text, digits = 0) => (text === undefined || text === null || Number.isNaN(Number(text))
  ? null : Number(text).toFixed(digits));

export function showStatus(message) {
  const found = values(message.nodes);
  const answer = ["last_encode_s", "last_prefill_s", "last_decode_s"]
    .map((name) => Number(found[name] ?? NaN)).reduce((sum, part) => sum + part, 0);
  const share = found.drafts_accepted_share;
  const dropped = ["frames_dropped", "frames_lost_in_transport"]
    .map((name) => Number(found[name] ?? 0)).reduce((sum, part) => sum + part, 0);
  const tiles = [
    ["Picture latency", number(message.drawn_latency_ms), "ms"],
    ["Camera", number(found["rate of camera"], 1), "Hz"],
    ["Answer", Number.isNaN(answer) ? null : number(1000 * answer), "ms"],
    ["Answers", number(found.answers_rate_hz, 1), "a second"],
    ["Drafts taken", share === undefined ? null : number(100 * share), "%"],
    ["Frames dropped", number(dropped), ""],
    ["Viewers", `${message.viewers}`, `of ${message.max_viewers}`],
  ];
  const strip = document.getElementById("strip");
  strip.replaceChildren(...tiles.filter(([, value]) => value !== null).map(([name, value, unit]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, unit ? make("small", {}, ` ${unit}`) : ""))),
  ...Object.values(message.nodes).flat().filter((line) => line.level >= WARNING).map((line) =>
    make("div", {className: "trouble"}, make("dt", {}, line.name), make("dd", {}, line.message))));
}
