/**
 * The demo's page. Live numbers come from the gateway like any client's; what an honest recount says, the activity
 * and the buttons come from the demo's own routes. All texts from the database go through textContent.
 *
 * Nothing here may call a right number wrong: a recount and a live number belong to different moments while others
 * write. The server compares both at one position (a table that holds still); the page only adds the one comparison that
 * the server can't make: whether this screen has what the tallies have (see `checkScreen`).
 */

import { connect } from "/client/cdc-counter.js";

const BUCKETED = ["open_by_channel", "open_by_teammate", "open_by_tag"];
const VALUE = "open_order_value";
const PROBE_SCOPE = 4;
const PERIOD = 1000;
/** How long a change may be on its way to this screen before it counts as missing; usually it takes 20 ms. */
const SCREEN_PATIENCE = 3000;

const $ = (id) => document.getElementById(id);
const integer = new Intl.NumberFormat("en");
const money = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });

const counters = connect();
let layout = [];
let account = null;
let stops = [];
/** counter -> view, as the client gave it last */
let views = new Map();
/** counter -> Map(bucket -> row) */
let rows = new Map();

// --- the sidebar -----------------------------------------------------------------------------------------------------

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function showAccount(id) {
  account = layout.find((entry) => entry.id === id) ?? layout[0];
  $("account").value = String(account.id);
  location.hash = String(account.id);
  for (const stop of stops) stop();
  views = new Map();
  rows = new Map(BUCKETED.map((counter) => [counter, new Map()]));
  shownActivity = 0;
  $("activity").replaceChildren();
  for (const counter of BUCKETED) $(counter).replaceChildren();
  for (const { id: bucket, name } of account.channels) addRow("open_by_channel", String(bucket), name);
  for (const { id: bucket, name } of account.teammates) addRow("open_by_teammate", String(bucket), name);
  addRow("open_by_teammate", "\\N", "Unassigned");
  for (const { id: bucket, name } of account.tags) addRow("open_by_tag", bucket, name);
  stops = [...BUCKETED, VALUE].map((counter) => counters.subscribe(counter, account.id, showView));
  showVerdict("pending", "Counting the table …", "");
  recount();
  showActivity();
}

function addRow(counter, bucket, name) {
  const item = element("li", "row");
  const row = { item, live: element("span", "live", "…"), truth: element("span", "truth"), shown: null };
  item.dataset.bucket = bucket;
  item.append(element("span", "name", name), row.truth, row.live);
  // The animation is started again by the next change, not by time.
  item.addEventListener("animationend", () => item.classList.remove("moved"));
  rows.get(counter).set(bucket, row);
  $(counter).append(item);
  return row;
}

function showView(view) {
  if (view.scope !== String(account.id)) return;
  views.set(view.counter, view);
  if (view.counter === VALUE) {
    $("value").textContent = money.format((view.values.get("-") ?? 0) / 10 ** view.scale);
    return;
  }
  const known = rows.get(view.counter);
  // A tag that somebody made up in psql has no row yet.
  for (const bucket of view.values.keys()) if (!known.has(bucket)) addRow(view.counter, bucket, bucket);
  for (const [bucket, row] of known) showNumber(row, view.values.get(bucket) ?? 0);
  if (view.counter === "open_by_channel") {
    $("total").textContent = integer.format([...view.values.values()].reduce((sum, value) => sum + value, 0));
  }
}

function showNumber(row, value) {
  if (row.shown === value) return;
  row.live.textContent = integer.format(value);
  if (row.shown !== null) row.item.classList.add("moved");
  row.shown = value;
}

// --- what an honest recount says -------------------------------------------------------------------------------------

async function recount() {
  const asked = account;
  const answer = await ask(`/demo/recount?account=${asked.id}`);
  if (asked !== account) return;
  if (answer === null || answer.truth === undefined) {
    showVerdict("pending", "No recount at the moment", answer?.reason ?? "the daemon does not answer");
    return;
  }
  const different = [];
  let compared = 0;
  for (const counter of [...BUCKETED, VALUE]) {
    const truth = answer.truth[counter];
    const tally = answer.tallies[counter] ?? {};
    const buckets = new Set([...Object.keys(truth), ...Object.keys(tally), ...(rows.get(counter)?.keys() ?? [])]);
    for (const bucket of buckets) {
      const equal = (truth[bucket] ?? 0) === (tally[bucket] ?? 0);
      compared += 1;
      if (!equal) different.push(`${counter} ${bucket}: tally ${tally[bucket] ?? 0}, table ${truth[bucket] ?? 0}`);
      const row = rows.get(counter)?.get(bucket);
      if (row !== undefined) showTruth(row, truth[bucket] ?? 0, answer.verdict === "drift" && equal ? "equal" : answer.verdict);
    }
  }
  showTotals(answer);
  const where = `counted at LSN ${answer.lsn} in ${answer.milliseconds} ms`;
  if (answer.verdict === "equal") showVerdict("equal", `All ${compared} numbers equal the recount`, where);
  else if (answer.verdict === "drift") showVerdict("drift", `${different.length} of ${compared} numbers differ`, `${different.slice(0, 3).join("; ")}; ${where}`);
  else showVerdict("pending", "The tallies are catching up", where);
  if (answer.verdict === "equal") checkScreen(answer);
}

/**
 * The tallies are right; has this screen got them? A view that is not newer than the recount must equal it as soon as
 * everything that was on its way has arrived. A newer view is about another moment: nothing can be said.
 */
function checkScreen(answer) {
  const suspects = [...views.values()].filter((view) => view.version <= answer.version && !matches(view, answer.truth[view.counter]));
  if (suspects.length === 0) return;
  setTimeout(() => {
    const stuck = suspects.filter((view) => views.get(view.counter) === view && counters.status === "online");
    if (stuck.length > 0) showVerdict("drift", "This screen misses a change", `${stuck.map((view) => view.counter).join(", ")} at ${answer.lsn}`);
  }, SCREEN_PATIENCE);
}

function matches(view, truth) {
  return Object.keys(truth).length === view.values.size && Object.entries(truth).every(([bucket, value]) => view.values.get(bucket) === value);
}

function showTruth(row, value, verdict) {
  row.truth.textContent = integer.format(value);
  row.truth.dataset.verdict = verdict;
  row.item.classList.toggle("drift", verdict === "drift");
}

function showTotals({ verdict, truth, tallies }) {
  const judged = (counter) => (verdict === "drift" && matches({ values: new Map(Object.entries(tallies[counter])) }, truth[counter]) ? "equal" : verdict);
  $("total-truth").textContent = integer.format(sum(truth.open_by_channel));
  $("total-truth").dataset.verdict = judged("open_by_channel");
  $("value-truth").textContent = money.format(sum(truth[VALUE]) / 100);
  $("value-truth").dataset.verdict = judged(VALUE);
}

function showVerdict(verdict, text, evidence) {
  $("verdict").dataset.verdict = verdict;
  // A screen reader hears it only when it changes.
  if ($("verdict-text").textContent !== text) $("verdict-text").textContent = text;
  $("evidence").textContent = evidence;
  if (verdict !== "pending") return;
  for (const truth of document.querySelectorAll(".truth")) truth.dataset.verdict = "pending";
}

function sum(values) {
  return Object.values(values).reduce((total, value) => total + value, 0);
}

// --- commit to screen ------------------------------------------------------------------------------------------------

const arrivals = [];
const latencies = [];

function watchProbe() {
  counters.subscribe(VALUE, PROBE_SCOPE, (view) => {
    const value = view.values.get("-") ?? 0;
    // The next frame is when a person could see it.
    requestAnimationFrame(() => {
      arrivals.push({ value, at: performance.timeOrigin + performance.now() });
      if (arrivals.length > 20) arrivals.shift();
    });
  });
}

async function probe() {
  if (document.hidden || counters.status !== "online") return;
  const answer = await ask("/demo/probe", { method: "POST" });
  if (answer === null) return;
  const arrival = await until(() => arrivals.find(({ value }) => value >= answer.value), SCREEN_PATIENCE);
  if (arrival === undefined) return;
  latencies.push(Math.max(0, arrival.at - answer.committed_at));
  if (latencies.length > 60) latencies.shift();
  $("latency").textContent = `${latencies.at(-1).toFixed(1)} ms`;
  const highest = Math.max(50, ...latencies);
  const points = latencies.map((value, index) => `${120 - 2 * (latencies.length - 1 - index)},${(23 - (22 * value) / highest).toFixed(1)}`);
  $("spark").firstElementChild.setAttribute("points", points.join(" "));
}

async function until(condition, patience) {
  const end = performance.now() + patience;
  let found = condition();
  while (found === undefined && performance.now() < end) {
    await new Promise(requestAnimationFrame);
    found = condition();
  }
  return found;
}

// --- buttons and activity --------------------------------------------------------------------------------------------

let shownActivity = 0;
let running = true;
let switches = 0; // an answer to what was asked before the last one tells of the past

async function showActivity() {
  const asked = account;
  const before = switches;
  const answer = await ask(`/demo/activity?account=${asked.id}&after=${shownActivity}`);
  if (answer === null || asked !== account) return;
  if (before === switches) showRunning(answer.running);
  for (const entry of answer.entries) {
    if (entry.id <= shownActivity) continue;
    shownActivity = entry.id;
    const item = element("li", "");
    item.append(
      element("span", "muted", new Date(entry.at * 1000).toLocaleTimeString("en-GB")),
      element("span", entry.who === "you" ? "you" : "muted", entry.who),
      element("span", "", entry.what),
      element("span", "rows muted", `${integer.format(entry.rows)} row${entry.rows === 1 ? "" : "s"}`),
    );
    $("activity").prepend(item);
  }
  while ($("activity").children.length > 12) $("activity").lastElementChild.remove();
}

function showRunning(now) {
  running = now;
  $("traffic").textContent = running ? "Pause traffic" : "Resume traffic";
  $("traffic").setAttribute("aria-pressed", String(running));
}

async function act(button) {
  button.disabled = true;
  try {
    const answer = await ask(`/demo/actions/${button.dataset.action}?account=${account.id}`, { method: "POST" });
    $("notice").textContent = answer === null ? "That did not work. Try again in a moment." : `You ${answer.what} (${integer.format(answer.rows)} rows).`;
    await Promise.all([showActivity(), recount()]);
  } finally {
    button.disabled = false;
  }
}

async function kill() {
  $("notice").textContent = "Killed. The table goes on changing; when the daemon is back, it takes up where it was.";
  await ask("/demo/kill", { method: "POST" });
}

// --- all of it -------------------------------------------------------------------------------------------------------

/** Fetch JSON; null when there is no daemon or it refuses. */
async function ask(path, options = {}) {
  try {
    const response = await fetch(path, { ...options, headers: { "X-Demo": "1" }, signal: AbortSignal.timeout(10_000) });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** Run `work` every second, never twice at a time. */
async function everySecond(work) {
  for (;;) {
    await Promise.all([work(), new Promise((resolve) => setTimeout(resolve, PERIOD))]);
  }
}

async function start() {
  counters.onStatus((status) => {
    $("connection").dataset.status = status;
    // What was true once is not shown as if it were true now.
    document.body.dataset.status = status;
    $("connection").textContent = status === "online" ? "live" : status;
  });
  let answer = null;
  while (answer === null) {
    answer = await ask("/demo/layout");
    if (answer === null) await new Promise((resolve) => setTimeout(resolve, PERIOD));
  }
  layout = answer.accounts;
  $("psql").textContent = answer.psql;
  for (const { id, name } of layout) $("account").append(new Option(name, String(id)));
  $("account").addEventListener("change", (event) => showAccount(Number(event.target.value)));
  for (const button of document.querySelectorAll("[data-action]")) button.addEventListener("click", () => act(button));
  $("kill").addEventListener("click", kill);
  $("traffic").addEventListener("click", async () => {
    const answer = await ask(`/demo/traffic/${running ? "off" : "on"}`, { method: "POST" });
    switches += 1;
    if (answer !== null) showRunning(answer.running);
  });
  showAccount(Number(location.hash.slice(1)));
  watchProbe();
  everySecond(recount);
  everySecond(showActivity);
  everySecond(probe);
}

start();
