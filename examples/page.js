// The one form of the page -> POST /ask -> the reply's blocks. All text of a reply is set as text, never as markup.
const form = document.querySelector("form"), reply = document.querySelector("#reply"), problem = document.querySelector("#problem");
const button = form.querySelector("button");

function add(parent, name, text = "", className = "") {
  const made = parent.appendChild(document.createElement(name));
  made.textContent = text;
  made.className = className;
  return made;
}

function picture(parent, uri, alt) {
  if (!uri.startsWith("data:image/jpeg;base64,")) return;
  const image = add(parent, "img");
  image.alt = alt;
  image.src = uri;
}

function show(block) {
  const section = add(reply, "section");
  add(section, "h2", block.title);
  if (block.text) add(section, "p", block.text);
  picture(section, block.picture, "Your picture with the answer's boxes");
  const steps = block.steps.length ? add(section, "ol") : null;
  for (const step of block.steps) add(steps, "li", step);
  const sources = block.sources.length ? add(section, "ul") : null;
  for (const source of block.sources) {
    const item = add(sources, "li");
    add(item, "span", `[${source.n}] `, source.cited ? "cited" : "");
    add(item, "span", source.text + " ");
    add(item, "small", source.id);
    picture(item, source.picture, source.text || source.id);
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = new URLSearchParams();
  let file = null;
  for (const [name, value] of new FormData(form)) {
    if (value instanceof File) file = value.size ? value : null;
    else fields.set(name, value);
  }
  button.disabled = true;
  problem.textContent = "";
  reply.replaceChildren(Object.assign(document.createElement("p"), { textContent: "…" }));
  try {
    const response = await fetch(`ask?${fields}`, { method: "POST", body: file });
    const said = await response.json();
    reply.replaceChildren();
    if (!response.ok) problem.textContent = said.error;
    else {
      if (said.notice) add(reply, "p", said.notice, "notice");
      said.blocks.forEach(show);
    }
  } catch (error) {
    reply.replaceChildren();
    problem.textContent = `The server does not answer (${error.message}).`;
  }
  button.disabled = false;
});
