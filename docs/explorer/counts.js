"use strict";
/* The costs of a model, counted in the same order of operations as gta_ref.costs, so that every digit is the same.
 *
 * Counts are BigInt, because a long prefill has more operations than a number holds exactly (2^53); seconds are numbers.
 * `sizes` describes a model: kind ("gta", "gqa" or "mla"), n_h, d_h, n_q, n_k, n_c, d_l, layers, all of them numbers.
 * The width is H = n_h d_h. GQA ignores n_q, n_c and d_l; MLA's latent is d_l wide, and its RoPE key d_h / 2.
 */
const Counts = (() => {
  const INTERMEDIATE = 3584n; // the model around the attention layers is that of GTA-1B
  const VOCABULARY = 128256n;

  const ITEMSIZE = { bfloat16: 2n, float16: 2n, float32: 4n };

  // gta_ref/costs/hardware.py
  const HARDWARE = {
    h100: { name: "H100", peak: 989.4e12, bandwidth: 3350e9, memory: 80n * 10n ** 9n },
    a100: { name: "A100", peak: 312e12, bandwidth: 2039e9, memory: 80n * 10n ** 9n },
    rtx3060: { name: "RTX 3060", peak: 25.5e12, bandwidth: 360e9, memory: 12n * 10n ** 9n },
    m2: { name: "M2", peak: 3.6e12, bandwidth: 100e9, memory: 24n * 10n ** 9n },
  };
  const LLM_VIEWER_H100 = { ...HARDWARE.h100, peak: 989.5e12, bandwidth: 3072e9 };

  const BATCHES = Array.from({ length: 9 }, (_, i) => 2 ** i); // 1 … 256
  const LENGTHS = Array.from({ length: 37 }, (_, i) => Math.round(256 * 2 ** (i / 4))); // 256 … 131072
  const LEVELS = [1, 1.5, 2, 3];

  const sum = (counts) => counts.reduce((a, b) => a + b, 0n);

  /* ---- structure of an attention layer: gta_ref/mechanisms ---- */

  function product(name, d_in, d_out, { count = 1n, bias = false, held = false } = {}) {
    const macs = count * d_in * d_out;
    return { name, d_in, d_out, count, held, macs, parameters: macs + (bias ? count * d_out : 0n) };
  }

  function structure(sizes, absorb = false) {
    const [n_h, d_h, n_q, n_k, n_c, d_l] = ["n_h", "d_h", "n_q", "n_k", "n_c", "d_l"].map((k) => BigInt(sizes[k]));
    const h = n_h * d_h;
    const bias = { bias: true };
    let s;
    if (sizes.kind === "gta") {
      const products = [
        product("w_q", h, n_q * d_h, bias),
        product("w_k", h, n_k * d_h, bias),
        product("w_c", h, n_c * d_l, bias),
        product("w_g", h, h, bias),
        product("w_p", d_l, (n_h / n_q) * d_h, { count: n_q }),
        product("w_o", h, h),
      ];
      // the released code's residual copies a latent context e times, and exists only if e is a whole number
      const residual = ((n_h / n_q) * d_h) % d_l === 0n;
      s = { n_q, n_k, n_v: n_c, d_k: d_h, d_v: d_l, products, cached: [[n_k, d_h], [n_c, d_l]], gate: true, residual };
    } else if (sizes.kind === "gqa") {
      const products = [
        product("w_q", h, h),
        product("w_k", h, n_k * d_h),
        product("w_v", h, n_k * d_h),
        product("w_o", h, h),
      ];
      s = { n_q: n_h, n_k, n_v: n_k, d_k: d_h, d_v: d_h, products, cached: [[n_k, d_h], [n_k, d_h]] };
    } else {
      const d_r = d_h / 2n;
      const up = absorb
        ? [product("w_uk", d_h, d_l, { count: n_h }), product("w_uv", d_l, d_h, { count: n_h })]
        : [product("w_uk", d_l, h, { held: true }), product("w_uv", d_l, h, { held: true })];
      const products = [
        product("w_q", h, h),
        product("w_qr", h, n_h * d_r),
        product("w_dkv", h, d_l),
        product("w_kr", h, d_r),
        ...up,
        product("w_o", h, h),
      ];
      const heads = absorb ? 1n : n_h;
      const [d_k, d_v] = absorb ? [d_l + d_r, d_l] : [d_h + d_r, d_h];
      s = { n_q: n_h, n_k: heads, n_v: heads, d_k, d_v, products, cached: [[1n, d_r], [1n, d_l]], gains: d_l };
    }
    return { gate: false, residual: false, gains: 0n, ...s, h, n_h };
  }

  const cacheElements = (s) => sum(s.cached.map(([heads, width]) => heads * width));
  const attentionMacs = (s) => s.n_q * (s.d_k + s.d_v);
  const linearMacs = (s) => sum(s.products.map((p) => p.macs));

  /* ---- model: gta_ref/costs/model.py and memory.py ---- */

  function model(sizes) {
    const own = structure(sizes);
    const decode = sizes.kind === "mla" ? structure(sizes, true) : own;
    const layers = BigInt(sizes.layers);
    const layer = sum(own.products.map((p) => p.parameters)) + own.gains + 2n * own.h;
    const mlp = 3n * own.h * INTERMEDIATE;
    const head = own.h * VOCABULARY;
    return { own, decode, layers, mlp, head, h: own.h, parameters: layers * (layer + mlp) + head + own.h };
  }

  const cacheBytes = (m, batch, length, itemsize) =>
    m.layers * BigInt(batch) * BigInt(length) * cacheElements(m.own) * itemsize;
  const weightBytes = (m, itemsize) => m.parameters * itemsize;

  function pairs(fresh, held, causal) {
    return causal ? fresh * held + (fresh * (fresh + 1n)) / 2n : fresh * (held + fresh);
  }

  /* ---- operators that really move: gta_ref/costs/operators.py ---- */

  function moved(m, batch, fresh, held, fused, itemsize) {
    const s = held ? m.decode : m.own;
    const tokens = batch * fresh;
    const h = m.h;
    const i = INTERMEDIATE;
    let layer = []; // name, what it is, operations, elements moved
    const add = (name, what, operations, elements) => layer.push([name, what, operations, elements]);
    const linear = (name, p, rows) =>
      add(name, p.name, 2n * rows * p.macs, p.parameters + rows * p.count * (p.d_in + p.d_out));
    const norm = (what) => add("norm", what, 7n * tokens * h, tokens * 2n * h);
    const residual = (what) => add("residual", what, tokens * h, 3n * tokens * h);
    const named = (name) => s.products.filter((p) => p.name === name);

    norm("norm before attention");
    for (const p of s.products) {
      if (!["w_p", "w_g", "w_o"].includes(p.name)) linear("projections", p, p.held ? batch * (held + fresh) : tokens);
    }
    const turned = tokens * (s.n_q + s.n_k) * s.d_k;
    add("rope", "RoPE", 3n * turned, 2n * turned);
    layer.push(...attention(s, batch, fresh, held, fused));
    const [out] = named("w_o");
    for (const p of named("w_p")) {
      linear("decoder", p, tokens);
      if (s.residual) add("decoder", "decoder's residual", tokens * out.d_in, tokens * (s.n_q * s.d_v + 2n * out.d_in));
    }
    for (const p of named("w_g")) {
      linear("gate", p, tokens);
      add("gate", "σ and ⊙", 5n * tokens * out.d_in, 3n * tokens * out.d_in);
    }
    linear("projections", out, tokens);
    residual("residual after attention");
    norm("norm before the MLP");
    residual("residual after the MLP");
    for (const [what, d_in, d_out] of [["w_up", h, i], ["w_gate", h, i], ["w_down", i, h]]) {
      linear("mlp", product(what, d_in, d_out), tokens);
    }
    add("mlp", "SwiGLU", 5n * tokens * i, 3n * tokens * i);
    const found = layer.map(([name, what, operations, elements]) => ({
      name, what, operations: m.layers * operations, bytes: m.layers * elements * itemsize,
    }));
    layer = [];
    add("embedding", "embedding", 0n, 2n * tokens * h);
    add("norm", "last norm", 7n * batch * h, 2n * batch * h);
    add("head", "head", 2n * batch * m.head, m.head + batch * (h + VOCABULARY));
    for (const [name, what, operations, elements] of layer) {
      found.push({ name, what, operations, bytes: elements * itemsize });
    }
    return found;
  }

  function attention(s, batch, fresh, held, fused) {
    const keys = held + fresh;
    const queries = batch * fresh * s.n_q * s.d_k;
    const k = batch * keys * s.n_k * s.d_k;
    const v = batch * keys * s.n_v * s.d_v;
    const context = batch * fresh * s.n_q * s.d_v;
    const computed = batch * s.n_q * pairs(fresh, held, fused);
    if (fused) return [["attention", "fused attention", computed * (2n * s.d_k + 5n + 2n * s.d_v), queries + k + v + context]];
    return [
      ["attention", "scores", 2n * computed * s.d_k, queries + k + computed],
      ["attention", "softmax", 5n * computed, 2n * computed],
      ["attention", "map times values", 2n * computed * s.d_v, computed + v + context],
    ];
  }

  /* ---- the convention of LLM-Viewer, with its slips: gta_ref/costs/llm_viewer.py ---- */

  function llmViewer(m, batch, length, prefill, fused) {
    const s = m.own;
    const h = m.h;
    const i = INTERMEDIATE;
    const n = prefill ? batch * length : batch; // tokens
    const keys = batch * length;
    const maps = n * length * s.n_q;
    const layer = [];
    const add = (name, what, operations, elements) => layer.push([name, what, operations, elements]);
    const linear = (name, what, d_in, d_out) => add(name, what, 2n * d_in * d_out * n, d_in * d_out + n * (d_in + d_out));

    for (const p of s.products) {
      if (p.name === "w_p") linear("decoder", "w_p", s.n_q * s.d_v, h / s.n_q);
      else linear(p.name === "w_g" ? "gate" : "projections", p.name, p.d_in, p.d_out);
    }
    for (const [what, d_in, d_out] of [["w_up", h, i], ["w_gate", h, i], ["w_down", i, h]]) linear("mlp", what, d_in, d_out);
    const query = prefill ? keys * s.n_k * s.d_k : n * s.n_q * s.d_k;
    const k = keys * s.n_k * s.d_k;
    const v = keys * s.n_v * s.d_v;
    const z = n * s.n_q * s.d_v;
    if (fused) {
      add("attention", "fused attention", maps * (2n * s.d_k + 5n + 2n * s.d_v), n * s.n_q * s.d_k + k + v + z);
    } else {
      add("attention", "scores", 2n * maps * s.d_k, maps + k + query);
      add("attention", "softmax", 5n * maps, 2n * maps);
      add("attention", "map times values", 2n * maps * s.d_v, maps + v + z);
    }
    for (const where of ["before attention", "before the MLP"]) add("norm", `norm ${where}`, 7n * n * h, 2n * n * h);
    for (const where of ["attention", "the MLP"]) add("residual", `residual after ${where}`, n * h, 2n * n * h);
    add("mlp", "SwiGLU", 5n * n * i, 2n * n * i + n * h);
    if (s.residual) add("decoder", "decoder's residual", n * h, 2n * n * h);
    if (s.gate) add("gate", "σ and ⊙", 5n * n * h, 3n * n * h);
    const found = layer.map(([name, what, operations, elements]) => ({
      name, what, operations: m.layers * operations, bytes: m.layers * 2n * elements,
    }));
    found.push({ name: "head", what: "head", operations: 2n * batch * m.head, bytes: 2n * (m.head + h + VOCABULARY) });
    return found;
  }

  /* ---- time by a roofline: gta_ref/costs/roofline.py ---- */

  function machine(setting) {
    const own = setting.hardware === "h100" && setting.convention === "llm-viewer";
    return own ? LLM_VIEWER_H100 : HARDWARE[setting.hardware];
  }

  const secondsOf = (operator, on) =>
    Math.max(Number(operator.operations) / on.peak, Number(operator.bytes) / on.bandwidth);

  function time(operators, on) {
    const parts = {};
    for (const operator of operators) parts[operator.name] = (parts[operator.name] ?? 0) + secondsOf(operator, on);
    let seconds = 0;
    for (const part of Object.values(parts)) seconds += part;
    const total = (key) => sum(operators.map((operator) => operator[key]));
    return { seconds, parts, operations: total("operations"), bytes: total("bytes") };
  }

  /* What is computed in a setting: batch, length, dtype, hardware, stage, fused, convention. */
  function pass(m, setting) {
    const batch = BigInt(setting.batch);
    const length = BigInt(setting.length);
    const prefill = setting.stage === "prefill";
    if (setting.convention === "llm-viewer") {
      const operators = llmViewer(m, batch, length, prefill, setting.fused);
      // it has no causal saving, and a step's own key is not counted
      return { operators, s: m.own, tokens: prefill ? batch * length : batch, pairs: prefill ? length * length : length };
    }
    const [fresh, held] = prefill ? [length, 0n] : [1n, length];
    const operators = moved(m, batch, fresh, held, setting.fused, ITEMSIZE[setting.dtype]);
    const s = prefill ? m.own : m.decode;
    return { operators, s, tokens: batch * fresh, pairs: pairs(fresh, held, setting.fused) };
  }

  /* Everything that the page shows of one model. */
  function costs(sizes, setting) {
    const m = model(sizes);
    const itemsize = ITEMSIZE[setting.dtype];
    const on = machine(setting);
    const found = pass(m, setting);
    const attention = 2n * m.layers * BigInt(setting.batch) * attentionMacs(found.s) * found.pairs;
    return {
      ...found,
      ...time(found.operators, on),
      model: m,
      on,
      itemsize,
      attention,
      linear: linearMacs(found.s),
      cache: cacheBytes(m, setting.batch, setting.length, itemsize),
      weights: weightBytes(m, itemsize),
    };
  }

  /* ---- speed-up over batch and length: gta_ref/costs/frontier.py ---- */

  function frontier(sizes, baseline, setting) {
    const models = [model(baseline), model(sizes)];
    const itemsize = ITEMSIZE[setting.dtype];
    const on = machine(setting);
    const fits = (m, batch, length) => weightBytes(m, itemsize) + cacheBytes(m, batch, length, itemsize) <= on.memory;
    const ratio = BATCHES.map((batch) =>
      LENGTHS.map((length) => {
        if (!models.every((m) => fits(m, batch, length))) return NaN;
        const [slow, fast] = models.map((m) => time(pass(m, { ...setting, batch, length }).operators, on).seconds);
        return slow / fast;
      }),
    );
    const reached = LEVELS.map((level) => ratio.map((row) => fromWhere(row, level)));
    return { ratio, reached };
  }

  /* The shortest length from which on the ratio stays at or above the level, or null. */
  function fromWhere(row, level) {
    const known = row.map((_, j) => j).filter((j) => Number.isFinite(row[j]));
    const below = known.filter((j) => row[j] < level);
    const after = known.filter((j) => !below.length || j > below.at(-1));
    return after.length ? LENGTHS[after[0]] : null;
  }

  return {
    BATCHES, HARDWARE, INTERMEDIATE, ITEMSIZE, LENGTHS, LEVELS, VOCABULARY,
    cacheElements, costs, frontier, machine, model, secondsOf, structure,
  };
})();
