// Plays the explorer in a headless Chromium, and prints what was seen: node play.js CHROMIUM ADDRESS
"use strict";
const { Browser } = require("../browser.js");

const [program, address] = process.argv.slice(2);
const text = (id) => `document.getElementById(${JSON.stringify(id)}).textContent`;
const ratio = (measure) => `document.querySelector("#card-${measure} .verdict strong")?.textContent ?? null`;
const RATIOS = `["cache", "attention", "operations", "time"].map((m) => document.querySelector("#card-" + m + " .verdict strong")?.textContent ?? null)`;
const FOCUS = "document.activeElement.id || document.activeElement.className";
const RESULTS = `document.querySelector(".results").textContent`;
const COLOURS = `["body", ".card", ".hint"].map((s) => getComputedStyle(document.querySelector(s)).backgroundColor + " " + getComputedStyle(document.querySelector(s)).color)`;
// elements that reach beyond the window, unless what holds them scrolls
const BEYOND = `[...document.querySelectorAll("body *")].filter((one) => !one.closest(".scroll table, noscript") && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.tagName + "." + one.className)`;
const SPOKEN = 400; // ms, after which the summary is up to date
const focus = (selector) => `document.querySelector(${JSON.stringify(selector)}).focus()`;

async function play(page) {
  const seen = {};
  await page.size(1280);
  await page.media("light");
  await page.go(address);
  seen.start = await page.value(`({ summary: ${text("summary")}, chain: ${text("own-chain")}, ratios: ${RATIOS}, hash: location.hash })`);
  // every picture has a text, and tables stand beside them
  seen.pictures = await page.value(`[...document.querySelectorAll("svg")].map((one) => one.getAttribute("aria-label"))`);
  seen.tables = await page.value(`[...document.querySelectorAll("table caption")].length`);

  await page.value(focus("#n_q"));
  await page.press("ArrowRight");
  seen.slider = await page.value(`({ hash: location.hash, focus: ${FOCUS}, output: document.querySelector("#n_q").getAttribute("aria-valuetext"), chain: ${text("own-chain")}, attention: ${ratio("attention")} })`);
  await page.value(focus("#presets button[value=mla]"));
  await page.press(" ");
  seen.preset = await page.value(`({ hash: location.hash, chain: ${text("own-chain")}, hidden: [...document.querySelectorAll(".slider[hidden]")].map((one) => one.dataset.size) })`);
  await page.press("Tab");
  seen.tab = await page.value(FOCUS);

  await page.value(`void (location.hash = "#m=gta-1b&vs=gqa-1b")`);
  await page.value(focus("#head"));
  await page.press("ArrowRight", "ArrowRight");
  seen.head = await page.value(`[${text("own-chain")}, ${text("pinned-chain")}, document.querySelectorAll("#own-picture .lit").length]`);
  await page.point("#own-picture", 0.9, 0.4);
  seen.hover = await page.value(text("own-chain"));

  await page.value(focus(".cross"));
  await page.press("ArrowUp", "ArrowRight");
  seen.cross = await page.value(`({ focus: ${FOCUS}, hash: location.hash, words: document.querySelector(".cross").getAttribute("aria-valuetext") })`);
  await page.point("#frontier", 0.999, 0.01, "left");
  seen.click = await page.value("location.hash");

  // the address alone brings everything back
  await page.value(`location.hash = "#m=gta.24.80.12.3.4.96.28&vs=mla&batch=8&length=8192&dtype=float32&hardware=a100&stage=prefill&fused=0&convention=llm-viewer&predict=0&head=11"`);
  const before = await page.value(`({ results: ${RESULTS}, hash: location.hash })`, SPOKEN);
  await page.go(`${address}${before.hash}`);
  const after = await page.value(`({ results: ${RESULTS}, hash: location.hash })`, SPOKEN);
  seen.round = { same: before.results === after.results && before.hash === after.hash, summary: await page.value(text("summary")) };
  await page.go(`${address}?m=mha&length=1024`);
  seen.query = await page.value(text("summary"));

  await page.go(address);
  await page.value(focus("#predict"));
  await page.press(" ");
  const hidden = `({ ratios: ${RATIOS}, charts: [...document.querySelectorAll(".chart.is-hidden")].map((one) => one.id), summary: ${text("summary")}, shown: document.querySelectorAll(".bar").length })`;
  seen.predict = await page.value(hidden, SPOKEN);
  await page.value(focus("#guess-cache"));
  await page.type("0.5");
  await page.press("Enter");
  seen.guessed = await page.value(hidden, SPOKEN);
  seen.words = await page.value(`document.querySelector("#card-cache .guessed").textContent`);
  await page.value(focus("#layers"));
  await page.press("ArrowRight");
  seen.asked = await page.value(RATIOS);

  await page.go(address);
  seen.light = await page.value(COLOURS);
  await page.media("dark");
  seen.dark = await page.value(COLOURS);
  seen.narrow = [];
  for (const [width, scheme, model] of [[390, "light", "gta-1b"], [390, "dark", "mla"], [320, "light", "gta.64.256.64.64.64.512.96"]]) {
    await page.size(width);
    await page.media(scheme);
    await page.go(`${address}#m=${model}&batch=256&length=131072&stage=prefill`);
    await page.value(`document.querySelectorAll("details").forEach((one) => { one.open = true; })`);
    seen.narrow.push(await page.value(`[document.documentElement.scrollWidth - innerWidth, ...${BEYOND}]`));
  }
  await page.size(800);
  await page.media("light", "print");
  seen.print = await page.value(`[".controls", "#setting", "#cards", "details"].map((one) => getComputedStyle(document.querySelector(one)).display)`);
  return { ...seen, requests: [...new Set(page.requests)], faults: page.faults };
}

(async () => {
  const page = await Browser.open(program, address);
  try {
    process.stdout.write(JSON.stringify(await play(page)));
  } finally {
    await page.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
