"""The style of the page: one column, quiet colours, light or dark by the setting of the reader's system."""

CSS = """\
:root { color-scheme: light dark; --paper: #ffffff; --sheet: #f6f7f9; --ink: #1d2530; --faint: #5d6878;
  --line: #e0e4ea; --accent: #0072b2; --good: #007d5c; --warn: #a84a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #161a20; --sheet: #1d222a; --ink: #e4e7eb;
  --faint: #9aa5b4; --line: #2f3641; --accent: #56b4e9; --good: #2fc79b; --warn: #e69f00; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.75rem 0 0.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 0.9rem; margin: 1.5rem 0 0.4rem; color: var(--faint); font-weight: 600; }
p { margin: 0.4rem 0; max-width: 46rem; }
.faint, figcaption { color: var(--faint); font-size: 0.87rem; }
.warning { color: var(--warn); font-weight: 600; }
.head { display: flex; flex-wrap: wrap; gap: 0.5rem 0.9rem; align-items: center; }
.state { font-size: 0.82rem; font-weight: 600; padding: 0.12rem 0.65rem; border-radius: 1rem;
  border: 1px solid currentColor; color: var(--warn); white-space: nowrap; }
.state.finished { color: var(--good); }
.state.running { color: var(--accent); }
progress { display: block; width: 100%; height: 0.4rem; margin: 1.1rem 0 1.3rem; appearance: none; border: 0;
  border-radius: 0.2rem; overflow: hidden; background: var(--line); }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--accent); }
progress::-moz-progress-bar { background: var(--accent); }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 0; overflow: hidden;
  background: var(--line); border: 1px solid var(--line); border-radius: 0.5rem; }
.tiles div { flex: 1 1 9rem; background: var(--paper); padding: 0.75rem 1rem; }
.tiles dt { color: var(--faint); font-size: 0.8rem; }
.tiles dd { margin: 0.1rem 0 0; font-size: 1.1rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd span { display: block; font-size: 0.8rem; font-weight: 400; color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--faint); font-size: 0.8rem; white-space: nowrap; }
th, td { padding: 0.4rem 1.1rem 0.4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 4rem; }
.number { text-align: right; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.83rem; }
pre { background: var(--sheet); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.9rem 1rem;
  margin: 0.5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 30rem; overflow-y: auto;
  line-height: 1.5; tab-size: 4; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; height: auto; }
summary { cursor: pointer; color: var(--accent); font-size: 0.9rem; }
@media print { pre { max-height: none; } main { max-width: none; padding: 0; } h2 { break-after: avoid; } }
"""
