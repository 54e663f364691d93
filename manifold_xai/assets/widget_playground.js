// Geodesic playground: two ends to drag, and the solver's sweeps from the straight line down.
function render({ model, el }) {
  const size = 400, view = plane(model, size), sweeps = model.get("sweeps"), T = model.get("steps");
  const anchors = numbers(model, "anchors", Float32Array), m = anchors.length / 2;
  const stored = numbers(model, "paths", Float32Array), lengths = numbers(model, "lengths", Float32Array);
  const [map, pen] = canvas(size, size, model.get("alt"));
  const [film, brush] = canvas(400, 130, "images along the straight line and along the path");
  const told = words("told"), help = words("help"), slider = document.createElement("input");
  const play = document.createElement("button");
  help.textContent =
    "Drag an end, or click on the plane: arrow keys move the filled end, the space bar changes ends.";
  Object.assign(slider, { type: "range", min: 0, max: sweeps - 1, value: sweeps - 1 });
  slider.setAttribute("aria-label", "sweep of the solver");
  slider.style.width = "250px";
  play.textContent = "watch the sweeps";
  const side = document.createElement("div"), bar = row(slider, play);
  side.style.cssText = "width: 400px; max-width: 100%";
  side.append(film, bar, told, help);
  el.append(row(map, side));
  own(el);
  let held = 0, dragging = false, timer = null;

  const point = (k) => [anchors[2 * k], anchors[2 * k + 1]];
  function nearest(u) {
    let best = 0;
    const far = (k) => Math.hypot(u[0] - anchors[2 * k], u[1] - anchors[2 * k + 1]);
    for (let k = 1; k < m; k++) if (far(k) < far(best)) best = k;
    return best;
  }
  function other(k, l) { // the anchor nearest to k that is not l
    let best = -1;
    const far = (q) => Math.hypot(anchors[2 * k] - anchors[2 * q], anchors[2 * k + 1] - anchors[2 * q + 1]);
    for (let q = 0; q < m; q++) if (q !== l && (best < 0 || far(q) < far(best))) best = q;
    return best;
  }
  function found() { // every sweep's path between the ends: solved for them, or the nearest stored one
    const ends = model.get("ends");
    if (!dragging && model.get("solved") === JSON.stringify(ends) && model.get("live").byteLength)
      return { paths: numbers(model, "live", Float32Array), L: numbers(model, "live_lengths", Float32Array), own: true };
    const a = nearest(ends[0]), b = other(nearest(ends[1]), a);
    const [i, j] = a < b ? [a, b] : [b, a], pair = i * m - (i * (i + 1)) / 2 + (j - i - 1), count = sweeps * (T + 1) * 2;
    return {
      paths: stored.subarray(pair * count, (pair + 1) * count),
      L: lengths.subarray(pair * sweeps, (pair + 1) * sweeps),
      turned: a > b,
    };
  }
  function path(data, s) {
    const points = [];
    for (let t = 0; t <= T; t++) {
      const k = 2 * (s * (T + 1) + t);
      points.push([data.paths[k], data.paths[k + 1]]);
    }
    return data.turned ? points.reverse() : points;
  }
  function line(points, colour, width, dash) {
    pen.beginPath();
    points.map(view.at).forEach((p, i) => (i ? pen.lineTo(...p) : pen.moveTo(...p)));
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  }
  function ring(p) { // where a stored path begins or ends
    pen.beginPath();
    pen.arc(...p, 5, 0, 7);
    pen.strokeStyle = TWO;
    pen.lineWidth = 2;
    pen.stroke();
  }
  function strip(points, y, name) {
    brush.fillStyle = "white";
    brush.fillRect(0, y, 400, 18);
    brush.fillStyle = INK;
    brush.font = "13px sans-serif";
    brush.fillText(name, 0, y + 13);
    for (let k = 0; k < 9; k++) view.show(brush, view.cell(points[Math.round((k * T) / 8)]), 44.4 * k, y + 18, 44);
  }
  function show() {
    const data = found(), s = Number(slider.value), now = path(data, s), first = path(data, 0);
    view.clear(pen);
    line(first, "white", 4, []);
    line(first, INK, 1.5, [5, 4]);
    for (let k = 1; k < s; k++) line(path(data, k), "rgba(213,94,0,0.35)", 1, []);
    line(now, "white", 5, []);
    line(now, TWO, 3, []);
    if (!data.own) for (const end of [now[0], now[T]]) ring(view.at(end));
    for (const [name, place] of model.get("places")) mark(pen, view.at(place), name, INK);
    model.get("ends").forEach((u, k) => {
      mark(pen, view.at(u), k ? "end" : "start", ONE);
      if (k === held) return;
      pen.beginPath();
      pen.arc(...view.at(u), 3, 0, 7);
      pen.fillStyle = "white";
      pen.fill();
    });
    strip(first, 0, "along the straight line");
    strip(now, 66, `along the path after sweep ${s}`);
    const trouble = model.get("trouble");
    told.textContent = trouble
      ? `This did not work. ${trouble}`
      : `The straight line (dashed) is ${data.L[0].toFixed(2)} long, measured in the image; after ` +
        `sweep ${s} the path is ${data.L[s].toFixed(2)} long. ` +
        (data.own ? "Solved for these ends." : `Stored, between the nearest two of ${m} places (rings).`);
  }
  function watch() {
    clearInterval(timer);
    let s = 0;
    const next = () => {
      slider.value = s;
      show();
      if (++s >= sweeps) clearInterval(timer);
    };
    next();
    timer = setInterval(next, 160);
  }
  function put(u, tell) {
    const keep = u.map((v) => Math.max(-view.reach, Math.min(view.reach, v)));
    const ends = model.get("ends").map((end, k) => (k === held ? keep : end));
    clearInterval(timer);
    slider.value = sweeps - 1;
    model.set("ends", ends);
    if (tell) model.save_changes();
    show();
  }
  pointer(
    map,
    (p) => {
      const far = model.get("ends").map((u) => Math.hypot(view.at(u)[0] - p[0], view.at(u)[1] - p[1]));
      held = far[0] < far[1] ? 0 : 1;
      dragging = true;
      put(view.from(p), false);
    },
    (p) => put(view.from(p), false),
    () => {
      dragging = false;
      model.save_changes();
      watch();
    },
  );
  keys(map, (key) => {
    const way = ARROWS[key], by = view.reach / 12;
    if (key === " ") held = 1 - held;
    if (way) put([0, 1].map((k) => model.get("ends")[held][k] + by * way[k]), true);
    if (key === " ") show();
    return way || key === " ";
  });
  slider.addEventListener("input", () => {
    clearInterval(timer);
    show();
  });
  play.addEventListener("click", watch);
  for (const name of ["change:solved", "change:trouble", "change:ends"]) model.on(name, () => dragging || show());
  show();
}
export default { render };
