"use strict";
/* Who reads what: values or latents, output heads, maps and keys of a model, with widths to scale. */
const Picture = (() => {
  const { drawing, svg, table, text } = Draw;
  const ROWS = { values: 26, heads: 82, maps: 138, keys: 194 }; // the middle of each row
  const HEIGHT = 218;
  const TALL = 14;
  const LEFT = 106;
  const RIGHT = 30;

  /* What is drawn; MLA as it runs in decoding, with its matrices absorbed. */
  function layout(sizes) {
    const s = Counts.structure(sizes, sizes.kind === "mla");
    const number = Object.fromEntries(["n_h", "n_q", "n_k", "n_v", "d_k", "d_v"].map((name) => [name, Number(s[name])]));
    return { kind: sizes.kind, d_h: sizes.d_h, latent: sizes.kind !== "gqa", ...number };
  }

  /* Which map, key and value output head i reads. */
  function chain(of, i) {
    const map = Math.floor(i / (of.n_h / of.n_q));
    return { map, key: Math.floor(map / (of.n_q / of.n_k)), value: Math.floor(map / (of.n_q / of.n_v)) };
  }

  const valueName = (of) => (of.latent ? "latent" : "value");
  const several = (n, name) => `${n} ${name}${n === 1 ? "" : "s"}`;

  function sentence(of, i) {
    const { map, key, value } = chain(of, i);
    return `head ${i} → map ${map} → key ${key} → ${valueName(of)} ${value}`;
  }

  function words(of) {
    const cached = of.kind === "mla" ? `1 latent ${of.d_v} wide and a RoPE key ${of.d_k - of.d_v} wide`
      : `${several(of.n_k, "key")} ${of.d_k} wide and ${several(of.n_v, valueName(of))} ${of.d_v} wide`;
    return `${several(of.n_h, "head")}, ${several(of.n_q, "map")}; cached: ${cached}`;
  }

  /* Pixels per element such that the widest row of these models fits. */
  function scale(layouts, width) {
    const widest = layouts.flatMap((of) => [of.n_h * of.d_h, of.n_k * of.d_k, of.n_v * of.d_v]);
    return (0.86 * (width - LEFT - RIGHT)) / Math.max(...widest);
  }

  function draw(of, width, perElement, lit) {
    const inner = width - LEFT - RIGHT;
    const x = (n, i) => LEFT + ((i + 0.5) * inner) / n;
    const on = chain(of, lit);
    const lines = svg("g", { class: "lines" });
    const boxes = svg("g", { class: "boxes" });
    const line = (part, from, to, is) =>
      lines.append(svg("line", { class: `${part}${is ? " lit" : ""}`, x1: from[0], y1: from[1], x2: to[0], y2: to[1] }));
    const box = (part, middle, y, wide, is) => {
      const size = Math.max(wide, 1.5);
      boxes.append(svg("rect", {
        class: `${part}${is ? " lit" : ""}`, x: middle - size / 2, y: y - TALL / 2, width: size, height: TALL, rx: Math.min(2, size / 4),
      }));
    };

    for (let i = 0; i < of.n_h; i += 1) {
      const { map, value } = chain(of, i);
      line("maps", [x(of.n_q, map), ROWS.maps], [x(of.n_h, i), ROWS.heads], i === lit);
      line("values", [x(of.n_v, value), ROWS.values], [x(of.n_h, i), ROWS.heads], i === lit);
      box("heads", x(of.n_h, i), ROWS.heads, of.d_h * perElement, i === lit);
    }
    for (let m = 0; m < of.n_q; m += 1) {
      const key = Math.floor(m / (of.n_q / of.n_k));
      line("keys", [x(of.n_k, key), ROWS.keys], [x(of.n_q, m), ROWS.maps], m === on.map);
      const side = Math.min(TALL + 4, (0.8 * inner) / of.n_q); // a map is N × N, not to scale, and causal
      const [left, top] = [x(of.n_q, m) - side / 2, ROWS.maps - side / 2];
      boxes.append(svg("path", {
        class: `maps${m === on.map ? " lit" : ""}`, d: `M${left} ${top}v${side}h${side}z`,
      }));
    }
    for (let k = 0; k < of.n_k; k += 1) {
      if (of.kind === "mla") { // the key is the latent itself and a RoPE key beside it
        const [latent, rope] = [of.d_v * perElement, (of.d_k - of.d_v) * perElement];
        box("values", x(of.n_k, k) - rope / 2, ROWS.keys, latent, k === on.key);
        box("keys", x(of.n_k, k) + latent / 2, ROWS.keys, rope, k === on.key);
      } else box("keys", x(of.n_k, k), ROWS.keys, of.d_k * perElement, k === on.key);
    }
    for (let c = 0; c < of.n_v; c += 1) box("values", x(of.n_v, c), ROWS.values, of.d_v * perElement, c === on.value);

    const label = (y, name, hint, n) => [
      text(0, y - 1, name, { class: "name" }),
      text(0, y + 12, hint, { class: "hint" }),
      text(width - 2, y + 5, n, { class: "count", "text-anchor": "end" }),
    ];
    const rope = of.kind === "mla" ? `latent + ${of.d_k - of.d_v}` : `cached, ${of.d_k}`;
    const picture = drawing(width, HEIGHT, `${words(of)}. Lit: ${sentence(of, lit)}.`, lines, boxes,
      ...label(ROWS.values, `${valueName(of)}s`, `cached, ${of.d_v}`, of.n_v),
      ...label(ROWS.heads, "output heads", `${of.d_h} wide`, of.n_h),
      ...label(ROWS.maps, "maps", "N × N each", of.n_q),
      ...label(ROWS.keys, "keys", rope, of.n_k));
    return picture;
  }

  /* The head above or below a place in a picture, or null. */
  function headAt(of, width, place) {
    const i = Math.floor(((place - LEFT) / (width - LEFT - RIGHT)) * of.n_h);
    return i >= 0 && i < of.n_h ? i : null;
  }

  function asTable(of, name) {
    const rows = Array.from({ length: of.n_h }, (_, i) => {
      const { map, key, value } = chain(of, i);
      return [`${i}`, map, key, value];
    });
    return table(`${name}: what each output head reads`, ["head", "map", "key", valueName(of)], rows);
  }

  return { asTable, chain, draw, headAt, layout, scale, sentence, words };
})();
