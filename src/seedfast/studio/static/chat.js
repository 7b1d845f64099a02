/** A conversation with a model that has a chat template. */
import { Problem, html, post, useEffect, useRef, useState } from "./lib.js";
import { Options } from "./options.js";

const EMPTY = { messages: [], answers: 0 };

export function Chat({ run, model }) {
  const [talk, setTalk] = useState(EMPTY);
  const [system, setSystem] = useState("");
  const [text, setText] = useState("");
  const [seed, setSeed] = useState(1);
  const [values, setValues] = useState({});
  const [pending, setPending] = useState(null); // {text, answer} while the model writes
  const [error, setError] = useState(null);
  const ended = useRef(null);
  useEffect(() => () => ended.current?.abort(), []);

  async function send(words, from) {
    const mine = new AbortController();
    ended.current = mine;
    setError(null);
    setText("");
    setPending({ text: words, answer: "" });
    let answer = "";
    const onLine = (line) => {
      if (line.progress !== undefined) return;
      answer = line.piece === undefined ? line.text : answer + line.piece;
      setPending({ text: words, answer });
    };
    try {
      const body = { seed, options: values, system, messages: from.messages, answers: from.answers, text: words };
      const { messages, answers } = await post(`api/runs/${run.id}/chat`, body, { onLine, signal: mine.signal });
      setTalk({ messages, answers });
    } catch (failure) {
      setText(words);
      if (failure.name !== "AbortError") setError(failure.message);
    }
    setPending(null);
  }

  const again = () => {
    const messages = talk.messages.slice(0, -2), words = talk.messages.at(-2).content;
    setTalk({ ...talk, messages });
    send(words, { ...talk, messages });
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && text.trim() && !pending) { event.preventDefault(); send(text, talk); }
  };
  const shown = [...talk.messages, ...(pending ? [{ role: "user", content: pending.text }, { role: "assistant", content: pending.answer || "…" }] : [])];
  return html`
    <label>system prompt <input type="text" id="system" value=${system} onInput=${(event) => setSystem(event.target.value)} /></label>
    <div class="talk" id="talk" aria-live="polite">${shown.map((each, place) => html`<div key=${place} class=${each.role === "user" ? "user" : "assistant"}>${each.content}</div>`)}</div>
    <${Problem} text=${error} />
    <label for="message">message</label>
    <textarea id="message" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey}></textarea>
    <div class="bar">
      <button type="button" class="main" id="send" disabled=${Boolean(pending) || !text.trim()} onClick=${() => send(text, talk)}>Send</button>
      <button type="button" id="stop" disabled=${!pending} onClick=${() => ended.current?.abort()}>Stop</button>
      <button type="button" id="again" disabled=${Boolean(pending) || talk.messages.length < 2} onClick=${again}>Try again</button>
      <button type="button" id="new" disabled=${Boolean(pending) || !talk.messages.length} onClick=${() => setTalk(EMPTY)}>New chat</button>
      <label>seed <input type="number" id="seed" min="0" value=${seed} onInput=${(event) => setSeed(Math.max(0, Math.trunc(Number(event.target.value))))} /></label>
    </div>
    <${Options} options=${model.options} values=${values} set=${setValues} without=${["num", "candidates"]} />`;
}
