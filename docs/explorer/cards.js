"use strict";
/* The four measures, each with bars, a formula, the numbers put in, and the ratio to the pinned model. */
const Cards = (() => {
  const { PARTS, digits, html, milliseconds, ratio, short, table, whole } = Draw;

  const MEASURES = {
    cache: { title: "Cache", of: (costs) => costs.cache, unit: "B", question: "the cache" },
    attention: { title: "Attention operations", of: (costs) => costs.attention, unit: "FLOP", question: "the attention operations" },
    operations: { title: "All operations", of: (costs) => costs.operations, unit: "FLOP", question: "all the operations" },
    time: { title: "Time by the roofline", of: (costs) => costs.seconds, unit: "s", question: "the time" },
  };

  /* n_q as n with a small q */
  const symbols = (words) =>
    words.split(/([A-Za-z]_[a-z])/).map((part) => (/^[A-Za-z]_[a-z]$/.test(part) ? [part[0], html("sub", {}, part[2])] : part)).flat();

  const CORE = { keys: { label: "scores" }, values: { label: "weighted values" } };
  const CACHE = { keys: { label: "keys" }, values: { label: "values or latents" } };

  /* The parts of a measure: their labels, and how much of it each is. */
  function segments(measure, { costs }) {
    const { own } = costs.model;
    if (measure === "cache") return { keys: Number(own.cached[0][0] * own.cached[0][1]), values: Number(own.cached[1][0] * own.cached[1][1]) };
    if (measure === "attention") return { keys: Number(costs.s.d_k), values: Number(costs.s.d_v) };
    return Object.fromEntries(Object.entries(PARTS).map(([key, part]) => {
      if (measure === "time") return [key, part.of.reduce((total, name) => total + (costs.parts[name] ?? 0), 0)];
      const members = costs.operators.filter((o) => part.of.includes(o.name));
      return [key, members.reduce((total, o) => total + Number(o.operations), 0)];
    }));
  }

  const legendOf = (measure) => ({ cache: CACHE, attention: CORE })[measure] ?? PARTS;

  function bars(measure, models) {
    const totals = models.map(({ costs }) => Number(MEASURES[measure].of(costs)));
    const most = Math.max(...totals);
    return html("div", { class: "bars" }, models.map((one, i) => {
      const parts = segments(measure, one);
      const together = Object.values(parts).reduce((a, b) => a + b, 0);
      const spans = Object.entries(parts).filter(([, value]) => value).map(([key, value]) =>
        html("span", { class: `part-${key}`, style: `width:${(100 * totals[i] * value) / (most * together)}%` }));
      const amount = measure === "time" ? milliseconds(totals[i]) : short(totals[i], MEASURES[measure].unit);
      return html("div", { class: "row" }, html("span", { class: "who" }, one.name),
        html("div", { class: "bar", "aria-hidden": "true" }, spans), html("span", { class: "what" }, amount));
    }));
  }

  /* The pairs of a query and a key of one sequence, as a formula. */
  function pairsOf({ stage, fused, convention }) {
    if (convention === "llm-viewer") return stage === "prefill" ? "N · N" : "N";
    if (stage === "decode") return "N + 1";
    return fused ? "N (N + 1) / 2, masked ones are skipped" : "N · N, masked ones too";
  }

  /* The formula in letters, and with the numbers of a model put in. */
  const FORMULAS = {
    cache: {
      letters: () => "L · B · N · (cached heads · width) · bytes",
      numbers({ costs }, { batch, length }) {
        const cached = costs.model.own.cached.map(([heads, width]) => `${heads} · ${width}`).join(" + ");
        return `${costs.model.layers} · ${batch} · ${whole(length)} · (${cached}) · ${costs.itemsize} = ${whole(costs.cache)} bytes`;
      },
    },
    attention: {
      letters: (setting) => `2 · L · B · n_q (d_k + d_v) · pairs; pairs = ${pairsOf(setting)}`,
      numbers({ costs }, { batch }) {
        const { n_q, d_k, d_v } = costs.s;
        return `2 · ${costs.model.layers} · ${batch} · ${n_q} · (${d_k} + ${d_v}) · ${whole(costs.pairs)} = ${whole(costs.attention)}`;
      },
    },
    operations: {
      letters: ({ stage }) => `attention + 2 · L · tokens · (P + 3 H I) + 2 · B · H · V + elementwise; tokens = ${stage === "prefill" ? "B · N" : "B"}, `
        + "P: the layer's other weights, I: the MLP's width, V: words",
      numbers({ costs }, { batch }) {
        const { model, linear, tokens, attention, operations } = costs;
        const mlp = 3n * model.h * Counts.INTERMEDIATE;
        const rest = operations - attention - 2n * (model.layers * tokens * (linear + mlp) + BigInt(batch) * model.head);
        return `${whole(attention)} + 2 · ${model.layers} · ${whole(tokens)} · (${whole(linear)} + 3 · ${whole(model.h)} · ${whole(Counts.INTERMEDIATE)})`
          + ` + 2 · ${batch} · ${whole(model.h)} · ${whole(Counts.VOCABULARY)} + ${whole(rest)} = ${whole(operations)}`;
      },
    },
    time: {
      letters: () => "sum over operators of max(operations / peak, bytes / bandwidth)",
      numbers(one) {
        const parts = Object.values(segments("time", one)).filter((seconds) => seconds);
        return `${parts.map((seconds) => digits(1e3 * seconds)).join(" + ")} = ${milliseconds(one.costs.seconds)}`;
      },
    },
  };

  /* What one card shows. */
  function content(measure, models, setting, guess) {
    const [own, pinned] = models;
    const value = ratioOf(measure, models);
    const formula = FORMULAS[measure];
    const parts = segments(measure, own);
    const other = segments(measure, pinned);
    const seen = Object.entries(legendOf(measure)).filter(([key]) => parts[key] || other[key]);
    const found = [
      html("p", { class: "verdict" }, html("strong", {}, `${ratio(value)} ×`), ` ${pinned.name}`,
        measure === "time" ? html("span", { class: "words" }, value > 1 ? `, ${ratio(value)} times as slow` : `, ${ratio(1 / value)} times as fast`) : ""),
      bars(measure, models),
      html("ul", { class: "legend" }, seen.map(([key, part]) => html("li", {}, html("span", { class: `mark part-${key}` }), part.label))),
      html("p", { class: "formula" }, symbols(formula.letters(setting))),
      ...models.map((one) => html("p", { class: "numbers" }, html("span", { class: "who" }, one.name), ` ${formula.numbers(one, setting)}`)),
    ];
    if (guess !== undefined) found.unshift(html("p", { class: "guessed" }, `You guessed ${guess} ×.`));
    const unit = (amount) => (measure === "time" ? milliseconds(amount) : whole(BigInt(Math.round(amount))));
    if (measure === "time" || measure === "operations") {
      const rows = seen.map(([key, part]) => [part.label, unit(parts[key]), unit(other[key]), other[key] ? ratio(parts[key] / other[key]) : "–"]);
      found.push(html("details", {}, html("summary", {}, "By operator, as a table"),
        html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Table: ${MEASURES[measure].title}` },
          table(MEASURES[measure].title, ["part", own.name, pinned.name, "ratio"], rows))));
    }
    return found;
  }

  function ratioOf(measure, [own, pinned]) {
    const of = (one) => Number(MEASURES[measure].of(one.costs));
    return of(own) / of(pinned);
  }

  /* Makes the empty cards; each has a question that is shown until it is answered. */
  function make(place, onGuess) {
    for (const [measure, { title, question }] of Object.entries(MEASURES)) {
      const input = html("input", { type: "number", min: 0, step: "any", required: "", inputmode: "decimal", id: `guess-${measure}` });
      const form = html("form", { class: "guess" },
        html("label", { for: input.id }, `How many times ${question} of `, html("span", { class: "versus" }), "?"),
        html("div", { class: "buttons" }, input, html("button", { type: "submit" }, "Show")));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        onGuess(measure, Number(input.value));
      });
      place.append(html("article", { class: "card", id: `card-${measure}`, "aria-labelledby": `title-${measure}` },
        html("h3", { id: `title-${measure}` }, title), form, html("div", { class: "content", tabindex: -1 })));
    }
  }

  return { MEASURES, content, make, ratioOf };
})();
