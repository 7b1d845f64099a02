/** Images: from noise, from an image, or in a part of one that is painted over. */
import { Problem, html, useEffect, useRef, useState } from "./lib.js";
import { Options } from "./options.js";
import { Player } from "./player.js";
import { Status, encoded, usePicture, useSampling } from "./sampling.js";

const MODES = { noise: "from noise", image: "from an image", inpaint: "fill a part of an image" };
const ONLY = { strength: "image", resample: "inpaint" }; // options that only one mode has

export function ImagePlay({ run, model }) {
  const [mode, setMode] = useState("noise");
  const [seed, setSeed] = useState(1);
  const [labels, setLabels] = useState([]);
  const [values, setValues] = useState({ num: 4 });
  const source = usePicture();
  const [mistake, setMistake] = useState(null);
  const mask = useRef(null);
  const { panels, error, isBusy, progress, run: sample, stop } = useSampling(run.id);

  const useFirst = async () => {
    const { result, files } = panels[0];
    const name = files.find((each) => each.startsWith("sample_")) || files[0];
    source.take(await (await fetch(`api/results/${result}/files/${encodeURIComponent(name)}`)).blob());
  };

  async function generate() {
    setMistake(null);
    const kept = Object.entries(values).filter(([name]) => !ONLY[name] || ONLY[name] === mode);
    const body = { seed, options: { ...Object.fromEntries(kept), ...(labels.length ? { label: labels } : {}) } };
    if (mode !== "noise" && !source.blob) { setMistake("Choose an image first."); return; }
    if (mode !== "noise") body[mode] = await encoded(source.blob);
    if (mode === "inpaint") {
      if (!mask.current) { setMistake("The image is not loaded yet."); return; }
      body.mask = await encoded(await new Promise((resolve) => mask.current.toBlob(resolve)));
    }
    sample([{ title: "", body }]);
  }

  const without = Object.keys(ONLY).filter((name) => ONLY[name] !== mode);
  const toggle = (name) => setLabels(labels.includes(name) ? labels.filter((each) => each !== name) : [...labels, name]);
  return html`
    <fieldset class="options"><legend>begin</legend>${Object.entries(MODES).map(([name, title]) => html`<label key=${name}>
      <input type="radio" name="mode" value=${name} checked=${mode === name} onChange=${() => setMode(name)} />${title}</label>`)}</fieldset>
    ${mode !== "noise" && html`<p class="bar"><label>image <input type="file" id="source" accept="image/*" onChange=${(event) => source.take(event.target.files[0] || null)} /></label>
      ${panels[0]?.result && html`<button type="button" id="use-first" onClick=${useFirst}>Use the first sample</button>`}</p><${Problem} text=${source.mistake} />`}
    ${source.blob && mode === "image" && html`<div class="paint"><img src=${source.url} alt="the image to begin with" /></div>`}
    ${source.blob && mode === "inpaint" && html`<${Brush} key=${source.url} url=${source.url} mask=${mask} />`}
    ${model.classes.length > 0 && html`<fieldset class="classes"><legend>classes (none: any)</legend>
      ${[...model.classes, "none"].map((name) => html`<label key=${name}><input type="checkbox" name="label" value=${name} checked=${labels.includes(name)} onChange=${() => toggle(name)} /> ${name === "none" ? "the null label" : name}</label>`)}</fieldset>`}
    <${Options} options=${model.options} values=${values} set=${setValues} without=${without} />
    <div class="bar">
      <button type="button" class="main" id="generate" disabled=${isBusy} onClick=${generate}>Generate</button>
      <button type="button" id="stop" disabled=${!isBusy} onClick=${stop}>Stop</button>
      <label>seed <input type="number" id="seed" min="0" value=${seed} onInput=${(event) => setSeed(Math.max(0, Math.trunc(Number(event.target.value))))} /></label>
      <${Status} isBusy=${isBusy} progress=${progress} what="sampling" />
    </div>
    <${Problem} text=${mistake || error} />
    <${Player} panels=${panels} />`;
}

/** Painting over an image. mask: set to a canvas as large as the image, white where it is painted and black elsewhere. */
function Brush({ url, mask }) {
  const [width, setWidth] = useState(15); // percent of the image's width
  const canvas = useRef(null), from = useRef(null);
  const fill = (colour) => {
    const { width: wide, height: high } = canvas.current, pen = canvas.current.getContext("2d");
    pen.fillStyle = colour;
    pen.fillRect(0, 0, wide, high);
  };
  const loaded = ({ target }) => {
    Object.assign(canvas.current, { width: target.naturalWidth, height: target.naturalHeight });
    fill("#000");
    mask.current = canvas.current;
  };
  const place = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.current.width / box.width, (event.clientY - box.top) * canvas.current.height / box.height];
  };
  const paint = (event) => {
    if (!from.current) return;
    const to = place(event), pen = canvas.current.getContext("2d");
    Object.assign(pen, { strokeStyle: "#fff", lineCap: "round", lineWidth: Math.max(1, canvas.current.width * width / 100) });
    pen.beginPath();
    pen.moveTo(...from.current);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    from.current = to;
  };
  const begin = (event) => { canvas.current.setPointerCapture(event.pointerId); from.current = place(event); paint(event); };
  const half = () => {
    fill("#000");
    const { width: wide, height: high } = canvas.current, pen = canvas.current.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(wide / 4, high / 4, wide / 2, high / 2);
  };
  useEffect(() => () => { mask.current = null; }, []);
  return html`<div class="paint"><img src=${url} onLoad=${loaded} alt="the image to paint over" />
      <canvas id="mask" ref=${canvas} onPointerDown=${begin} onPointerMove=${paint} onPointerUp=${() => { from.current = null; }}></canvas></div>
    <p class="bar"><label>brush <input type="range" id="brush" min="2" max="50" value=${width} onInput=${(event) => setWidth(Number(event.target.value))} /></label>
      <button type="button" id="middle" onClick=${half}>Paint the middle</button>
      <button type="button" id="clear" onClick=${() => fill("#000")}>Clear</button>
      <span class="faint">White is filled, the rest is kept.</span></p>`;
}
