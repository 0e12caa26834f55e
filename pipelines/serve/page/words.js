// Every word of the page, in English and Chinese. Knows nothing of where a word stands.

const NUMBER = { en: "en", zh: "zh-CN" };

export const WORDS = {
  en: {
    other: "中文",
    other_label: "切换到中文",
    skip: "Skip to the question",
    title: "Ask words and pictures",
    tagline: "Every answer names the documents it stands on, and marks the place in the picture.",
    anew: "New conversation",
    composer: "Your question",
    question: "Question",
    placeholder: "Ask a question, or drop a picture",
    placeholder_next: "Ask a follow-up",
    picture: "Picture",
    your_picture: "Your picture",
    look: "Look at the picture",
    remove: "Remove the picture",
    again: "Ask with it again",
    mode: "Search with",
    mode_auto: "Auto",
    mode_text: "Text only",
    mode_image: "Picture only",
    mode_visually_similar: "Look-alikes",
    more: "More",
    filter: "Filter",
    key: "API key",
    key_note: "Only if this server asks for one. Forgotten when the tab closes.",
    send: "Ask",
    stop: "Stop",
    examples: "Examples",
    drop: "Drop the picture anywhere",
    viewer: "Picture",
    close: "Close",
    searching: "Searching",
    reading: "Reading the evidence",
    answered: "The answer is here.",
    stopped: "Stopped.",
    cut: "The answer is longer than this server allows, and ends here.",
    refused: "No answer in the evidence",
    nothing: "No words came back.",
    degraded: "Parts of the search were left out",
    evidence: "Evidence",
    found: "{n} found",
    also: "{n} more found",
    cite: "Evidence {n}",
    open: "Open picture {n}",
    open_own: "Open your picture",
    show_all: "Show all",
    show_less: "Show less",
    score: "Score {score}",
    by: "Found by",
    no_picture: "The picture cannot be shown.",
    marked: "Marked: {labels}",
    place: "the place",
    image_to_image: "look-alike",
    text_to_image: "words to picture",
    text: "meaning",
    lexical: "exact words",
    retrieve: "search {s}",
    generate: "answer {s}",
    total: "total {s}",
    rate: "Was this answer good?",
    rate_up: "Good answer",
    rate_down: "Bad answer",
    rated: "Thank you for the rating.",
    rate_failed: "The rating could not be sent.",
    retry: "Try again",
    retry_in: "Try again in {n} s",
    needs_picture: "This way of searching needs a picture.",
    needs_text: "This way of searching needs a question in words.",
    needs_any: "Write a question or add a picture.",
    bad_picture: "This file is not a picture that the browser can read. PNG, JPEG, WebP and GIF work.",
    unreachable: "The server cannot be reached.",
    broken: "The answer broke off.",
    unreadable: "The server sent something that this page cannot read.",
    refused_status: "The server refused the question (status {status}).",
    needs_key: "This server asks for an API key: see More.",
  },
  zh: {
    other: "English",
    other_label: "Switch to English",
    skip: "跳到提问框",
    title: "用文字和图片提问",
    tagline: "每个回答都会注明所依据的资料，并在图片上标出位置。",
    anew: "新对话",
    composer: "您的问题",
    question: "问题",
    placeholder: "输入问题，或拖入一张图片",
    placeholder_next: "继续提问",
    picture: "图片",
    your_picture: "您的图片",
    look: "查看图片",
    remove: "移除图片",
    again: "再次用这张图提问",
    mode: "检索方式",
    mode_auto: "自动",
    mode_text: "仅文字",
    mode_image: "仅图片",
    mode_visually_similar: "找相似图",
    more: "更多",
    filter: "筛选条件",
    key: "API 密钥",
    key_note: "仅在服务器要求时填写，关闭标签页后即清除。",
    send: "提问",
    stop: "停止",
    examples: "示例",
    drop: "把图片拖到任意位置",
    viewer: "图片",
    close: "关闭",
    searching: "正在检索",
    reading: "正在阅读资料",
    answered: "回答已完成。",
    stopped: "已停止。",
    cut: "回答超出了服务器允许的长度，到此为止。",
    refused: "资料中没有找到答案",
    nothing: "没有返回文字。",
    degraded: "检索的部分环节未参与",
    evidence: "依据",
    found: "共 {n} 条",
    also: "另有 {n} 条",
    cite: "依据 {n}",
    open: "打开图片 {n}",
    open_own: "打开您的图片",
    show_all: "展开",
    show_less: "收起",
    score: "得分 {score}",
    by: "检索途径",
    no_picture: "图片无法显示。",
    marked: "已标出：{labels}",
    place: "此处",
    image_to_image: "以图找图",
    text_to_image: "以文找图",
    text: "语义",
    lexical: "关键词",
    retrieve: "检索 {s}",
    generate: "回答 {s}",
    total: "合计 {s}",
    rate: "这个回答好吗？",
    rate_up: "回答得好",
    rate_down: "回答得不好",
    rated: "感谢您的评价。",
    rate_failed: "评价未能发送。",
    retry: "重试",
    retry_in: "{n} 秒后可重试",
    needs_picture: "这种检索方式需要一张图片。",
    needs_text: "这种检索方式需要文字问题。",
    needs_any: "请输入问题或添加图片。",
    bad_picture: "浏览器无法读取此文件。支持 PNG、JPEG、WebP 和 GIF 图片。",
    unreachable: "无法连接服务器。",
    broken: "回答中断了。",
    unreadable: "服务器返回了本页面无法读取的内容。",
    refused_status: "服务器拒绝了这个问题（状态码 {status}）。",
    needs_key: "此服务器需要 API 密钥：请在“更多”中填写。",
  },
};

const COOLER = "Which quiet CPU cooler suits a home office, and what is its mounting hole spacing?";
const CASE = "机箱很薄，放不下塔式散热器，该用哪一款？";
const WIND = "What share of electricity comes from wind?";
const SWITCH = "路由交换机的风扇噪音很大，换哪一款小风扇？";

// Questions of the example corpus (pipelines/demo/questions.py): text, its language, and what it shows.
export const EXAMPLES = {
  en: [
    [COOLER, "en", "The figure stands only in a drawing"],
    [WIND, "en", "Read from a chart"],
    [CASE, "zh", "In Chinese"],
  ],
  zh: [
    [CASE, "zh", "答案在图纸里"],
    [SWITCH, "zh", "换一种说法提问"],
    [WIND, "en", "用英文问图表"],
  ],
};

let language = "en";

export const current = () => language;

// Shows the page in `to`, and every element that `say` has written.
export function speak(to) {
  language = to in WORDS ? to : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) write(element);
  for (const element of document.querySelectorAll("[data-word-label]")) {
    element.setAttribute("aria-label", word(element.dataset.wordLabel, values.get(element)));
  }
  for (const element of document.querySelectorAll("[data-word-placeholder]")) {
    element.placeholder = word(element.dataset.wordPlaceholder);
  }
}

const values = new WeakMap();

export function word(key, filled = {}) {
  const text = Object.hasOwn(WORDS[language], key) ? WORDS[language][key] : key;
  return text.replace(/\{(\w+)\}/g, (_, name) => filled[name] ?? "");
}

// Writes a word into an element so that it changes with the language.
export function say(element, key, filled) {
  element.dataset.word = key;
  if (filled) values.set(element, filled);
  write(element);
  return element;
}

// Empties an element that `say` has written.
export function hush(element) {
  delete element.dataset.word;
  element.replaceChildren();
}

// Like `say`, for what a screen reader calls the element.
export function name(element, key, filled) {
  element.dataset.wordLabel = key;
  if (filled) values.set(element, filled);
  element.setAttribute("aria-label", word(key, filled));
  return element;
}

export function seconds(ms) {
  const digits = ms < 10_000 ? 1 : 0;
  return ms < 1000
    ? `${Math.round(ms)} ms`
    : `${(ms / 1000).toLocaleString(NUMBER[language], { minimumFractionDigits: digits, maximumFractionDigits: digits })} s`;
}

function write(element) {
  element.textContent = word(element.dataset.word, values.get(element));
}
