// Metric ellipses: steps that all change the image by the same amount, at a place that moves.
function render({ model, el }) {
  const size = 400, view = plane(model, size), G = numbers(model, "metric", Float32Array);
  const [map, pen] = canvas(size, size, model.get("alt"));
  const [image, brush] = canvas(220, 220, "the image decoded at the chosen place");
  const told = words("told"), help = words("help"), n = view.n, change = model.get("change");
  help.textContent = "Drag over the plane, or click on it and use the arrow keys.";
  const side = document.createElement("div");
  side.style.cssText = "width: 400px; max-width: 100%";
  side.append(image, told, help);
  el.append(row(map, side));
  own(el);

  function axes(c) { // of the ellipse: stretches √λ, and the direction of the larger
    const k = 3 * (c[0] * n + c[1]), [a, b, d] = [G[k], G[k + 1], G[k + 2]];
    const half = (a + d) / 2, root = Math.hypot((a - d) / 2, b);
    const stretch = [half - root, half + root].map((v) => Math.sqrt(Math.max(v, 1e-12)));
    return { stretch, angle: Math.atan2(half + root - a, b || 1e-20) };
  }
  function ellipse(c, colour, width) {
    const { stretch, angle } = axes(c), p = view.at(view.place(c)), unit = size / (2 * view.reach);
    pen.beginPath();
    const [long, short] = stretch.map((v) => (change / v) * unit);
    if (width < 2 && 2 * long > size / 4) return; // so wide that it hides the others
    pen.ellipse(p[0], p[1], short, long, -angle, 0, 2 * Math.PI);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.stroke();
  }
  function show() {
    const c = model.get("at"), [small, large] = axes(c).stretch, u = view.place(c);
    view.clear(pen);
    const by = Math.max(1, Math.round((n - 1) / 8));
    for (let i = 0; i < n; i += by) for (let j = 0; j < n; j += by) ellipse([i, j], "rgba(230,159,0,0.55)", 1);
    for (const [name, place] of model.get("places")) mark(pen, view.at(place), name, INK);
    ellipse(c, ONE, 3);
    mark(pen, view.at(u), "", ONE);
    view.show(brush, c, 0, 0, 220);
    told.textContent =
      `At u = (${u[0].toFixed(2)}, ${u[1].toFixed(2)}) a step of 0.1 changes the image by ` +
      `${(0.1 * small).toFixed(3)} in the one direction, by ${(0.1 * large).toFixed(3)} in the other: ` +
      `${(large / small).toFixed(1)} times as much. All steps to the blue ellipse change it by ${change}.`;
  }
  function go(c) {
    model.set("at", c.map((k) => Math.max(0, Math.min(n - 1, k))));
    model.save_changes();
  }
  const there = (p) => go(view.cell(view.from(p)));
  pointer(map, there, there, () => {});
  keys(map, (key) => {
    const way = ARROWS[key], c = model.get("at");
    if (way) go([c[0] + way[0], c[1] + way[1]]);
    return way;
  });
  model.on("change:at", show);
  show();
}
export default { render };
