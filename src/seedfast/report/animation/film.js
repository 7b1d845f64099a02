"use strict";
/** Frames of texts: their cells, and how a cell looks. The page of an animation and the studio share it. */
const film = (() => {
  const PROBABILITIES = [0.1, 0.3, 0.6, 0.9], STEPS = [1, 2, 4, 8]; // as in palette.py, which a test compares
  const SLOWEST = 400, WHOLE = 8000; // milliseconds of a frame at most, and of all frames, at speed 1

  /** The next frame: its cells are those of the frame before, with its changes. `at` is its number. */
  function next(before, frame, at) {
    if (frame.picture) return frame;
    const cells = (before ? before.cells : []).slice(0, frame.size);
    for (const [place, words, state, probability] of frame.changes) {
      const old = cells[place];
      const same = old && old.text === words && old.state === state;
      cells[place] = { text: words, state, probability, since: same ? old.since : at };
    }
    return { status: frame.status, cells };
  }

  function unfolded(frames) {
    const found = [];
    frames.forEach((frame, at) => found.push(next(found[at - 1], frame, at)));
    return found;
  }

  const level = (value, bounds) => bounds.filter((least) => value >= least).length;

  /** The classes of a cell in frame `number`, coloured by "confidence", "age" or "none". */
  function look(cell, number, kind) {
    const isNew = number > 0 && cell.since === number;
    const classes = [cell.state];
    if (cell.state === "open" && isNew) classes.push("again");
    if (cell.state === "written") {
      if (isNew) classes.push("new");
      if (kind === "confidence" && cell.probability !== null) classes.push("c" + level(cell.probability, PROBABILITIES));
      if (kind === "age") classes.push("a" + level(number - cell.since, STEPS));
    }
    return classes.join(" ");
  }

  function hint(cell) {
    if (cell.state !== "written") return cell.state;
    const probability = cell.probability === null ? "" : `, probability ${cell.probability}`;
    return `written in step ${cell.since}${probability}`;
  }

  /** Show a frame as the spans of an element. Only what differs is changed, so that no word flashes twice. */
  function draw(element, frame, number, kind) {
    const spans = element.children;
    while (spans.length < frame.cells.length) element.appendChild(document.createElement("span"));
    while (spans.length > frame.cells.length) element.lastChild.remove();
    frame.cells.forEach((cell, place) => {
      const span = spans[place], classes = look(cell, number, kind);
      if (span.textContent !== cell.text) span.textContent = cell.text;
      if (span.className !== classes) span.className = classes;
      span.title = hint(cell);
    });
  }

  const pause = (count, speed) => Math.min(SLOWEST, WHOLE / count) / speed;

  return { PROBABILITIES, STEPS, next, unfolded, draw, pause };
})();
