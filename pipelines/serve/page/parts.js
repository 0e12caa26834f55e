// What a reply is made of: the server's records, checked, and the small elements that show them. Knows no state.

import { make, marks } from "./pictures.js";
import { name, say, seconds } from "./words.js";

const TIMINGS = ["retrieve", "generate", "total"];
const SVG = "http://www.w3.org/2000/svg";
const THUMB = "M6.5 9v7.5h-3V9zm0 .3L10 2.8c1.2 0 2 .9 2 2.1V8h3.9c1 0 1.7.9 1.5 1.9l-1.1 5.4c-.2.7-.8 1.2-1.5 1.2H6.5";

export function title(hit) {
  const head = make("p", "head");
  head.append(make("span", "n", String(hit.n)), make("b", "", hit.document));
  return head;
}

export function figure(shot, caption, boxes, open) {
  const element = make("figure");
  const below = make("figcaption");
  shot.type = "button";
  shot.addEventListener("click", open);
  below.append(caption, marks(boxes));
  element.append(shot, below);
  return element;
}

const text = (value) => (typeof value === "string" ? value : "");

export function fromHit(hit) {
  return {
    n: hit?.citation_id,
    document: text(hit?.document_id),
    text: text(hit?.text),
    source: text(hit?.source),
    image: text(hit?.image_uri),
    score: typeof hit?.score === "number" ? hit.score : null,
    branches: Object.entries(hit?.sources ?? {}).filter(([, rank]) => Number.isInteger(rank)),
  };
}

export function fromCitation(citation) {
  return { ...fromHit(citation), n: citation?.n };
}

export function isBox(box) {
  const known = box?.image === "query" || Number.isInteger(box?.image);
  return known && Array.isArray(box.xyxy) && box.xyxy.length === 4 && box.xyxy.every(Number.isFinite);
}

export const cleaned = (box) => ({ image: box.image, xyxy: box.xyxy, label: text(box.label).slice(0, 120) });

// Text that is cut after a few lines; the button is there only where something was cut.
const cut = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.classList.contains("whole")) continue;
    target.nextElementSibling.hidden = target.scrollHeight <= target.clientHeight + 1;
  }
});

export function clipped(words) {
  const passage = make("p", "passage", words);
  const button = say(make("button", "expand"), "show_all");
  button.type = "button";
  button.hidden = true;
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const whole = passage.classList.toggle("whole");
    button.setAttribute("aria-expanded", String(whole));
    say(button, whole ? "show_less" : "show_all");
  });
  cut.observe(passage);
  return [passage, button];
}

export function details(hit) {
  const line = make("p", "facts");
  if (hit.score !== null) line.append(say(make("span", "score"), "score", { score: hit.score.toFixed(3) }));
  if (hit.branches.length) line.append(say(make("span", "unseen"), "by"));
  for (const [branch, rank] of hit.branches.sort((a, b) => a[1] - b[1])) {
    const chip = make("span", "chip");
    chip.append(say(make("span"), branch), make("b", "", String(rank)));
    line.append(chip);
  }
  if (hit.source) line.append(source(hit.source));
  return line;
}

function source(address) {
  const web = /^https?:\/\//i.test(address) && URL.canParse(address);
  const element = make(web ? "a" : "span", "source", address.replace(/^(https?|file):\/\//i, ""));
  element.title = address;
  if (web) Object.assign(element, { href: address, target: "_blank", rel: "noopener noreferrer" });
  return element;
}

export function lost(reasons) {
  const note = make("div", "note degraded");
  const list = make("ul");
  for (const reason of reasons) list.append(make("li", "", String(reason)));
  note.append(say(make("p"), "degraded"), list);
  return note;
}

export function times(timings) {
  const line = make("p", "times");
  for (const stage of TIMINGS) {
    if (Number.isFinite(timings[stage])) line.append(say(make("span"), stage, { s: seconds(timings[stage]) }));
  }
  return line;
}

// Up and down; the one that `rate(rating)` says has arrived stays pressed.
export function thumbs(rate) {
  const group = name(make("div", "thumbs"), "rate");
  group.setAttribute("role", "group");
  for (const rating of ["up", "down"]) {
    const button = name(make("button", `icon ${rating}`), `rate_${rating}`);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(thumb());
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-pressed") === "true" || !(await rate(rating))) return;
      for (const each of group.children) each.setAttribute("aria-pressed", String(each === button));
    });
    group.append(button);
  }
  return group;
}

function thumb() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", THUMB);
  svg.append(path);
  return svg;
}

export function countDown(button, wait_s) {
  let left = wait_s;
  const tick = () => {
    button.disabled = left > 0;
    say(button, left > 0 ? "retry_in" : "retry", { n: left });
    if (left-- > 0) setTimeout(tick, 1000);
  };
  tick();
}

// Puts the cards in order and moves only those that must move: what has focus keeps it.
export function sort(list, cards) {
  cards.forEach((card, i) => {
    if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
  });
  while (list.children.length > cards.length) list.lastElementChild.remove();
}
