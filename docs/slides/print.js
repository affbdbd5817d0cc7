// Prints the slides in a headless Chromium: node print.js CHROMIUM ADDRESS FILE
"use strict";
const fs = require("node:fs");
const { Browser } = require("../../tests/docs/browser.js");

const [program, address, file] = process.argv.slice(2);
// reveal.js lays the pages out after the page has been loaded, each in an element of its own
const READY = `new Promise((done) => {
  const look = () => (document.querySelector(".pdf-page") ? done() : setTimeout(look, 100));
  look();
}).then(() => document.fonts.ready)`;

(async () => {
  const page = await Browser.open(program, address);
  await page.value(READY);
  const { data } = await page.send("Page.printToPDF", { preferCSSPageSize: true, printBackground: true });
  fs.writeFileSync(file, Buffer.from(data, "base64"));
  await page.close();
})();
