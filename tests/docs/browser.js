// A headless Chromium, driven through its pipe (--remote-debugging-pipe): messages in JSON, each followed by a zero byte.
"use strict";
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

// Without a sandbox, because containers have none for it; only pages of this project are opened.
const OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe"];

class Browser {
  static async open(program, address) {
    const browser = new Browser();
    browser.folder = fs.mkdtempSync(path.join(os.tmpdir(), "gta-ref-"));
    const options = [...OPTIONS, `--user-data-dir=${browser.folder}`, "about:blank"];
    browser.process = spawn(program, options, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    browser.process.on("exit", (code) => browser.fail(new Error(`the browser ended with ${code}`)));
    browser.process.on("error", (error) => browser.fail(error));
    browser.waiting = new Map();
    browser.requests = []; // addresses that the page has asked for
    browser.faults = []; // what the page has thrown or written to the console
    browser.process.stdio[4].on("data", (data) => browser.receive(data));
    const { targetInfos } = await browser.send("Target.getTargets");
    const { targetId } = targetInfos.find((one) => one.type === "page");
    const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
    browser.sessionId = sessionId;
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await browser.send(`${domain}.enable`);
    await browser.go(address);
    return browser;
  }

  number = 0;
  rest = Buffer.alloc(0);

  send(method, params = {}) {
    this.number += 1;
    const message = { id: this.number, method, params, ...(this.sessionId && { sessionId: this.sessionId }) };
    this.process.stdio[3].write(`${JSON.stringify(message)}\0`);
    return new Promise((resolve, reject) => this.waiting.set(message.id, { resolve, reject }));
  }

  receive(data) {
    this.rest = Buffer.concat([this.rest, data]);
    for (let end = this.rest.indexOf(0); end >= 0; end = this.rest.indexOf(0)) {
      const message = JSON.parse(this.rest.subarray(0, end).toString("utf8"));
      this.rest = this.rest.subarray(end + 1);
      const waiting = this.waiting.get(message.id);
      if (waiting) {
        this.waiting.delete(message.id);
        if (message.error) waiting.reject(new Error(message.error.message));
        else waiting.resolve(message.result);
      } else this.note(message);
    }
  }

  note({ method, params }) {
    if (method === "Network.requestWillBeSent") this.requests.push(params.request.url);
    if (method === "Runtime.exceptionThrown") this.faults.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Log.entryAdded") this.faults.push(params.entry.text);
    if (method === "Page.loadEventFired") this.loaded?.();
  }

  fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
  }

  async go(address) {
    const loaded = new Promise((resolve) => { this.loaded = resolve; });
    // another page first: an address that differs only after # would not be loaded
    await this.send("Page.navigate", { url: "about:blank" });
    await loaded;
    const again = new Promise((resolve) => { this.loaded = resolve; });
    await this.send("Page.navigate", { url: address });
    await again;
  }

  // The value of an expression on the page, once what the page has planned is drawn.
  async value(expression, milliseconds = 0) {
    const drawn = `new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done)), ${milliseconds}))`;
    const words = `${drawn}.then(() => (${expression}))`;
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression: words, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  async press(...keys) {
    const codes = { ArrowUp: 38, ArrowRight: 39, Tab: 9, Enter: 13, " ": 32 };
    for (const key of keys) {
      const text = { Enter: "\r", " ": " " }[key];
      const event = { key, code: key, windowsVirtualKeyCode: codes[key], ...(text && { text }) };
      await this.send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
      await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
    }
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  async point(selector, x, y, button = "none") {
    const place = `document.querySelector(${JSON.stringify(selector)})`;
    await this.value(`void ${place}.scrollIntoView({ block: "center" })`);
    const box = await this.value(`${place}.getBoundingClientRect().toJSON()`);
    const at = { x: box.left + x * box.width, y: box.top + y * box.height, button, clickCount: 1 };
    await this.send("Input.dispatchMouseEvent", { type: "mouseMoved", ...at, button: "none" });
    if (button !== "none") for (const type of ["mousePressed", "mouseReleased"]) await this.send("Input.dispatchMouseEvent", { type, ...at });
  }

  size(width, height = 900) {
    return this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  }

  media(scheme, media = "") {
    return this.send("Emulation.setEmulatedMedia", { media, features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async picture(file) {
    const { data } = await this.send("Page.captureScreenshot", { captureBeyondViewport: true });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  }

  async close() {
    if (this.process.exitCode === null) {
      const ended = new Promise((resolve) => { this.process.once("close", resolve); });
      this.send("Browser.close").catch(() => {}); // it ends before it answers
      await ended;
    }
    fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

module.exports = { Browser };
