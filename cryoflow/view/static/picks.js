// @ts-check
/** What is shown of each pick of a micrograph, from its score, its labels and the threshold. */

/** @typedef {import("./types.js").Micrograph} Micrograph */
/** @typedef {import("./types.js").State} State */
/** @typedef {import("./types.js").Entry} Entry */

/**
 * @typedef {object} Shown
 * @property {number} x
 * @property {number} y
 * @property {number | null} score
 * @property {boolean} kept
 * @property {boolean} doubtful
 * @property {boolean} decided  By a person, in this review.
 * @property {boolean} added
 */

/**
 * Return the picks of a micrograph, candidates first, then those that people added. The rule is that of
 * `cryoflow.view.review.Review.kept`: a decision, else the entry's label, else the score.
 *
 * @param {Entry} entry @param {Micrograph} m @param {number} threshold @returns {Shown[]}
 */
export function shownPicks(entry, m, threshold) {
  const decided = new Map(m.state.decided);
  const removed = new Set(m.removed);
  const limit = m.state.finished_at ?? threshold;
  const bad = m.state.mark === "bad";
  const [low, high] = entry.doubtful;
  /** @type {Shown[]} */
  const found = [];
  for (let i = 0; i < m.x.length; i++) {
    const score = m.score[i] ?? null;
    const label = decided.get(i) || m.label[i] || 0;
    const byScore = score === null ? !removed.has(i) : score >= limit;
    const kept = !bad && (label ? label > 0 : byScore);
    const open = !label && !bad && m.state.mark !== "finished";
    const doubtful = open && entry.calibrated && score !== null && score >= low && score < high;
    found.push({ x: m.x[i] ?? 0, y: m.y[i] ?? 0, score, kept, doubtful, decided: !!decided.get(i), added: false });
  }
  for (const [x, y, label] of m.state.added) {
    found.push({ x, y, score: null, kept: !bad && label > 0, doubtful: false, decided: true, added: true });
  }
  return found;
}

/** Whether a pick is drawn: one that was added and taken away again is not. @param {Shown} pick */
export function isDrawn(pick) {
  return !pick.added || pick.kept;
}

/**
 * Return the positions of `among` that have no kept pick within reach: particles that were missed.
 *
 * @param {[number, number][]} among @param {Shown[]} picks @param {number} reach @returns {[number, number][]}
 */
export function missed(among, picks, reach) {
  /** @type {Map<string, Shown[]>} */
  const cells = new Map();
  const cell = (/** @type {number} */ v) => Math.floor(v / reach);
  for (const pick of picks) {
    if (!pick.kept) continue;
    const key = `${cell(pick.x)} ${cell(pick.y)}`;
    const there = cells.get(key);
    if (there) there.push(pick);
    else cells.set(key, [pick]);
  }
  return among.filter(([x, y]) => {
    for (let i = -1; i <= 1; i++) {
      for (let j = -1; j <= 1; j++) {
        const near = cells.get(`${cell(x) + i} ${cell(y) + j}`) ?? [];
        if (near.some((pick) => Math.hypot(pick.x - x, pick.y - y) <= reach)) return false;
      }
    }
    return true;
  });
}

/**
 * Return the distance of a position from the straight line between two others.
 *
 * @param {number} x @param {number} y @param {{x: number, y: number}} from @param {{x: number, y: number}} to
 */
export function distanceToSegment(x, y, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const share = ((x - from.x) * dx + (y - from.y) * dy) / (dx * dx + dy * dy || 1);
  const at = Math.max(0, Math.min(1, share));
  return Math.hypot(x - from.x - at * dx, y - from.y - at * dy);
}

/**
 * Return an action as it is sent: added picks by position. Their numbers are those of the server, which another person
 * may move by adding one at the same moment.
 *
 * @param {ReadonlyMap<number, Micrograph>} held @param {import("./types.js").Action} action
 */
export function sent(held, action) {
  if (action.do !== "label") return action;
  /** @type {Record<string, number[]>} */
  const picks = {};
  /** @type {Record<string, [number, number][]>} */
  const added_xy_px = {};
  for (const [micrograph, numbers] of Object.entries(action.picks ?? {})) {
    const m = held.get(Number(micrograph));
    const n = m ? m.x.length : Infinity;
    const old = numbers.filter((i) => i < n);
    if (old.length) picks[micrograph] = old;
    for (const i of numbers) {
      const at = i < n ? undefined : m?.state.added[i - n];
      if (at) (added_xy_px[micrograph] ??= []).push([at[0], at[1]]);
    }
  }
  return { ...action, picks, added_xy_px };
}

/**
 * Fold an action of this window into a micrograph before the server has confirmed it.
 *
 * @param {Micrograph} m @param {import("./types.js").Action} action
 */
export function foldIn(m, action) {
  const state = m.state;
  if (action.do === "label") {
    for (const pick of action.picks?.[String(m.micrograph)] ?? []) {
      const added = state.added[pick - m.x.length];
      if (added) {
        added[2] = action.label && action.label > 0 ? 1 : 0;
        continue;
      }
      state.decided = state.decided.filter(([i]) => i !== pick);
      if (action.label) state.decided.push([pick, action.label]);
    }
  } else if (action.do === "add" && action.micrograph === m.micrograph) {
    for (const [x, y] of action.xy_px ?? []) state.added.push([x, y, 1]);
  } else if (action.do === "mark" && action.micrograph === m.micrograph) {
    state.mark = /** @type {State["mark"]} */ (action.mark ?? "");
    state.finished_at = action.mark === "finished" ? action.threshold ?? null : null;
  }
}
