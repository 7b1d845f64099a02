/** The playground: a model, what is asked of it, and how it answers. */
import { CaptionPlay } from "./caption.js";
import { Chat } from "./chat.js";
import { ImagePlay } from "./image.js";
import { Problem, address, html, post, shortNames, useEffect, useState } from "./lib.js";
import { TextPlay } from "./text.js";

const KINDS = { text: TextPlay, image: ImagePlay, caption: CaptionPlay };

export function Play({ runs, chosen }) {
  const run = runs.find((each) => each.id === chosen[0]) || runs[0];
  const [state, setState] = useState({ id: null });
  const [isChat, setChat] = useState(false);
  useEffect(() => {
    if (!run) return undefined;
    const ended = new AbortController();
    setState({ id: run.id });
    post(`api/runs/${run.id}/model`, {}, { signal: ended.signal }).then(
      (model) => { setState({ id: run.id, model }); setChat(model.chats); },
      (error) => { if (error.name !== "AbortError") setState({ id: run.id, error: error.message }); },
    );
    return () => ended.abort();
  }, [run?.id]);
  if (!run) return html`<p class="faint">There is no run to play with.</p>`;
  const { model, error } = state.id === run.id ? state : {};
  const names = shortNames(runs.map((each) => each.path));
  const Kind = model && (isChat ? Chat : KINDS[model.kind]);
  return html`
    <div class="bar">
      <label>model <select id="model" value=${run.id} onChange=${(event) => { location.hash = address("play", [event.target.value]); }}>
        ${runs.map((each, place) => html`<option key=${each.id} value=${each.id}>${names[place]}</option>`)}</select></label>
      ${model?.chats && html`<label><input type="checkbox" id="is-chat" checked=${isChat} onChange=${(event) => setChat(event.target.checked)} /> chat</label>`}
    </div>
    <p class="faint" id="origin">${model ? model.origin : error ? "" : "The model is loading …"}</p>
    <${Problem} text=${error} />
    ${Kind && html`<${Kind} key=${run.id} run=${run} model=${model} />`}`;
}
