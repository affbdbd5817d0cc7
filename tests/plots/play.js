// Plays a page with a player in a headless Chromium, and prints what was seen: node play.js CHROMIUM ADDRESS
"use strict";
const { Browser } = require("../docs/browser.js");

const [program, address] = process.argv.slice(2);
const SHOWN = `[...document.querySelectorAll("img")].flatMap((one, i) => one.hidden ? [] : [i])`;
const SPOKEN = `document.querySelector("input").getAttribute("aria-valuetext")`;
const button = (i) => `document.querySelectorAll("button")[${i}]`;
const NAME = `${button(2)}.getAttribute("aria-label")`;
const click = (i) => `void ${button(i)}.click()`;

(async () => {
  const page = await Browser.open(program, address);
  const seen = { start: await page.value(`[${SHOWN}, ${SPOKEN}]`) };
  await page.value(`document.querySelector("input").focus()`);
  await page.press("ArrowRight");
  seen.arrow = await page.value(`[${SHOWN}, ${SPOKEN}]`);
  seen.buttons = [];
  for (const i of [3, 3, 1, 0, 1, 4]) {
    await page.value(click(i));
    seen.buttons.push(await page.value(SHOWN));
  }
  await page.value(click(2)); // at the end, playing begins at the first picture
  seen.playing = await page.value(`[${SHOWN}, ${NAME}]`);
  await page.value(click(2));
  seen.paused = await page.value(`[${SHOWN}, ${NAME}]`);
  await page.value(click(2));
  seen.ended = await page.value(`[${SHOWN}, ${NAME}]`, 1500);
  seen.faults = page.faults;
  seen.requests = page.requests.filter((one) => !/^(file|data|about):/.test(one));
  await page.close();
  console.log(JSON.stringify(seen));
})();
