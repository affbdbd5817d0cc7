"use strict";
/* The pictures below: the roofline with both models' operators, the speed-up over batch and length, and the memory. */
const Charts = (() => {
  const { PARTS, digits, drawing, html, milliseconds, partOf, short, svg, table, text, whole } = Draw;

  /* ---- roofline ---- */

  const intensity = (o) => Number(o.operations) / Number(o.bytes);

  /* Both models' operators that compute something; each lies on the roof, because its time is the roof's. */
  function roofline(width, models) {
    const { on } = models[0].costs;
    const height = 300;
    const [left, right, top, bottom] = [54, 14, 24, 44];
    const marks = models.flatMap(({ costs, kind, name }) =>
      costs.operators.filter((o) => o.operations).map((o) => {
        const seconds = Counts.secondsOf(o, on);
        return { o, kind, name, seconds, x: intensity(o), y: Number(o.operations) / seconds, share: seconds / costs.seconds };
      }));
    const ridge = on.peak / on.bandwidth;
    const low = Math.floor(Math.log10(Math.min(ridge, ...marks.map((mark) => mark.x))) * 2) / 2;
    const high = Math.ceil(Math.log10(Math.max(4 * ridge, ...marks.map((mark) => mark.x))) * 2) / 2;
    const most = Math.log10(on.peak) + 0.35;
    const least = Math.log10(on.bandwidth) + low - 0.2;
    const x = (value) => left + ((Math.log10(value) - low) / (high - low)) * (width - left - right);
    const y = (value) => top + ((most - Math.log10(value)) / (most - least)) * (height - top - bottom);

    const axes = svg("g", { class: "axes" });
    for (let power = Math.ceil(low); power <= high; power += 1) {
      const at = x(10 ** power);
      axes.append(svg("line", { x1: at, x2: at, y1: top, y2: height - bottom }),
        text(at, height - bottom + 16, digits(10 ** power), { "text-anchor": "middle" }));
    }
    for (let power = Math.ceil(least); power <= most; power += 1) {
      const at = y(10 ** power);
      axes.append(svg("line", { x1: left, x2: width - right, y1: at, y2: at }),
        text(left - 6, at + 4, short(10 ** power, ""), { "text-anchor": "end" }));
    }
    axes.append(text(0, 12, "operations per second"),
      text(width - right, height - 8, "operations per byte moved", { "text-anchor": "end" }));
    const start = 10 ** low;
    const roof = svg("path", {
      class: "roof",
      d: `M${x(start)} ${y(start * on.bandwidth)}L${x(ridge)} ${y(on.peak)}H${width - right}`,
    });
    const labels = [
      text(width - right, y(on.peak) - 8, `peak ${short(on.peak, "FLOP/s")}`, { "text-anchor": "end" }),
      text(x(start) + 0.3 * (x(ridge) - x(start)) + 22, y(start ** 0.7 * ridge ** 0.3 * on.bandwidth) + 22, `bandwidth ${short(on.bandwidth, "B/s")}`),
      svg("line", { class: "ridge", x1: x(ridge), x2: x(ridge), y1: y(on.peak), y2: height - bottom }),
      text(x(ridge) + 5, height - bottom - 8, `ridge: ${digits(ridge)}`),
    ];
    marks.sort((a, b) => b.share - a.share); // small marks stay visible on large ones
    const drawn = marks.map((mark) => {
      const half = 2.5 + 20 * Math.sqrt(mark.share);
      const style = { class: `mark ${mark.kind} part-${partOf(mark.o.name)}` };
      const [cx, cy] = [x(mark.x), y(mark.y)];
      const title = svg("title", {}, `${mark.name}, ${mark.o.what}: ${digits(mark.x)} operations per byte, ${milliseconds(mark.seconds)}`);
      return mark.kind === "own" ? svg("circle", { ...style, cx, cy, r: half }, title)
        : svg("rect", { ...style, x: cx - half * 0.9, y: cy - half * 0.9, width: 1.8 * half, height: 1.8 * half }, title);
    });
    const words = models.map(({ costs, name }) => `${name}: ${limited(costs)}`).join(" ");
    return drawing(width, height, `Roofline. ${words}`, axes, roof, ...labels, svg("g", {}, ...drawn));
  }

  /* How much of the pass is limited by the memory, in words. */
  function limited(costs) {
    const slow = costs.operators.filter((o) => intensity(o) < costs.on.peak / costs.on.bandwidth);
    const share = slow.reduce((total, o) => total + Counts.secondsOf(o, costs.on), 0) / costs.seconds;
    return `the memory limits ${Math.round(100 * share)} % of the time.`;
  }

  function operatorsTable({ costs, name }) {
    const { on } = costs;
    const rows = costs.operators.map((o) => {
      const [compute, move] = [Number(o.operations) / on.peak, Number(o.bytes) / on.bandwidth];
      return [`${o.name}: ${o.what}`, whole(o.operations), whole(o.bytes),
        `max(${digits(1e3 * compute)}, ${digits(1e3 * move)})`, milliseconds(Math.max(compute, move)),
        compute > move ? "operations" : "bytes"];
    });
    rows.push(["together", whole(costs.operations), whole(costs.bytes), "", milliseconds(costs.seconds), ""]);
    return table(`${name}: operators of all ${costs.model.layers} layers; peak ${short(on.peak, "FLOP/s")}, ${short(on.bandwidth, "B/s")}`,
      ["operator", "operations", "bytes", "max(operations / peak, bytes / bandwidth), ms", "time", "limited by"], rows);
  }

  const legend = (parts) =>
    Object.keys(parts).map((key) => html("li", {}, html("span", { class: `mark part-${key}` }), parts[key].label));

  /* ---- speed-up over batch and length ---- */

  const BANDS = [0.5, 0.75, 1, 1.5, 2, 3]; // limits of the colours
  const CELL = 20;
  const EDGE = { left: 40, right: 8, top: 8, bottom: 40 };
  const band = (value) => (Number.isFinite(value) ? BANDS.filter((limit) => value >= limit).length : "none");

  const bands = () => [
    ...[...BANDS, null].map((limit, i) => {
      const label = i === 0 ? `below ${limit} ×` : limit === null ? `${BANDS.at(-1)} × and more` : `${BANDS[i - 1]}–${limit} ×`;
      return html("li", {}, html("span", { class: `mark band-${i}` }), label);
    }),
    html("li", {}, html("span", { class: "mark band-none" }), "does not fit"),
  ];

  /* Where the middle of a cell is in the drawing, and which cell is at a place. */
  function place(width, i, j) {
    const cell = (width - EDGE.left - EDGE.right) / Counts.LENGTHS.length;
    return [EDGE.left + (j + 0.5) * cell, EDGE.top + (Counts.BATCHES.length - i - 0.5) * CELL];
  }
  function cellAt(width, x, y) {
    const cell = (width - EDGE.left - EDGE.right) / Counts.LENGTHS.length;
    const within = (value, n) => Math.min(n - 1, Math.max(0, Math.floor(value)));
    const i = Counts.BATCHES.length - 1 - within((y - EDGE.top) / CELL, Counts.BATCHES.length);
    return [i, within((x - EDGE.left) / cell, Counts.LENGTHS.length)];
  }

  function frontier(width, found, label) {
    const [rows, columns] = [Counts.BATCHES.length, Counts.LENGTHS.length];
    const height = EDGE.top + rows * CELL + EDGE.bottom;
    const wide = (width - EDGE.left - EDGE.right) / columns;
    const cells = found.ratio.flatMap((row, i) => row.map((value, j) => {
      const [x, y] = place(width, i, j);
      return svg("rect", { class: `band-${band(value)}`, x: x - wide / 2, y: y - CELL / 2, width: wide + 0.4, height: CELL + 0.4 });
    }));
    const axes = svg("g", { class: "axes" });
    Counts.BATCHES.forEach((batch, i) => axes.append(text(EDGE.left - 6, place(width, i, 0)[1] + 4, batch, { "text-anchor": "end" })));
    const every = width < 520 ? 8 : 4;
    Counts.LENGTHS.forEach((length, j) => {
      if (j % every === 0) {
        const words = length < 1024 ? length : `${length / 1024}k`;
        axes.append(text(place(width, 0, j)[0], height - EDGE.bottom + 16, words, { "text-anchor": "middle" }));
      }
    });
    axes.append(text(width - EDGE.right, height - 6, "N, tokens (1k = 1,024)", { "text-anchor": "end" }),
      text(0, height - 6, "B, sequences"));
    return drawing(width, height, label, svg("g", {}, ...cells), axes);
  }

  function frontierTables(found) {
    const doubled = Counts.LENGTHS.map((_, j) => j).filter((j) => j % 4 === 0);
    const times = table("Times as fast, by sequences and tokens; empty where it does not fit",
      ["B", ...doubled.map((j) => whole(Counts.LENGTHS[j]))],
      Counts.BATCHES.map((batch, i) => [`${batch}`, ...doubled.map((j) => (Number.isFinite(found.ratio[i][j]) ? found.ratio[i][j].toFixed(2) : ""))]));
    const reached = table("The number of tokens from which on it is at least this many times as fast",
      ["B", ...Counts.LEVELS.map((level) => `${level} ×`)],
      Counts.BATCHES.map((batch, i) => [`${batch}`, ...found.reached.map((row) => (row[i] === null ? "never" : whole(row[i])))]));
    return [times, reached];
  }

  /* ---- memory ---- */

  function memory(models, setting) {
    const { on } = models[0].costs;
    const needs = models.map(({ costs }) => costs.weights + costs.cache);
    const full = Number(needs.reduce((a, b) => (b > a ? b : a), on.memory)) * 1.02;
    const bars = models.map(({ costs, name }, i) => html("div", { class: "row" },
      html("span", { class: "who" }, name),
      html("div", { class: "bar", "aria-hidden": "true" },
        html("span", { class: "part-weights", style: `width:${(100 * Number(costs.weights)) / full}%` }),
        html("span", { class: "part-values", style: `width:${(100 * Number(costs.cache)) / full}%` }),
        html("i", { class: "limit", style: `left:${(100 * Number(on.memory)) / full}%` })),
      html("span", { class: "what" }, needs[i] <= on.memory ? "fits" : "does not fit")));
    const most = ({ costs }) => {
      const each = costs.cache / BigInt(setting.batch);
      const left = on.memory - costs.weights;
      return left < each ? "none" : whole(left / each);
    };
    const rows = models.map((one, i) => [one.name, short(one.costs.weights, "B"), short(one.costs.cache, "B"), short(needs[i], "B"),
      needs[i] <= on.memory ? "yes" : "no", most(one)]);
    const head = ["model", "weights", "cache", "together", `fits in ${short(on.memory, "B")}?`, `sequences of ${whole(setting.length)} tokens that fit`];
    const legends = [["weights", "weights"], ["values", "cache"]].map(([key, label]) =>
      html("li", {}, html("span", { class: `mark part-${key}` }), label));
    return [html("ul", { class: "legend" }, legends, html("li", {}, html("span", { class: "mark limit" }), `the ${short(on.memory, "B")} of this ${on.name}`)),
      html("div", { class: "bars" }, bars),
      html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table: memory" }, table(`Weights and cache, ${setting.dtype}`, head, rows))];
  }

  return { bands, cellAt, frontier, frontierTables, legend, limited, memory, operatorsTable, place, roofline };
})();
