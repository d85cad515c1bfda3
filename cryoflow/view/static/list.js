// @ts-check
/** The list of micrographs: sorted, and drawn only where it is in sight, so that ten thousand rows scroll as well as ten. */

import { baseName, count, element, make } from "./page.js";

/** @typedef {import("./types.js").Entry} Entry */
/** @typedef {import("./types.js").Listed} Listed */

const ROW_PX = 44;

/** @type {Record<string, string>} */
export const ORDERS = {
  name: "name",
  picks: "number of picks",
  kept: "number of kept picks",
  defocus: "defocus",
  doubt: "doubt",
  disagreement: "disagreement",
  suggest: "suggested next",
  state: "open first",
};

export class List {
  /** @param {(micrograph: number) => void} onChoose */
  constructor(onChoose) {
    this.box = element("list", HTMLDivElement);
    this.inner = make("div", { class: "rows-inner" });
    this.box.replaceChildren(this.inner);
    /** @type {Entry | null} */
    this.entry = null;
    /** @type {Listed | null} */
    this.listed = null;
    /** @type {(number | null)[] | null} */
    this.disagreement = null;
    /** @type {number[]} */
    this.order = [];
    this.current = 0;
    this.sortBy = "name";
    this.descending = false;
    this.onChoose = onChoose;
    this.box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.inner.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest("[data-micrograph]") : null;
      if (row instanceof HTMLElement) onChoose(Number(row.dataset.micrograph));
    });
  }

  /** What the list can be sorted by here. @param {boolean} compared @returns {[string, string][]} */
  orders(compared) {
    const has = (/** @type {string} */ key) =>
      key === "doubt" ? !!this.entry?.calibrated && this.entry.has_scores
        : key === "disagreement" ? compared
          : key === "suggest" ? !!this.entry?.suggested.some((v) => v !== null)
            : key === "defocus" ? !!this.entry?.defocus_um.some((v) => v !== null) : true;
    return Object.entries(ORDERS).filter(([key]) => has(key));
  }

  /** @param {number} i @returns {number | string | null} */
  value(i) {
    const e = this.entry;
    if (!e) return null;
    switch (this.sortBy) {
      case "picks": return e.n_picks[i] ?? null;
      case "kept": return this.listed?.n_kept[i] ?? null;
      case "defocus": return e.defocus_um[i] ?? null;
      case "doubt": return e.doubt[i] ?? null;
      case "disagreement": return this.disagreement?.[i] ?? null;
      case "suggest": return e.suggested[i] ?? null;
      case "state": return this.listed?.marks[String(i)] ? 1 : 0;
      default: return null;
    }
  }

  sort() {
    const n = this.entry?.names.length ?? 0;
    const values = Array.from({ length: n }, (_, i) => this.value(i));
    const sign = this.descending ? -1 : 1;
    this.order = Array.from({ length: n }, (_, i) => i);
    if (this.sortBy === "name") {
      if (this.descending) this.order.reverse();
    } else {
      this.order.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === null || y === null || x === undefined || y === undefined) return Number(x === null) - Number(y === null) || a - b;
        return (x < y ? -1 : x > y ? 1 : 0) * sign || a - b;
      });
    }
    this.inner.style.height = `${n * ROW_PX}px`;
    this.draw();
  }

  /** The micrograph so many rows after the shown one, null at the ends. @param {number} step @returns {number | null} */
  beside(step) {
    return this.order[this.order.indexOf(this.current) + step] ?? null;
  }

  /** @param {number} micrograph */
  choose(micrograph) {
    this.current = micrograph;
    const top = this.order.indexOf(micrograph) * ROW_PX;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW_PX > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ROW_PX - this.box.clientHeight;
    this.draw();
  }

  draw() {
    const e = this.entry;
    if (!e) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_PX) - 4);
    const last = Math.min(this.order.length, first + Math.ceil(this.box.clientHeight / ROW_PX) + 8);
    const touched = new Set(this.listed?.touched ?? []);
    /** @type {HTMLElement[]} */
    const rows = [];
    for (let k = first; k < last; k++) {
      const i = this.order[k];
      if (i === undefined) continue;
      const mark = this.listed?.marks[String(i)] ?? (touched.has(i) ? "touched" : "");
      const kept = this.listed?.n_kept[i];
      const parts = [`${kept === undefined ? "–" : count(kept)} of ${count(e.n_picks[i] ?? 0)}`];
      const defocus = e.defocus_um[i];
      if (defocus !== null && defocus !== undefined) parts.push(`${defocus.toFixed(2)} µm`);
      const doubt = e.doubt[i];
      if (doubt !== null && doubt !== undefined) parts.push(`doubt ${doubt.toFixed(1)}`);
      const lonely = this.disagreement?.[i];
      if (lonely !== null && lonely !== undefined) parts.push(`${count(lonely)} differ`);
      const numbers = parts.join(" · ");
      const row = make(
        "div",
        { class: "row", role: "option", id: `row-${i}`, "data-micrograph": String(i), "aria-selected": String(i === this.current), title: e.names[i] ?? "" },
        make("span", { class: `mark ${mark}`, title: mark || "not looked at" }, mark === "finished" ? "✓" : mark === "bad" ? "✕" : mark ? "•" : ""),
        make("span", { class: "name" }, baseName(e.names[i] ?? "")),
        make("span", { class: "faint numbers-line", title: numbers }, e.status[i] === "found" ? numbers : `image ${e.status[i]}`),
      );
      row.style.top = `${k * ROW_PX}px`;
      rows.push(row);
    }
    this.inner.replaceChildren(...rows);
    this.box.setAttribute("aria-activedescendant", `row-${this.current}`);
    const finished = Object.values(this.listed?.marks ?? {}).filter((m) => m === "finished").length;
    element("progress", HTMLParagraphElement).textContent =
      `${count(this.order.indexOf(this.current) + 1)} of ${count(this.order.length)}` + (touched.size ? ` · ${count(touched.size)} reviewed, ${count(finished)} finished` : "");
  }
}
