// The page: what is asked, the conversation, language and keys. Knows the contract of `mmrag serve` through client.js.

import { ask, Failure, picture as fetched, rate } from "./client.js";
import { closeOnClickBeside, make, prepare, view } from "./pictures.js";
import { calm, Reply } from "./reply.js";
import { EXAMPLES, current, hush, name, say, speak, word } from "./words.js";

const FORMER_TURNS = 8;

const at = (id) => document.getElementById(id);
const composer = at("composer");
const question = at("question");
const mode = at("mode");
const filter = at("filter");
const key = at("key");

let attached = null;
let running = null;
let turns = [];
let pictures = new Map();

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else submit();
});

question.addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word.
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    if (!running) submit();
  }
});
question.addEventListener("input", () => {
  grow();
  complain("");
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !at("viewer").open && !event.defaultPrevented) running.abort();
});

function submit() {
  const asked = { text: question.value.trim(), picture: attached, mode: mode.value, filter: filter.value.trim() };
  const problem = missing(asked);
  complain(problem);
  if (problem) {
    (problem === "needs_picture" ? at("pick") : question).focus();
    return;
  }
  const turn = { asked };
  turn.reply = new Reply({ ...asked, chips: chips(asked) }, { fetchPicture, reuse: attach, rate: sendRating });
  turns.push(turn);
  at("conversation").append(turn.reply.element);
  question.value = "";
  attach(null);
  grow();
  document.body.dataset.state = "talking";
  at("anew").hidden = false;
  question.dataset.wordPlaceholder = "placeholder_next";
  question.placeholder = word("placeholder_next");
  question.focus({ preventScroll: true });
  measure();
  turn.reply.element.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  run(turn);
}

function missing({ text, picture, mode: way }) {
  if (!text && !picture) return "needs_any";
  if (!picture && (way === "image" || way === "visually_similar")) return "needs_picture";
  if (!text && way === "text") return "needs_text";
  return "";
}

async function run(turn) {
  const stop = new AbortController();
  const { reply } = turn;
  running = stop;
  busy(true);
  tell("searching");
  turn.answered = "";
  try {
    for await (const delta of ask(body(turn), key.value.trim(), stop.signal, (id) => (reply.request = id))) {
      if (!turns.includes(turn)) return;
      reply.take(delta);
    }
    reply.finish();
    tell("answered");
  } catch (error) {
    if (error.name === "AbortError") {
      reply.finish({ stopped: true });
      tell("stopped");
    } else {
      const failure = error instanceof Failure ? error : new Failure("unreadable");
      if (failure.status === 401) unfold(true);
      reply.fail(failure, () => again(turn));
      tell(failure.key || failure.message, { status: failure.status });
    }
  } finally {
    turn.answered = reply.text.trim();
    if (running === stop) {
      running = null;
      busy(false);
    }
  }
}

function again(turn) {
  if (running) return;
  turn.reply.reset();
  question.focus({ preventScroll: true });
  run(turn);
}

// The body of the request: earlier turns as text ("" for a picture alone), the question as text, a picture, or both.
function body({ asked, reply }) {
  const former = turns.slice(0, turns.findIndex((turn) => turn.reply === reply)).filter((turn) => turn.answered);
  const messages = former.slice(-FORMER_TURNS).flatMap((turn) => [
    { role: "user", content: turn.asked.text },
    { role: "assistant", content: turn.answered },
  ]);
  const content = [];
  if (asked.text) content.push({ type: "text", text: asked.text });
  if (asked.picture) content.push({ type: "image_url", image_url: { url: asked.picture.dataUri } });
  messages.push({ role: "user", content: asked.picture ? content : asked.text });
  return { messages, mode: asked.mode, ...(asked.filter ? { filter: asked.filter } : {}) };
}

function chips(asked) {
  const shown = [];
  if (asked.mode !== "auto") shown.push(say(make("span", "chip"), `mode_${asked.mode}`));
  if (asked.filter) shown.push(make("code", "chip", asked.filter));
  return shown;
}

function fetchPicture(uri) {
  const known = pictures.get(uri) ?? fetched(uri, key.value.trim());
  pictures.set(uri, known);
  known.catch(() => pictures.delete(uri));
  return known;
}

// Whether it arrived.
async function sendRating(id, rating) {
  complain("");
  try {
    await rate(id, rating, key.value.trim());
  } catch {
    complain("rate_failed");
    return false;
  }
  tell("rated");
  return true;
}

at("anew").addEventListener("click", () => {
  running?.abort();
  for (const { asked } of turns) if (asked.picture) URL.revokeObjectURL(asked.picture.url);
  for (const known of pictures.values()) known.then(({ url }) => URL.revokeObjectURL(url), () => {});
  turns = [];
  pictures = new Map();
  at("conversation").replaceChildren();
  attach(null);
  document.body.dataset.state = "empty";
  at("anew").hidden = true;
  question.dataset.wordPlaceholder = "placeholder";
  question.placeholder = word("placeholder");
  question.value = "";
  complain("");
  grow();
  question.focus();
});

// A picture comes by button, by drop or by paste.
at("pick").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  receive(at("file").files[0]);
  at("file").value = "";
});
at("look").addEventListener("click", () => attached && view(attached, [], word("your_picture")));
at("remove").addEventListener("click", () => {
  attach(null);
  question.focus();
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (!file) return;
  event.preventDefault();
  receive(file);
});

let inside = 0;
const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
const dragging = (change) => {
  inside = change === 0 ? 0 : Math.max(0, inside + change);
  document.body.classList.toggle("dragging", inside > 0);
};
document.addEventListener("dragenter", (event) => carriesFiles(event) && dragging(1));
document.addEventListener("dragleave", (event) => carriesFiles(event) && dragging(-1));
document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  dragging(0);
  receive(event.dataTransfer.files[0]);
});

async function receive(file) {
  if (!file) return;
  complain("");
  try {
    attach(await prepare(file));
  } catch {
    complain("bad_picture");
  }
  question.focus();
}

function attach(picture) {
  attached = picture;
  at("attached").hidden = !picture;
  const image = at("look").querySelector("img");
  if (picture) {
    image.src = picture.url;
    at("size").textContent = `${picture.width} × ${picture.height}`;
    question.focus();
  } else image.removeAttribute("src");
}

at("more").addEventListener("click", () => unfold(at("extra").hidden));
key.value = remembered(sessionStorage, "mmrag.key");
key.addEventListener("input", () => remember(sessionStorage, "mmrag.key", key.value));

at("language").addEventListener("click", () => {
  const to = current() === "en" ? "zh" : "en";
  remember(localStorage, "mmrag.language", to);
  show(to);
});

function show(language) {
  speak(language);
  const button = at("language");
  button.textContent = word("other");
  button.lang = current() === "en" ? "zh-CN" : "en";
  button.setAttribute("aria-label", word("other_label"));
  examples();
}

function examples() {
  const cards = EXAMPLES[current()].map(([text, lang, shows]) => {
    const card = make("button", "example");
    card.type = "button";
    const words = make("span", "", text);
    words.lang = lang;
    card.append(words, make("small", "", shows));
    card.addEventListener("click", () => {
      question.value = text;
      submit();
    });
    return card;
  });
  at("examples").replaceChildren(...cards);
}

function busy(on) {
  document.body.classList.toggle("busy", on);
  name(at("send"), on ? "stop" : "send");
}

function unfold(open) {
  at("extra").hidden = !open;
  at("more").setAttribute("aria-expanded", String(open));
}

function complain(problem) {
  if (problem) say(at("problem"), problem);
  else hush(at("problem"));
}

function tell(what, filled) {
  say(at("status"), what, filled);
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

// A browser may forbid storage.
function remembered(store, name) {
  try {
    return store.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function remember(store, name, value) {
  try {
    store.setItem(name, value);
  } catch {
    /* forgotten with the page */
  }
}

// How much of the window the composer takes, for what scrolls beneath it.
function measure() {
  document.documentElement.style.setProperty("--composer", `${composer.offsetHeight}px`);
}

new ResizeObserver(measure).observe(composer);

closeOnClickBeside(at("viewer"));
show(remembered(localStorage, "mmrag.language") || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
grow();
question.focus();
