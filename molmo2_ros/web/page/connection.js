// The WebSocket, opened again whenever it is lost, and requests to the server.

const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 5000;
const TRY_LATER = 1013; // all places are taken
const decoder = new TextDecoder();

/** An error in the server's own words. */
export class Refused extends Error {}

/**
 * Ask the server for something.
 * @param {string} method of HTTP
 * @param {string} path below /api
 * @param {object} [content] is sent as JSON
 */
export async function request(method, path, content) {
  let response;
  try {
    response = await fetch(`/api${path}`, {
      method,
      headers: content === undefined ? {} : {"Content-Type": "application/json"},
      body: content === undefined ? undefined : JSON.stringify(content),
    });
  } catch {
    throw new Refused("The server cannot be reached.");
  }
  const text = await response.text();
  let told = null;
  try {
    told = text ? JSON.parse(text) : null;
  } catch {
    // An error page of something between.
  }
  if (!response.ok) throw new Refused(reason(told) || `The server answered ${response.status}.`);
  return told;
}

function reason(told) {
  const detail = told && told.detail;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((entry) => entry.msg).join("; ");
  return "";
}

/** Calls `on[type](message, picture)` for each message, and `on.link(state, text)`. */
export class Stream {
  constructor(on) {
    this.on = on;
    this.wanted = null;
    this.wait = FIRST_WAIT_MS;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.on.link("connecting", "connecting");
    const socket = new WebSocket(`${scheme}://${location.host}/api/stream`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.wait = FIRST_WAIT_MS;
      if (this.wanted) this.send(this.wanted);
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = (event) => this.again(event);
    this.socket = socket;
  }

  again(event) {
    const isFull = event.code === TRY_LATER;
    const text = isFull ? event.reason : "connection lost";
    this.on.link("lost", text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(LONGEST_WAIT_MS, this.wait * 1.7);
  }

  take(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "hello") this.on.link("live", "live");
      this.on[message.type]?.(message);
      return;
    }
    const length = new DataView(data).getUint32(0);
    const head = JSON.parse(decoder.decode(new Uint8Array(data, 4, length)));
    this.on.scene(head, new Blob([new Uint8Array(data, 4 + length)], {type: "image/jpeg"}));
  }

  /** Say which cameras are looked at; said again after each loss. */
  watch(cameras, scenes) {
    this.wanted = {type: "watch", cameras, scenes, pictures: true, acknowledge: true};
    this.send(this.wanted);
  }

  drawn(number) {
    this.send({type: "drawn", number});
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}
