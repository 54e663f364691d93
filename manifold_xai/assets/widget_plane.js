// What the widgets on a latent plane share: shades, places, images, keys.
const INK = "#1a1a1a", ONE = "#0072B2", TWO = "#D55E00";

function numbers(model, name, Kind) { // bytes from Python as numbers
  const v = model.get(name);
  const bytes = new Uint8Array(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength));
  return new Kind(bytes.buffer);
}

function canvas(width, height, label) {
  const made = document.createElement("canvas");
  const sharp = window.devicePixelRatio || 1;
  made.width = width * sharp;
  made.height = height * sharp;
  made.style.width = width + "px";
  made.style.maxWidth = "100%"; // on a phone
  made.style.aspectRatio = `${width} / ${height}`;
  made.units = width; // in which pens draw and pointers point, however wide it is shown
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  const pen = made.getContext("2d");
  pen.scale(sharp, sharp);
  pen.imageSmoothingEnabled = false;
  return [made, pen];
}

function words(className) {
  const made = document.createElement("div");
  made.className = className;
  made.style.cssText = "font: 14px sans-serif; line-height: 1.5; color: inherit; max-width: 848px";
  return made;
}

// The plane: n × n places from -reach to reach, u1 to the right, u2 upwards.
function plane(model, size) {
  const n = model.get("side"), reach = model.get("reach");
  const shades = numbers(model, "shades", Uint8Array), images = numbers(model, "images", Uint8Array);
  const pixels = model.get("pixels");
  const back = document.createElement("canvas");
  back.width = back.height = n;
  paint(back, n, (i) => shades[(i % n) * n + (n - 1 - Math.floor(i / n))]);
  const at = (u) => [(u[0] / reach + 1) / 2 * size, (1 - u[1] / reach) / 2 * size];
  const from = (p) => [(2 * p[0] / size - 1) * reach, (1 - 2 * p[1] / size) * reach];
  const cell = (u) => u.map((v) => Math.max(0, Math.min(n - 1, Math.round((v / reach + 1) / 2 * (n - 1)))));
  const place = (c) => c.map((k) => (2 * k / (n - 1) - 1) * reach);
  const box = document.createElement("canvas");
  box.width = box.height = pixels;
  function show(pen, c, x, y, width) { // the image stored at a place
    const start = (c[0] * n + c[1]) * pixels * pixels;
    paint(box, pixels, (i) => images[start + i]);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(box, x, y, width, width);
  }
  function clear(pen) {
    pen.imageSmoothingEnabled = true;
    pen.drawImage(back, 0, 0, size, size);
  }
  return { n, reach, at, from, cell, place, show, clear };
}

function paint(target, side, value) {
  const pen = target.getContext("2d"), image = pen.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const v = value(i);
    image.data.set([v, v, v, 255], 4 * i);
  }
  pen.putImageData(image, 0, 0);
}

function mark(pen, p, name, colour) {
  pen.beginPath();
  pen.arc(p[0], p[1], 6, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = "white";
  pen.lineWidth = 2;
  pen.stroke();
  if (!name) return;
  pen.font = "bold 14px sans-serif";
  const wide = pen.measureText(name).width, right = p[0] + wide + 20 < pen.canvas.units;
  const x = right ? p[0] + 10 : p[0] - 14 - wide, y = Math.max(p[1] - 22, 2);
  pen.fillStyle = "rgba(255, 255, 255, 0.85)";
  pen.fillRect(x, y, wide + 6, 18);
  pen.fillStyle = INK;
  pen.fillText(name, x + 3, y + 14);
}

// Keys that move something must not scroll the page as well.
function keys(target, act) {
  target.tabIndex = 0;
  target.style.touchAction = "none";
  target.style.cursor = "crosshair";
  target.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !act(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function pointer(target, down, move, up) { // down says whether it takes hold
  let held = false;
  const spot = (event) => {
    const box = target.getBoundingClientRect(), unit = target.units / box.width;
    return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
  };
  target.addEventListener("pointerdown", (event) => {
    held = true;
    target.focus();
    target.setPointerCapture(event.pointerId);
    down(spot(event));
  });
  target.addEventListener("pointermove", (event) => held && move(spot(event)));
  target.addEventListener("pointerup", () => {
    if (held) up();
    held = false;
  });
}

function row(...parts) {
  const made = document.createElement("div");
  made.style.cssText = "display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start";
  made.append(...parts);
  return made;
}
