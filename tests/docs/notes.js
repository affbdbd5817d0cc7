// Opens the slides' speaker view in a headless Chromium, and prints what it shows: node notes.js CHROMIUM ADDRESS
"use strict";
const { Browser } = require("./browser.js");

const [program, address] = process.argv.slice(2);
const NOTES = `document.querySelector(".speaker-controls-notes .value").innerText`;
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function until(find) {
  for (let i = 0; i < 100; i += 1) {
    const found = await find();
    if (found) return found;
    await wait(100);
  }
  throw new Error("nothing was found within 10 s");
}

(async () => {
  const page = await Browser.open(program, address);
  const slides = page.sessionId;
  await until(() => page.value("Reveal.isReady()"));
  const key = { key: "s", code: "KeyS", windowsVirtualKeyCode: 83 };
  await page.send("Input.dispatchKeyEvent", { type: "keyDown", ...key });
  await page.send("Input.dispatchKeyEvent", { type: "keyUp", ...key });
  const { targetId } = await until(async () => {
    const { targetInfos } = await page.send("Target.getTargets");
    return targetInfos.find((one) => one.type === "page" && !one.url.startsWith("file:"));
  });
  const { sessionId } = await page.send("Target.attachToTarget", { targetId, flatten: true });
  const shown = async (other) => {
    page.sessionId = sessionId;
    const notes = await until(async () => {
      const { result } = await page.send("Runtime.evaluate", { expression: NOTES, returnByValue: true });
      return result.value !== other && result.value;
    });
    page.sessionId = slides;
    return notes;
  };
  const first = await shown("");
  await page.value("void Reveal.next()");
  const second = await shown(first);
  await page.close();
  console.log(JSON.stringify([first, second]));
})();
