// What can have the focus because it scrolls: node scrolling.js CHROMIUM ADDRESS. Prints, for 1280, 390 and again 1280
// px, a list of [element or class, role, name, whether the arrow key scrolls it].
"use strict";
const { Browser } = require("./browser.js");

const [program, address] = process.argv.slice(2);
const REGIONS = `[...document.querySelectorAll("article [tabindex='0']")]`;
const FOUND = `${REGIONS}.map((one) => [one.className.split(" ")[0] || one.localName, one.getAttribute("role"), one.getAttribute("aria-label")])`;

async function moved(page, i) {
  await page.value(`void ${REGIONS}[${i}].focus()`);
  await page.press("ArrowRight");
  return page.value(`document.activeElement.scrollLeft > 0`, 200);
}

(async () => {
  const page = await Browser.open(program, address);
  const seen = [];
  try {
    for (const width of [1280, 390, 1280]) {
      await page.size(width);
      const regions = await page.value(FOUND, 100);
      for (const [i, region] of regions.entries()) region.push(await moved(page, i));
      seen.push(regions);
    }
    process.stdout.write(JSON.stringify(seen));
  } finally {
    await page.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
