// What was answered to a question asked once, as it is written.

import {brief} from "./queries.js";

export class Answers {
  constructor() {
    this.box = document.getElementById("answer");
    this.spoken = document.getElementById("spoken");
    this.text = "";
  }

  /** A question was sent; its answer will come. */
  expect(text) {
    this.text = text;
    this.box.hidden = false;
    this.box.toggleAttribute("data-partial", true);
    this.fill(text, "", "");
  }

  /** It was refused. */
  forget() {
    this.text = "";
    this.box.hidden = true;
  }

  fail(text) {
    this.box.toggleAttribute("data-partial", false);
    this.fill(this.text, text, "");
  }

  /**
   * An answer to a free question, whole or partial.
   * @param {boolean} isMine the question was asked on this page
   */
  show(answer, isMine) {
    if (!isMine && answer.partial && this.text && !answer.query.words.includes(words(this.text))) return;
    this.box.hidden = false;
    this.box.toggleAttribute("data-partial", answer.partial);
    const question = isMine && this.text ? this.text : `${answer.query.kind}: ${answer.query.words}`;
    this.fill(question, sentence(answer), answer.partial ? "" : facts(answer));
    if (!answer.partial) this.spoken.textContent = `${question} ${sentence(answer)}`;
  }

  fill(question, text, told) {
    document.getElementById("answer-question").textContent = question;
    document.getElementById("answer-text").textContent = text;
    document.getElementById("answer-facts").textContent = told;
  }
}

const words = (text) => text.replace(/^[^:]*:\s*/, "");

function sentence(answer) {
  if (answer.refused) return answer.problems[0] ?? "refused";
  const points = answer.points.slice(0, 6).map((point) => {
    const u = Math.round(point.x * answer.image.width);
    const v = Math.round(point.y * answer.image.height);
    return `#${point.object_id} at ${u}, ${v} px`;
  });
  return [brief(answer), ...points].filter(Boolean).join("\n");
}

function facts(answer) {
  const {timing} = answer;
  const seconds = timing.encode_s + timing.prefill_s + timing.decode_s;
  const passes = timing.num_passes === 1 ? "1 pass" : `${timing.num_passes} passes`;
  const told = [`${Math.round(1000 * seconds)} ms`, `${timing.num_answer_tokens} tokens in ${passes}`];
  if (answer.truncated) told.push("cut off");
  return [...told, ...answer.problems].join(", ");
}
