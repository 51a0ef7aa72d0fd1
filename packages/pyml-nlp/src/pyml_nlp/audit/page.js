"use strict";
// The charts of an audit's report. Data is in #data; each figure[data-chart] is drawn to its own width, again when that changes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const color = (index) => `var(--c${index % 8})`;
  const number = (x) => (x === 0 ? "0" : Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 1 ? x.toFixed(2) : x.toPrecision(3));
  const short = (name) => name.replace(/^layers\.\*\./, "").replace("attention", "attn").replace("feed_forward", "ffn");

  function element(parent, name, attributes = {}, text = "") {
    const made = parent.namespaceURI.endsWith("svg") || name === "svg"
      ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== "") made.textContent = text;
    parent.append(made);
    return made;
  }
  function canvas(figure, height) {
    const width = Math.max(260, figure.clientWidth - 24);
    return [element(figure, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" }), width];
  }
  const tip = (shape, text) => { element(shape, "title", {}, text); return shape; };
  function legend(figure, entries) {
    const box = element(figure, "div", { class: "legend" });
    for (const [name, fill] of entries) {
      const entry = element(box, "span");
      element(entry, "i", { style: `background:${fill}` });
      entry.append(name);
    }
  }
  const logScale = (low, high, from, to) => (x) => from + ((Math.log(x) - Math.log(low)) / (Math.log(high) - Math.log(low) || 1)) * (to - from);
  function powers(low, high, base) {
    const found = [];
    for (let p = Math.ceil(Math.log(low) / Math.log(base) - 1e-9); base ** p <= high * 1.0001; p++) found.push(base ** p);
    return found;
  }
  const compact = (x) => (x >= 1e6 ? `${+(x / 1e6).toPrecision(3)}M` : x >= 1e4 ? `${+(x / 1e3).toPrecision(3)}k` : `${+x.toPrecision(4)}`);
  function frame(svg, box, xs, ys, x, y, xTitle, yTitle) {
    let last = -100;
    for (const value of xs) {
      const at = x(value);
      element(svg, "line", { x1: at, x2: at, y1: box.top, y2: box.bottom, class: "grid" });
      if (at - last >= 34) { element(svg, "text", { x: at, y: box.bottom + 16, "text-anchor": "middle", class: "soft" }, compact(value)); last = at; }
    }
    for (const value of ys) {
      element(svg, "line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "grid" });
      element(svg, "text", { x: box.left - 5, y: y(value) + 4, "text-anchor": "end", class: "soft" }, compact(value));
    }
    element(svg, "text", { x: box.right, y: box.bottom + 32, "text-anchor": "end", class: "soft" }, xTitle);
    element(svg, "text", { x: 2, y: 12, class: "soft" }, yTitle);
  }

  // Two bars a row: the share of its phase.
  function bars(figure, rows, tokens) {
    legend(figure, [[`prefill of ${tokens} tokens`, color(0)], ["one decode step", color(1)]]);
    const [svg, width] = canvas(figure, rows.length * 38 + 22);
    const left = Math.min(180, width * 0.36), right = width - 128;
    const sums = [0, 1].map((phase) => rows.reduce((sum, row) => sum + row[1 + phase], 0) || 1);
    const most = Math.max(...rows.flatMap((row) => [row[1] / sums[0], row[2] / sums[1]]));
    element(svg, "text", { x: left, y: rows.length * 38 + 16, class: "soft" }, "share of the phase's time (%), and the time (ms)");
    rows.forEach((row, index) => {
      const top = index * 38 + 4;
      element(svg, "text", { x: left - 8, y: top + 19, "text-anchor": "end" }, row[0].replace("attention, ", "attn, ").replace(" parts", ""));
      for (const phase of [0, 1]) {
        const share = row[1 + phase] / sums[phase], length = Math.max(1, (share / most) * (right - left));
        tip(element(svg, "rect", { x: left, y: top + phase * 15, width: length, height: 13, fill: color(phase) }), `${row[0]}: ${number(row[1 + phase])} ms`);
        element(svg, "text", { x: left + length + 5, y: top + phase * 15 + 11, class: "small soft" }, `${(100 * share).toFixed(1)} %, ${number(row[1 + phase])} ms`);
      }
    });
  }

  function curves(figure, phase) {
    const lines = data.scaling[phase];
    element(figure, "h3", {}, phase === "prefill" ? "Prefill" : "A decode step behind a prompt");
    legend(figure, lines.map((line, index) => [line.exponent === null ? line.name : `${line.name}: ${Math.abs(line.exponent) < 0.05 ? "flat" : `tokens^${line.exponent.toFixed(2)}`}`, color(index)]));
    const [svg, width] = canvas(figure, 300);
    const box = { left: 46, right: width - 12, top: 22, bottom: 262 };
    const points = lines.flatMap((line) => line.points);
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]).filter((y) => y > 0);
    const crossing = phase === "prefill" ? data.crossing : null;
    const longest = Math.max(...xs), far = crossing && crossing <= longest * 4 ? Math.max(longest, crossing) : longest;
    const x = logScale(Math.min(...xs) / 1.1, far * 1.1, box.left, box.right);
    const y = logScale(Math.min(...ys) / 1.5, Math.max(...ys) * 1.5, box.bottom, box.top);
    frame(svg, box, powers(Math.min(...xs), far, 2), powers(Math.min(...ys) / 1.5, Math.max(...ys) * 1.5, 10), x, y, "tokens", "ms");
    if (crossing && crossing <= far) {
      element(svg, "line", { x1: x(crossing), x2: x(crossing), y1: box.top, y2: box.bottom, class: "mark" });
      element(svg, "text", { x: x(crossing) - 4, y: box.top + 12, "text-anchor": "end", class: "small soft" }, `quadratic overtakes linear: ${crossing.toFixed(0)}`);
    }
    lines.forEach((line, index) => {
      const shown = line.points.filter((p) => p[1] > 0);
      element(svg, "polyline", { points: shown.map((p) => `${x(p[0])},${y(p[1])}`).join(" "), fill: "none", stroke: color(index), "stroke-width": 2 });
      for (const p of shown) tip(element(svg, "circle", { cx: x(p[0]), cy: y(p[1]), r: 3.5, fill: color(index) }), `${line.name}, ${p[0]} tokens: ${number(p[1])} ms`);
    });
  }

  function roofline(figure) {
    const { limits, points } = data.roofline;
    legend(figure, [["prefill", color(0)], ["decode", color(1)], [`slope of the roof: memory, ${limits.read.toFixed(1)} GB/s`, "transparent"], ["area: time; below 0.2 % of it is left out", "transparent"]]);
    const [svg, width] = canvas(figure, 360);
    const box = { left: 46, right: width - 12, top: 22, bottom: 322 };
    const total = (phase) => points.reduce((sum, p) => sum + (p.phase === phase ? p.ms : 0), 0);
    const least = { prefill: total("prefill") / 500, decode: total("decode") / 500 };
    const shown = points.filter((p) => p.intensity > 0 && p.gop_s > 0 && p.ms >= least[p.phase]);
    const ridge = limits.int8 / limits.read;
    const low = Math.min(0.1, ...shown.map((p) => p.intensity)), high = Math.max(ridge * 4, ...shown.map((p) => p.intensity)) * 1.2;
    const bottom = Math.min(1, ...shown.map((p) => p.gop_s)) / 1.5, top = Math.max(limits.int8, limits.f32, ...shown.map((p) => p.gop_s)) * 2;
    const x = logScale(low / 1.2, high, box.left, box.right), y = logScale(bottom, top, box.bottom, box.top);
    frame(svg, box, powers(low, high, 10), powers(bottom, top, 10), x, y, "operations a byte", "GOP/s");
    for (const [name, peak] of [["int8", limits.int8], ["f32", limits.f32]]) {
      element(svg, "line", { x1: box.left, x2: box.right, y1: y(peak), y2: y(peak), class: "mark" });
      element(svg, "text", { x: box.left + 6, y: y(peak) - 4, class: "small soft" }, `${name} ${peak.toFixed(0)} GOP/s`);
    }
    const start = Math.max(low / 1.2, bottom / limits.read);
    element(svg, "line", { x1: x(start), y1: y(start * limits.read), x2: x(ridge), y2: y(limits.int8), class: "mark" });
    const most = Math.max(...shown.map((p) => p.ms));
    for (const p of [...shown].sort((a, b) => b.ms - a.ms)) {
      const r = 3 + 11 * Math.sqrt(p.ms / most);
      const fill = color(p.phase === "prefill" ? 0 : 1);
      tip(element(svg, "circle", { cx: x(p.intensity), cy: y(p.gop_s), r, fill, "fill-opacity": 0.45, stroke: fill }),
        `${p.phase} ${p.name}: ${number(p.ms)} ms, ${number(p.gop_s)} GOP/s at ${number(p.intensity)} a byte, ${(100 * p.share).toFixed(0)} % of its roof`);
    }
    const at = (p) => [x(p.intensity), y(p.gop_s), 3 + 11 * Math.sqrt(p.ms / most)];
    const named = ["prefill", "decode"].flatMap((phase) => shown.filter((q) => q.phase === phase).sort((a, b) => b.ms - a.ms).slice(0, 5));
    const taken = named.map((p) => { const [cx, cy, r] = at(p); return [cx - r, cy - r, cx + r, cy + r]; });
    const free = ([l, t, r, b]) => l >= box.left && r <= box.right && t >= box.top && b <= box.bottom && !taken.some((o) => l < o[2] && o[0] < r && t < o[3] && o[1] < b);
    for (const p of named) {
      const [cx, cy, r] = at(p), text = short(p.name), wide = text.length * 6.3;
      const places = [0, 14, -14, 28, -28, 42, -42, 56, -56, 70].flatMap((dy) => [[cx + r + 5, dy], [cx - r - 5 - wide, dy]]);
      const place = places.map(([left, dy]) => [left, cy + dy - 7, left + wide, cy + dy + 7]).find(free);
      if (!place) continue;
      taken.push(place);
      const fill = color(p.phase === "prefill" ? 0 : 1), middle = (place[1] + place[3]) / 2;
      if (Math.abs(middle - cy) > 7) element(svg, "line", { x1: cx, y1: cy, x2: place[0] > cx ? place[0] : place[2], y2: middle, stroke: fill, "stroke-width": 0.8 });
      element(svg, "text", { x: place[0], y: middle + 4, class: "small", style: `fill:${fill}` }, text);
    }
  }

  function jitter(figure) {
    const { steps, lines } = data.jitter;
    legend(figure, [["step", color(0)], ["slow (over 1.1 medians)", color(1)]]);
    const [svg, width] = canvas(figure, 240);
    const box = { left: 46, right: width - 58, top: 22, bottom: 202 };
    // Few steps far above the others would flatten all else: they are put at the edge, with their milliseconds.
    const edge = Math.max(1.5 * lines[0][1], 1.2 * lines[1][1]);
    const inside = steps.map((s) => s.ms).filter((ms) => ms <= edge), least = Math.min(...inside), longest = Math.max(...inside);
    const base = Math.max(0, least - (longest - least)), most = longest + (longest - base) * 0.06 || 1;
    const x = (index) => box.left + ((index + 0.5) / steps.length) * (box.right - box.left);
    const y = (ms) => box.bottom - ((ms - base) / (most - base)) * (box.bottom - box.top);
    const span = most - base, nice = 10 ** Math.floor(Math.log10(span / 3)), unit = span / nice > 15 ? nice * 5 : span / nice > 7 ? nice * 2 : nice;
    const first = Math.ceil(base / unit - 1e-9), ticks = [];
    for (let tick = first; tick * unit <= most; tick++) ticks.push(tick * unit);
    frame(svg, box, [], ticks, x, y, "decode steps in a row", base ? "ms (not from 0)" : "ms");
    let last = 1e9;
    for (const [name, value] of lines.filter((line) => line[1] <= most)) {
      element(svg, "line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), class: "mark" });
      const at = Math.min(y(value) + 4, last - 13);
      element(svg, "text", { x: box.right + 4, y: at, class: "small soft" }, name);
      last = at;
    }
    steps.forEach((step, index) => {
      const out = step.ms > most, at = x(index), fill = color(step.slow ? 1 : 0);
      const shape = out ? element(svg, "path", { d: `M${at - 5} ${box.top + 9}h10l-5 -9z`, fill }) : element(svg, "circle", { cx: at, cy: y(step.ms), r: 3, fill });
      tip(shape, `step ${index}: ${number(step.ms)} ms${step.note}`);
      if (out) element(svg, "text", { x: Math.min(at + 8, box.right - 40), y: box.top + 9, class: "small soft" }, `${number(step.ms)} ms`);
    });
  }

  function heatmap(figure) {
    const readout = element(figure, "div", { class: "readout" }, "Point at a cell, or touch it.");
    for (const phase of ["prefill", "decode"]) {
      const layers = data.heatmap[phase];
      if (!layers) continue;
      element(figure, "h3", {}, phase === "prefill" ? `Prefill of ${data.tokens} tokens` : "Decode step");
      const names = [...new Set(layers.flatMap((layer) => Object.keys(layer)))];
      const head = 104, cell = Math.max(9, Math.min(18, 560 / layers.length));
      const [svg, width] = canvas(figure, head + layers.length * cell + 4);
      const left = 30, column = (width - left - 40) / names.length;
      const most = Math.max(...layers.flatMap((layer) => Object.values(layer)));
      names.forEach((name, index) => {
        const at = left + (index + 0.5) * column;
        element(svg, "text", { x: at, y: head - 6, transform: `rotate(-55 ${at} ${head - 6})`, class: "small" }, short(name));
      });
      layers.forEach((layer, row) => {
        if (row % Math.ceil(14 / cell) === 0) element(svg, "text", { x: left - 5, y: head + row * cell + cell * 0.8, "text-anchor": "end", class: "small soft" }, row);
        names.forEach((name, index) => {
          if (layer[name] === undefined) return;
          const fill = `rgba(var(--heat),${(0.04 + 0.96 * Math.sqrt(layer[name] / most)).toFixed(3)})`;
          const box = element(svg, "rect", { x: left + index * column, y: head + row * cell, width: Math.max(1, column - 1), height: cell - 1, style: `fill:${fill}` });
          const text = `${phase}, layer ${row}, ${name}: ${number(layer[name])} ms`;
          tip(box, text);
          box.addEventListener("pointerenter", () => { readout.textContent = text; });
        });
      });
    }
  }

  function timeline(figure) {
    const whole = data.timeline[0];
    if (!whole) return;
    let [from, to] = [0, whole[3]];
    legend(figure, [["attention", color(0)], ["QK^T, softmax, A*V", color(3)], ["feed-forward", color(2)], ["head", color(1)], ["embedding", color(4)], ["layer, rotation", color(5)]]);
    const readout = element(figure, "div", { class: "readout" }, "Press a block to zoom into it; press the step to zoom out.");
    const [svg, width] = canvas(figure, 5 * 24 + 22);
    const hues = { step: 7, attention: 0, feed_forward: 2, head: 1, embedding: 4, rope: 5, attend: 3, other: 7 };
    const hue = (name) => {
      if (name.includes("attention.attend")) return hues.attend;
      const key = Object.keys(hues).find((word) => name.includes(word));
      return key ? hues[key] : /^layers\.\d+$/.test(name) ? 5 : hues.other;
    };
    function draw() {
      svg.replaceChildren();
      const scale = width / (to - from);
      for (const [depth, name, start, us] of data.timeline) {
        const a = Math.max(0, (start - from) * scale), b = Math.min(width, (start + us - from) * scale);
        if (b <= 0 || a >= width || b - a < 0.15) continue;
        const rect = element(svg, "rect", { x: a, y: depth * 24, width: Math.max(0.4, b - a - 0.5), height: 22, fill: color(hue(name)), "fill-opacity": 0.95 - 0.09 * depth });
        const text = `${name}: ${number(us)} µs (${((100 * us) / whole[3]).toFixed(1)} % of the step)`;
        tip(rect, text);
        rect.style.cursor = "pointer";
        rect.addEventListener("pointerenter", () => { readout.textContent = text; });
        rect.addEventListener("click", () => { [from, to] = [start, start + us]; draw(); });
        const room = Math.floor((b - a - 6) / 6.3), tail = name.split(".").slice(depth > 2 ? -1 : depth === 2 ? 2 : 0).join(".");
        const label = [tail, tail.replace("layers.", ""), tail.replace("attention", "attn").replace("feed_forward", "ffn")].find((word) => word.length <= room);
        if (label) element(svg, "text", { x: a + 3, y: depth * 24 + 15, class: "inside" }, label);
      }
      element(svg, "text", { x: 0, y: 5 * 24 + 14, class: "small soft" }, `${number(from)} µs`);
      element(svg, "text", { x: width, y: 5 * 24 + 14, "text-anchor": "end", class: "small soft" }, `${number(to)} µs`);
    }
    draw();
  }

  const charts = {
    components: (figure) => bars(figure, data.parts, data.tokens),
    groups: (figure) => bars(figure, data.groups, data.tokens),
    scaling: (figure) => { curves(figure, "prefill"); curves(figure, "decode"); },
    roofline, jitter, heatmap, timeline,
  };
  function drawAll() {
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      if (figure.drawnAt === figure.clientWidth) continue;
      figure.drawnAt = figure.clientWidth;
      figure.replaceChildren(figure.querySelector("figcaption"));
      charts[figure.dataset.chart](figure);
    }
  }

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const order = (a, b) => {
          const [p, q] = [value(a), value(b)], [m, n] = [parseFloat(p), parseFloat(q)];
          return isNaN(m) || isNaN(n) ? p.localeCompare(q) : m - n;
        };
        const rows = [...table.tBodies[0].rows].sort(order);
        table.tBodies[0].append(...(down ? rows.reverse() : rows));
      });
    });
  }
  drawAll();
  addEventListener("resize", drawAll);
  document.documentElement.dataset.drawn = document.querySelectorAll("figure svg").length;
})();
