"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const slider = $("frame"), play = $("play"), speed = $("speed"), text = $("text"), picture = $("picture");
  const SLOWEST = 400, WHOLE = 8000; // milliseconds of a frame at most, and of all frames, at speed 1
  let frames = [], number = 0, timer = null, spans = [];

  /** The cells of each frame, as [text, state, probability, the frame since which it is so]. */
  function unfolded(film) {
    let cells = [];
    return film.frames.map((frame, at) => {
      if (frame.picture) return frame;
      cells = cells.slice(0, frame.size);
      for (const [place, words, state, probability] of frame.changes) {
        const before = cells[place];
        const same = before && before.text === words && before.state === state;
        cells[place] = { text: words, state, probability, since: same ? before.since : at };
      }
      return { status: frame.status, cells };
    });
  }

  const level = (value, bounds) => bounds.filter((least) => value >= least).length;
  const colouring = () => document.querySelector("input[name=colour]:checked")?.value;

  function look(cell, kind) {
    const isNew = number > 0 && cell.since === number;
    const classes = [cell.state];
    if (cell.state === "open" && isNew) classes.push("again");
    if (cell.state === "written") {
      if (isNew) classes.push("new");
      if (kind === "confidence" && cell.probability !== null) classes.push("c" + level(cell.probability, data.probabilities));
      if (kind === "age") classes.push("a" + level(number - cell.since, data.steps));
    }
    return classes.join(" ");
  }

  function hint(cell) {
    if (cell.state !== "written") return cell.state;
    const probability = cell.probability === null ? "" : `, probability ${cell.probability}`;
    return `written in step ${cell.since}${probability}`;
  }

  function draw() {
    const frame = frames[number];
    slider.value = number;
    $("status").textContent = frame.status;
    slider.setAttribute("aria-valuetext", frame.status);
    if (frame.picture) { picture.src = frame.picture; return; }
    const kind = colouring();
    while (spans.length < frame.cells.length) spans.push(text.appendChild(document.createElement("span")));
    while (spans.length > frame.cells.length) spans.pop().remove();
    frame.cells.forEach((cell, place) => {
      const span = spans[place], classes = look(cell, kind);
      if (span.textContent !== cell.text) span.textContent = cell.text;
      if (span.className !== classes) span.className = classes;
      span.title = hint(cell);
    });
    for (const each of ["confidence", "age"]) $("key-" + each).hidden = each !== kind;
  }

  function go(to) { number = Math.max(0, Math.min(frames.length - 1, to)); draw(); }
  function pause() { clearTimeout(timer); timer = null; play.textContent = "Play"; }
  function wait() { timer = setTimeout(tick, Math.min(SLOWEST, WHOLE / frames.length) / Number(speed.value)); }
  function tick() { if (number + 1 < frames.length) { go(number + 1); wait(); } else pause(); }
  function start() { if (number + 1 >= frames.length) go(0); play.textContent = "Pause"; wait(); }
  function toggle() { if (timer === null) start(); else pause(); }
  function step(by) { pause(); go(number + by); }
  function change(select, by) { select.selectedIndex = Math.max(0, Math.min(select.length - 1, select.selectedIndex + by)); }
  function colour(kind) { const radio = document.querySelector(`input[value=${kind}]`); if (radio) { radio.checked = true; draw(); } }
  function show(film) { frames = unfolded(film); slider.max = frames.length - 1; go(0); }

  play.onclick = toggle;
  $("back").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  slider.oninput = () => { pause(); go(Number(slider.value)); };
  if ($("film")) $("film").onchange = () => { pause(); show(data.films[Number($("film").value)]); };
  for (const radio of document.querySelectorAll("input[name=colour]")) radio.onchange = draw;

  const KEYS = {
    " ": toggle, ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step(-Infinity), End: () => step(Infinity),
    "-": () => change(speed, -1), "+": () => change(speed, 1), "=": () => change(speed, 1),
    c: () => colour("confidence"), a: () => colour("age"), n: () => colour("none"),
  };
  document.addEventListener("keydown", (event) => {
    const own = event.target.closest("button, select, input"); // these have keys of their own
    const isFree = !own || (event.key === " " ? own.type === "range" : event.key.length === 1 && own.tagName !== "SELECT");
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key] || !isFree) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  show(data.films[0]);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) start();
})();
