// Code, tables and formulas that are wider than the page scroll sideways. With the keyboard, only what can have the focus
// can be scrolled: these elements get it, and a name, for as long as they are too wide.
"use strict";
(() => {
  const KINDS = { pre: "Code", ".table-wrapper": "Table", ".math-scroll": "Formula", ".output.text_html": "Output" };

  function mark(article) {
    for (const [selector, kind] of Object.entries(KINDS)) {
      article.querySelectorAll(selector).forEach((one, i) => {
        const scrolls = one.scrollWidth > one.clientWidth && getComputedStyle(one).overflowX !== "visible";
        if (scrolls === one.hasAttribute("tabindex")) return;
        if (scrolls) {
          one.tabIndex = 0;
          one.setAttribute("role", "region");
          one.setAttribute("aria-label", `${kind} ${i + 1}, scrolls sideways`);
        } else for (const name of ["tabindex", "role", "aria-label"]) one.removeAttribute(name);
      });
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const article = document.querySelector("article");
    // also called at first, and when something is unfolded
    if (article) new ResizeObserver(() => mark(article)).observe(article);
  });
})();
