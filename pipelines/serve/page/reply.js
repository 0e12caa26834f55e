// One question and its answer on the page: text with citations, evidence, boxes. All text is data: nothing of the
// server's is ever parsed as HTML. Knows nothing of how an answer is fetched.

import {
  clipped, cleaned, countDown, details, figure, fromCitation, fromHit, isBox, lost, sort, thumbs, times, title,
} from "./parts.js";
import { framed, make, view } from "./pictures.js";
import { hush, name, say, word } from "./words.js";

const CITED = /\[(\d{1,3}(?:\s*[,，、]\s*\d{1,3})*)\]/;
const LONGEST_CITATION = 32;
const SHOWN = 3;

let turns = 0;

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export class Reply {
  // `asked`: {text, picture, chips}. `fetchPicture(uri)` gives a picture or throws; `reuse(picture)` asks with it again;
  // `rate(request, rating)` says whether the rating arrived.
  constructor(asked, { fetchPicture, reuse, rate }) {
    this.asked = asked;
    this.fetchPicture = fetchPicture;
    this.rate = rate;
    this.element = make("article", "turn");
    this.id = `turn-${++turns}`;
    this.element.setAttribute("aria-labelledby", this.id);
    this.element.append(this.#question(reuse), this.#frame(), this.#aside());
    this.reset();
  }

  // Back to an empty answer, as before the first word came.
  reset() {
    this.text = "";
    this.request = "";
    this.waiting = "";
    this.last = {};
    this.cited = new Set();
    this.boxes = [];
    this.hits = new Map();
    this.cards = new Map();
    this.said.replaceChildren();
    this.shown.replaceChildren();
    this.end.replaceChildren();
    this.list.replaceChildren();
    this.rest.replaceChildren();
    this.aside.hidden = true;
    this.element.dataset.state = "busy";
    this.said.setAttribute("aria-busy", "true");
    say(this.working, "searching");
  }

  // One delta of the stream.
  take(delta) {
    if (Array.isArray(delta.hits)) this.#evidence(delta.hits.map(fromHit));
    if (Array.isArray(delta.citations)) this.#evidence(delta.citations.map(fromCitation));
    if (typeof delta.content === "string" && delta.content) {
      this.text += delta.content;
      this.waiting += delta.content;
      this.#write(false);
    }
    if (Array.isArray(delta.boxes)) this.boxes = delta.boxes.filter(isBox).map(cleaned);
    if (Array.isArray(delta.citations) || delta.boxes) this.last = delta;
  }

  // The stream is over. `stopped`: by the user.
  finish({ stopped = false } = {}) {
    this.#write(true);
    this.#dropUnknown();
    this.#settle();
    this.#place();
    const { degraded, timings_ms: timings, refused, cut } = this.last;
    if (refused === true) this.shown.prepend(say(make("p", "refused"), "refused"));
    if (!this.text.trim() && !stopped) this.said.append(say(make("span", "none"), "nothing"));
    if (stopped) this.end.append(say(make("p", "note"), "stopped"));
    if (cut === true) this.end.append(say(make("p", "note"), "cut"));
    if (Array.isArray(degraded) && degraded.length) this.end.append(lost(degraded));
    if (timings && typeof timings === "object") this.end.append(times(timings));
    if (this.text.trim() && !stopped && this.request) this.end.append(thumbs((rating) => this.rate(this.request, rating)));
    this.element.dataset.state = stopped ? "stopped" : "done";
  }

  // One sentence, and a button that asks again once `wait_s` have passed.
  fail(failure, retry) {
    this.#write(true);
    this.#settle();
    const note = make("div", "failed");
    const told = make("p");
    if (failure.key) say(told, failure.key, { status: failure.status });
    else told.textContent = failure.message;
    const button = make("button", "retry");
    button.type = "button";
    button.addEventListener("click", retry);
    note.append(told, button);
    this.end.append(note);
    this.element.dataset.state = "failed";
    countDown(button, failure.wait_s);
  }

  #question(reuse) {
    const { text, picture, chips } = this.asked;
    const head = make("header", "asked");
    const heading = make("h2");
    heading.id = this.id;
    if (text) heading.textContent = text;
    else say(heading, "your_picture");
    if (picture) {
      const thumb = name(make("button", "own"), "open_own");
      thumb.type = "button";
      thumb.append(framed(picture, [], ""));
      thumb.addEventListener("click", () => view(picture, this.#boxesOn("query"), word("your_picture")));
      head.append(thumb);
    }
    const words = make("div");
    words.append(heading);
    const line = make("p", "chips");
    for (const chip of chips) line.append(chip);
    if (picture) {
      const again = say(make("button", "again"), "again");
      again.type = "button";
      again.addEventListener("click", () => reuse(picture));
      line.append(again);
    }
    if (line.childNodes.length) words.append(line);
    head.append(words);
    return head;
  }

  #frame() {
    const reply = make("div", "reply");
    this.working = make("p", "working");
    this.shown = make("div", "figures");
    this.said = make("div", "said");
    this.said.setAttribute("aria-live", "polite");
    this.end = make("div", "end");
    reply.append(this.working, this.said, this.shown, this.end);
    return reply;
  }

  #aside() {
    this.aside = make("section", "evidence");
    const head = make("h3");
    this.count = make("small");
    head.append(say(make("span"), "evidence"), this.count);
    this.list = make("ol");
    this.more = make("details");
    this.also = make("summary");
    this.rest = make("ol");
    this.more.append(this.also, this.rest);
    this.more.addEventListener("toggle", () => this.more.open && this.#load(this.rest));
    this.aside.append(head, this.list, this.more);
    name(this.aside, "evidence");
    return this.aside;
  }

  #evidence(hits) {
    for (const hit of hits) {
      if (!Number.isInteger(hit.n) || hit.n < 1 || this.hits.has(hit.n)) continue;
      this.hits.set(hit.n, hit);
      this.cards.set(hit.n, this.#card(hit));
    }
    if (this.hits.size) say(this.working, "reading");
    this.#arrange();
  }

  #arrange() {
    const ordered = [...this.cards.keys()].sort((a, b) => a - b);
    const first = (n) => ordered.indexOf(n) < SHOWN || this.cited.has(n);
    sort(this.list, ordered.filter(first).map((n) => this.cards.get(n)));
    sort(this.rest, ordered.filter((n) => !first(n)).map((n) => this.cards.get(n)));
    const hidden = this.rest.childElementCount;
    this.more.hidden = hidden === 0;
    this.aside.hidden = ordered.length === 0;
    say(this.also, "also", { n: hidden });
    say(this.count, "found", { n: ordered.length });
    this.#load(this.list);
  }

  #card(hit) {
    const card = make("li", "hit");
    card.id = `${this.id}-${hit.n}`;
    card.tabIndex = -1;
    card.dataset.n = hit.n;
    if (hit.image) card.append(this.#shot(hit));
    const body = make("div", "body");
    body.append(title(hit));
    if (hit.text) body.append(...clipped(hit.text));
    body.append(details(hit));
    card.append(body);
    card.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.from?.isConnected) return;
      event.preventDefault();
      this.from.focus();
    });
    return card;
  }

  #shot(hit) {
    const shot = name(make("button", "shot"), "open", { n: hit.n });
    shot.type = "button";
    shot.disabled = true;
    shot.addEventListener("click", () => this.#view(hit));
    return shot;
  }

  #load(list) {
    for (const card of list.children) {
      const hit = this.hits.get(Number(card.dataset.n));
      const shot = card.querySelector(".shot");
      if (!shot || hit.asked) continue;
      hit.asked = true;
      const lost = () => shot.replaceWith(say(make("p", "lost"), "no_picture"));
      this.#fetch(hit, () => {
        shot.disabled = false;
        shot.replaceChildren(framed(hit.picture, [], hit.text.slice(0, 200) || hit.document));
      }, lost);
    }
  }

  #fetch(hit, show, lost = () => {}) {
    this.fetchPicture(hit.image).then((picture) => {
      hit.picture = picture;
      show();
    }, lost);
  }

  #boxesOn(image) {
    return this.boxes.filter((box) => box.image === image);
  }

  // Text up to here; a bracket that may become a citation waits for its end.
  #write(final) {
    for (;;) {
      const found = CITED.exec(this.waiting);
      if (!found) break;
      this.#say(this.waiting.slice(0, found.index));
      this.waiting = this.waiting.slice(found.index + found[0].length);
      for (const n of found[1].split(/\D+/).map(Number)) this.#cite(n);
    }
    const open = this.waiting.lastIndexOf("[");
    const held = !final && open >= 0 && this.waiting.length - open < LONGEST_CITATION;
    this.#say(held ? this.waiting.slice(0, open) : this.waiting);
    this.waiting = held ? this.waiting.slice(open) : "";
    if (this.text) hush(this.working);
  }

  #say(text) {
    const { lastChild } = this.said;
    if (lastChild?.nodeType === Node.TEXT_NODE) lastChild.appendData(text);
    else if (text) this.said.append(text);
  }

  #cite(n) {
    const link = name(make("a", "cite", String(n)), "cite", { n });
    link.href = `#${this.id}-${n}`;
    link.dataset.n = n;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.#focus(n, link);
    });
    for (const [event, on] of [["mouseenter", true], ["mouseleave", false]]) {
      link.addEventListener(event, () => this.cards.get(n)?.classList.toggle("pointed", on));
    }
    this.said.append(link);
    this.cited.add(n);
    if (this.cards.has(n)) this.#arrange();
    this.cards.get(n)?.classList.add("cited");
  }

  #focus(n, from) {
    const card = this.cards.get(n);
    if (!card) return;
    this.from = from;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" });
  }

  #dropUnknown() {
    for (const link of this.said.querySelectorAll(".cite")) {
      if (!this.cards.has(Number(link.dataset.n))) link.replaceWith(`[${link.dataset.n}]`);
    }
    this.said.normalize();
  }

  #settle() {
    hush(this.working);
    this.said.setAttribute("aria-busy", "false");
    for (const n of this.cited) this.cards.get(n)?.classList.add("cited");
  }

  // What is marked is shown large in the answer; what is only cited, large in its card.
  #place() {
    for (const image of new Set(this.boxes.map((box) => box.image))) {
      if (image === "query" && this.asked.picture) this.shown.append(this.#ownFigure());
      const hit = this.hits.get(image);
      if (hit?.image) this.#fetch(hit, () => this.shown.append(this.#figure(hit)));
    }
    for (const n of this.cited) {
      const card = this.cards.get(n);
      card?.classList.toggle("large", Boolean(this.hits.get(n).image) && !this.#boxesOn(n).length);
    }
    this.#arrange();
  }

  #ownFigure() {
    const { picture } = this.asked;
    const boxes = this.#boxesOn("query");
    const shot = name(make("button", "shot"), "open_own");
    shot.append(framed(picture, boxes, word("your_picture"), { labels: true }));
    return figure(shot, say(make("span"), "your_picture"), boxes, () => view(picture, boxes, word("your_picture")));
  }

  #figure(hit) {
    const boxes = this.#boxesOn(hit.n);
    const shot = name(make("button", "shot"), "open", { n: hit.n });
    shot.append(framed(hit.picture, boxes, hit.text.slice(0, 200) || hit.document, { labels: true }));
    return figure(shot, title(hit), boxes, () => this.#view(hit));
  }

  #view(hit) {
    const caption = make("div");
    caption.append(title(hit), make("p", "passage", hit.text));
    view(hit.picture, this.#boxesOn(hit.n), hit.text || hit.document, caption);
  }
}
