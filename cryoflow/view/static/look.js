// @ts-check
/** The page that shows an entry: what is shown now, what a person does, and what the server says of it. */

import { List } from "./list.js";
import { Montage } from "./montage.js";
import { baseName, button, count, element, fill, make, percent, press, toast } from "./page.js";
import { distanceToSegment, foldIn, isDrawn, missed, sent, shownPicks } from "./picks.js";
import { address, get, post, Refused } from "./server.js";
import { COLORS, OTHERS, Stage } from "./stage.js";

/** @typedef {import("./types.js").Entry} Entry */
/** @typedef {import("./types.js").Micrograph} Micrograph */
/** @typedef {import("./types.js").Changes} Changes */
/** @typedef {import("./types.js").Tally} Tally */
/** @typedef {import("./types.js").Action} Action */

const POLL_MS = 3000;
const MOVE_PX = 60;
const MOST_HELD = 12;
/** Keys that act on the micrograph, which is hidden while the montage is shown. */
const OF_MICROGRAPH = new Set([" ", "Enter", "a", "r", "x", "f", "d", ".", ",", "v", "i", "b", "B", "h", "k", "0", "1", "+", "=", "-", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]);

/** @type {import("./types.js").Config} */
const config = JSON.parse(element("top", HTMLElement).dataset.config ?? "{}");
const windowId = (sessionStorage.windowId ??= crypto.randomUUID?.() ?? String(Math.random()).slice(2)).slice(0, 36);
const stage = new Stage(element("stage", HTMLElement), element("picture", HTMLCanvasElement), element("mask", HTMLCanvasElement), element("circles", HTMLCanvasElement));
const list = new List((i) => void goTo(i));
const montage = new Montage({
  now: () => ({
    entry: config.entry,
    threshold,
    micrograph: current,
    lowpass: Number(lowpass.value) || entry.first_lowpass_A,
    patchPx: entry.patch_px,
    mayWrite: config.may_write,
  }),
  open: (patch) => void openPatch(patch.micrograph, patch.pick),
  label: (patches, label) => {
    /** @type {Record<string, number[]>} */
    const picks = {};
    for (const p of patches) (picks[String(p.micrograph)] ??= []).push(p.pick);
    act({ do: "label", label, picks });
  },
  fail: (text) => toast(text, true),
});

const slider = element("slider", HTMLInputElement);
const thresholdBox = element("threshold", HTMLInputElement);
const lowpass = element("lowpass", HTMLSelectElement);
const otherBox = element("other", HTMLSelectElement);
const referenceBox = element("reference", HTMLSelectElement);

/** @type {Entry} */
let entry;
let threshold = 0;
let current = 0;
let revision = 0;
let selected = -1;
let tool = "select";
let crosshair = false;
/** @type {Set<string>} */
const hidden = new Set();
/** @type {string[]} */
let others = [...config.with];
let reference = "";
/** @type {Map<number, Micrograph>} */
const held = new Map();
/** @type {import("./picks.js").Shown[]} */
let picks = [];
/** @type {{x: number, y: number, radius: number} | null} */
let brush = null;
/** @type {Promise<void>} */
let queue = Promise.resolve();
let waiting = 0;
let wanted = 0;

// ---------------------------------------------------------------- what is shown

async function start() {
  fetchMicrograph(config.micrograph).catch(() => {}); // at the same time as the entry; an error is told by goTo
  entry = await get("entry", { entry: config.entry });
  revision = entry.revision;
  threshold = entry.threshold;
  list.entry = entry;
  stage.entry = config.entry;
  stage.tilePx = entry.tile_px;
  fill(lowpass, entry.lowpass_A.map((a) => [String(a), a ? `${a} Å` : "none"]));
  lowpass.value = localStorage.lowpass ?? String(entry.first_lowpass_A);
  stage.lowpass = Number(lowpass.value);
  setUpSlider();
  setUpOthers();
  setUpNotes();
  setUpPicture();
  list.sort();
  await goTo(Math.min(config.micrograph, entry.names.length - 1), false);
  await stage.drawnWhole(); // what the picture does not need comes after it
  await loadList();
  setInterval(() => void poll(), POLL_MS);
}

/** @type {Map<string, Promise<Micrograph>>} */
const coming = new Map();
/** Revision at which a micrograph was last changed. @type {Map<number, number>} */
const changedAt = new Map();

/** @param {number} i @param {boolean} anew Whether to ask again for one that is held. @returns {Promise<Micrograph>} */
async function fetchMicrograph(i, anew = false) {
  const there = held.get(i);
  if (there && !anew) return there;
  const shown = reference && !others.includes(reference) ? [...others, reference] : others;
  const key = JSON.stringify([i, shown]);
  const asked = coming.get(key) ?? get("micrograph", { entry: config.entry, micrograph: i, other: shown });
  coming.set(key, asked);
  const since = revision;
  const m = await asked.finally(() => coming.delete(key));
  if ((changedAt.get(i) ?? 0) > since) return fetchMicrograph(i, anew); // the answer may be older than the change
  held.set(i, m);
  for (const old of held.keys()) {
    if (held.size <= MOST_HELD) break;
    if (old !== current && old !== i) held.delete(old);
  }
  return m;
}

/** @param {number} i @param {boolean} remember @param {boolean} anew */
async function goTo(i, remember = true, anew = false) {
  if (!(i >= 0 && i < entry.names.length)) return;
  wanted = i;
  list.choose(i);
  try {
    const m = await fetchMicrograph(i, anew);
    if (wanted !== i) return;
    if (current !== i) painted.clear(); // numbers of another micrograph's picks
    current = i;
    selected = -1;
    if (remember) history.replaceState(null, "", pageAddress(config.entry, i));
    render();
    if (m.mask && !stage.masks.has(i)) stage.loadMask(m).then(render, fail);
    if (element("scope", HTMLSelectElement).value === "one" && inMontage()) void montage.load();
    if (!m.problem) void stage.drawnWhole().then(() => prefetchBeside(i));
  } catch (error) {
    fail(error);
  }
}

/** Fetch the micrographs beside the shown one, unless a person has gone on. @param {number} i */
function prefetchBeside(i) {
  if (i !== wanted) return;
  for (const step of [1, -1]) {
    const near = list.beside(step);
    if (near !== null) void fetchMicrograph(near).then((n) => stage.prefetch(n), () => {});
  }
}

/** @param {string} name @param {number} micrograph */
function pageAddress(name, micrograph) {
  const query = new URLSearchParams({ entry: name });
  for (const other of others) query.append("with", other);
  if (micrograph) query.set("micrograph", String(micrograph));
  return `look?${query}`;
}

/** Draw everything that follows from the micrograph, the decisions and the threshold. */
function render() {
  const m = held.get(current);
  if (!m) return;
  picks = shownPicks(entry, m, threshold);
  const reach = entry.same_pick_diameters * m.diameter_px;
  const of = m.others.find((o) => o.name === reference);
  const lost = of && m.state.mark !== "bad" ? missed(of.xy, picks, reach) : [];
  const shown = { ...m, others: m.others.filter((o) => others.includes(o.name)) };
  if (!picks[selected]) selected = -1;
  stage.show({ micrograph: shown, picks, missed: lost, selected, hidden, brush, crosshair }, false);
  const drawn = picks.filter(isDrawn);
  const kept = drawn.filter((p) => p.kept).length;
  element("here", HTMLElement).textContent = `${count(kept)} of ${count(drawn.length)}`;
  drawLayers({
    kept,
    removed: drawn.length - kept,
    doubtful: drawn.filter((p) => p.doubtful).length,
    missed: lost.length,
  }, m);
  element("where", HTMLDivElement).textContent = baseName(m.name);
  const problem = element("problem", HTMLDivElement);
  problem.hidden = !m.problem;
  problem.textContent = m.problem ? `No picture: ${m.problem}` : "";
  press(button("finished"), m.state.mark === "finished");
  press(button("bad"), m.state.mark === "bad");
  stage.host.classList.toggle("is-bad", m.state.mark === "bad");
  document.title = `${baseName(m.name)} · ${config.entry}`;
}

/** @param {Record<string, number>} counts @param {Micrograph} m */
function drawLayers(counts, m) {
  const rows = [
    ["kept", "Kept", COLORS.kept],
    ["removed", "Removed", COLORS.removed],
    ...(entry.calibrated ? [["doubtful", "Doubtful", COLORS.doubtful]] : []),
    ...(reference ? [["missed", "Missed", COLORS.missed]] : []),
  ];
  const boxes = rows.map(([key = "", name = "", color = ""]) => layer(key, name, color, counts[key] ?? 0));
  others.forEach((name, k) => {
    const of = m.others.find((o) => o.name === name);
    boxes.push(layer(`other ${name}`, name, OTHERS[k % 4] ?? "", of?.xy.length ?? 0, () => void setOthers(others.filter((o) => o !== name))));
  });
  const mask = stage.masks.get(m.micrograph);
  if (mask) boxes.push(layer("mask", "Masked: carbon, ice", COLORS.mask, percent(mask.share)));
  element("mask-row", HTMLElement).hidden = !mask;
  element("layers", HTMLDivElement).replaceChildren(...boxes);
}

/** @param {string} key @param {string} name @param {string} color @param {number | string} n @param {() => void} [remove] */
function layer(key, name, color, n, remove) {
  const box = make("input", { type: "checkbox", "aria-label": `show ${name}` });
  box.checked = !hidden.has(key);
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(key);
    else hidden.add(key);
    stage.draw();
  });
  const swatch = make("span", { class: `swatch ${key.split(" ")[0]}` });
  swatch.style.borderColor = color;
  const row = make("label", { class: "layer" }, box, swatch, make("span", { class: "name", title: name }, name), make("span", { class: "count" }, typeof n === "number" ? count(n) : n));
  if (remove) {
    const off = make("button", { type: "button", class: "plain", title: `Do not show ${name}`, "aria-label": `Do not show ${name}` }, "×");
    off.addEventListener("click", (event) => {
      event.preventDefault();
      remove();
    });
    row.append(off);
  }
  return row;
}

// ---------------------------------------------------------------- threshold and counts

function setUpSlider() {
  rangeSlider();
  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  thresholdBox.addEventListener("change", () => setThreshold(Number(thresholdBox.value)));
  element("reset", HTMLButtonElement).addEventListener("click", () => setThreshold(entry.threshold));
  setThreshold(threshold, false);
}

/** What the slider may be set to, which changes when a model scores the picks. */
function rangeSlider() {
  const step = (entry.score_high - entry.score_low) / 1000 || 0.001;
  Object.assign(slider, { min: String(entry.score_low), max: String(entry.score_high), step: String(step) });
  for (const box of [slider, thresholdBox, element("reset", HTMLButtonElement)]) box.disabled = !entry.has_scores;
  element("no-scores", HTMLElement).hidden = entry.has_scores;
  element("histogram", HTMLCanvasElement).hidden = !entry.has_scores;
  for (const id of ["expected-precision", "expected-recall"]) element(id, HTMLElement).hidden = !entry.calibrated || !entry.has_scores;
}

/** @param {number} value @param {boolean} ask */
function setThreshold(value, ask = true) {
  if (!Number.isFinite(value)) return;
  threshold = value;
  slider.value = String(value);
  thresholdBox.value = String(Number(value.toPrecision(9)));
  drawHistogram();
  if (!ask) return;
  render();
  void askTally();
}

let asking = false;
let askAgain = false;

/** Ask for the counts of all micrographs, one question at a time, the last one always. */
async function askTally() {
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  try {
    showTally(await get("tally", { entry: config.entry, threshold }), threshold);
  } catch (error) {
    fail(error);
  } finally {
    asking = false;
    if (askAgain) {
      askAgain = false;
      void askTally();
    } else {
      loadListSoon(); // its numbers of kept picks are those of the threshold
      if (others[0]) loadDisagreementSoon();
      if (inMontage()) void montage.load();
    }
  }
}

/** @param {Tally} tally @param {number} at */
function showTally(tally, at) {
  if (at !== threshold) return;
  element("all", HTMLElement).textContent = `${count(tally.n_kept)} of ${count(tally.n)}`;
  element("precision", HTMLElement).textContent = percent(tally.precision);
  element("recall", HTMLElement).textContent = percent(tally.recall);
}

function drawHistogram() {
  const canvas = element("histogram", HTMLCanvasElement);
  const context = canvas.getContext("2d");
  if (!context || !entry.histogram.length) return;
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const most = Math.max(1, ...entry.histogram);
  const bin = (entry.score_high - entry.score_low) / entry.histogram.length;
  entry.histogram.forEach((n, i) => {
    const h = Math.sqrt(n / most) * (height - 2);
    context.fillStyle = entry.score_low + (i + 0.5) * bin >= threshold ? COLORS.kept : COLORS.removed;
    context.fillRect((i * width) / entry.histogram.length, height - h, width / entry.histogram.length - 0.75, h);
  });
}

async function loadList() {
  try {
    const at = threshold;
    const found = /** @type {import("./types.js").Listed} */ (await get("list", { entry: config.entry, threshold: at }));
    if (found.revision < revision) return loadListSoon(); // it was on its way when something was decided
    list.listed = found;
    showTally(found.tally, at);
    fillOrders();
    list.sort();
    list.choose(current);
  } catch (error) {
    failInBackground(error);
  }
}

function fillOrders() {
  const sort = element("sort", HTMLSelectElement);
  fill(sort, list.orders(others.length > 0));
  sort.value = list.sortBy;
  if (!sort.value) {
    list.sortBy = "name";
    sort.value = "name";
  }
}

// ---------------------------------------------------------------- other entries, notes, the picture

function setUpOthers() {
  const names = [...element("entry", HTMLSelectElement).options].map((o) => o.value);
  const project = config.entry.split("/")[0] + "/";
  const near = names.filter((n) => n !== config.entry).sort((a, b) => Number(b.startsWith(project)) - Number(a.startsWith(project)));
  fill(otherBox, [["", "choose…"], ...near.map((n) => /** @type {[string, string]} */ ([n, n]))]);
  fill(referenceBox, [["", "none"], ...near.map((n) => /** @type {[string, string]} */ ([n, n]))]);
  otherBox.addEventListener("change", () => {
    const name = otherBox.value;
    otherBox.value = "";
    if (name && !others.includes(name)) void setOthers([...others, name].slice(-3));
  });
  referenceBox.addEventListener("change", () => {
    reference = referenceBox.value;
    void reload();
  });
  element("entry", HTMLSelectElement).addEventListener("change", (event) => {
    const select = /** @type {HTMLSelectElement} */ (event.target);
    others = [];
    location.href = pageAddress(select.value, 0);
  });
  if (others.length) void loadDisagreement();
}

/** @param {string[]} names */
async function setOthers(names) {
  others = names;
  history.replaceState(null, "", pageAddress(config.entry, current));
  await Promise.all([reload(), loadDisagreement()]);
}

async function reload() {
  for (const i of held.keys()) if (i !== current) held.delete(i); // the shown one takes decisions until the new one is there
  await goTo(current, false, true);
}

let disagreementTimer = 0;

function loadDisagreementSoon() {
  clearTimeout(disagreementTimer);
  disagreementTimer = window.setTimeout(() => void loadDisagreement(), 1000);
}

async function loadDisagreement() {
  const [other, at] = [others[0], threshold];
  try {
    const found = other ? await get("disagreement", { entry: config.entry, other, threshold: at }) : null;
    if (other !== others[0] || at !== threshold) return; // a later question is on its way
    list.disagreement = found;
  } catch (error) {
    list.disagreement = null;
    fail(error);
  }
  fillOrders();
  list.sort();
}

function setUpNotes() {
  const notes = [...entry.notes];
  if (!entry.diameter_known) notes.unshift(`The particle diameter is unknown: circles have ${entry.diameter_A} Å.`);
  element("notes", HTMLElement).hidden = !notes.length;
  element("notes-list", HTMLElement).replaceChildren(...notes.map((n) => make("li", {}, n)));
}

function setUpPicture() {
  const boxes = ["contrast", "brightness", "invert"].map((id) => element(id, HTMLInputElement));
  const apply = () => {
    const [contrast, brightness, invert] = boxes;
    const filters = [invert?.checked ? "invert(1)" : "", ...[brightness, contrast].map((box) => (Number(box?.value) === 1 ? "" : `${box?.id}(${box?.value})`))];
    stage.picture.style.filter = filters.join(" ").trim() || "none"; // a filter costs each frame, also one that changes nothing
    document.documentElement.classList.toggle("inverted", !!invert?.checked);
    element("patches", HTMLElement).classList.toggle("inverted", !!invert?.checked);
  };
  for (const box of boxes) box.addEventListener("input", apply);
  const opacity = element("mask-opacity", HTMLInputElement);
  opacity.addEventListener("input", () => {
    stage.maskOpacity = Number(opacity.value);
    stage.draw();
  });
  lowpass.addEventListener("change", () => {
    localStorage.lowpass = lowpass.value;
    stage.lowpass = Number(lowpass.value);
    stage.draw();
    if (inMontage()) montage.draw();
  });
  apply();
}

// ---------------------------------------------------------------- decisions

/** Show an action at once, and send it when those before it are kept. @param {Action} action */
function act(action) {
  if (!config.may_write) return toast("This link allows to look only.", true);
  const before = new Map([...held].map(([i, m]) => [i, structuredClone(m.state)]));
  const named = sent(held, action);
  for (const m of held.values()) foldIn(m, action);
  render();
  send(named, before);
}

/**
 * @param {Action} action
 * @param {Map<number, import("./types.js").State>} [before] What is shown again where the action is not kept.
 */
function send(action, before) {
  waiting++;
  queue = queue.then(async () => {
    try {
      const changes = /** @type {Changes} */ (
        await post("act", { entry: config.entry, window: windowId, revision, by: localStorage.reviewer ?? "", threshold, action })
      );
      waiting--;
      takeIn(changes);
      if (changes.done === false) toast(`There is nothing to ${action.do}.`);
      else if (action.do === "undo" || action.do === "redo") {
        tellUndo(action.do, changes);
        if (inMontage() && !waiting) void montage.refresh();
      }
      if (changes.tally) showTally(changes.tally, threshold);
      if (action.do !== "label" || !waiting) void loadListSoon();
    } catch (error) {
      waiting--;
      toast(`Not kept: ${error instanceof Error ? error.message : error}`, true);
      for (const [i, state] of before ?? []) {
        const m = held.get(i);
        if (m) m.state = state;
      }
      render();
    }
  });
}

/** @param {string} what @param {Changes} changes */
function tellUndo(what, changes) {
  const elsewhere = Object.keys(changes.micrographs).map(Number).filter((i) => i !== current);
  const names = elsewhere.map((i) => baseName(entry.names[i] ?? "")).slice(0, 2).join(", ");
  toast(`${what === "undo" ? "Undone" : "Done again"}${names ? ` on ${names}` : ""}.`);
}

let listTimer = 0;

function loadListSoon() {
  clearTimeout(listTimer);
  listTimer = window.setTimeout(() => void loadList(), 250);
}

/** Take in what the server says of decisions, unless own actions are still on their way. @param {Changes} changes */
function takeIn(changes) {
  revision = changes.revision;
  for (const i of Object.keys(changes.micrographs)) changedAt.set(Number(i), revision);
  stage.host.dataset.revision = String(revision);
  if (!waiting) {
    for (const [i, state] of Object.entries(changes.micrographs)) {
      const m = held.get(Number(i));
      if (m) m.state = state;
    }
    render();
    if (changes.by_others.length && inMontage()) void montage.refresh();
  }
  if (changes.by_others.length && Object.keys(changes.micrographs).length) {
    const n = Object.keys(changes.micrographs).length;
    toast(`${changes.by_others.join(", ")} changed ${count(n)} ${n === 1 ? "micrograph" : "micrographs"}.`);
  }
}

let polls = 0;

async function poll() {
  if (waiting || (document.hidden && ++polls % 3)) return; // a hidden window asks less often, and is not forgotten
  try {
    const since = revision;
    const changes = /** @type {Changes} */ (
      await get("changes", { entry: config.entry, since, window: windowId, micrograph: current, by: localStorage.reviewer ?? "" })
    );
    if (waiting || revision !== since) return;
    const changed = changes.revision !== since;
    if (changed) {
      takeIn(changes);
      void loadList();
    }
    const people = (changes.others ?? []).map((o) => `${o.name} (${baseName(entry.names[o.micrograph] ?? "")})`);
    element("people", HTMLElement).textContent = people.length ? `also here: ${people.slice(0, 3).join(", ")}` : "";
    stage.host.classList.remove("is-lost");
    if (entry.scoring) await pollScores();
  } catch (error) {
    failInBackground(error);
  }
}

let scored = 0;

/** A model is scoring the picks: take in what it has. */
async function pollScores() {
  const newer = /** @type {Entry} */ (await get("entry", { entry: config.entry }));
  const state = newer.scoring;
  element("people", HTMLElement).textContent = state ? `scoring: ${count(state.done)} of ${count(state.of)} micrographs` : "";
  if (state && state.done === scored) return;
  scored = state?.done ?? 0;
  const moved = threshold !== entry.threshold;
  entry = newer;
  list.entry = newer;
  rangeSlider();
  setThreshold(moved && newer.calibrated && threshold <= 1 ? threshold : newer.threshold, false);
  setUpNotes();
  await reload();
  await loadList();
}

/** @param {number} pick @param {number} label */
function label(pick, label) {
  const shown = picks[pick];
  if (!shown || held.get(current)?.state.mark === "bad") return;
  act({ do: "label", label, picks: { [String(current)]: [pick] } });
}

/** @param {number} pick */
function toggle(pick) {
  const shown = picks[pick];
  if (shown) label(pick, shown.kept ? -1 : 1);
}

/** @param {"finished" | "bad"} which */
function mark(which) {
  const m = held.get(current);
  if (!m) return;
  const off = m.state.mark === which;
  act({ do: "mark", micrograph: current, mark: off ? "" : which, threshold });
  if (!off) step(1);
}

/** @param {number} x @param {number} y */
function add(x, y) {
  const m = held.get(current);
  if (!m || x < -0.5 || y < -0.5 || x >= m.nx - 0.5 || y >= m.ny - 0.5) return;
  act({ do: "add", micrograph: current, xy_px: [[Math.round(x * 100) / 100, Math.round(y * 100) / 100]] });
}

/** @param {number} by */
function step(by) {
  const next = list.beside(by);
  if (next === null) toast(by > 0 ? "This is the last micrograph." : "This is the first micrograph.");
  else void goTo(next);
}

/** The next pick in the order of doubt: the nearest to the threshold first. @param {number} by */
function stepPick(by) {
  const distance = (/** @type {number} */ i) => {
    const score = picks[i]?.score;
    return score === null || score === undefined ? Infinity : Math.abs(score - threshold);
  };
  const order = picks.map((_, i) => i).filter((i) => picks[i] && isDrawn(picks[i])).sort((a, b) => distance(a) - distance(b) || a - b);
  if (!order.length) return;
  const at = selected < 0 ? (by > 0 ? 0 : order.length - 1) : (order.indexOf(selected) + by + order.length) % order.length;
  select(order[at] ?? -1, true);
}

/** @param {number} pick @param {boolean} center */
function select(pick, center) {
  selected = pick;
  const shown = picks[pick];
  const m = held.get(current);
  if (shown && center && m) stage.center(shown.x, shown.y, Math.min(2, 90 / m.diameter_px));
  render();
  if (shown) tell(shown, ...stage.toScreen(shown.x, shown.y));
}

/** @param {number} micrograph @param {number} pick */
async function openPatch(micrograph, pick) {
  showMontage(false);
  await goTo(micrograph);
  select(pick, true);
  stage.circles.focus();
}

function inMontage() {
  return !element("montage", HTMLElement).hidden;
}

/** @param {boolean} on */
function showMontage(on) {
  element("montage", HTMLElement).hidden = !on;
  element("stage", HTMLElement).hidden = on;
  press(button("to-montage"), on);
  press(button("to-micrograph"), !on);
  if (on) void montage.load(true);
  else stage.resized();
}

// ---------------------------------------------------------------- mouse and touch

/** @param {import("./picks.js").Shown | undefined} pick @param {number} [x] @param {number} [y] */
function tell(pick, x = 0, y = 0) {
  const tip = element("tip", HTMLDivElement);
  tip.hidden = !pick;
  if (!pick) return;
  const what = `${pick.added ? "added" : pick.kept ? "kept" : "removed"}${pick.decided && !pick.added ? " by hand" : pick.doubtful ? ", doubtful" : ""}`;
  tip.textContent = `${what}${pick.score === null ? "" : ` · score ${pick.score.toFixed(3)}`}`;
  tip.style.left = `${Math.max(4, Math.min(x + 14, stage.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, stage.height - tip.offsetHeight - 4))}px`;
}

/** @type {Map<number, {x: number, y: number}>} */
const pointers = new Map();
let moved = false;
/** @type {Set<number>} */
const painted = new Set();

/** @param {PointerEvent | WheelEvent} event @returns {[number, number]} */
function place(event) {
  const box = stage.circles.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/**
 * Paint from the position before, where a pointer is down: a fast hand is far away at the next event.
 *
 * @param {number} x @param {number} y @param {{x: number, y: number}} [from]
 */
function paint(x, y, from = { x, y }) {
  const radius = Number(element("brush", HTMLInputElement).value) / 2;
  brush = { x, y, radius };
  if (pointers.size && held.get(current)?.state.mark !== "bad") {
    picks.forEach((pick, i) => {
      const [px, py] = stage.toScreen(pick.x, pick.y);
      const other = tool === "accept" ? !pick.kept : pick.kept;
      if (other && isDrawn(pick) && !stage.isHidden(pick) && distanceToSegment(px, py, from, { x, y }) <= radius) {
        painted.add(i);
        pick.kept = tool === "accept";
        pick.decided = true;
      }
    });
  }
  if (stage.drawn) stage.drawn = { ...stage.drawn, brush, picks };
  stage.draw();
}

function setUpPointer() {
  const canvas = stage.circles;
  const isBrush = () => tool === "remove" || tool === "accept";
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    const [x, y] = place(event);
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x, y });
    moved = pointers.size > 1;
    if (isBrush() && pointers.size === 1) paint(x, y);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const from = pointers.get(event.pointerId);
    if (!from) {
      if (isBrush()) paint(x, y);
      else tell(picks[stage.pickAt(x, y)], x, y);
      return;
    }
    if (isBrush() && pointers.size === 1) {
      pointers.set(event.pointerId, { x, y });
      return paint(x, y, from);
    }
    if (pointers.size === 2) {
      const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const before = Math.hypot(from.x - other.x, from.y - other.y);
        const now = Math.hypot(x - other.x, y - other.y);
        if (before > 0) stage.zoom(now / before, (x + other.x) / 2, (y + other.y) / 2);
      }
    } else if (moved || Math.hypot(x - from.x, y - from.y) > 4) {
      moved = true;
      tell(undefined);
      stage.move(x - from.x, y - from.y);
    } else {
      return;
    }
    pointers.set(event.pointerId, { x, y });
  });
  const up = (/** @type {PointerEvent} */ event) => {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    const [x, y] = place(event);
    if (isBrush()) {
      if (painted.size) act({ do: "label", label: tool === "accept" ? 1 : -1, picks: { [String(current)]: [...painted] } });
      painted.clear();
      return;
    }
    if (moved || event.type === "pointercancel") return;
    const pick = stage.pickAt(x, y);
    selected = -1;
    if (tool === "add" && pick < 0) add(...stage.toMicrograph(x, y));
    else if (pick >= 0 && config.may_write) toggle(pick);
    else select(pick, false);
    tell(picks[pick], x, y);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => {
    tell(undefined);
    brush = null;
    if (stage.drawn) stage.drawn.brush = null;
    stage.draw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    stage.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), ...place(event));
  }, { passive: false });
}

/** @param {string} name */
function setTool(name) {
  if (!config.may_write) return;
  tool = name;
  brush = null;
  for (const b of document.querySelectorAll("[data-tool]")) if (b instanceof HTMLElement) press(b, b.dataset.tool === name);
  stage.circles.dataset.tool = name;
  render();
}

// ---------------------------------------------------------------- keys

/** Key, what it does, and the action. @type {[string[], string, () => void, boolean][]} */
const KEYS = [
  [["n", "PageDown"], "next micrograph", () => step(1), false],
  [["p", "PageUp"], "micrograph before", () => step(-1), false],
  [["ArrowLeft"], "move left", () => moveBy(MOVE_PX, 0), false],
  [["ArrowRight"], "move right", () => moveBy(-MOVE_PX, 0), false],
  [["ArrowUp"], "move up", () => moveBy(0, MOVE_PX), false],
  [["ArrowDown"], "move down", () => moveBy(0, -MOVE_PX), false],
  [["+", "="], "zoom in", () => stage.zoom(1.4), false],
  [["-"], "zoom out", () => stage.zoom(1 / 1.4), false],
  [["0"], "fit the micrograph", () => stage.fit(), false],
  [["1"], "full resolution", () => stage.zoom(1 / stage.scale), false],
  [["."], "next pick, the most doubtful first", () => stepPick(1), false],
  [[","], "pick before", () => stepPick(-1), false],
  [[" ", "Enter"], "accept or remove the chosen pick", () => toggle(selected), true],
  [["a"], "accept the chosen pick, and go on", () => decideAndGoOn(1), true],
  [["r"], "remove the chosen pick, and go on", () => decideAndGoOn(-1), true],
  [["x"], "add a pick in the middle (at the cross)", () => addAtCross(), true],
  [["f"], "finished: all picks are as they should be; next", () => mark("finished"), true],
  [["d"], "bad micrograph: leave it out; next", () => mark("bad"), true],
  [["u"], "undo", () => send({ do: "undo" }), true],
  [["U"], "redo", () => send({ do: "redo" }), true],
  [["v"], "tool: accept or remove with a click", () => setTool("select"), true],
  [["i"], "tool: add with a click", () => setTool("add"), true],
  [["b"], "tool: brush that removes", () => setTool("remove"), true],
  [["B"], "tool: brush that accepts", () => setTool("accept"), true],
  [["t"], "threshold: left and right keys move it", () => slider.focus(), false],
  [["h"], "hide or show all circles", () => flip("all"), false],
  [["k"], "hide or show the mask", () => flip("mask"), false],
  [["m"], "micrograph or montage", () => showMontage(!inMontage()), false],
  [["c"], "montage: keep the page as it is shown; next page", () => montage.confirm(), true],
  [["l"], "list of micrographs", () => element("list", HTMLElement).focus(), false],
  [["s"], "save as a new entry", () => openSave(), true],
  [["?"], "these keys", () => element("keys", HTMLDialogElement).showModal(), false],
];

/** @param {number} dx @param {number} dy */
function moveBy(dx, dy) {
  crosshair = true;
  stage.move(dx, dy);
  render();
}

function addAtCross() {
  crosshair = true;
  add(stage.x, stage.y);
}

/** @param {number} what */
function decideAndGoOn(what) {
  if (selected < 0) return;
  const here = selected;
  stepPick(1);
  label(here, what);
}

/** @param {string} key */
function flip(key) {
  if (!hidden.delete(key)) hidden.add(key);
  render();
}

function setUpKeys() {
  const rows = KEYS.filter(([, , , writes]) => config.may_write || !writes);
  const named = (/** @type {string} */ key) => ({ " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", U: "Shift+U", B: "Shift+B" })[key] ?? key;
  element("keys-list", HTMLElement).replaceChildren(
    ...rows.map(([keys, what]) => make("div", {}, make("dt", {}, ...keys.map((k) => make("kbd", {}, named(k)))), make("dd", {}, what))),
  );
  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (document.querySelector("dialog[open]")) return;
    if ((event.ctrlKey || event.metaKey) && ["z", "y"].includes(event.key.toLowerCase()) && config.may_write) {
      event.preventDefault();
      return send({ do: event.key.toLowerCase() === "y" || event.shiftKey ? "redo" : "undo" });
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (at instanceof HTMLInputElement && at.type !== "checkbox" && at.type !== "radio") {
      if (event.key === "Escape" || (at.type === "range" && event.key === "Enter")) stage.circles.focus();
      if (at.type !== "range" || event.key.startsWith("Arrow") || event.key.startsWith("Page")) return;
    }
    if (at instanceof HTMLSelectElement) return;
    if ((at instanceof HTMLButtonElement || at instanceof HTMLInputElement || at instanceof HTMLAnchorElement) && [" ", "Enter"].includes(event.key)) return;
    if (at === list.box && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      return step(event.key === "ArrowDown" ? 1 : -1);
    }
    const found = rows.find(([keys]) => keys.includes(event.key));
    if (!found || (inMontage() && OF_MICROGRAPH.has(event.key))) return;
    event.preventDefault();
    tell(undefined); // it would stay where the pick was before a zoom
    found[2]();
  });
}

// ---------------------------------------------------------------- saving

function openSave() {
  if (!config.may_write) return;
  const listed = list.listed;
  const marks = Object.values(listed?.marks ?? {});
  element("save-what", HTMLElement).textContent =
    `${count(listed?.touched.length ?? 0)} of ${count(entry.names.length)} micrographs were reviewed: ` +
    `${count(marks.filter((m) => m === "finished").length)} finished, ${count(marks.filter((m) => m === "bad").length)} bad. ` +
    `On a micrograph that is not finished, picks that nobody decided on stay undecided. ${config.entry} itself is not changed.`;
  element("save-form", HTMLFormElement).hidden = false;
  element("saved", HTMLDivElement).hidden = true;
  element("save-problem", HTMLElement).textContent = "";
  const name = document.getElementById("name");
  if (name instanceof HTMLInputElement) name.value = localStorage.reviewer ?? config.name;
  element("save-dialog", HTMLDialogElement).showModal();
}

/** @param {SubmitEvent} event */
async function saveNow(event) {
  event.preventDefault();
  const form = element("save-form", HTMLFormElement);
  const name = document.getElementById("name");
  if (name instanceof HTMLInputElement) localStorage.reviewer = name.value.trim();
  const now = element("save-now", HTMLButtonElement);
  now.disabled = true;
  try {
    await queue;
    const others = new FormData(form).get("others");
    const saved = /** @type {import("./types.js").Saved} */ (
      await post("save", { entry: config.entry, window: windowId, revision, by: localStorage.reviewer ?? "", threshold, others })
    );
    form.hidden = true;
    element("saved", HTMLDivElement).hidden = false;
    element("saved-entry", HTMLElement).textContent = saved.entry;
    element("saved-what", HTMLElement).textContent =
      `${count(saved.n_picks)} picks on ${count(saved.n_micrographs)} ${saved.n_micrographs === 1 ? "micrograph" : "micrographs"}: ${count(saved.accepted)} accepted, ` +
      `${count(saved.removed)} removed, ${count(saved.undecided)} not decided.`;
    element("saved-open", HTMLAnchorElement).href = `look?${new URLSearchParams({ entry: saved.entry })}`;
    element("saved-stars", HTMLAnchorElement).href = address("stars", { entry: saved.entry });
    element("saved-train", HTMLElement).textContent = saved.next.train;
    element("saved-export", HTMLElement).textContent = saved.next.export;
    element("train-row", HTMLElement).hidden = !config.can_train;
    element("trainings", HTMLElement).replaceChildren();
    for (const id of ["train", "train-detector"]) {
      const start = button(id);
      if (start) start.disabled = false;
    }
  } catch (error) {
    let message = error instanceof Error ? error.message : String(error);
    if (error instanceof Refused && error.status === 409) {
      const changes = /** @type {Changes} */ (error.content.conflict);
      takeIn(changes);
      void loadList();
      message = `${changes.by_others.join(", ") || "Somebody"} has changed this review meanwhile. The page now shows it all: look, and save again.`;
    }
    element("save-problem", HTMLElement).textContent = message;
  } finally {
    now.disabled = false;
  }
}

/** Start a training on the saved entry and show its progress until it ends. @param {"unpicker" | "detector"} trained @param {string} id */
async function train(trained, id) {
  const start = button(id);
  const line = make("p", { class: "faint" }, `${trained}: starting…`);
  element("trainings", HTMLElement).append(line);
  if (start) start.disabled = true;
  try {
    const started = await post("train", { entry: element("saved-entry", HTMLElement).textContent, trained });
    const state = make("span", {}, "scheduled");
    const page = make("a", { href: started.page, target: "_blank", rel: "noreferrer" }, `training of the ${trained}`);
    line.replaceChildren(page, ": ", state, `; the model: ${started.model}`);
    void showProgress(started.run, state);
  } catch (error) {
    line.textContent = error instanceof Error ? error.message : String(error);
    if (start) start.disabled = false;
  }
}

/** @param {string} run @param {HTMLElement} state */
async function showProgress(run, state) {
  for (;;) {
    try {
      const now = await get("progress", { run });
      state.textContent = now.state.toLowerCase() + (now.percent === null || now.ended ? "" : `, ${Math.round(now.percent)} %`);
      if (now.ended) return;
    } catch (error) {
      state.textContent = error instanceof Error ? error.message : String(error);
    }
    await new Promise((resume) => setTimeout(resume, POLL_MS));
  }
}

/** Mark the picture where the server is lost: a message would cover the one of a decision that was not kept. @param {unknown} error */
function failInBackground(error) {
  if (error instanceof Refused && error.status === 0) stage.host.classList.add("is-lost");
  else fail(error);
}

/** @param {unknown} error */
function fail(error) {
  toast(error instanceof Error ? error.message : String(error), true);
}

function setUpButtons() {
  /** @type {Record<string, () => void>} */
  const actions = {
    undo: () => send({ do: "undo" }),
    redo: () => send({ do: "redo" }),
    save: openSave,
    train: () => void train("unpicker", "train"),
    "train-detector": () => void train("detector", "train-detector"),
    "save-cancel": () => element("save-dialog", HTMLDialogElement).close(),
    help: () => element("keys", HTMLDialogElement).showModal(),
    previous: () => step(-1),
    next: () => step(1),
    "zoom-in": () => stage.zoom(1.4),
    "zoom-out": () => stage.zoom(1 / 1.4),
    fit: () => stage.fit(),
    finished: () => mark("finished"),
    bad: () => mark("bad"),
    "to-montage": () => showMontage(true),
    "to-micrograph": () => showMontage(false),
  };
  for (const [id, action] of Object.entries(actions)) button(id)?.addEventListener("click", action);
  for (const b of document.querySelectorAll("[data-tool]")) {
    if (b instanceof HTMLElement) b.addEventListener("click", () => setTool(b.dataset.tool ?? "select"));
  }
  element("sort", HTMLSelectElement).addEventListener("change", (event) => {
    list.sortBy = /** @type {HTMLSelectElement} */ (event.target).value;
    list.descending = ["doubt", "disagreement", "picks", "kept"].includes(list.sortBy);
    press(button("descending"), list.descending);
    list.sort();
    list.choose(current);
  });
  button("descending")?.addEventListener("click", () => {
    list.descending = !list.descending;
    press(button("descending"), list.descending);
    list.sort();
    list.choose(current);
  });
  const form = document.getElementById("save-form");
  if (form instanceof HTMLFormElement) form.addEventListener("submit", (event) => void saveNow(event));
}

setUpButtons();
setUpPointer();
setUpKeys();
start().catch(fail);
