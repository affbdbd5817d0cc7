// Checks pages with axe-core in a headless Chromium: node axe.js CHROMIUM AXE, with the pages on stdin as JSON,
// [{ "address": "file:///...", "views": [{ "width": 390, "scheme": "dark" }] }]. Prints one line of JSON per page, with
// every element that breaks a rule.
"use strict";
const fs = require("node:fs");
const { Browser } = require("./browser.js");

const [program, script] = process.argv.slice(2);
const axe = fs.readFileSync(script, "utf8");
const pages = JSON.parse(fs.readFileSync(0, "utf8"));

// What is folded is opened first. The incomplete results, which a person has to judge, are left out.
const OPEN = `document.querySelectorAll("details").forEach((one) => { one.open = true; })`;
// Colours that change slowly would be measured on their way.
const STILL = `document.head.appendChild(document.createElement("style")).textContent = "*, ::before, ::after { transition: none !important; }"`;
const RUN = `axe.run({ resultTypes: ["violations"], preload: false }).then(({ violations }) => violations.flatMap(
  ({ id, impact, help, nodes }) => nodes.map(({ target, any, all, none }) => ({
    rule: id, impact, help, selector: target.join(" "), why: [...any, ...all, ...none].map((one) => one.message).join("; "),
  }))))`;

async function check(page, { address, views }) {
  await page.size(views[0].width);
  await page.media(views[0].scheme);
  await page.go(address);
  await page.value(`void (${OPEN}, ${STILL})`);
  await page.send("Runtime.evaluate", { expression: axe });
  const found = [];
  for (const view of views) {
    await page.size(view.width);
    await page.media(view.scheme);
    for (const one of await page.value(RUN)) found.push({ ...view, ...one });
  }
  return { address, found };
}

(async () => {
  const page = await Browser.open(program, "about:blank");
  try {
    for (const one of pages) process.stdout.write(`${JSON.stringify(await check(page, one))}\n`);
  } finally {
    await page.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
