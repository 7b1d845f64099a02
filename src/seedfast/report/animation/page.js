"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const slider = $("frame"), play = $("play"), speed = $("speed"), text = $("text"), picture = $("picture");
  let frames = [], number = 0, timer = null;

  const colouring = () => document.querySelector("input[name=colour]:checked")?.value;

  function draw() {
    const frame = frames[number];
    slider.value = number;
    $("status").textContent = frame.status;
    slider.setAttribute("aria-valuetext", frame.status);
    if (frame.picture) { picture.src = frame.picture; return; }
    const kind = colouring();
    film.draw(text, frame, number, kind);
    for (const each of ["confidence", "age"]) $("key-" + each).hidden = each !== kind;
  }

  function go(to) { number = Math.max(0, Math.min(frames.length - 1, to)); draw(); }
  function pause() { clearTimeout(timer); timer = null; play.textContent = "Play"; }
  function wait() { timer = setTimeout(tick, film.pause(frames.length, Number(speed.value))); }
  function tick() { if (number + 1 < frames.length) { go(number + 1); wait(); } else pause(); }
  function start() { if (number + 1 >= frames.length) go(0); play.textContent = "Pause"; wait(); }
  function toggle() { if (timer === null) start(); else pause(); }
  function step(by) { pause(); go(number + by); }
  function change(select, by) { select.selectedIndex = Math.max(0, Math.min(select.length - 1, select.selectedIndex + by)); }
  function colour(kind) { const radio = document.querySelector(`input[value=${kind}]`); if (radio) { radio.checked = true; draw(); } }
  function show(shown) { frames = film.unfolded(shown.frames); slider.max = frames.length - 1; go(0); }

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
