// Counts the cases on stdin with the explorer's own script, and prints the results in the same form as the test has them.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const EXPLORER = path.join(__dirname, "../../../docs/explorer");
for (const name of ["counts.js", "state.js"]) {
  vm.runInThisContext(fs.readFileSync(path.join(EXPLORER, name), "utf8"), name);
}
const { Counts: counts, State: state } = vm.runInThisContext("({ Counts, State })");

const { cases, frontiers, addresses } = JSON.parse(fs.readFileSync(0, "utf8"));

function figures({ model, setting }) {
  const found = counts.costs(model, setting);
  return {
    parameters: found.model.parameters,
    cache: found.cache,
    weights: found.weights,
    attention: found.attention,
    operators: found.operators.map((o) => [o.name, o.operations, o.bytes]),
    operations: found.operations,
    bytes: found.bytes,
    parts: found.parts,
    seconds: found.seconds,
  };
}

const results = {
  cases: cases.map(figures),
  frontiers: frontiers.map(({ model, baseline, setting }) => counts.frontier(model, baseline, setting)),
  addresses: addresses.map((address) => [state.write(state.read(address)), state.read(address).model]),
  presets: Object.fromEntries(Object.entries(state.PRESETS).map(([name, preset]) => [name, preset.sizes])),
};
// a whole number of any size goes as text; Python reads a number's shortest digits back as the same number
process.stdout.write(JSON.stringify(results, (_, value) => (typeof value === "bigint" ? String(value) : value)));
