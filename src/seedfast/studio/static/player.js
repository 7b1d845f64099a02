/** Plays films in step: texts or pictures, one panel for each sampler. */
import { File } from "./compare.js";
import { html, isTyping, useEffect, useRef, useState } from "./lib.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const SHOWN = 12; // files of a panel at most
const KINDS = ["confidence", "age", "none"];
const LEGENDS = {
  confidence: ["probability from ", "c", ["below 0.1", "0.1", "0.3", "0.6", "0.9"]],
  age: ["steps since it was written: ", "a", ["now", "1", "2", "4", "8 or more"]],
};

/** panels: {title, facts, films (of unfolded frames), result, isLive}; those that are live follow their newest frame. */
export function Player({ panels }) {
  const [number, setNumber] = useState(0);
  const [speed, setSpeed] = useState(1);
  const [kind, setKind] = useState("confidence");
  const [isPlaying, setPlaying] = useState(false);
  const [sample, setSample] = useState(0);
  const films = panels.map((panel) => panel.films[Math.min(sample, panel.films.length - 1)] || []);
  const last = Math.max(0, ...films.map((frames) => frames.length - 1));
  const isLive = panels.some((panel) => panel.isLive);
  const isText = films.some((frames) => frames[0]?.cells);
  const most = Math.max(0, ...panels.map((panel) => panel.films.length));
  const at = isLive ? last : Math.min(number, last);
  const wasLive = useRef(false);
  useEffect(() => {
    if (wasLive.current && !isLive) setNumber(last); // what was watched stays where it ended
    wasLive.current = isLive;
  }, [isLive]);
  useEffect(() => {
    if (!isPlaying) return undefined;
    if (at >= last) { setPlaying(false); return undefined; }
    const timer = setTimeout(() => setNumber(at + 1), film.pause(last + 1, speed));
    return () => clearTimeout(timer);
  }, [isPlaying, at, last, speed]);
  const step = (by) => { setPlaying(false); setNumber(Math.max(0, Math.min(last, at + by))); };
  const toggle = () => { if (!isPlaying && at >= last) setNumber(0); setPlaying(!isPlaying); };
  const faster = (by) => setSpeed(SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, SPEEDS.indexOf(speed) + by))]);
  const keys = {
    " ": toggle, ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step(-Infinity), End: () => step(Infinity),
    "-": () => faster(-1), "+": () => faster(1), "=": () => faster(1),
    c: () => setKind("confidence"), a: () => setKind("age"), n: () => setKind("none"),
  };
  const handlers = useRef(keys);
  handlers.current = keys;
  useEffect(() => {
    const onKey = (event) => {
      const isFree = event.target.id === "frame" || !isTyping(event.target);
      const isRadio = event.target.type === "radio" && event.key.startsWith("Arrow"); // moves to the next radio
      const isButton = event.key === " " && event.target.closest("button, a, input[type=checkbox], input[type=radio], summary");
      if (event.ctrlKey || event.metaKey || event.altKey || !handlers.current[event.key] || !isFree || isRadio || isButton) return;
      event.preventDefault();
      handlers.current[event.key]();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  if (!films.some((frames) => frames.length)) return null;
  return html`
    <div class="columns">${panels.map((panel, place) => html`<${Panel} key=${place} panel=${panel} frames=${films[place]} at=${at} kind=${kind} />`)}</div>
    <div class="controls">
      <button type="button" id="back" title="one step back" aria-label="one step back" onClick=${() => step(-1)}>◀</button>
      <button type="button" id="play" title="play or pause" aria-label="play or pause" onClick=${toggle}>${isPlaying ? "Pause" : "Play"}</button>
      <button type="button" id="next" title="one step on" aria-label="one step on" onClick=${() => step(1)}>▶</button>
      <input type="range" id="frame" min="0" max=${last} value=${at} step="1" aria-label="step" disabled=${isLive}
        onInput=${(event) => { setPlaying(false); setNumber(Number(event.target.value)); }} />
      <label>speed <select id="speed" value=${String(speed)} onChange=${(event) => setSpeed(Number(event.target.value))}>
        ${SPEEDS.map((each) => html`<option key=${each} value=${String(each)}>${each}×</option>`)}</select></label>
      ${most > 1 && html`<label>show <select id="film" value=${String(sample)} onChange=${(event) => setSample(Number(event.target.value))}>
        ${Array.from({ length: most }, (_, each) => html`<option key=${each} value=${String(each)}>sample ${each + 1}</option>`)}</select></label>`}
      ${isText && html`<fieldset><legend>colour by</legend>${KINDS.map((each) => html`<label key=${each}>
        <input type="radio" name="colour" value=${each} checked=${kind === each} onChange=${() => setKind(each)} />${each}</label>`)}</fieldset>`}
    </div>
    ${isText && html`<${Legend} kind=${kind} />`}
    <p class="faint">Keys: space plays and pauses, ← and → step, Home and End jump, − and + change the speed${isText ? ", c colours by confidence, a by age, n not at all" : ""}.</p>
    <div class="files">${panels.map((panel) => (panel.files || []).filter((name) => !name.endsWith(".txt")).slice(0, SHOWN).map((name) => html`
      <${File} key=${panel.result + name} url=${`api/results/${panel.result}/files/${encodeURIComponent(name)}`} name=${name} />`))}</div>`;
}

function Panel({ panel, frames, at, kind }) {
  const number = Math.min(at, frames.length - 1), frame = frames[number];
  return html`<section aria-label=${panel.title} class="stage">
    ${panel.title && html`<h3>${panel.title}</h3>`}
    ${frame?.picture ? html`<img class="picture" src=${frame.picture} alt="the images at this step" />`
      : html`<${Text} frame=${frame} number=${number} kind=${kind} />`}
    <p class="status" aria-live="off">${frame ? frame.status : "waiting"}</p>
    ${(panel.facts || []).map((fact) => html`<p key=${fact} class="faint">${fact}</p>`)}
    ${panel.result && html`<p class="bar"><a class="button" href=${`api/results/${panel.result}/animation.html`} download>HTML</a>
      <a class="button" href=${`api/results/${panel.result}/animation.gif`} download>GIF</a></p>`}
  </section>`;
}

/** The text of a frame. Its spans are changed in place, as on the page of an animation. */
function Text({ frame, number, kind }) {
  const place = useRef(null);
  useEffect(() => film.draw(place.current, frame || { cells: [] }, number, kind), [frame, number, kind]);
  return html`<pre class="text" ref=${place}></pre>`;
}

function Legend({ kind }) {
  const [words, letter, names] = LEGENDS[kind] || [];
  return html`<p class="key"><span class="open">░</span> open <span class="open again">░</span> masked again</p>
    ${names && html`<p class="key" id=${`key-${kind}`}>${words}${names.map((name, place) => html`<span key=${name} class=${letter + place}>${name}</span>`)}</p>`}`;
}
