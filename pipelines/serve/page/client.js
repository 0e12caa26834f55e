// Talks to the server: questions out, the parts of a streamed answer and pictures in. Knows nothing of the page.

const PICTURE = /^\/v1\/images\/[\w-]+(\.\w+)?$/;
const LONGEST_WAIT_S = 120;

// What went wrong, in the server's sentence, or as the `key` of one of ours.
export class Failure extends Error {
  constructor(key, { message = "", status = 0, wait_s = 0 } = {}) {
    super(message || key);
    this.key = message ? "" : key;
    this.status = status;
    this.wait_s = wait_s;
  }
}

// The deltas of the answer, as they arrive; `identified(id)` is told what it is rated by. Throws Failure; an AbortError
// where `signal` says stop.
export async function* ask(question, key, signal, identified) {
  const body = JSON.stringify({ ...question, stream: true });
  const headers = { "content-type": "application/json", ...authorization(key) };
  const response = await reach("v1/chat/completions", { method: "POST", headers, body, signal });
  if (!response.ok) throw await failure(response);
  identified(response.headers.get("x-request-id") ?? "");
  let finished = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      finished = true;
      break;
    }
    const chunk = parse(data);
    if (chunk.error) throw new Failure("broken", { message: sentence(chunk.error) });
    const choice = chunk.choices?.[0];
    if (choice?.delta) yield { ...choice.delta, cut: choice.finish_reason === "length" };
    if (choice?.finish_reason) finished = true;
  }
  if (!finished) throw new Failure("broken");
}

// Whether the answer of this id was good: "up" or "down". Throws Failure.
export async function rate(id, rating, key) {
  const body = JSON.stringify({ request_id: id, rating });
  const headers = { "content-type": "application/json", ...authorization(key) };
  const response = await reach("v1/feedback", { method: "POST", headers, body });
  if (!response.ok) throw await failure(response);
}

// The picture behind an `image_uri`, with the size of the original that its boxes are measured in.
export async function picture(uri, key) {
  if (typeof uri !== "string" || !PICTURE.test(uri)) throw new Failure("no_picture");
  const response = await reach(uri.slice(1), { headers: authorization(key) });
  if (!response.ok) throw await failure(response);
  const url = URL.createObjectURL(await response.blob());
  return {
    url,
    width: Number(response.headers.get("x-original-width")) || 0,
    height: Number(response.headers.get("x-original-height")) || 0,
  };
}

// Server-sent events: lines end in \n, \r\n or \r, and a chunk may end anywhere, also inside a character.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await read(reader);
      rest += done ? "\n\n" : value;
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("broken");
  }
}

async function reach(path, options) {
  try {
    return await fetch(new URL(path, document.baseURI), { ...options, credentials: "same-origin" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("unreachable");
  }
}

async function failure(response) {
  const { status } = response;
  const told = await response.json().catch(() => ({}));
  return new Failure(status === 401 ? "needs_key" : "refused_status", {
    message: status === 401 ? "" : sentence(told?.error),
    status,
    wait_s: wait(response.headers.get("retry-after")),
  });
}

const sentence = (error) => (typeof error?.message === "string" ? error.message.slice(0, 600) : "");

const authorization = (key) => (key ? { authorization: `Bearer ${key}` } : {});

// Retry-After is seconds or a date.
function wait(header) {
  if (!header) return 0;
  const asked = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Math.min(Math.max(Math.ceil(asked) || 0, 0), LONGEST_WAIT_S);
}

function parse(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    throw new Failure("unreadable");
  }
}
