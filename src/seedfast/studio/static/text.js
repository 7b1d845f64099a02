/** Text: write on from a prompt, or fill gaps that are drawn in it; with one sampler, or two on the same keys. */
import { Problem, html, post, useRef, useState } from "./lib.js";
import { Options } from "./options.js";
import { Player } from "./player.js";
import { useSampling } from "./sampling.js";

const GAP = /[⟨<]gap:\d+[⟩>]/;
const WITH_GAPS = ["tokens"]; // options that an infill does not take

export function TextPlay({ run, model }) {
  const [text, setText] = useState("");
  const [seed, setSeed] = useState(1);
  const [first, setFirst] = useState({});
  const [second, setSecond] = useState(null);
  const [mistake, setMistake] = useState(null);
  const area = useRef(null);
  const { panels, error, isBusy, run: sample, stop } = useSampling(run.id);
  const isInfill = GAP.test(text);

  async function makeGap() {
    const { selectionStart: start, selectionEnd: end } = area.current;
    try {
      const selected = text.slice(start, end);
      const { tokens } = selected ? await post(`api/runs/${run.id}/tokens`, { text: selected }) : { tokens: 8 };
      setText(`${text.slice(0, start)}⟨gap:${tokens}⟩${text.slice(end)}`);
      setMistake(null);
      area.current.focus();
    } catch (failure) {
      setMistake(failure.message);
    }
  }

  function write() {
    setMistake(null);
    const given = isInfill ? { infill: text } : text ? { prompt: [text] } : {};
    const samplers = second === null ? [["", first]] : [["sampler A", first], ["sampler B", second]];
    sample(samplers.map(([title, options]) => {
      const kept = Object.entries(options).filter(([name]) => !(isInfill && WITH_GAPS.includes(name)));
      return { title, body: { seed, options: { ...Object.fromEntries(kept), ...given } } };
    }));
  }

  const onKey = (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    if (event.key === "Enter") { event.preventDefault(); write(); }
    if (event.key === "g") { event.preventDefault(); makeGap(); }
  };
  return html`
    <label for="prompt">${isInfill ? "Text whose gaps are filled" : "Text to continue; empty: a text from nothing"}</label>
    <textarea id="prompt" ref=${area} value=${text} spellcheck=${false} onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey}></textarea>
    <div class="bar">
      <button type="button" class="main" id="write" disabled=${isBusy} onClick=${write}>${isInfill ? "Fill" : "Write"}</button>
      <button type="button" id="stop" disabled=${!isBusy} onClick=${stop}>Stop</button>
      <button type="button" id="gap" onClick=${makeGap} title="Ctrl+G">Make the selection a gap</button>
      <label>seed <input type="number" id="seed" min="0" value=${seed} onInput=${(event) => setSeed(Math.max(0, Math.trunc(Number(event.target.value))))} /></label>
      <label><input type="checkbox" id="two" checked=${second !== null} onChange=${(event) => setSecond(event.target.checked ? { ...first } : null)} /> a second sampler on the same keys</label>
      <span class="faint">context ${model.context} tokens · Ctrl+Enter writes</span>
    </div>
    <${Options} options=${model.options} values=${first} set=${setFirst} without=${isInfill ? WITH_GAPS : []} legend=${second === null ? "sampler" : "sampler A"} />
    ${second !== null && html`<${Options} options=${model.options} values=${second} set=${setSecond} without=${isInfill ? WITH_GAPS : []} legend="sampler B" />`}
    <${Problem} text=${mistake || error} />
    <${Player} panels=${panels} />`;
}
