/** What every part of the page uses: components, requests, the place in the page. Text becomes text nodes, never HTML. */
export const { useState, useEffect, useRef, useMemo } = preactHooks;
export const { render } = preact;
export const html = htm.bind(preact.h);

/** The JSON of a response. Throws an Error with the server's sentence. */
async function answered(response) {
  const text = await response.text();
  if (response.ok) return text;
  let sentence = `The server answered with status ${response.status}.`;
  try { sentence = JSON.parse(text).error || sentence; } catch { /* no JSON: the status is all there is */ }
  throw new Error(sentence);
}

async function asked(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The studio does not answer: it has ended, or the connection is lost.");
  }
}

export const get = async (url) => answered(await asked(url, { cache: "no-cache" }));

/** Send a request; calls onLine with each line but the last, which is returned. */
export async function post(url, body, { onLine = () => {}, signal } = {}) {
  const response = await asked(url, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) await answered(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = null;
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (last) onLine(last);
      last = JSON.parse(line);
      if (last.error) throw new Error(last.error);
    }
    if (done) break;
  }
  if (!last) throw new Error("The answer ended before its result.");
  return last;
}

/** The value at a URL, read again every so many seconds while the page is visible; null until it is there. */
export function usePolled(url, seconds) {
  const [state, setState] = useState({ url: null, value: null, error: null });
  useEffect(() => {
    let timer, ended = false, before = null;
    async function read() {
      try {
        const text = document.hidden && before !== null ? before : await get(url);
        if (!ended && text !== before) setState({ url, value: JSON.parse(text), error: null });
        before = text;
      } catch (error) {
        before = null;
        if (!ended) setState((old) => ({ ...old, error: error.message }));
      }
      if (!ended && seconds) timer = setTimeout(read, 1000 * seconds);
    }
    if (url) read();
    return () => { ended = true; clearTimeout(timer); };
  }, [url, seconds]);
  return state;
}

/** The seconds since the epoch, read again every second. */
export function useNow() {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

/** The tab and the runs that the address names, as #compare/ID,ID. */
export function usePlace() {
  const read = () => {
    const [tab, runs] = location.hash.slice(1).split("/");
    return { tab: ["runs", "compare", "play"].includes(tab) ? tab : "runs", runs: runs ? runs.split(",") : [] };
  };
  const [place, setPlace] = useState(read());
  useEffect(() => {
    const changed = () => setPlace(read());
    addEventListener("hashchange", changed);
    changed(); // the address may have changed since the first rendering
    return () => removeEventListener("hashchange", changed);
  }, []);
  return place;
}

export const address = (tab, runs) => `#${tab}${runs.length ? "/" + runs.join(",") : ""}`;

/** Whether an element takes the keys that are typed. */
export const isTyping = (element) => Boolean(element.closest("textarea, select, input:not([type=checkbox]):not([type=radio])"));

/** Okabe and Ito's colours, which any kind of colour vision distinguishes; further runs have other dashes. */
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"];
const DARK = ["#56b4e9", "#e69f00", "#2fc79b", "#dd94bd", "#d55e00", "#4f9bd9", "#aaaaaa"];
export const isDark = matchMedia("(prefers-color-scheme: dark)");
const DASHES = [[], [8, 5], [2, 4], [12, 4, 2, 4]];
export const colourOf = (place) => (isDark.matches ? DARK : LIGHT)[place % LIGHT.length];
export const dashOf = (place) => DASHES[Math.floor(place / LIGHT.length) % DASHES.length];

/** What is left of each path without the folders that all of them share. */
export function shortNames(paths) {
  const parts = paths.map((path) => path.split("/"));
  let shared = 0;
  while (parts.length && parts.every((each) => each.length > shared + 1 && each[shared] === parts[0][shared])) shared += 1;
  return parts.map((each) => each.slice(shared).join("/"));
}

/** The name of a run, shortened where it is long. */
export const Name = ({ text }) => html`<span class="name" title=${text}>${text}</span>`;

export const Problem = ({ text }) => text && html`<p class="warning" role="alert">${text}</p>`;
