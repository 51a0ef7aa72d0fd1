// Unit tests of the page's Markdown, without a browser: node --test tests/page/markdown.test.mjs

import assert from "node:assert/strict";
import { test } from "node:test";

import { MarkdownView } from "./fake_dom.mjs";

const page = "../../packages/pyml-nlp/src/pyml_nlp/server/page";
const { parse } = await import(`${page}/markdown.js`);

const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** A tree as HTML, to compare it. */
function html(node) {
  if (typeof node === "string") return escape(node);
  const [tag, attributes, ...children] = node;
  const written = Object.entries(attributes ?? {}).map(([name, value]) => ` ${name}="${escape(value)}"`);
  const inside = children.map(html).join("");
  return ["br", "hr"].includes(tag) ? `<${tag}>` : `<${tag}${written.join("")}>${inside}</${tag}>`;
}

const all = (text) => parse(text).map(html).join("");
const link = (target, text = target) =>
  `<a href="${target}" target="_blank" rel="noopener noreferrer nofollow">${text}</a>`;
const code = (language, text) =>
  `<div class="code"><div class="code-head"><span>${language}</span><button type="button" class="copy-code">Copy</button></div>` +
  `<pre tabindex="0"><code>${text}</code></pre></div>`;

const CASES = {
  "a paragraph": ["a\nb", "<p>a<br>b</p>"],
  headings: ["# A #\n## B\n### C*d*\n#e\n####### f", "<h1>A</h1><h2>B</h2><h3>C<em>d</em></h3><p>#e<br>####### f</p>"],
  "underlined headings": ["A\n===\nB\n---", "<h1>A</h1><h2>B</h2>"],
  emphasis: [
    "*a* **b** ***c*** _d_ __e__ ~~f~~",
    "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>",
  ],
  "no emphasis": ["a_b_c * d * 2 ** 3 ~e~ **", "<p>a_b_c * d * 2 ** 3 ~e~ **</p>"],
  "emphasis inside": ["**a *b* c** *a **b***", "<p><strong>a <em>b</em> c</strong> <em>a <strong>b</strong></em></p>"],
  "half emphasis": ["**a* b", "<p>*<em>a</em> b</p>"],
  "inline code": ["`a*b*` ``c`d`` `e", "<p><code>a*b*</code> <code>c`d</code> `e</p>"],
  escapes: ["\\*a\\* \\\\ \\q &amp; &#65; &#x42; &nope; &#0;", "<p>*a* \\ \\q &amp; A B &amp;nope; \ufffd</p>"],
  "no HTML": [
    "<b>a</b>\n\n<script>alert(1)</script> <img src=x>",
    "<p>&lt;b&gt;a&lt;/b&gt;</p><p>&lt;script&gt;alert(1)&lt;/script&gt; &lt;img src=x&gt;</p>",
  ],
  "a break": ["a<br>b<br/>c", "<p>a<br>b<br>c</p>"],
  links: [
    '[a](http://x.y/z) [b](<https://x.y> "t") [*c*](mailto:d@e.f)',
    `<p>${link("http://x.y/z", "a")} ${link("https://x.y", "b")} ${link("mailto:d@e.f", "<em>c</em>")}</p>`,
  ],
  "no other schemes": [
    "[a](javascript:alert(1)) [b](data:text/html,x) <javascript:x>",
    "<p><span>a</span> <span>b</span> <span>javascript:x</span></p>",
  ],
  "relative links": ["[a](/b) [c](#d)", "<p><span>a</span> <span>c</span></p>"],
  images: ["![a cat](https://x.y/cat.png)", `<p>${link("https://x.y/cat.png", "a cat (image)")}</p>`],
  "no links": ["[a] [b](c d) ](e) [f", "<p>[a] [b](c d) ](e) [f</p>"],
  "links in brackets": ["[[a](http://x.y)](http://z.w)", `<p>[${link("http://x.y", "a")}](${link("http://z.w")})</p>`],
  "bare links": [
    "see https://x.y/a_(b)), http://z.w. xhttp://v",
    `<p>see ${link("https://x.y/a_(b)")}), ${link("http://z.w")}. xhttp://v</p>`,
  ],
  "a fence": ["```py\na = 1\n\n  b\n```\nc", code("py", "a = 1\n\n  b\n") + "<p>c</p>"],
  "an open fence": ["~~~\na", code("text", "a\n")],
  "fences in fences": ["````\n```\na\n```\n````", code("text", "```\na\n```\n")],
  "HTML in a fence": ["```\n<script>\n```", code("text", "&lt;script&gt;\n")],
  quotes: ["> a\nb\n> > c", "<blockquote><p>a<br>b</p><blockquote><p>c</p></blockquote></blockquote>"],
  lists: ["- a\n- b\n  c\n* d", "<ul><li>a</li><li>b<br>c</li></ul><ul><li>d</li></ul>"],
  "lists in lists": [
    "1. a\n   - b\n   - c\n2. d\n  - e",
    "<ol><li>a<ul><li>b</li><li>c</li></ul></li><li>d<ul><li>e</li></ul></li></ol>",
  ],
  "loose lists": ["- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"],
  "a list from 3": ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
  "code in a list": ["- a\n\n  ```\n  b\n  ```", `<ul><li><p>a</p>${code("text", "b\n")}</li></ul>`],
  tasks: ["- [ ] a\n- [x] b", '<ul><li class="task">☐ a</li><li class="task">☑ b</li></ul>'],
  "a number in a text": ["In\n1986. That year", "<p>In<br>1986. That year</p>"],
  rules: ["a\n***\n- - -\n___", "<p>a</p><hr><hr><hr>"],
  tables: [
    "| a | b |\n|:-|-:|\n| `c\\|d` | e |\n| f |\n\ng",
    '<div class="scroll" tabindex="0"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead>' +
      '<tbody><tr><td><code>c|d</code></td><td class="right">e</td></tr><tr><td>f</td><td class="right"></td></tr></tbody></table></div><p>g</p>',
  ],
  "no table": ["a | b\nc | d", "<p>a | b<br>c | d</p>"],
};

for (const [name, [text, expected]] of Object.entries(CASES)) test(name, () => assert.equal(all(text), expected));

test("depth is bounded", () => {
  for (const text of ["> ".repeat(5000) + "a", "- ".repeat(5000) + "a", "*_".repeat(5000) + "a" + "_*".repeat(5000)]) {
    assert.ok(depthOf(parse(text)) < 150);
  }
});

const depthOf = (node) => (Array.isArray(node) ? 1 + Math.max(0, ...node.map(depthOf)) : 0);

test("time grows with the text alone", () => {
  const parts = [
    "[",
    "]",
    "*",
    "**a",
    "_a_",
    "`",
    "<a",
    "http://",
    "![](",
    "> ",
    "- ",
    "|",
    '](a "',
    "# ",
    "&#",
    "~~",
    "\\",
    "xhttp://",
    "))",
    "  ",
    "*a_b*c_",
    "1. ",
    "http://a))",
    "``a`",
    "[a](",
    "`a``",
    "# #",
    "|-",
    "a|b\n-|-\n",
    "- a\n",
    "> a\n",
    "```\n",
    "&#1;",
    "…",
    "<br",
    "***",
  ];
  for (const part of parts) {
    const text = part.repeat(Math.ceil(60_000 / part.length));
    const begin = performance.now();
    parse(text);
    const took = performance.now() - begin;
    assert.ok(took < 3000, `${JSON.stringify(part)}: ${took.toFixed(0)} ms`);
  }
});

// ---- while it is written

function random(seed) {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** What a view shows of texts that grow. */
function shown(steps) {
  const view = new MarkdownView();
  for (const text of steps) view.update(text);
  view.finish(steps.at(-1));
  return view.html();
}

test("a text that grows looks as the whole text, however it is divided", () => {
  const pick = random(7);
  const sources = Object.values(CASES).map(([text]) => text);
  for (let round = 0; round < 400; round++) {
    const text = Array.from({ length: 1 + pick(5) }, () => sources[pick(sources.length)]).join(["\n\n", "\n"][pick(2)]);
    const steps = [];
    for (let at = 0; at < text.length;) steps.push(text.slice(0, (at += 1 + pick(pick(2) ? 3 : 40))));
    assert.equal(shown(steps), shown([text]), JSON.stringify(text));
    assert.equal(shown([text]), all(text).replace(/\n(?=<\/code><\/pre>)/g, ""), JSON.stringify(text));
  }
});

test("a closing fence is not shown while it comes", () => {
  const view = new MarkdownView();
  for (const end of ["", "`", "``", "```"]) {
    view.update("```\na\n" + end);
    assert.ok(!view.html().includes("`"), end);
  }
  view.finish("```\na\n``");
  assert.ok(view.html().includes("``"));
});

test("blocks that are finished are not drawn again", () => {
  const view = new MarkdownView();
  let text = "";
  for (let i = 0; i < 2000; i++) view.update((text += `line ${i}\n\n`));
  assert.ok(view.made < 15_000, `${view.made} elements were made for 2000 paragraphs`);
});

test("code is appended, not drawn again", () => {
  const view = new MarkdownView();
  let text = "```\n";
  for (let i = 0; i < 2000; i++) view.update((text += `line ${i}\n`));
  assert.ok(view.made < 20);
});
