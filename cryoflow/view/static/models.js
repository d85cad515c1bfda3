// @ts-check
/** The page of models: what changed on the server is put in its place, so that curves grow while somebody looks. */

import { element } from "./page.js";

const EVERY_MS = 4000;

/** Replace the parts that differ; those that do not keep their place, their selection and their scroll position. */
async function refresh() {
  const lost = element("lost", HTMLParagraphElement);
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) throw new Error(answer.statusText);
    const newer = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("models");
    if (!newer) throw new Error("no models in the answer");
    const here = element("models", HTMLElement);
    const [old, parts] = [[...here.children], [...newer.children]];
    if (old.length === parts.length) old.forEach((part, i) => replaceWhereOther(part, parts[i] ?? part));
    else here.replaceChildren(...parts);
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

/** @param {Element} part @param {Element} newer */
function replaceWhereOther(part, newer) {
  if (part.outerHTML !== newer.outerHTML) part.replaceWith(newer);
}

setInterval(() => {
  if (!document.hidden) void refresh();
}, EVERY_MS);
