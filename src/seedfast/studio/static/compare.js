/** Curves, settings and samples of several runs side by side. */
import { Chart } from "./chart.js";
import { Name, Problem, colourOf, dashOf, get, html, shortNames, useEffect, useState, usePolled } from "./lib.js";
import { isLive, loss } from "./runs.js";

const POINTS = 800, LIVE = 2, QUIET = 15; // buckets of a curve; seconds between reads
const FIRST = ["training/loss", "validation/ema/loss", "validation/raw/loss"];

export function Compare({ runs, chosen }) {
  const shown = (chosen.length ? chosen : runs.slice(0, 1).map((run) => run.id)).map((id) => runs.find((run) => run.id === id));
  if (!shown.length) return html`<p class="faint">There is no run to show.</p>`;
  const names = shortNames(shown.map((run) => run.path));
  const query = shown.map((run) => `run=${run.id}`).join("&");
  return html`
    <ul class="legend">${shown.map((run, place) => html`<li key=${run.id}>
      <${Line} place=${place} /><${Name} text=${names[place]} />
      <span class="faint"> step ${run.step.toLocaleString("en")} · ${run.state} ${loss(run)}</span>
      ${run.problem && html`<div class="warning">${run.problem}</div>`}</li>`)}</ul>
    <${Curves} key=${query} shown=${shown} names=${names} query=${query} />
    <${Settings} query=${query} names=${names} />
    <h2>Samples</h2>
    <div class="columns">${shown.map((run, place) => html`<${Samples} key=${run.id} run=${run} name=${names[place]} />`)}</div>`;
}

/** The line of a run in the chart. */
const Line = ({ place }) => html`<svg class="line" viewBox="0 0 40 8" aria-hidden="true">
  <line x2="40" y1="4" y2="4" stroke=${colourOf(place)} stroke-dasharray=${dashOf(place).join(" ") || "none"} /></svg>`;

function Curves({ shown, names, query }) {
  const [name, setName] = useState(FIRST[0]);
  const [smoothing, setSmoothing] = useState(2);
  const [isLog, setLog] = useState(false);
  const [zoom, setZoom] = useState(null);
  const range = zoom ? `&first=${zoom[0]}&last=${zoom[1]}` : "";
  const url = `api/curves?${query}&name=${encodeURIComponent(name)}&points=${POINTS}&smoothing=${smoothing / 100}${range}`;
  const { value, error } = usePolled(url, shown.some(isLive) ? LIVE : QUIET);
  const all = value ? value.names : [];
  const curves = shown.map((run) => value?.curves[run.id] || { step: [], low: [], high: [], smooth: [] });
  const last = curves.map((each) => each.smooth.at(-1));
  return html`
    <div class="bar">
      <label>curve <select id="curve" value=${name} onChange=${(event) => setName(event.target.value)}>
        ${[...new Set([...FIRST.filter((each) => all.includes(each)), ...all, name])].map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
      </select></label>
      <label>smoothing <input type="range" id="smoothing" min="0" max="20" step="1" value=${smoothing}
        onInput=${(event) => setSmoothing(Number(event.target.value))} /> <output>${smoothing} %</output></label>
      <label><input type="checkbox" id="log" checked=${isLog} onChange=${(event) => setLog(event.target.checked)} /> logarithmic</label>
      ${zoom && html`<button type="button" id="whole" onClick=${() => setZoom(null)}>All steps</button>`}
    </div>
    <${Problem} text=${error} />
    <${Chart} names=${names} curves=${curves} isLog=${isLog} onZoom=${setZoom} />
    <p class="faint">Bands are the range of the values, lines their smoothed mean. Drag over steps to enlarge them; a double click shows all.</p>
    <div class="scroll"><table id="last"><thead><tr><th>run</th><th class="number">${name}, last</th></tr></thead>
      <tbody>${names.map((each, place) => html`<tr key=${each}><td><${Name} text=${each} /></td><td class="number">${last[place] === undefined ? (value ? "no such curve" : "reading …") : last[place].toPrecision(5)}</td></tr>`)}</tbody>
    </table></div>`;
}

function Settings({ query, names }) {
  const { value, error } = usePolled(`api/settings?${query}`, 0);
  const [isAll, setAll] = useState(false);
  const rows = value ? value.rows.filter((row) => isAll || row.differs) : [];
  const problems = value ? value.problems : [];
  return html`<h2>Settings</h2>
    <label><input type="checkbox" id="all-settings" checked=${isAll} onChange=${(event) => setAll(event.target.checked)} /> show those that are equal too</label>
    <${Problem} text=${error} />
    ${problems.map((each, place) => each && html`<${Problem} key=${place} text=${`${names[place]}: ${each}`} />`)}
    ${value && !rows.length && html`<p class="faint">No setting differs.</p>`}
    ${rows.length > 0 && html`<div class="scroll"><table id="settings">
      <thead><tr><th>setting</th>${names.map((name) => html`<th key=${name}><${Name} text=${name} /></th>`)}</tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.name} class=${row.differs ? "differs" : ""}><td>${row.name}</td>
        ${row.values.map((each, place) => html`<td key=${place}>${each === null ? html`<span class="faint">${problems[place] ? "unknown" : "none"}</span>` : each}</td>`)}</tr>`)}</tbody>
    </table></div>`}`;
}

function Samples({ run, name }) {
  const { value, error } = usePolled(`api/runs/${run.id}/samples`, isLive(run) ? 5 : 0);
  const [folder, setFolder] = useState(null);
  const folders = value || [];
  const shown = folders.find((each) => each.name === folder) || folders[0];
  return html`<section aria-label=${`samples of ${name}`}><h3>${name}</h3><${Problem} text=${error} />
    ${value && !shown && html`<p class="faint">No samples yet.</p>`}
    ${shown && html`<label>step <select value=${shown.name} onChange=${(event) => setFolder(event.target.value)}>
      ${folders.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}</option>`)}</select></label>
      ${shown.files.slice(0, 12).map((file) => html`<${File} key=${file} url=${`api/runs/${run.id}/files/${file.split("/").map(encodeURIComponent).join("/")}`} name=${file.split("/").at(-1)} />`)}`}
  </section>`;
}

/** A file of samples: a picture, or a text. */
export function File({ url, name }) {
  const [text, setText] = useState("");
  const isText = name.endsWith(".txt");
  useEffect(() => {
    let ended = false;
    if (isText) get(url).then((found) => ended || setText(found), (error) => ended || setText(error.message));
    return () => { ended = true; };
  }, [url]);
  return html`<figure class="file"><figcaption>${name}</figcaption>
    ${isText ? html`<pre>${text}</pre>` : html`<img src=${url} alt=${name} loading="lazy" />`}</figure>`;
}
