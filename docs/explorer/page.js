"use strict";
/* The page: what the reader does changes the state; the state is written to the address, and everything is drawn again. */
(() => {
  const { html, ratio, whole } = Draw;
  const byId = (id) => document.getElementById(id);
  let state = State.read(location.hash.slice(1) || location.search.slice(1));
  let guesses = {}; // measure → ratio, while the reader predicts first
  let surveyed = { of: "", found: null }; // the last survey, which a new batch or length does not change

  /* ---- changes ---- */

  function change(part) {
    const head = Object.keys(part).length === 1 && "head" in part;
    state = { ...state, ...part };
    state.head = Math.min(state.head, state.model.n_h - 1);
    if (!head) guesses = {};
    history.replaceState(null, "", `#${State.write(state)}`);
    if (head) drawPictures(); else draw();
  }

  function resize(name, value) {
    change({ model: State.fitted({ ...state.model, [name]: value }) });
  }

  /* ---- names and words ---- */

  function name(sizes, otherwise) {
    const preset = State.presetOf(sizes);
    return preset ? State.PRESETS[preset].label : otherwise;
  }

  const names = () => {
    const kind = (sizes) => State.KINDS[sizes.kind];
    const own = name(state.model, `your ${kind(state.model)}`);
    const pinned = name(state.pinned, `pinned ${kind(state.pinned)}`);
    return own === pinned ? [own, `${pinned} (pinned)`] : [own, pinned];
  };

  function settingWords() {
    const tokens = `${state.batch} ${state.batch === 1 ? "sequence" : "sequences"} of ${whole(state.length)} tokens`;
    const stage = state.stage === "decode" ? `one decoding step of ${tokens}` : `a prefill of ${tokens}`;
    return `${stage}, ${state.dtype}, ${Counts.HARDWARE[state.hardware].name}, ${state.fused ? "fused" : "unfused"}, convention ${state.convention}`;
  }

  function follows() {
    const { kind, n_h, n_q, d_h, d_l } = state.model;
    const e = ((n_h / n_q) * d_h) / d_l;
    const own = {
      gta: Number.isInteger(e) ? `The decoder has the released code's residual, with e = ${e}.`
        : `The decoder has no residual, because e = ${Draw.digits(e)} is not a whole number.`,
      gqa: "In GQA every head has a map of its own, and every key a value as wide.",
      mla: `In MLA every head has a map of its own. The RoPE key is ${d_h / 2} wide; decoding absorbs the matrices.`,
    }[kind];
    return `H = ${whole(n_h * d_h)}. ${own} The MLP is ${whole(Counts.INTERMEDIATE)} wide, and there are ${whole(Counts.VOCABULARY)} words.`;
  }

  const CONVENTIONS = {
    moved: "moved counts the bytes that really move; fused attention skips masked pairs.",
    "llm-viewer": "llm-viewer counts as the paper's authors did: masked pairs too, and 2 bytes per element of the time in every dtype.",
  };

  /* ---- controls ---- */

  function slide(id, choices, value, words = whole) {
    const input = byId(id);
    input.min = 0;
    input.max = choices.length - 1;
    input.value = choices.indexOf(value);
    input.disabled = choices.length < 2;
    input.setAttribute("aria-valuetext", words(value));
    input.parentElement.querySelector("output").textContent = words(value);
  }

  function drawControls() {
    const choices = State.choices(state.model);
    const fixed = { gta: [], gqa: ["n_q", "n_c", "d_l"], mla: ["n_q", "n_k", "n_c"] }[state.model.kind];
    for (const size of State.SIZES) {
      slide(size, choices[size], state.model[size]);
      byId(size).parentElement.hidden = fixed.includes(size);
    }
    slide("batch", Counts.BATCHES, state.batch);
    slide("length", Counts.LENGTHS, state.length);
    for (const id of ["stage", "hardware", "dtype", "convention"]) byId(id).value = state[id];
    for (const id of ["fused", "predict"]) byId(id).checked = state[id];
    for (const button of byId("presets").children) {
      button.setAttribute("aria-pressed", State.same(State.PRESETS[button.value].sizes, state.model));
    }
    const preset = State.presetOf(state.pinned);
    byId("pinned").replaceChildren(
      ...Object.entries(State.PRESETS).map(([value, { label }]) => html("option", { value }, label)),
      ...(preset ? [] : [html("option", { value: "" }, "a model of your own")]),
    );
    byId("pinned").value = preset ?? "";
    byId("follows").textContent = follows();
    byId("convention-hint").textContent = `${CONVENTIONS[state.convention]} The peak is the hardware's own in every dtype.`;
  }

  function listen() {
    byId("presets").append(...Object.entries(State.PRESETS).map(([value, { label, sizes }]) => {
      const button = html("button", { type: "button", value }, label);
      button.addEventListener("click", () => change({ model: { ...sizes } }));
      return button;
    }));
    byId("hardware").append(...Object.entries(Counts.HARDWARE).map(([value, { name: label }]) => html("option", { value }, label)));
    for (const size of State.SIZES) {
      byId(size).addEventListener("input", () => resize(size, State.choices(state.model)[size][byId(size).value]));
    }
    byId("batch").addEventListener("input", () => change({ batch: Counts.BATCHES[byId("batch").value] }));
    byId("length").addEventListener("input", () => change({ length: Counts.LENGTHS[byId("length").value] }));
    byId("head").addEventListener("input", () => change({ head: Number(byId("head").value) }));
    for (const id of ["stage", "hardware", "dtype", "convention"]) {
      byId(id).addEventListener("change", () => change({ [id]: byId(id).value }));
    }
    for (const id of ["fused", "predict"]) byId(id).addEventListener("change", () => change({ [id]: byId(id).checked }));
    byId("pinned").addEventListener("change", () => {
      const preset = State.PRESETS[byId("pinned").value];
      if (preset) change({ pinned: { ...preset.sizes } });
    });
    byId("pin").addEventListener("click", () => change({ pinned: { ...state.model } }));
    byId("swap").addEventListener("click", () => change({ model: state.pinned, pinned: state.model }));
    byId("restart").addEventListener("click", () => change(State.read("")));
    document.querySelector("form.controls").addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", () => {
      state = State.read(location.hash.slice(1));
      guesses = {};
      draw();
    });
    for (const [id, sizes] of [["own-picture", () => state.model], ["pinned-picture", () => state.pinned]]) {
      const place = byId(id);
      const point = (event) => {
        const box = place.getBoundingClientRect();
        const of = Picture.layout(sizes());
        const head = Picture.headAt(of, box.width, event.clientX - box.left);
        if (head !== null && head < state.model.n_h && head !== state.head) change({ head });
      };
      place.addEventListener("pointermove", point);
      place.addEventListener("pointerdown", point);
    }
    Cards.make(byId("cards"), (measure, guess) => {
      guesses[measure] = guess;
      draw();
      byId(`card-${measure}`).querySelector(".content").focus();
    });
    listenToCross();
    new ResizeObserver(drawWide).observe(byId("roofline-part"));
  }

  /* ---- the cross on the survey, which is the batch and the length ---- */

  const cross = html("div", { class: "cross", tabindex: 0, role: "slider", "aria-label": "Sequences and tokens; the arrow keys move the cross", "aria-valuemin": 0, "aria-valuemax": Counts.LENGTHS.length - 1 });

  function moveTo(i, j) {
    const within = (at, values) => values[Math.min(values.length - 1, Math.max(0, at))];
    const [batch, length] = [within(i, Counts.BATCHES), within(j, Counts.LENGTHS)];
    if (batch !== state.batch || length !== state.length) change({ batch, length });
  }

  function listenToCross() {
    const place = byId("frontier");
    place.append(html("div", { class: "under" }), cross);
    const go = (event) => {
      const box = place.getBoundingClientRect();
      moveTo(...Charts.cellAt(box.width, event.clientX - box.left, event.clientY - box.top));
    };
    place.addEventListener("pointerdown", go);
    place.addEventListener("pointermove", (event) => event.buttons && go(event));
    cross.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0], Home: [0, -99], End: [0, 99] }[event.key];
      if (!step) return;
      event.preventDefault();
      moveTo(Counts.BATCHES.indexOf(state.batch) + step[0], Counts.LENGTHS.indexOf(state.length) + step[1]);
    });
  }

  /* ---- drawing ---- */

  const models = () => {
    const [own, pinned] = names();
    return [
      { name: own, kind: "own", costs: Counts.costs(state.model, state) },
      { name: pinned, kind: "pinned", costs: Counts.costs(state.pinned, state) },
    ];
  };

  const isHidden = (measure) => state.predict && !(measure in guesses);

  function drawPictures() {
    const both = [["own", state.model], ["pinned", state.pinned]].map(([id, sizes]) => [id, Picture.layout(sizes)]);
    const width = byId("own-picture").clientWidth;
    const scale = Picture.scale(both.map(([, of]) => of), width);
    const heads = Array.from({ length: state.model.n_h }, (_, i) => i);
    slide("head", heads, state.head, String);
    both.forEach(([id, of], k) => {
      const lit = Math.min(state.head, of.n_h - 1);
      byId(`${id}-picture`).replaceChildren(Picture.draw(of, width, scale, lit));
      byId(`${id}-chain`).textContent = Picture.sentence(of, lit);
      byId(`${id}-name`).textContent = names()[k];
      byId(`${id}-words`).textContent = Picture.words(of);
    });
    byId("heads-table").replaceChildren(...both.map(([, of], k) => Picture.asTable(of, names()[k])));
  }

  function drawCards(both) {
    for (const measure of Object.keys(Cards.MEASURES)) {
      const card = byId(`card-${measure}`);
      card.classList.toggle("is-hidden", isHidden(measure));
      card.querySelector(".versus").textContent = both[1].name;
      if (isHidden(measure) && !Object.keys(guesses).length) card.querySelector("input").value = "";
      const open = card.querySelector("details")?.open;
      card.querySelector(".content").replaceChildren(...(isHidden(measure) ? [] : Cards.content(measure, both, state, guesses[measure])));
      if (open && !isHidden(measure)) card.querySelector("details").open = true;
    }
  }

  /* The pictures whose width is that of the page. */
  function drawWide() {
    if (!byId("own-picture").clientWidth) return; // in a window that is not shown
    drawPictures();
    const both = models();
    const time = isHidden("time");
    for (const id of ["roofline-part", "frontier-part"]) byId(id).classList.toggle("is-hidden", time);
    byId("memory-part").classList.toggle("is-hidden", isHidden("cache"));
    byId("memory").replaceChildren(...(isHidden("cache") ? [] : Charts.memory(both, state)));
    if (time) return;
    byId("roofline-own").textContent = `${both[0].name}: ${Charts.limited(both[0].costs)}`;
    byId("roofline-pinned").textContent = `${both[1].name}: ${Charts.limited(both[1].costs)}`;
    const width = byId("roofline").clientWidth;
    byId("roofline").replaceChildren(html("ul", { class: "legend" }, Charts.legend(Draw.PARTS)), Charts.roofline(width, both));
    byId("operators-table").replaceChildren(...both.map(Charts.operatorsTable));
    drawFrontier(width, both);
  }

  function drawFrontier(width, [own, pinned]) {
    const { stage, fused, hardware, dtype, convention } = state;
    const of = JSON.stringify([state.model, state.pinned, stage, fused, hardware, dtype, convention]);
    if (surveyed.of !== of) surveyed = { of, found: Counts.frontier(state.model, state.pinned, state) };
    const { found } = surveyed;
    const [i, j] = [Counts.BATCHES.indexOf(state.batch), Counts.LENGTHS.indexOf(state.length)];
    const here = found.ratio[i][j];
    const words = `${state.batch} × ${whole(state.length)} tokens: `
      + (Number.isFinite(here) ? `${own.name} is ${ratio(here)} times as fast as ${pinned.name}` : "weights and cache of one of the models do not fit into the memory");
    byId("frontier-hint").textContent = `How many times as fast ${own.name} is as ${pinned.name}, ${stage === "decode" ? "decoding" : "in a prefill"}, ${fused ? "fused" : "unfused"}. `
      + "The cross is the setting: click, drag or use the arrow keys.";
    byId("frontier").querySelector(".under").replaceChildren(Charts.frontier(width, found, `Speed-up over sequences and tokens. At ${words}.`));
    const [x, y] = Charts.place(width, i, j);
    cross.style.left = `${x}px`;
    cross.style.top = `${y}px`;
    cross.setAttribute("aria-valuenow", j);
    cross.setAttribute("aria-valuetext", words);
    const from = found.reached[Counts.LEVELS.indexOf(2)][i];
    byId("frontier-words").textContent = `${words}. With ${state.batch} ${state.batch === 1 ? "sequence" : "sequences"} it is at least twice as fast `
      + (from === null ? "nowhere, as far as both fit." : `from ${whole(from)} tokens on.`);
    byId("frontier-table").replaceChildren(...Charts.frontierTables(found));
  }

  let speaking = 0;
  function summarise(both) {
    const [own, pinned] = both;
    const figures = Object.entries(Cards.MEASURES).map(([measure, { title }]) =>
      `${title.toLowerCase()} ${isHidden(measure) ? "?" : `${ratio(Cards.ratioOf(measure, both))} ×`}`);
    const words = `${own.name} against ${pinned.name}, ${settingWords()}: ${figures.join(", ")}.`;
    byId("setting").textContent = `${own.name}: ${Object.values(state.model).join(" · ")}; ${pinned.name}: ${Object.values(state.pinned).join(" · ")}; ${settingWords()}`;
    clearTimeout(speaking); // a slider that is being dragged is not read out at every step
    speaking = setTimeout(() => { byId("summary").textContent = words; }, byId("summary").textContent ? 250 : 0);
  }

  function draw() {
    const both = models();
    drawControls();
    drawCards(both);
    drawWide();
    summarise(both);
  }

  byId("bands").append(...Charts.bands());
  listen();
  draw();
})();
