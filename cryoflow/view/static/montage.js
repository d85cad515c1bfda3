// @ts-check
/** Picks side by side, in the order of their score, to accept and remove many of them fast. */

import { address, get } from "./server.js";
import { count, element, make } from "./page.js";

/** @typedef {import("./types.js").Patch} Patch */

const SIZE = 48;
const DECISIONS = ["a", "r", " "];

export class Montage {
  /**
   * @param {object} way
   * @param {() => {entry: string, threshold: number, micrograph: number, lowpass: number, patchPx: number, mayWrite: boolean}} way.now
   * @param {(patch: Patch) => void} way.open
   * @param {(patches: Patch[], label: number) => void} way.label
   * @param {(text: string) => void} way.fail
   */
  constructor(way) {
    this.way = way;
    this.box = element("patches", HTMLDivElement);
    this.page = 0;
    this.n = 0;
    /** @type {Patch[]} */
    this.patches = [];
    this.asked = 0;
    this.loading = false;
    this.box.addEventListener("click", (event) => {
      const patch = this.patchOf(event.target);
      if (!patch) return;
      const click = document.getElementById("click");
      if (click instanceof HTMLSelectElement && click.value === "toggle") this.decide([patch], patch.kept ? -1 : 1);
      else this.way.open(patch);
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
    for (const id of ["order", "scope"]) element(id, HTMLSelectElement).addEventListener("change", () => this.turn(-this.page));
    element("page-back", HTMLButtonElement).addEventListener("click", () => this.turn(-1));
    element("page-on", HTMLButtonElement).addEventListener("click", () => this.turn(1));
    document.getElementById("confirm")?.addEventListener("click", () => this.confirm());
  }

  /** @param {EventTarget | null} target */
  patchOf(target) {
    const box = target instanceof Element ? target.closest("[data-index]") : null;
    return box instanceof HTMLElement ? this.patches[Number(box.dataset.index)] ?? null : null;
  }

  /** @param {number} step */
  turn(step) {
    const pages = Math.max(1, Math.ceil(this.n / SIZE));
    this.page = Math.max(0, Math.min(pages - 1, this.page + step));
    void this.load(step !== 0);
  }

  /** @param {boolean} focus Put the focus on the first patch. */
  async load(focus = false) {
    const asked = ++this.asked;
    this.loading = true;
    try {
      const found = await this.fetchPage(this.page);
      if (asked !== this.asked) return;
      this.loading = false;
      this.n = found.n;
      this.patches = found.picks;
      if (!this.patches.length && this.page > 0) {
        this.page = 0;
        return void this.load(focus);
      }
      this.draw();
      if (focus) this.button(0)?.focus();
      void this.fetchAhead(asked);
    } catch (error) {
      if (asked === this.asked) this.loading = false;
      this.way.fail(String(error instanceof Error ? error.message : error));
    }
  }

  /** @param {number} page @returns {Promise<{n: number, picks: Patch[]}>} */
  fetchPage(page) {
    const now = this.way.now();
    return get("montage", {
      entry: now.entry,
      threshold: now.threshold,
      order: element("order", HTMLSelectElement).value,
      micrograph: element("scope", HTMLSelectElement).value === "one" ? now.micrograph : -1,
      page,
      size: SIZE,
    });
  }

  /** Have the browser hold the pictures of the next page. @param {number} asked */
  async fetchAhead(asked) {
    if ((this.page + 1) * SIZE >= this.n) return;
    const next = await this.fetchPage(this.page + 1).catch(() => null);
    if (next?.picks.length && asked === this.asked) new Image().src = this.pictures(next.picks);
  }

  /** Take in what was decided elsewhere, or undone; the focus stays. */
  async refresh() {
    const asked = ++this.asked;
    try {
      const found = await this.fetchPage(this.page);
      if (asked !== this.asked) return;
      const same = found.picks.length === this.patches.length && found.picks.every((p, i) => p.micrograph === this.patches[i]?.micrograph && p.pick === this.patches[i]?.pick);
      if (!same) return void this.load(this.focused() >= 0);
      this.patches = found.picks;
      this.patches.forEach((_, i) => this.mark(i));
    } catch (error) {
      this.way.fail(String(error instanceof Error ? error.message : error));
    }
  }

  /** The address of the picture that holds some patches side by side. @param {Patch[]} patches */
  pictures(patches) {
    const now = this.way.now();
    return address("patches", { entry: now.entry, picks: patches.map((p) => `${p.micrograph}.${p.pick}`).join(","), lowpass: now.lowpass });
  }

  /** Number of the patch that has the focus, -1 where none has. */
  focused() {
    const at = document.activeElement;
    return at && this.box.contains(at) ? [...this.box.children].indexOf(at) : -1;
  }

  draw() {
    const url = this.patches.length ? this.pictures(this.patches) : "";
    this.box.replaceChildren(
      ...this.patches.map((_, i) => {
        const image = make("span", { class: "image" });
        image.style.backgroundImage = `url("${url}")`;
        image.style.backgroundPositionX = this.patches.length > 1 ? `${(100 * i) / (this.patches.length - 1)}%` : "0";
        image.style.backgroundSize = `${100 * this.patches.length}% 100%`;
        const text = make("span", { class: "score" });
        return make("button", { type: "button", class: "patch", "data-index": String(i), tabindex: i ? "-1" : "0" }, image, text);
      }),
    );
    this.patches.forEach((_, i) => this.mark(i));
    const pages = Math.max(1, Math.ceil(this.n / SIZE));
    element("page", HTMLSpanElement).textContent = `page ${count(this.page + 1)} of ${count(pages)}`;
    element("page-back", HTMLButtonElement).disabled = this.page === 0;
    element("page-on", HTMLButtonElement).disabled = this.page >= pages - 1;
    if (!this.patches.length) this.box.replaceChildren(make("p", { class: "faint" }, "There are no picks here."));
  }

  /** @param {number} i */
  button(i) {
    const found = this.box.children[i];
    return found instanceof HTMLButtonElement ? found : null;
  }

  /** Show the state of one patch. @param {number} i */
  mark(i) {
    const [patch, box] = [this.patches[i], this.button(i)];
    if (!patch || !box) return;
    box.classList.toggle("kept", patch.kept);
    box.classList.toggle("removed", !patch.kept);
    box.classList.toggle("decided", patch.decided);
    const score = patch.score === null ? "" : patch.score.toFixed(3);
    const text = box.querySelector(".score");
    if (text) text.textContent = `${patch.kept ? "✓" : "✕"} ${score}`;
    box.setAttribute("aria-label", `pick ${score}, ${patch.kept ? "kept" : "removed"}${patch.decided ? ", decided" : ""}`);
  }

  /** @param {Patch[]} patches @param {number} label */
  decide(patches, label) {
    if (!this.way.now().mayWrite || !patches.length) return;
    for (const patch of patches) {
      patch.kept = label > 0;
      patch.decided = true;
      this.mark(this.patches.indexOf(patch));
    }
    this.way.label(patches, label);
  }

  /** Keep the decisions of the page as they are shown, and turn the page. */
  confirm() {
    if (this.loading) return; // these patches are confirmed already
    const open = this.patches.filter((p) => !p.decided);
    this.decide(open.filter((p) => p.kept), 1);
    this.decide(open.filter((p) => !p.kept), -1);
    this.turn(1);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.focused();
    const patch = this.patches[at];
    if (!patch) return;
    const columns = Math.max(1, Math.round(this.box.clientWidth / ((this.button(0)?.offsetWidth ?? 96) + 6)));
    if (this.loading && DECISIONS.includes(event.key)) {
      event.preventDefault(); // the next page is on its way: the decision would be of the patch that is left
      event.stopPropagation();
      return;
    }
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    let to = at + (steps[event.key] ?? 0);
    if (event.key === "a" || event.key === "r") {
      this.decide([patch], event.key === "a" ? 1 : -1);
      to = at + 1;
    } else if (event.key === " ") {
      this.decide([patch], patch.kept ? -1 : 1);
    } else if (event.key === "Enter") {
      this.way.open(patch);
    } else if (!(event.key in steps)) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    if (to >= this.patches.length) this.turn(1);
    else if (to < 0) this.turn(-1);
    else this.button(to)?.focus();
  }
}
