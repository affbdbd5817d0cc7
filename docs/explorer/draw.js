"use strict";
/* What the pictures share: elements, numbers as text, tables, colours of parts. */
const Draw = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.flat());
    return node;
  }
  const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  /* A drawing of this size in CSS pixels; it is drawn anew when its place gets wider. */
  const drawing = (width, height, label, ...children) =>
    svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...children);

  const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, words);

  /* 8,192 */
  const whole = (n) => n.toLocaleString("en-US");

  /* 2.72 GB, three digits */
  function short(number, unit) {
    const value = Number(number);
    const prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let i = 0;
    while (i < prefixes.length - 1 && value >= 999.5 * 1000 ** i) i += 1;
    return `${digits(value / 1000 ** i)} ${prefixes[i]}${unit}`;
  }

  /* Three significant digits, without an exponent where that is readable. */
  function digits(value) {
    if (value === 0) return "0";
    if (value < 0.001 || value >= 1e6) return value.toExponential(1).replace("e", " · 10^").replace("-", "−").replace("+", "");
    const places = Math.max(0, 2 - Math.floor(Math.log10(value)));
    return value.toLocaleString("en-US", { maximumFractionDigits: places });
  }
  const milliseconds = (seconds) => `${digits(seconds * 1e3)} ms`;
  const ratio = (value) => value.toFixed(value < 10 ? 3 : 1);

  /* A table; every cell but the first of a row is a number or a short text. */
  function table(caption, head, rows) {
    return html("table", {},
      html("caption", {}, caption),
      html("thead", {}, html("tr", {}, head.map((cell) => html("th", { scope: "col" }, cell)))),
      html("tbody", {}, rows.map(([first, ...cells]) =>
        html("tr", {}, html("th", { scope: "row" }, first), cells.map((cell) => html("td", {}, cell))))));
  }

  /* Parts of a pass that are drawn as one; names, members and colours as in gta_ref/plots. */
  const PARTS = {
    attention: { label: "attention", of: ["attention"] },
    projections: { label: "projections", of: ["projections", "rope"] },
    gate: { label: "gate and decoder", of: ["gate", "decoder"] },
    mlp: { label: "MLP", of: ["mlp"] },
    head: { label: "head and embedding", of: ["head", "embedding"] },
    elementwise: { label: "norms and residual adds", of: ["norm", "residual"] },
  };
  const partOf = (name) => Object.keys(PARTS).find((key) => PARTS[key].of.includes(name));

  return { PARTS, digits, drawing, html, milliseconds, partOf, ratio, short, svg, table, text, whole };
})();
