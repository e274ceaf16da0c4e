/* Runs cdc-counter.js as a page would and prints one line of JSON for everything it is told.
 *
 * Arguments: the gateway's URL, the URL of cdc-counter.js or "plain" for a bare Socket.IO client, then JSON:
 * {subscriptions: [[counter, scope]], tokens: [...]}. Commands on standard input, one line of JSON each:
 * ["subscribe", counter, scope], ["unsubscribe", counter, scope], ["close"]. */

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const [url, client, json] = process.argv.slice(2);
const { subscriptions = [], tokens } = JSON.parse(json ?? "{}");
const say = (...line) => console.log(JSON.stringify(line));

if (client === "plain") {
  const socket = io(url); // the defaults: polling first, then an upgrade
  socket.on("connect", () => {
    for (const [counter, scope] of subscriptions) {
      socket.emit("subscribe", { counter, scope }, (answer) => say("ack", answer));
    }
  });
  socket.io.engine.on("upgrade", (transport) => say("upgrade", transport.name));
  for (const event of ["tally", "reset"]) socket.on(event, (body) => say(event, body));
  socket.on("disconnect", (reason) => say("disconnect", reason));
} else {
  const { connect } = await import(client);
  const token = tokens === undefined ? undefined : () => tokens.shift() ?? "";
  const counters = connect(url, { io, token });
  const stops = new Map();
  const key = (counter, scope) => JSON.stringify([counter, scope ?? null]);
  const subscribe = (counter, scope) => {
    const seen = (view) => say("view", { ...view, values: Object.fromEntries(view.values) });
    const refused = (answer) => say("error", answer);
    stops.set(key(counter, scope), counters.subscribe(counter, scope, seen, refused));
  };
  counters.onStatus((status) => say("status", status));
  for (const [counter, scope] of subscriptions) subscribe(counter, scope);
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [command, counter, scope] = JSON.parse(line);
    if (command === "subscribe") subscribe(counter, scope);
    else if (command === "unsubscribe") stops.get(key(counter, scope))();
    else counters.close();
  });
}
