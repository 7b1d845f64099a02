/** The studio: three tabs over one list of runs. */
import { Compare } from "./compare.js";
import { Problem, address, html, isTyping, render, useEffect, usePlace, usePolled } from "./lib.js";
import { Play } from "./play.js";
import { Runs } from "./runs.js";

const TABS = { runs: "Runs", compare: "Compare", play: "Playground" };
const EVERY = 2; // seconds

function Studio() {
  const { tab, runs: named } = usePlace();
  const { value, error } = usePolled("api/runs", EVERY);
  const runs = value || [];
  const chosen = named.filter((id) => runs.some((run) => run.id === id));
  useEffect(() => {
    const onKey = (event) => {
      const to = Object.keys(TABS)[Number(event.key) - 1];
      if (!to || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
      location.hash = address(to, named);
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [named.join()]);
  const lost = value ? named.length - chosen.length : 0;
  const Tab = { runs: Runs, compare: Compare, play: Play }[tab];
  return html`
    <header>
      <strong>seedfast studio</strong>
      <nav>${Object.entries(TABS).map(([name, title]) => html`
        <a key=${name} href=${address(name, named)} aria-current=${tab === name ? "page" : null}>${title}</a>`)}</nav>
    </header>
    <main><${Problem} text=${error} />
      ${lost > 0 && html`<p class="warning" role="status">${lost === 1 ? "A chosen run is" : `${lost} chosen runs are`} no longer in these folders.</p>`}
      ${value && html`<${Tab} runs=${runs} chosen=${chosen} />`}</main>`;
}

render(html`<${Studio} />`, document.getElementById("studio"));
