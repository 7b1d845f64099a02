/** The options of a sampler as controls. Only what differs from the default is sent. */
import { html } from "./lib.js";

const words = (name) => name.replaceAll("_", " ");

/** The value of a control's text; null for the default. */
function parsed(option, text) {
  if (text === "") return null;
  if (option.kind === "integer" || option.kind === "number") return Number(text);
  return option.kind === "choice" ? option.choices.find((each) => String(each) === text) : text;
}

function Control({ option, value, set }) {
  const title = [option.help, option.limits].filter(Boolean).join(" — ");
  const usual = option.default === null ? "default" : String(option.default);
  if (option.kind === "switch") {
    return html`<label title=${title}><input type="checkbox" name=${option.name} checked=${value ?? option.default}
      onChange=${(event) => set(event.target.checked)} /> ${words(option.name)}</label>`;
  }
  if (option.kind === "choice") {
    return html`<label title=${title}>${words(option.name)} <select name=${option.name} value=${value === undefined ? "" : String(value)}
      onChange=${(event) => set(parsed(option, event.target.value))}>
      <option value="">${usual}</option>
      ${option.choices.filter((each) => each !== option.default).map((each) => html`<option key=${each} value=${String(each)}>${String(each)}</option>`)}
    </select></label>`;
  }
  const type = option.kind === "text" ? "text" : "number";
  return html`<label title=${title}>${words(option.name)} <input type=${type} step=${option.kind === "integer" ? 1 : "any"} name=${option.name}
    placeholder=${usual} value=${value ?? ""} onInput=${(event) => set(parsed(option, event.target.value))} /></label>`;
}

/** Controls for options. values: by name, those that are set. without: names that are set elsewhere. */
export function Options({ options, values, set, without = [], legend = "sampler" }) {
  const change = (name) => (value) => {
    const { [name]: _, ...rest } = values;
    set(value === null ? rest : { ...rest, [name]: value });
  };
  const shown = options.filter((each) => each.kind !== "texts" && !without.includes(each.name));
  return html`<fieldset class="options"><legend>${legend}</legend>
    ${shown.map((option) => html`<${Control} key=${option.name} option=${option} value=${values[option.name]} set=${change(option.name)} />`)}
  </fieldset>`;
}
