// @ts-check
/** Requests to the viewer. Addresses are relative, so that a proxy may serve it below any path. */

/** What the server refused, in its words. */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {any} content */
  constructor(message, status, content) {
    super(message);
    this.status = status;
    this.content = content;
  }
}

/** @typedef {Record<string, string | number | string[] | undefined>} Query */

/** @param {string} name @param {Query} query */
export function address(name, query) {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined) parts.append(key, String(one));
  }
  return `api/${name}?${parts}`;
}

/** @param {string} name @param {Query} query @returns {Promise<any>} */
export async function get(name, query) {
  return content(await reached(fetch(address(name, query))));
}

/** @param {string} name @param {Query} query @returns {Promise<ImageBitmap>} */
export async function getPicture(name, query) {
  const answer = await reached(fetch(address(name, query)));
  if (!answer.ok) await content(answer);
  return createImageBitmap(await answer.blob());
}

/** @param {string} name @param {object} record @returns {Promise<any>} */
export async function post(name, record) {
  const headers = { "content-type": "application/json" };
  return content(await reached(fetch(`api/${name}`, { method: "POST", headers, body: JSON.stringify(record) })));
}

/** @param {Promise<Response>} answer */
async function reached(answer) {
  try {
    return await answer;
  } catch {
    throw new Refused("The viewer does not answer. Is it still running?", 0, null);
  }
}

/** @param {Response} response */
async function content(response) {
  const text = await response.text();
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    if (response.ok) throw new Refused("The answer is damaged.", response.status, null);
  }
  if (response.ok) return found;
  const detail = found && typeof found.detail === "string" ? found.detail : text.slice(0, 300) || response.statusText;
  throw new Refused(detail, response.status, found);
}
