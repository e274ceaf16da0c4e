/**
 * Live counters of a cdc-counter gateway, in a browser.
 *
 *     import { connect } from "https://counters.example/client/cdc-counter.js";
 *
 *     const counters = connect("https://counters.example", { token: () => fetchToken() });
 *     const stop = counters.subscribe("open_by_channel", 42, ({ values }) => {
 *       badge.textContent = values.get("7") ?? 0;      // buckets are user data: textContent, never innerHTML
 *     });
 *
 * Every connection starts from a fresh snapshot of each subscription, so a lost message, a sleeping laptop or a restarted
 * server leaves nothing behind. Within one epoch a view never goes back to an older version. Integers are exact up to
 * 2**53 (JavaScript's numbers).
 */

import { io as bundledIo } from "./socket.io.esm.min.js";

/**
 * What a subscriber is shown: everything, not only what changed. The map is a copy of its own.
 *
 * @typedef {object} View
 * @property {string} counter
 * @property {string} scope
 * @property {Map<string, number>} values  bucket -> value; buckets that are zero are absent
 * @property {string} version  position the values are true for; within one epoch later ones compare greater as text
 * @property {"live"|"seeding"|"rebuilding"|"stale"} state
 * @property {string} epoch
 * @property {number} scale  decimal digits a sum is scaled by: 1234 with scale 2 means 12.34
 * @property {{time: string, lsn: string}|null} verified_at  when, as of this view's snapshot, the whole counter was last
 *     found equal to a recount
 */

/**
 * connecting: no answer yet, or trying again. online: values are live. unauthorized: the token was refused or has run
 * out and there is no function to get another. closed: `close` was called.
 *
 * @typedef {"connecting"|"online"|"unauthorized"|"closed"} Status
 */

/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token]  a function is asked again for every connection
 * @property {typeof bundledIo} [io]  another Socket.IO client to use
 * @property {string[]} [transports]  default: websocket only, which needs no sticky sessions
 */

const RETRY_MILLISECONDS = 1000;

/**
 * @param {string} [url]  the gateway; default: where this page came from
 * @param {Options} [options]
 * @returns {Connection}
 */
export function connect(url, options) {
  return new Connection(url, options);
}

export class Connection {
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  /** @type {Set<(status: Status) => void>} */
  #listeners = new Set();
  /** @type {Status} */
  #status = "connecting";
  #timers = new Set();
  #token;
  #socket;

  /**
   * @param {string} [url]
   * @param {Options} [options]
   */
  constructor(url, { token, io = bundledIo, transports = ["websocket"] } = {}) {
    this.#token = token;
    this.#socket = io(url, {
      transports,
      forceNew: true,
      auth: token === undefined ? undefined : (send) => this.#authenticate(send),
      // When a server restarts its clients come back spread over a while, not all at once.
      reconnectionDelay: 500,
      reconnectionDelayMax: 2000,
      randomizationFactor: 0.5,
    });
    this.#socket.on("connect", () => this.#online());
    this.#socket.on("connect_error", (error) => this.#refused(error));
    this.#socket.on("disconnect", (reason) => this.#offline(reason));
    this.#socket.on("tally", (event) => this.#rooms.get(roomKey(event))?.change(event));
    this.#socket.on("reset", (event) => this.#replaced(event));
  }

  /** @returns {Status} */
  get status() {
    return this.#status;
  }

  /**
   * Watch one scope. `onChange` gets the first view as soon as it is known and another after every change. When the
   * counter is removed it gets the last numbers once more, `stale`, then `onError` gets "not found".
   *
   * @param {string} counter
   * @param {string|number|null|undefined} scope  null or undefined for a counter that has no scopes
   * @param {(view: View) => void} onChange
   * @param {(error: {error: string, reason?: string}) => void} [onError]  the gateway's refusal: not found, invalid ...
   * @returns {() => void} call it to stop watching
   */
  subscribe(counter, scope, onChange, onError = () => {}) {
    const name = { counter: String(counter), scope: scope == null ? "-" : String(scope) };
    const key = roomKey(name);
    let room = this.#rooms.get(key);
    if (room === undefined) {
      room = new Room(name);
      this.#rooms.set(key, room);
      if (this.#socket.connected) this.#ask(room);
    }
    const watcher = { onChange, onError };
    room.watchers.add(watcher);
    if (room.view !== null) onChange(room.copy());
    return () => {
      if (!room.watchers.delete(watcher) || room.watchers.size > 0 || this.#rooms.get(key) !== room) return;
      this.#rooms.delete(key);
      if (this.#socket.connected) this.#socket.emit("unsubscribe", room.name);
    };
  }

  /**
   * Be told when the connection comes and goes; the present status is told at once.
   *
   * @param {(status: Status) => void} listener
   * @returns {() => void} call it to stop being told
   */
  onStatus(listener) {
    this.#listeners.add(listener);
    listener(this.#status);
    return () => this.#listeners.delete(listener);
  }

  /** End the connection and forget every subscription. */
  close() {
    this.#rooms.clear();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#socket.close();
    this.#tell("closed");
  }

  async #authenticate(send) {
    try {
      send({ token: typeof this.#token === "function" ? await this.#token() : this.#token });
    } catch {
      // The gateway refuses the empty token and we ask for another one later.
      send({});
    }
  }

  #online() {
    this.#tell("online");
    for (const room of this.#rooms.values()) this.#ask(room);
  }

  #offline(reason) {
    if (this.#status === "closed") return;
    if (reason === "io server disconnect") this.#tryAgainWithNewToken();
    else this.#tell("connecting");
  }

  #refused(error) {
    if (this.#socket.active) this.#tell("connecting");
    else if (error.message === "unauthorized") this.#tryAgainWithNewToken();
    else this.#reconnectLater();
  }

  #tryAgainWithNewToken() {
    if (typeof this.#token === "function") this.#reconnectLater();
    else this.#tell("unauthorized");
  }

  #reconnectLater() {
    this.#tell("connecting");
    this.#later(() => this.#socket.connect());
  }

  #later(action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, RETRY_MILLISECONDS * (0.5 + Math.random()));
    this.#timers.add(timer);
  }

  #replaced(event) {
    const room = this.#rooms.get(roomKey(event));
    if (room === undefined) return;
    room.replace(event);
    // The counter is no more, and so is our subscription.
    if (event.removed === true) this.#drop(room, { error: "not found" });
  }

  #ask(room) {
    const connectedAs = this.#socket.id;
    this.#socket.emit("subscribe", room.name, (answer) => {
      // An answer of a connection before this one would put an old view in the place of a newer one.
      if (this.#rooms.get(roomKey(room.name)) !== room || this.#socket.id !== connectedAs) return;
      if (answer.error === undefined) room.replace(answer);
      else if (answer.error === "unavailable") this.#later(() => this.#askAgain(room));
      else this.#drop(room, answer);
    });
  }

  #askAgain(room) {
    if (this.#socket.connected && this.#rooms.get(roomKey(room.name)) === room) this.#ask(room);
  }

  #drop(room, answer) {
    this.#rooms.delete(roomKey(room.name));
    for (const watcher of room.watchers) watcher.onError(answer);
  }

  #tell(status) {
    if (this.#status === status) return;
    this.#status = status;
    for (const listener of this.#listeners) listener(status);
  }
}

/** One subscription of this connection, shared by everybody who watches the same scope. */
class Room {
  constructor(name) {
    this.name = name;
    /** @type {Set<{onChange: (view: View) => void, onError: (error: object) => void}>} */
    this.watchers = new Set();
    /** @type {View|null} */
    this.view = null;
  }

  replace(snapshot) {
    if (this.view !== null && this.view.epoch === snapshot.epoch && snapshot.version < this.view.version) return;
    this.view = { ...snapshot, values: new Map(Object.entries(snapshot.values)) };
    this.#show();
  }

  change({ changes, version }) {
    // Corrections keep the version, so an equal one counts; an older one is from before our snapshot.
    if (this.view === null || version < this.view.version) return;
    this.view.version = version;
    for (const [bucket, value] of Object.entries(changes)) {
      if (value === 0) this.view.values.delete(bucket);
      else this.view.values.set(bucket, value);
    }
    this.#show();
  }

  copy() {
    return { ...this.view, values: new Map(this.view.values) };
  }

  #show() {
    for (const watcher of this.watchers) watcher.onChange(this.copy());
  }
}

function roomKey({ counter, scope }) {
  return JSON.stringify([counter, scope]);
}
