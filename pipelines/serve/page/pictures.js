// Pictures: made ready to send, framed with boxes, and shown large. Knows nothing of the server.

import { say, word } from "./words.js";

// Sent as it is: a file of so many bytes and pixels at most. These are the pixels that a server takes by its defaults.
const BYTES_AS_THEY_ARE = 4 * 2 ** 20;
const PIXELS_AS_THEY_ARE = 32e6;
const LONG_SIDE = 1536;
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 6;

// A file as it is sent: {url, width, height, dataUri}, its size upright. Throws where the browser cannot read it.
export async function prepare(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const large = file.size > BYTES_AS_THEY_ARE || bitmap.width * bitmap.height > PIXELS_AS_THEY_ARE;
  const share = large ? Math.min(1, LONG_SIDE / Math.max(bitmap.width, bitmap.height)) : 1;
  const width = Math.max(1, Math.round(bitmap.width * share));
  const height = Math.max(1, Math.round(bitmap.height * share));
  const sent = large ? await drawn(bitmap, width, height) : file;
  bitmap.close();
  return { url: URL.createObjectURL(sent), width, height, dataUri: await asDataUri(sent) };
}

// A picture with its boxes, given in pixels of a width × height picture. `labels` writes their names beside them.
export function framed(picture, boxes, alt, { labels = false } = {}) {
  const frame = make("span", "frame");
  const image = make("img");
  image.alt = alt;
  image.draggable = false;
  frame.append(image);
  const fit = (width, height) => {
    frame.style.setProperty("--ratio", width / height);
    frame.style.setProperty("--wide", `${width}px`);
  };
  const lay = () => {
    const width = picture.width || image.naturalWidth;
    const height = picture.height || image.naturalHeight;
    if (!width || !height) return;
    fit(width, height);
    if (boxes.length && !frame.querySelector("svg")) frame.append(...overlay(boxes, width, height, labels));
  };
  image.addEventListener("load", lay, { once: true });
  image.src = picture.url;
  lay();
  return frame;
}

// Opens the viewer. `caption` is a node or nothing.
export function view(picture, boxes, alt, caption) {
  const viewer = document.querySelector("#viewer");
  const told = make("div");
  if (caption) told.append(caption);
  if (boxes.length) told.append(marks(boxes));
  document.querySelector("#stage").replaceChildren(framed(picture, boxes, alt, { labels: true }));
  document.querySelector("#caption").replaceChildren(told);
  viewer.showModal();
}

export function closeOnClickBeside(viewer) {
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer || event.target.id === "stage" || event.target.id === "close") viewer.close();
  });
}

// The boxes in words, each beside its colour.
export function marks(boxes) {
  const list = make("ul", "marks");
  boxes.forEach((box, i) => {
    const item = make("li", `c${i % COLOURS}`);
    item.append(box.label ? document.createTextNode(box.label) : say(make("span"), "place"));
    list.append(item);
  });
  return list;
}

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function overlay(boxes, width, height, labels) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", word("marked", { labels: boxes.map((box) => box.label || word("place")).join(", ") }));
  const names = [];
  boxes.forEach((box, i) => {
    const [x1, y1, x2, y2] = within(box.xyxy, width, height);
    for (const layer of ["halo", "edge"]) {
      const rect = document.createElementNS(SVG, "rect");
      const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      for (const [key, value] of Object.entries(place)) rect.setAttribute(key, value);
      rect.setAttribute("class", `${layer} c${i % COLOURS}`);
      svg.append(rect);
    }
    if (labels && box.label) names.push(flag(box.label, i, x1 / width, y1 / height, x2 / width));
  });
  return [svg, ...names];
}

// A name at the box's upper edge, inside the picture.
function flag(label, i, left, top, right) {
  const name = make("span", `flag c${i % COLOURS}`, label);
  name.setAttribute("aria-hidden", "true");
  name.classList.toggle("below", top < 0.08);
  name.style.top = `${top * 100}%`;
  const [side, from] = left > 0.6 ? ["right", 1 - right] : ["left", left];
  name.style[side] = `${from * 100}%`;
  name.style.maxWidth = `${(1 - from) * 100}%`;
  return name;
}

function within([x1, y1, x2, y2], width, height) {
  const across = [x1, x2].map((x) => Math.min(Math.max(x, 0), width)).sort((a, b) => a - b);
  const down = [y1, y2].map((y) => Math.min(Math.max(y, 0), height)).sort((a, b) => a - b);
  return [across[0], down[0], across[1], down[1]];
}

function drawn(bitmap, width, height) {
  const canvas = make("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, width, height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/jpeg", 0.9);
  });
}

function asDataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
