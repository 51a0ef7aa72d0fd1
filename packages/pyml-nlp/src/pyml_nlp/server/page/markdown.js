// Markdown as trees: a node is a text or [tag, attributes or null, ...children]. Nothing here touches a document, so the
// tests run without a browser. Source: CommonMark 0.31, with tables and ~~strike~~ of GitHub; no raw HTML, no images,
// no reference links; a line break is a break.

const MAX_DEPTH = 16; // of lists and quotes
const MAX_OPEN = 64; // delimiters and brackets that wait for their other half

const FENCE = /^( {0,3})(`{3,}|~{3,})([^\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +(?=\S)|[ \t]*$)/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const COLUMNS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

/** All blocks of a text. */
export function parse(text) {
  return blocks(text.split("\n"), 0).map((block) => block.node);
}

/** Blocks with the number of the line that each begins at. */
export function blocks(lines, depth) {
  const found = [];
  let i = 0;
  while (i < lines.length) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const [node, next] = block(lines, i, depth);
    found.push({ node, start: i });
    i = next;
  }
  return found;
}

/** The block that begins at a line, and the number of the line after it. */
function block(lines, i, depth) {
  const line = lines[i];
  const fence = fenceOf(line);
  if (fence) return fenced(lines, i, fence);
  const heading = HEADING.exec(line);
  if (heading) return [[`h${heading[1].length}`, null, ...inline(headingText(line.slice(heading[0].length)))], i + 1];
  if (RULE.test(line)) return [["hr", null], i + 1];
  if (depth < MAX_DEPTH) {
    if (QUOTE.test(line)) return quote(lines, i, depth);
    const item = ITEM.exec(line);
    if (item && item[1].length < 4) return list(lines, i, depth, item);
  }
  if (isTable(lines, i)) return table(lines, i);
  return paragraph(lines, i, depth);
}

/** Whether a line ends a paragraph before it. */
function interrupts(line, depth) {
  if (!line.trim() || fenceOf(line) || HEADING.test(line) || RULE.test(line)) return true;
  if (depth >= MAX_DEPTH) return false;
  if (QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  return Boolean(item && item[1].length < 4 && item[0].length < line.length && /^([-*+]|1[.)])$/.test(item[2]));
}

/** How a fence opens: its indent, its marker, and the name of the language; null if the line is no fence. */
export function fenceOf(line) {
  const match = FENCE.exec(line);
  if (!match || (match[2][0] === "`" && match[3].includes("`"))) return null;
  return { indent: match[1].length, marker: match[2], language: match[3].trim().split(/\s+/)[0].slice(0, 40) };
}

/** Whether a line closes a fence. */
export function closes(line, fence) {
  const match = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(line);
  return Boolean(match && match[1][0] === fence.marker[0] && match[1].length >= fence.marker.length);
}

/** A line of code without the indent of its fence. */
export function codeLine(line, fence) {
  let start = 0;
  while (start < fence.indent && line[start] === " ") start++;
  return line.slice(start);
}

/** The node of a block of code. */
export function codeNode(language, text) {
  const copy = ["button", { type: "button", class: "copy-code" }, "Copy"];
  const head = ["div", { class: "code-head" }, ["span", null, language || "text"], copy];
  return ["div", { class: "code" }, head, ["pre", { tabindex: "0" }, ["code", null, text]]];
}

/** The text of a heading without the marks that may close it. */
function headingText(rest) {
  const text = rest.trim();
  let end = text.length;
  while (text[end - 1] === "#") end--;
  return end === 0 || /\s/.test(text[end - 1]) ? text.slice(0, end).trimEnd() : text;
}

function fenced(lines, i, fence) {
  const inside = [];
  let next = i + 1;
  while (next < lines.length && !closes(lines[next], fence)) inside.push(codeLine(lines[next++], fence));
  if (next === lines.length && inside.at(-1) === "") inside.pop(); // what follows the last line break so far
  return [codeNode(fence.language, inside.map((line) => line + "\n").join("")), Math.min(next + 1, lines.length)];
}

function quote(lines, i, depth) {
  const inside = [];
  for (; i < lines.length; i++) {
    if (QUOTE.test(lines[i])) inside.push(lines[i].replace(QUOTE, ""));
    else if (!interrupts(lines[i], depth) && inside.at(-1).trim())
      inside.push(lines[i]); // goes on without its mark
    else break;
  }
  return [["blockquote", null, ...blocks(inside, depth + 1).map((one) => one.node)], i];
}

function list(lines, i, depth, first) {
  const kind = (marker) => (/\d/.test(marker) ? marker.at(-1) : marker);
  const items = [];
  let loose = false;
  for (let item = first; item;) {
    const space = item[3].length;
    const indent = item[1].length + item[2].length + (item[0].length === lines[i].length || space > 4 ? 1 : space);
    const inside = [lines[i].slice(Math.min(indent, lines[i].length))];
    let blank = false;
    for (i++; i < lines.length; i++) {
      const line = lines[i];
      const space = line.length - line.trimStart().length;
      if (!line.trim()) blank = true;
      else if (space >= indent || (space >= 2 + item[1].length && ITEM.test(line))) {
        if (blank) loose = true;
        blank = false;
      } else if (blank || interrupts(line, depth) || ITEM.test(line)) break;
      inside.push(line.slice(Math.min(space, indent)));
    }
    items.push(inside);
    item = i < lines.length ? ITEM.exec(lines[i]) : null;
    if (item && (item[1].length >= 4 || RULE.test(lines[i]) || kind(item[2]) !== kind(first[2]))) item = null;
    if (item && blank) loose = true;
  }
  const ordered = /\d/.test(first[2]);
  const start = ordered ? Number.parseInt(first[2], 10) : 1;
  const attributes = start === 1 ? null : { start: String(start) };
  return [[ordered ? "ol" : "ul", attributes, ...items.map((inside) => listItem(inside, depth, loose))], i];
}

function listItem(inside, depth, loose) {
  const task = TASK.exec(inside[0]);
  if (task) inside = [inside[0].slice(task[0].length), ...inside.slice(1)];
  const children = [];
  for (const { node } of blocks(inside, depth + 1)) {
    if (node[0] === "p" && !loose) children.push(...node.slice(2));
    else children.push(node);
  }
  if (!task) return ["li", null, ...children];
  const mark = task[1] === " " ? "☐" : "☑";
  return ["li", { class: "task" }, `${mark} `, ...children];
}

function isTable(lines, i) {
  if (i + 1 >= lines.length || !lines[i].includes("|") || !COLUMNS.test(lines[i + 1])) return false;
  return cells(lines[i]).length === cells(lines[i + 1]).length;
}

function cells(line) {
  const row = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(^|[^\\])\|$/, "$1");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, i) {
  const sides = cells(lines[i + 1]).map((cell) => {
    if (cell.endsWith(":")) return { class: cell.startsWith(":") ? "center" : "right" };
    return null;
  });
  const row = (line, tag) => {
    const texts = cells(line);
    return ["tr", null, ...sides.map((side, column) => [tag, side, ...inline(texts[column] ?? "")])];
  };
  const head = ["thead", null, row(lines[i], "th")];
  const body = ["tbody", null];
  for (i += 2; i < lines.length && lines[i].includes("|") && !interrupts(lines[i], 0); i++)
    body.push(row(lines[i], "td"));
  return [["div", { class: "scroll", tabindex: "0" }, ["table", null, head, body]], i];
}

function paragraph(lines, i, depth) {
  const inside = [lines[i].trimStart()];
  for (i++; i < lines.length; i++) {
    const underline = UNDERLINE.exec(lines[i]);
    if (underline) return [[underline[1][0] === "=" ? "h1" : "h2", null, ...inline(inside.join("\n"))], i + 1];
    if (interrupts(lines[i], depth) || isTable(lines, i)) break;
    inside.push(lines[i].trimStart());
  }
  return [["p", null, ...inline(inside.join("\n").trimEnd())], i];
}

// ---- inside of a line

const SPECIAL = /[\\`<&[\]!*_~\n]|https?:\/\//g;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const AUTOLINK = /<([a-zA-Z][a-zA-Z0-9+.-]{1,31}:[^\s<>]*|[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+)>/y;
const BREAK = /<br ?\/?>/iy;
const ENTITY = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));/y;
const URL_TEXT = /https?:\/\/[^\s<>`]+/y;
const TARGET = /\([ \t]*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"([^"]*)"|'([^']*)'))?\s*\)/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Texts and nodes of the inside of a block. */
export function inline(text) {
  const state = { text, out: [], delimiters: [], brackets: [], lone: new Set() };
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const match = SPECIAL.exec(text);
    if (!match) break;
    add(state, text.slice(at, match.index));
    at = special(state, match.index, match[0]);
  }
  add(state, text.slice(at));
  return merged(state.out);
}

function add(state, ...nodes) {
  state.out.push(...nodes.filter((node) => node !== ""));
}

/** Handle the special characters at a place; returns where to go on. */
function special(state, at, found) {
  const { text } = state;
  const next = text[at + 1];
  switch (found) {
    case "\\":
      if (next === "\n") return (add(state, ["br", null]), at + 2);
      if (next && /[!-/:-@[-`{-~]/.test(next)) return (add(state, next), at + 2);
      break;
    case "\n":
      return (add(state, ["br", null]), at + 1);
    case "`":
      return codeSpan(state, at);
    case "<": {
      const link = matchAt(AUTOLINK, text, at);
      if (link)
        return (
          add(state, anchor(link[1].includes(":") ? link[1] : `mailto:${link[1]}`, [link[1]])),
          at + link[0].length
        );
      const line = matchAt(BREAK, text, at);
      if (line) return (add(state, ["br", null]), at + line[0].length);
      break;
    }
    case "&": {
      const entity = matchAt(ENTITY, text, at);
      if (entity) return (add(state, character(entity)), at + entity[0].length);
      break;
    }
    case "!":
      if (next !== "[") break;
      return (open(state, "!["), at + 2);
    case "[":
      return (open(state, "["), at + 1);
    case "]":
      return close(state, at);
    case "*":
    case "_":
    case "~":
      return delimiter(state, at, found);
    default:
      return bareLink(state, at);
  }
  add(state, found);
  return at + found.length;
}

function matchAt(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function character([, decimal, hex, name]) {
  if (name) return ENTITIES[name];
  const code = decimal ? Number.parseInt(decimal, 10) : Number.parseInt(hex, 16);
  return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : "\ufffd";
}

function codeSpan(state, at) {
  const { text, lone } = state;
  let end = at;
  while (text[end] === "`") end++;
  const size = end - at;
  for (let from = end; !lone.has(size);) {
    const start = text.indexOf("`", from);
    if (start < 0)
      lone.add(size); // not searched for again
    else {
      from = start;
      while (text[from] === "`") from++;
      if (from - start !== size) continue;
      let inside = text.slice(end, start).replaceAll("\n", " ");
      if (inside.startsWith(" ") && inside.endsWith(" ") && inside.trim()) inside = inside.slice(1, -1);
      return (add(state, ["code", null, inside]), from);
    }
  }
  return (add(state, text.slice(at, end)), end);
}

/** A link to a page or a mail address; any other target leaves its text alone. */
function anchor(target, children) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return ["span", null, ...children];
  return ["a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children];
}

function bareLink(state, at) {
  const { text } = state;
  const link = at && /\w/.test(text[at - 1]) ? null : matchAt(URL_TEXT, text, at);
  if (!link) return (add(state, text.slice(at, at + 4)), at + 4);
  let end = link[0].length;
  let extra = link[0].split(")").length - link[0].split("(").length; // brackets that close what the URL did not open
  for (; ; end--) {
    const last = link[0][end - 1];
    if (last === ")" && extra > 0) extra--;
    else if (!"?!.,:;*_~'\"]".includes(last)) break;
  }
  const url = link[0].slice(0, end);
  return (add(state, anchor(url, [url])), at + end);
}

function open(state, mark) {
  if (state.brackets.length < MAX_OPEN) state.brackets.push({ place: state.out.length, mark, active: true });
  state.out.push(mark);
}

function close(state, at) {
  const opener = state.brackets.pop();
  const target = opener?.active ? matchAt(TARGET, state.text, at + 1) : null;
  if (!target) return (add(state, "]"), at + 1);
  const children = merged(state.out.splice(opener.place).slice(1));
  state.delimiters = state.delimiters.filter((one) => one.place < opener.place);
  const image = opener.mark === "![";
  if (!image) for (const other of state.brackets) if (other.mark === "[") other.active = false; // no link in a link
  add(state, anchor(target[1] ?? target[2], image ? [...children, " (image)"] : children));
  return at + 1 + target[0].length;
}

function delimiter(state, at, mark) {
  const { text, out } = state;
  let end = at;
  while (text[end] === mark) end++;
  const count = end - at;
  const [before, after] = [at ? text[at - 1] : " ", end < text.length ? text[end] : " "];
  const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
  const [markBefore, markAfter] = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const words = mark === "_";
  const one = {
    mark,
    count,
    total: count,
    opens: left && (!words || !right || markBefore),
    closes: right && (!words || !left || markAfter),
  };
  if (mark === "~" && count !== 2) return (add(state, text.slice(at, end)), end);
  if (one.closes) closeDelimiter(state, one);
  if (one.count && one.opens && state.delimiters.length < MAX_OPEN) {
    one.place = out.length;
    state.delimiters.push(one);
    out.push(one);
  } else if (one.count) out.push(mark.repeat(one.count));
  return end;
}

function closeDelimiter(state, closer) {
  while (closer.count) {
    let k = state.delimiters.length - 1;
    while (k >= 0 && !pairs(state.delimiters[k], closer)) k--;
    if (k < 0) return;
    const opener = state.delimiters[k];
    state.delimiters.length = k + 1; // those between stay text
    const size = closer.mark === "~" || (opener.count >= 2 && closer.count >= 2) ? 2 : 1;
    const tag = closer.mark === "~" ? "del" : size === 2 ? "strong" : "em";
    const children = merged(state.out.splice(opener.place + 1));
    state.brackets = state.brackets.filter((one) => one.place < opener.place);
    opener.count -= size;
    closer.count -= size;
    if (!opener.count) {
      state.out.pop();
      state.delimiters.pop();
    }
    state.out.push([tag, null, ...children]);
  }
}

function pairs(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  const both = opener.closes || closer.opens;
  return !both || (opener.total + closer.total) % 3 !== 0 || (opener.total % 3 === 0 && closer.total % 3 === 0);
}

/** Nodes with delimiters as texts, and adjacent texts as one. */
function merged(nodes) {
  const found = [];
  for (const node of nodes) {
    const value = node.mark ? node.mark.repeat(node.count) : node;
    if (typeof value === "string" && typeof found.at(-1) === "string") found[found.length - 1] += value;
    else found.push(value);
  }
  return found;
}
