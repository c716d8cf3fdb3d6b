// answers.js of the folder that `python -m pipeline.site` writes: ONNX Runtime runs the network in this tab, and no
// picture leaves it. about.json holds the numbers that predict uses too; open.py, detect.py and explain.py say why.
const loaded = load();
loaded.catch(() => {}); // told where a picture is answered
document.getElementById("crop").closest("p").hidden = true; // every picture is taken for one face here
let last = Promise.resolve(); // ONNX Runtime takes one question at a time

async function load() {
  const [ort, about] = await Promise.all([import("./ort.js"), fetch("about.json").then((reply) => reply.json())]);
  ort.env.wasm.numThreads = 1; // more of them need headers that a plain file server does not send
  return { ort, about, session: await ort.InferenceSession.create("network.onnx") };
}

function answer(blob) {
  const found = last.then(() => look(blob));
  last = found.catch(() => {});
  return found;
}

async function look(blob) {
  const { about } = await loaded;
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(blob, options).catch(() => { throw new Error("no picture that this browser reads"); });
  const { width, height } = bitmap;
  if (Math.min(width, height) < about.smallest) {
    throw new Error(`${width}x${height} is too small; expected ${about.smallest} pixels or more in both directions`);
  }
  if (width * height > about.most) throw new Error(`${width}x${height} is more than ${about.most / 1e6} megapixels`);
  const side = Math.min(width, height);
  const box = { x: (width - side) >> 1, y: (height - side) >> 1, side };
  const face = resized(grey(bitmap, box), side, about.side);
  const [own] = await opinions([face]);
  const chosen = own.vote.indexOf(Math.max(...own.vote));
  const seen = await importance(face, chosen);
  return {
    weights: `weights ${about.weights.name}, sha256 ${about.weights.sha256.slice(0, 12)}`,
    picture: annotated(bitmap, box, seen, about),
    faces: [{
      expression: about.classes[chosen],
      probabilities: ranked(own.vote, about.classes),
      units: Object.fromEntries(about.units.map((name, place) => [name, ranked(own.units[place], about.classes)])),
      how: about.taken + (width === height ? "" : `; middle square of ${width}x${height}`),
    }],
  };
}

// The vote and every unit's probabilities for faces of side x side grey pixels, as many at once as memory allows.
async function opinions(faces) {
  const { about } = await loaded, found = [];
  for (let at = 0; at < faces.length; at += about.at_once) found.push(...await together(faces.slice(at, at + about.at_once)));
  return found;
}

async function together(faces) {
  const { ort, about, session } = await loaded;
  const pixels = new Uint8Array(faces.length * about.side ** 2);
  faces.forEach((face, place) => pixels.set(face, place * face.length));
  const shape = [faces.length, about.side, about.side];
  const found = await session.run({ pixels: new ort.Tensor("uint8", pixels, shape) });
  const count = about.classes.length;
  const rows = (values) => Array.from({ length: values.length / count }, (_, row) => [...values.slice(row * count, (row + 1) * count)]);
  const votes = rows(found.probabilities.data), units = rows(found.units.data), each = about.units.length;
  return votes.map((vote, place) => ({ vote, units: units.slice(place * each, (place + 1) * each) }));
}

// By probability; a browser puts names that are whole numbers first all the same.
function ranked(probabilities, classes) {
  const pairs = classes.map((name, place) => [name, probabilities[place]]);
  return Object.fromEntries(pairs.sort((one, other) => other[1] - one[1]));
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

// The square as grey pixels, by ITU-R 601 as Pillow rounds it; what is transparent lies on white.
function grey(bitmap, { x, y, side }) {
  const context = canvasOf(side, side).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, side, side);
  context.drawImage(bitmap, -x, -y);
  const { data } = context.getImageData(0, 0, side, side);
  if (data[3] === 0) throw new Error(`${side}x${side} is more than this browser can draw`); // else it would be black
  return Uint8Array.from({ length: side * side }, (_, place) => {
    const [red, green, blue] = [data[4 * place], data[4 * place + 1], data[4 * place + 2]];
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  });
}

// A square of `from` x `from` pixels as one of `to` x `to`, bilinear as Pillow does it: rows first, then columns.
function resized(pixels, from, to) {
  if (from === to) return pixels;
  const windows = Array.from({ length: to }, (_, place) => weightsOf(place, from, to));
  return transposed(along(transposed(along(pixels, from, windows), to), from, windows), to);
}

// Pillow's weights of the old pixels for one new one: a triangle at least two pixels wide, in 22-bit fixed point.
function weightsOf(place, from, to) {
  const wide = Math.max(from / to, 1), center = (place + 0.5) * from / to;
  const start = Math.max(Math.trunc(center - wide + 0.5), 0), end = Math.min(Math.trunc(center + wide + 0.5), from);
  const weights = [];
  for (let at = start; at < end; at++) weights.push(Math.max(1 - Math.abs((at - center + 0.5) / wide), 0));
  const sum = weights.reduce((one, other) => one + other, 0);
  return { start, weights: weights.map((weight) => Math.round(weight / sum * (1 << 22))) };
}

// Every row of `length` pixels as one of windows.length pixels.
function along(pixels, length, windows) {
  const result = new Uint8Array(pixels.length / length * windows.length);
  for (let row = 0, at = 0; row < pixels.length; row += length) {
    for (const { start, weights } of windows) {
      let sum = 1 << 21;
      for (let place = 0; place < weights.length; place++) sum += pixels[row + start + place] * weights[place];
      result[at++] = Math.min(sum >> 22, 255);
    }
  }
  return result;
}

function transposed(pixels, width) {
  const height = pixels.length / width;
  return Uint8Array.from(pixels, (_, place) => pixels[(place % height) * width + Math.floor(place / height)]);
}

// What the network looked at: the mean loss of log probability over the blurred patches that hold a pixel.
async function importance(face, chosen) {
  const { about } = await loaded;
  const { side, step } = about, patch = Math.min(about.patch, side), soft = blurred(face, side, about.blur);
  const starts = [side - patch]; // together the patches cover the face
  for (let at = 0; at < side - patch; at += step) starts.push(at);
  const places = starts.flatMap((y) => starts.map((x) => [y, x]));
  const inside = (y, x) => Array.from({ length: patch * patch }, (_, at) => (y + Math.floor(at / patch)) * side + x + at % patch);
  const hidden = places.map(([y, x]) => {
    const copy = face.slice();
    for (const pixel of inside(y, x)) copy[pixel] = soft[pixel];
    return copy;
  });
  const [before, ...after] = (await opinions([face, ...hidden])).map(({ vote }) => Math.log(vote[chosen]));
  const total = new Float32Array(side * side), count = new Float32Array(side * side);
  places.forEach(([y, x], place) => inside(y, x).forEach((pixel) => { total[pixel] += before - after[place]; count[pixel]++; }));
  return total.map((value, pixel) => value / count[pixel]);
}

// Each pixel as the mean of the window around it; the border is the nearest pixel.
function blurred(face, side, window) {
  const reach = window >> 1, inside = (place) => Math.min(Math.max(place, 0), side - 1);
  return Uint8Array.from(face, (_, pixel) => {
    const y = Math.floor(pixel / side), x = pixel % side;
    let sum = 0;
    for (let down = -reach; down <= reach; down++) {
      for (let right = -reach; right <= reach; right++) sum += face[inside(y + down) * side + inside(x + right)];
    }
    return Math.round(sum / window ** 2);
  });
}

// The picture with a frame around the face, and red where the network looked, as a data URL.
function annotated(bitmap, box, seen, { side, heat, strongest, line, shortest, longest }) {
  const longer = Math.max(bitmap.width, bitmap.height), scale = Math.min(Math.max(longer, shortest), longest) / longer;
  const canvas = canvasOf(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d"), square = [box.x, box.y, box.side, box.side].map((value) => value * scale);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const mask = canvasOf(side, side), most = seen.reduce((one, other) => Math.max(one, other), 1e-12), pixels = new ImageData(side, side);
  seen.forEach((value, pixel) => pixels.data.set([...heat, Math.max(value, 0) / most * strongest * 255], 4 * pixel));
  mask.getContext("2d").putImageData(pixels, 0, 0);
  context.drawImage(mask, ...square);
  context.strokeStyle = `rgb(${line})`;
  context.lineWidth = Math.max(1, longer * scale / 300);
  context.strokeRect(...square);
  return canvas.toDataURL("image/png");
}
