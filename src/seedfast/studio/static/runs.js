/** The list of runs, and which of them are chosen. */
import { address, html, shortNames, useNow, useState } from "./lib.js";

export const isLive = (run) => run.state === "training";

const UNITS = ["B", "kB", "MB", "GB", "TB"];
function size(bytes) {
  let unit = 0;
  while (bytes >= 1000 && unit < UNITS.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}

function Age({ since }) {
  const seconds = useNow() - since;
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

export function loss(run) {
  if (!run.best) return "";
  const error = run.best.standard_error;
  return `${run.is_bound ? "≤ " : ""}${run.best.loss.toFixed(4)}${error === null ? "" : ` ± ${error.toFixed(4)}`}`;
}

/** By what each column is sorted. */
const COLUMNS = {
  run: (run) => run.path, recipe: (run) => run.recipe, step: (run) => run.step,
  loss: (run) => (run.best ? run.best.loss : Infinity), state: (run) => run.state, size: (run) => -run.size,
  changed: (run) => -run.changed,
};

const NUMBERS = ["step", "loss", "size", "changed"];

export function Runs({ runs, chosen }) {
  const [words, setWords] = useState("");
  const [by, setBy] = useState("run");
  const key = COLUMNS[by];
  const shown = runs
    .filter((run) => words.split(" ").every((word) => `${run.path} ${run.recipe} ${run.state}`.includes(word)))
    .sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
  const toggle = (id) => {
    const next = chosen.includes(id) ? chosen.filter((each) => each !== id) : [...chosen, id];
    history.replaceState(null, "", address("runs", next));
    dispatchEvent(new Event("hashchange"));
  };
  const live = runs.filter(isLive).length;
  const names = new Map(shortNames(runs.map((run) => run.path)).map((name, place) => [runs[place].id, name]));
  return html`
    <div class="bar">
      <label>filter <input type="search" id="filter" value=${words} onInput=${(event) => setWords(event.target.value)} /></label>
      <span class="faint">${runs.length} runs${live ? `, ${live} training` : ""}</span>
      <a class="button" id="compare" href=${address("compare", chosen)}>Compare ${chosen.length || ""}</a>
      <a class="button" href=${address("play", chosen)}>Try the model</a>
    </div>
    <div class="scroll"><table id="runs">
      <thead><tr><th></th>${Object.keys(COLUMNS).map((name) => html`<th key=${name} class=${NUMBERS.includes(name) ? "number" : null} aria-sort=${by === name ? "ascending" : null}>
        <button type="button" class="plain" onClick=${() => setBy(name)}>${name}</button></th>`)}</tr></thead>
      <tbody>${shown.map((run) => html`<${Row} key=${run.id} run=${run} name=${names.get(run.id)} isChosen=${chosen.includes(run.id)} toggle=${toggle} />`)}</tbody>
    </table></div>
    ${!runs.length && html`<p class="faint">There is no run here yet: seedfast train text-masked begins one.</p>`}`;
}

function Row({ run, name, isChosen, toggle }) {
  return html`<tr class=${isChosen ? "chosen" : ""}>
    <td><input type="checkbox" checked=${isChosen} aria-label=${`choose ${run.path}`} onChange=${() => toggle(run.id)} /></td>
    <td class="run"><a href=${address("compare", [run.id])} title=${run.path}>${name}</a>${run.problem && html`<div class="warning">${run.problem}</div>`}</td>
    <td class="recipe">${run.recipe}</td>
    <td class="number step">${run.steps ? html`${run.step.toLocaleString("en")} / ${run.steps.toLocaleString("en")}
      <progress max=${run.steps} value=${run.step} aria-label="steps"></progress>` : ""}</td>
    <td class="number loss">${loss(run)}</td>
    <td class="state-of"><span class=${`state ${isLive(run) ? "running" : run.state === "finished" ? "finished" : ""}`}>${run.state}</span></td>
    <td class="number size">${size(run.size)}</td>
    <td class="number changed"><${Age} since=${run.changed} /></td>
  </tr>`;
}
