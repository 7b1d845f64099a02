/** Requests of samples, whose frames are shown while they come. */
import { html, post, useEffect, useRef, useState } from "./lib.js";

/** A panel of the player for a request that runs. */
const begun = (title) => ({ title, films: [[]], facts: [], files: [], result: null, isLive: true });

/** {panels, error, isBusy, progress, run(requests), stop()}. A request is {title, body}; all of them run one after the
 * other. progress: the fraction done, or null. */
export function useSampling(id) {
  const [state, setState] = useState({ panels: [], error: null, isBusy: false, progress: null });
  const ended = useRef(null);

  async function run(requests) {
    ended.current?.abort();
    const mine = new AbortController();
    ended.current = mine;
    const panels = requests.map((request) => begun(request.title));
    const show = (more) => { if (ended.current === mine) setState({ error: null, isBusy: true, progress: null, panels: [...panels], ...more }); };
    show();
    try {
      for (const [place, { body }] of requests.entries()) {
        const frames = [];
        let isDue = false;
        const onLine = ({ frame, progress }) => {
          if (progress !== undefined) { show({ progress }); return; }
          frames.push(film.next(frames.at(-1), frame, frames.length));
          panels[place] = { ...panels[place], films: [frames] };
          if (isDue) return;
          isDue = true; // a frame of the screen is enough for all that come during it
          requestAnimationFrame(() => { isDue = false; if (panels[place].isLive) show(); });
        };
        const done = await post(`api/runs/${id}/sample`, body, { onLine, signal: mine.signal });
        const films = done.films.map((each) => film.unfolded(each.frames));
        panels[place] = { ...panels[place], ...done, films, isLive: false };
        show();
      }
      show({ isBusy: false });
    } catch (error) {
      panels.forEach((panel, place) => { panels[place] = { ...panel, isLive: false }; });
      show({ isBusy: false, error: error.name === "AbortError" ? null : error.message });
    }
  }

  return { ...state, run, stop: () => ended.current?.abort() };
}

/** That the model computes, and how far it is. */
export const Status = ({ isBusy, progress, what }) => isBusy
  && html`<span class="faint" role="status">${what} … ${progress === null ? "" : `${Math.round(100 * progress)} %`}</span>`;

/** {blob, url, mistake, take(blob)}: a picture, and what is wrong with one that cannot be taken. */
export function usePicture() {
  const [state, setState] = useState({ blob: null, url: null, mistake: null });
  const newest = useRef(null);
  useEffect(() => () => URL.revokeObjectURL(state.url), [state.url]);
  async function take(blob) {
    newest.current = blob;
    const isPicture = !blob || await createImageBitmap(blob).then((image) => { image.close(); return true; }, () => false);
    if (newest.current !== blob) return; // another one was chosen meanwhile
    if (isPicture) setState({ blob, url: blob && URL.createObjectURL(blob), mistake: null });
    else setState({ blob: null, url: null, mistake: `${blob.name || "This"} is no picture that this browser can read: choose another file.` });
  }
  return { ...state, take };
}

/** A file as base64. */
export function encoded(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
