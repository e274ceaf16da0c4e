/* Node's socket.io as its documentation shows it: `io.to(room).emit`.
 *
 * Arguments: the folder whose node_modules has socket.io, and how many small rooms there are. */

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [folder, rooms] = process.argv.slice(2);
const { Server } = createRequire(`${folder}/`)("socket.io");
const counters = { one: "everywhere", spread: "by_room" };

const http = createServer();
const io = new Server(http);
io.on("connection", (socket) => {
  socket.on("subscribe", (wanted, answer) => {
    socket.join(`${wanted.counter}:${wanted.scope ?? "-"}`);
    answer(wanted);
  });
});

createInterface({ input: process.stdin }).on("line", (line) => {
  const [kind, text] = line.split(" ");
  const value = Number(text);
  const counter = counters[kind];
  const version = value.toString(16).toUpperCase().padStart(16, "0");
  const scopes = kind === "one" ? ["-"] : Array.from({ length: Number(rooms) }, (_, room) => String(room));
  for (const scope of scopes) {
    io.to(`${counter}:${scope}`).emit("tally", { counter, scope, changes: { "-": value }, version });
  }
}).on("close", () => process.exit());

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
