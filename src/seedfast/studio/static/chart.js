/** A curve of several runs in one chart: the range of each bucket as a band, its smoothed mean as a line. */
import { colourOf, dashOf, html, isDark, useEffect, useRef } from "./lib.js";

const HEIGHT = 360;

/** The options of uPlot for runs with these names. onZoom: called with the first and last step that were chosen. */
function options(names, width, isLog, onZoom) {
  const style = getComputedStyle(document.documentElement);
  const axis = { stroke: style.getPropertyValue("--faint"), grid: { stroke: style.getPropertyValue("--line"), width: 1 }, ticks: { show: false } };
  const series = [{ label: "step" }], bands = [];
  names.forEach((name, place) => {
    const stroke = colourOf(place), first = series.length;
    const edge = { stroke: stroke + "00", points: { show: false }, spanGaps: true, width: 0 };
    series.push({ ...edge, label: `${name}, high` }, { ...edge, label: `${name}, low` });
    series.push({ label: name, stroke, dash: dashOf(place), width: 1.8, spanGaps: true });
    bands.push({ series: [first, first + 1], fill: stroke + "26" });
  });
  return {
    width, height: HEIGHT, series, bands, legend: { show: false },
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [{ ...axis }, { ...axis, size: 64 }],
    cursor: { drag: { x: true, y: false, setScale: false } },
    hooks: { setSelect: [(plot) => {
      const { left, width: wide } = plot.select;
      if (wide > 4) onZoom([plot.posToVal(left, "x"), plot.posToVal(left + wide, "x")]);
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    }] },
  };
}

/** The curves on a common horizontal axis, as uPlot takes them. */
function joined(curves, isLog) {
  const value = (number) => (isLog && number <= 0 ? null : number);
  const tables = curves.map((each) => [each.step, each.high.map(value), each.low.map(value), each.smooth.map(value)]);
  return tables.length ? uPlot.join(tables) : [[]];
}

export function Chart({ names, curves, isLog, onZoom }) {
  const place = useRef(null), plot = useRef(null);
  const data = joined(curves, isLog), shape = `${names.join("\n")} ${isLog}`;
  useEffect(() => {
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(names, place.current.clientWidth, isLog, onZoom), data, place.current);
      place.current.ondblclick = () => onZoom(null);
    };
    make();
    const resized = new ResizeObserver(() => plot.current.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    resized.observe(place.current);
    isDark.addEventListener("change", make);
    return () => { resized.disconnect(); isDark.removeEventListener("change", make); plot.current.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => { plot.current?.setData(data); }, [curves, isLog]);
  return html`<div class="chart" ref=${place} role="img" aria-label=${`curves of ${names.join(", ")}`}></div>`;
}
