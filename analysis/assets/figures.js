// Figures that answer the pointer: each drawing's Plotly twin, shown once it comes into view.
// Without scripts, and in print, the SVG stands.
const dark = matchMedia("(prefers-color-scheme: dark)");
const options = { displayModeBar: false, doubleClick: "reset", showTips: false };
const scaled = new Set(["size", "width", "xshift", "yshift", "standoff"]);

// Lengths in pixels at the drawn width, times `factor`.
function resize(value, factor) {
  if (Array.isArray(value)) return value.map(part => resize(part, factor));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) =>
    [key, scaled.has(key) && typeof part === "number" ? part * factor : resize(part, factor)]));
}

function show(drawing) {
  const colors = getComputedStyle(document.documentElement);
  const text = drawing.querySelector("script").textContent
    .replace(/var\((--[\w-]+)\)/g, (_, name) => colors.getPropertyValue(name).trim());
  const drawn = JSON.parse(text), place = drawing.querySelector(".live");
  drawing.classList.add("shown");
  const { width, height } = place.getBoundingClientRect();
  const { data, layout } = resize({ data: drawn.data, layout: drawn.layout }, width / drawn.width);
  // A finger scrolls the page; a mouse drags a box to zoom into.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  const made = Plotly.react(place, data, { ...layout, width, height, dragmode }, options);
  if (place.dataset.heard) return;
  place.dataset.heard = "yes";
  made.then(() => {
    // Ticks are drawn for the whole; inside a zoomed box Plotly finds its own.
    place.on("plotly_relayout", change => {
      if (!Object.keys(change).some(key => key.endsWith(".range[0]"))) return;
      const axes = Object.keys(place.layout).filter(key => /^[xy]axis/.test(key));
      Plotly.relayout(place, Object.fromEntries(axes.map(key => [`${key}.tickmode`, "auto"])));
    });
    place.on("plotly_doubleclick", () => show(drawing));
  });
}

const drawings = [...document.querySelectorAll("[data-live]")];
const seen = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) { seen.unobserve(target); show(target); }
  }
}, { rootMargin: "200px" });
drawings.forEach(drawing => seen.observe(drawing));

const again = () => drawings.filter(drawing => drawing.matches(".shown")).forEach(show);
let width = innerWidth, waiting;
addEventListener("resize", () => {
  if (width === innerWidth) return;  // a phone's address bar comes and goes
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(again, 150);
});
dark.addEventListener("change", again);
