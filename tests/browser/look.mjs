// Opens a report from file:// with the network off, at three widths, light and dark, and in print.
//
//   node look.mjs REPORT.html FOLDER
//
// Writes screenshots and a PDF to FOLDER; prints one JSON object. Exits 1 where axe-core finds a
// serious violation, a script fails, something is fetched, a figure stays still, or the page is
// wider than the screen.
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const WIDTHS = [390, 900, 1600];
const [report, folder] = process.argv.slice(2).map(path => resolve(path));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
mkdirSync(folder, { recursive: true });

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--hide-scrollbars"],
});
const found = { bytes: statSync(report).size, faults: [], violations: [], views: [] };

async function open(scripts = true) {
  const page = await browser.newPage();
  await page.setOfflineMode(true);
  await page.setJavaScriptEnabled(scripts);
  page.on("pageerror", error => found.faults.push(`script: ${error.message}`));
  page.on("console", said => said.type() === "error" && found.faults.push(`console: ${said.text()}`));
  page.on("request", asked => asked.url().startsWith("file:") || asked.url().startsWith("data:")
    || asked.url().startsWith("blob:") || found.faults.push(`fetched ${asked.url()}`));
  return page;
}

async function look(width, scheme) {
  const page = await open();
  await page.setViewport({ width, height: width < 500 ? 844 : 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  const begun = performance.now();
  await page.goto(pathToFileURL(report).href, { waitUntil: "load" });
  const loaded = performance.now() - begun;
  const name = `${width}-${scheme}`;
  await page.screenshot({ path: join(folder, `${name}-first.png`) });
  const figures = await page.$$("[data-live]");
  for (const figure of figures) {
    await figure.scrollIntoView();
    const drawn = () => page.evaluate(one => one.querySelector(".live .main-svg") !== null, figure);
    if (!await becomes(drawn)) found.faults.push(`${name}: a figure stays still`);
  }
  const all = performance.now() - begun;
  await page.evaluate(() => scrollTo(0, 0));
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (overflow > 0) found.faults.push(`${name}: ${overflow} px wider than the screen`);
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, nodes } of violations) {
    found.violations.push({ view: name, id, impact, where: nodes.map(node => node.target.join(" ")).slice(0, 4) });
  }
  found.views.push({ view: name, load_ms: Math.round(loaded), all_figures_ms: Math.round(all), figures: figures.length });
  if (width > 500 && figures.length) await hoverAndZoom(page, figures[0], name);
  await page.close();
}

async function hoverAndZoom(page, figure, name) {
  await figure.scrollIntoView();
  const box = await figure.boundingBox();
  const at = (x, y) => [box.x + x * box.width, box.y + y * box.height];
  let spoke = false;
  for (let x = 0.15; x < 0.85 && !spoke; x += 0.02) {
    for (let y = 0.2; y < 0.85 && !spoke; y += 0.1) {
      await page.mouse.move(...at(x, y));
      spoke = await page.evaluate(() => document.querySelector(".hoverlayer .hovertext") !== null);
    }
  }
  if (!spoke) found.faults.push(`${name}: no figure answers the pointer`);
  else await page.screenshot({ path: join(folder, `${name}-hover.png`) });
  const range = () => page.evaluate(one => one.querySelector(".live").layout.xaxis.range.join(), figure);
  const before = await range();
  const zoom = async () => {
    await page.mouse.move(...at(0.3, 0.3));
    await page.mouse.down();
    await page.mouse.move(...at(0.6, 0.7), { steps: 5 });
    await page.mouse.up();
    return becomes(async () => await range() !== before);
  };
  if (!await zoom()) found.faults.push(`${name}: dragging does not zoom`);
  else await page.screenshot({ path: join(folder, `${name}-zoom.png`) });
  await page.mouse.click(...at(0.5, 0.5), { count: 2 });
  if (!await becomes(async () => await range() === before)) found.faults.push(`${name}: a double click does not go back`);
  await zoom();
  await page.evaluate(one => one.parentElement.querySelector(".whole:not([hidden])")?.click(), figure);
  if (!await becomes(async () => await range() === before)) found.faults.push(`${name}: no button goes back`);
}

async function becomes(true_) {
  for (let tries = 0; tries < 150; tries++) {
    if (await true_()) return true;
    await new Promise(done => setTimeout(done, 100));
  }
  return false;
}

async function print() {
  const page = await open();
  await page.goto(pathToFileURL(report).href, { waitUntil: "load" });
  await page.pdf({ path: join(folder, "print.pdf"), format: "A4", margin: { top: "1.5cm", bottom: "1.5cm", left: "1.5cm", right: "1.5cm" } });
  await page.close();
}

async function still() {
  const page = await open(false);
  await page.setViewport({ width: 900, height: 900 });
  await page.goto(pathToFileURL(report).href, { waitUntil: "load" });
  await page.screenshot({ path: join(folder, "no-scripts.png"), fullPage: true });
  await page.close();
}

for (const width of WIDTHS) for (const scheme of ["light", "dark"]) await look(width, scheme);
await print();
await still();
await browser.close();
console.log(JSON.stringify(found));
const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
process.exit(found.faults.length || serious.length ? 1 : 0);
