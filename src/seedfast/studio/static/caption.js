/** Captions of a picture, and where each token attends to. */
import { Problem, html, useEffect, useRef, useState } from "./lib.js";
import { Options } from "./options.js";
import { Status, encoded, usePicture, useSampling } from "./sampling.js";

export function CaptionPlay({ run, model }) {
  const [seed, setSeed] = useState(1);
  const [values, setValues] = useState({});
  const { blob, mistake, take } = usePicture();
  const { panels, error, isBusy, progress, run: sample, stop } = useSampling(run.id);
  const shown = panels[0]?.result ? panels[0] : null;
  const caption = async () => sample([{ title: "", body: { seed, options: values, image: await encoded(blob) } }]);
  return html`
    <div class="bar">
      <label>image <input type="file" id="source" accept="image/*" onChange=${(event) => take(event.target.files[0] || null)} /></label>
      <button type="button" class="main" id="caption" disabled=${isBusy || !blob} onClick=${caption}>Caption</button>
      <button type="button" id="stop" disabled=${!isBusy} onClick=${stop}>Stop</button>
      <label>seed <input type="number" id="seed" min="0" value=${seed} onInput=${(event) => setSeed(Math.max(0, Math.trunc(Number(event.target.value))))} /></label>
      <${Status} isBusy=${isBusy} progress=${progress} what="captioning" />
    </div>
    <${Options} options=${model.options} values=${values} set=${setValues} legend="decoding" />
    <${Problem} text=${mistake || error} />
    ${shown && html`<pre id="captions">${shown.text.replaceAll(/^image: /gm, "")}</pre>`}
    ${shown?.attention && html`<${Attention} key=${shown.result} shown=${shown} />`}`;
}

/** A token of spaces only is written with their sign, so that its button is not empty. */
const shownAs = (token) => (token.trim() ? token : token.replaceAll(/\s/g, "␣") || "∅");

/** The picture, covered where the chosen token does not attend to. */
function Attention({ shown }) {
  const { tokens, weights } = shown.attention;
  const [place, setPlace] = useState(0);
  const canvas = useRef(null);
  useEffect(() => {
    const grid = weights[place], most = Math.max(1e-12, ...grid.flat());
    Object.assign(canvas.current, { width: grid[0].length, height: grid.length });
    const pen = canvas.current.getContext("2d");
    grid.forEach((row, y) => row.forEach((value, x) => {
      pen.fillStyle = `rgb(10 14 20 / ${(0.85 * (1 - value / most)).toFixed(3)})`;
      pen.fillRect(x, y, 1, 1);
    }));
  }, [place]);
  return html`<h2>Attention</h2>
    <p class="tokens">${tokens.map((token, each) => html`<button type="button" key=${each} aria-pressed=${each === place}
      onClick=${() => setPlace(each)} onFocus=${() => setPlace(each)} onMouseEnter=${() => setPlace(each)}>${shownAs(token)}</button>`)}</p>
    <div class="attention"><img src=${`api/results/${shown.result}/files/seen.png`} alt="the image as the model receives it" />
      <canvas id="attention" ref=${canvas} role="img" aria-label=${`where the token ${tokens[place]} attends to`}></canvas></div>
    <p class="faint">Bright: where the decoder attends to while it writes the token.</p>`;
}
