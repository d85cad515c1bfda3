// @ts-check
/** Small helpers for the page's elements. */

/**
 * @template {HTMLElement} T
 * @param {string} id @param {new () => T} kind @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${id}`);
  return found;
}

/** @param {string} id @returns {HTMLButtonElement | null} */
export function button(id) {
  const found = document.getElementById(id);
  return found instanceof HTMLButtonElement ? found : null;
}

/**
 * Make an element. Texts of others go in as text, never as markup.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** @param {HTMLSelectElement} select @param {[string, string][]} options */
export function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

/** @param {HTMLElement | null} pressed @param {boolean} on */
export function press(pressed, on) {
  pressed?.setAttribute("aria-pressed", String(on));
}

let hiding = 0;

/** Tell something that passes. @param {string} text @param {boolean} bad */
export function toast(text, bad = false) {
  const box = element("toast", HTMLDivElement);
  box.textContent = text;
  box.classList.toggle("bad", bad);
  box.hidden = false;
  clearTimeout(hiding);
  hiding = window.setTimeout(() => (box.hidden = true), bad ? 9000 : 3500);
}

/** @param {number} n */
export function count(n) {
  return n.toLocaleString("en-US");
}

/** @param {number | null | undefined} share */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`;
}

/** @param {string} name The last part of a path. */
export function baseName(name) {
  return name.slice(name.lastIndexOf("/") + 1) || name;
}
