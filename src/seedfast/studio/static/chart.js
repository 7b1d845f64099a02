/** A curve of several runs in one chart: the range of each bucket as a band, its smoothed mean as a line. */
import { colourOf, dashOf, html, isDark, useEffect, useRef } from "./lib.js";

const HEIGHT = 360;
const INCREMENTS = Array.from({ length: 330 }, (_, power) => [1, 2, 5].map((each) => Number(`${each}e${power - 32}`))).flat();

/** The multiples of an increment on an axis. */
function multiples(plot, axis, min, max, increment) {
  const first = Math.ceil(min / increment), count = Math.floor(max / increment) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, place) => (first + place) * increment);
}

/** The multiples of the powers of ten on a logarithmic axis. */
function decades(plot, axis, min, max) {
  const first = Math.floor(Math.log10(min)), count = Math.ceil(Math.log10(max)) - first + 1;
  return Array.from({ length: 9 * count }, (_, place) => Number(`${place % 9 + 1}e${first + Math.floor(place / 9)}`))
    .filter((each) => each >= min && each <= max);
}

/** The numbers of an axis as labels; with exponents where most of their digits would be zeros. */
function labels(plot, numbers) {
  const largest = Math.max(...numbers.map(Math.abs)), hasExponents = largest >= 1e6 || largest < 1e-3;
  return numbers.map((each) => {
    if (each === null || each === 0) return each === null ? "" : "0";
    const exact = Number(each.toPrecision(12)); // without what multiplying has rounded
    return hasExponents ? exact.toExponential().replace("+", "") : exact.toLocaleString("en", { maximumFractionDigits: 12 });
  });
}

/** The width of an axis that holds its longest label. uPlot asks again until the widths of all axes fit together. */
function width(plot, texts, place, round) {
  const axis = plot.axes[place];
  if (round > 1) return axis._size;
  plot.ctx.font = axis.font[0];
  const longest = Math.max(0, ...(texts || []).map((text) => plot.ctx.measureText(text).width));
  return Math.max(64, Math.ceil(longest / uPlot.pxRatio + axis.gap + 8));
}

/** The options of uPlot for runs with these names. onZoom: called with the first and last step that were chosen. */
function options(names, wide, isLog, onZoom) {
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
    width: wide, height: HEIGHT, series, bands, legend: { show: false },
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [axis, { ...axis, size: width, values: labels, incrs: INCREMENTS, splits: isLog ? decades : multiples }],
    cursor: { drag: { x: true, y: false, setScale: false } },
    hooks: { setSelect: [(plot) => {
      const { left, width: dragged } = plot.select;
      if (dragged > 4) onZoom([plot.posToVal(left, "x"), plot.posToVal(left + dragged, "x")]);
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
