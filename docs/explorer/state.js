"use strict";
/* The state of the page: two models and a setting, as the address after # holds them. Sizes are made to fit. */
const State = (() => {
  const HEADS = [4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64];
  const HEAD_WIDTHS = [16, 32, 48, 64, 80, 96, 128, 256];
  const LATENT_WIDTHS = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512];
  const LAYERS = [1, 6, 12, 16, 24, 28, 32, 40, 48, 54, 61, 64, 80, 96];
  const SIZES = ["n_h", "d_h", "n_q", "n_k", "n_c", "d_l", "layers"];
  const KINDS = { gta: "GTA", gqa: "GQA", mla: "MLA" };

  const sized = (kind, ...numbers) => ({ kind, ...Object.fromEntries(SIZES.map((name, i) => [name, numbers[i]])) });
  // of MLA no model of this size is published; a latent of 256 is that of docs/costs.md
  const PRESETS = {
    mha: { label: "MHA", sizes: sized("gqa", 20, 64, 20, 20, 20, 64, 54) },
    "gqa-1b": { label: "GQA-1B", sizes: sized("gqa", 20, 64, 20, 5, 5, 64, 54) },
    "gta-1b": { label: "GTA-1B", sizes: sized("gta", 20, 64, 5, 1, 1, 128, 54) },
    gta1: { label: "GTA1", sizes: sized("gta", 12, 64, 3, 1, 1, 128, 54) },
    gta2: { label: "GTA2", sizes: sized("gta", 12, 64, 6, 1, 1, 128, 54) },
    gta3: { label: "GTA3", sizes: sized("gta", 20, 64, 5, 1, 1, 128, 54) },
    gta4: { label: "GTA4", sizes: sized("gta", 20, 64, 10, 1, 1, 256, 54) },
    mla: { label: "MLA", sizes: sized("mla", 20, 64, 20, 1, 1, 256, 54) },
  };

  const CHOICES = {
    dtype: ["bfloat16", "float16", "float32"],
    hardware: ["h100", "a100", "rtx3060", "m2"],
    stage: ["decode", "prefill"],
    convention: ["moved", "llm-viewer"],
  };
  const START = {
    batch: 32, length: 4096, dtype: "bfloat16", hardware: "h100", stage: "decode", fused: true, convention: "moved",
    predict: false, head: 7,
  };

  const divisors = (n) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

  /* The choice that is nearest to a number, by ratio. */
  function nearest(choices, number) {
    const far = (choice) => Math.abs(Math.log(choice / Math.max(number, 0.5)));
    return choices.reduce((best, choice) => (far(choice) < far(best) ? choice : best));
  }

  /* What each size may be, given those before it; a size with one choice follows from the others. */
  function choices(sizes) {
    const gta = sizes.kind === "gta";
    const mla = sizes.kind === "mla";
    return {
      n_h: HEADS,
      d_h: HEAD_WIDTHS,
      n_q: gta ? divisors(sizes.n_h) : [sizes.n_h],
      n_k: mla ? [1] : divisors(sizes.n_q),
      n_c: gta ? divisors(sizes.n_q) : [mla ? 1 : sizes.n_k],
      d_l: gta || mla ? LATENT_WIDTHS : [sizes.d_h],
      layers: LAYERS,
    };
  }

  /* The sizes with every one replaced by the nearest that fits those before it. */
  function fitted(sizes) {
    const found = { ...sizes };
    for (const name of SIZES) found[name] = nearest(choices(found)[name], found[name]);
    return found;
  }

  const same = (a, b) => a.kind === b.kind && SIZES.every((name) => a[name] === b[name]);
  const presetOf = (sizes) => Object.keys(PRESETS).find((key) => same(PRESETS[key].sizes, sizes));

  function writeModel(sizes) {
    return presetOf(sizes) ?? [sizes.kind, ...SIZES.map((name) => sizes[name])].join(".");
  }

  function readModel(text, fallback) {
    if (Object.hasOwn(PRESETS, text ?? "")) return { ...PRESETS[text].sizes };
    const [kind, ...numbers] = (text ?? "").split(".");
    const whole = numbers.length === SIZES.length && numbers.every((number) => /^[1-9]\d{0,5}$/.test(number));
    return whole && Object.hasOwn(KINDS, kind) ? fitted(sized(kind, ...numbers.map(Number))) : { ...fallback };
  }

  function write(state) {
    const words = new URLSearchParams({ m: writeModel(state.model), vs: writeModel(state.pinned) });
    for (const name of Object.keys(START)) {
      words.set(name, typeof START[name] === "boolean" ? Number(state[name]) : state[name]);
    }
    return words.toString();
  }

  /* Whatever is missing or makes no sense in the text is as at the start. */
  function read(text) {
    const words = new URLSearchParams(text);
    const state = {
      ...START,
      model: readModel(words.get("m"), PRESETS["gta-1b"].sizes),
      pinned: readModel(words.get("vs"), PRESETS["gqa-1b"].sizes),
    };
    for (const [name, allowed] of Object.entries(CHOICES)) {
      if (allowed.includes(words.get(name))) state[name] = words.get(name);
    }
    for (const name of ["fused", "predict"]) if (/^[01]$/.test(words.get(name))) state[name] = words.get(name) === "1";
    for (const [name, allowed] of [["batch", Counts.BATCHES], ["length", Counts.LENGTHS]]) {
      if (/^\d{1,9}$/.test(words.get(name))) state[name] = nearest(allowed, Number(words.get(name)));
    }
    if (/^\d{1,3}$/.test(words.get("head"))) state.head = Number(words.get("head"));
    state.head = Math.min(state.head, state.model.n_h - 1);
    return state;
  }

  return { KINDS, PRESETS, SIZES, choices, fitted, presetOf, read, same, write };
})();
