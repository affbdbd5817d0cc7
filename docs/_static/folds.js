// Folded sections: a link into one unfolds it, and paper has all of them unfolded.
"use strict";
(() => {
  const folded = () => [...document.querySelectorAll("details.folded")];

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const around = folded().filter((one) => one.contains(target) || one.parentElement === target);
    for (const one of around) one.open = true;
    if (around.length) target.scrollIntoView({ behavior: "instant" });
  }

  addEventListener("hashchange", reveal);
  document.addEventListener("DOMContentLoaded", reveal);
  // a second click on the same link changes no address
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (link && link.hash && link.href === location.href) reveal();
  });

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folded().filter((one) => !one.open);
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
