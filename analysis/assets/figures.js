// Figures that answer the pointer: each drawing's Plotly twin, shown once it comes into view.
// Without scripts, and in print, the SVG stands.
const dark = matchMedia("(prefers-color-scheme: dark)");
// A large figure is drawn anew at a click: on a slow machine the second comes late.
const options = { displayModeBar: false, doubleClick: "reset", doubleClickDelay: 800, showTips: false };
const scaled = new Set(["size", "width", "xshift", "yshift", "standoff"]);

// Lengths in pixels at the drawn width, times `factor`.
function resize(value, factor) {
  if (Array.isArray(value)) return value.map(part => resize(part, factor));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, part]) =>
    [key, scaled.has(key) && typeof part === "number" ? part * factor : resize(part, factor)]));
}

// Round numbers within a logarithmic axis whose ends are given as powers of ten.
function ticks([low, high]) {
  const [from, to] = [10 ** low, 10 ** high], places = [];
  if (to / from > 10) {
    const steps = to / from > 1000 ? [1] : [1, 2, 5];
    for (let power = Math.floor(low); power <= high; power++) steps.forEach(step => places.push(step * 10 ** power));
  } else {
    const least = (to - from) / 5, unit = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].find(step => step * unit >= least) * unit;
    for (let n = Math.ceil(from / step); n * step <= to; n++) places.push(n * step);
  }
  return places.filter(place => from <= place && place <= to);
}

// The words of analysis/wording.py: powers of ten for FLOP, letters for counts.
const digits = value => Number(value.toPrecision(4));
const worded = {
  e: value => { const power = Math.floor(Math.log10(value) + 1e-9); return `${digits(value / 10 ** power)}e${power}`; },
  B: value => {
    const place = Math.max(0, Math.min(4, Math.floor((Math.log10(value) + 1e-9) / 3)));
    return digits(value / 1000 ** place) + ["", "k", "M", "B", "T"][place];
  },
};

// What a figure shows of its axes, as one text.
const ranges = layout => JSON.stringify(
  Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)).map(([key, axis]) => [key, axis.range]));

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
  const whole = ranges(drawn.layout), back = drawing.parentElement.querySelector(".whole");
  back.hidden = true;
  const made = Plotly.react(place, data, { ...layout, width, height, dragmode }, options);
  if (place.dataset.heard) return;
  place.dataset.heard = "yes";
  made.then(() => {
    // Ticks are drawn for the whole; a zoomed logarithmic axis gets its own.
    back.addEventListener("click", () => show(drawing));
    place.on("plotly_relayout", change => {
      back.hidden = ranges(place.layout) === whole;
      if (!Object.keys(change).some(key => key.endsWith(".range[0]"))) return;
      const axes = Object.entries(place.layout).filter(([key, axis]) => /^[xy]axis/.test(key) && axis.type === "log");
      Plotly.relayout(place, Object.assign({}, ...axes.map(([key, axis]) => {
        const places = ticks(axis.range);
        return { [`${key}.tickvals`]: places, [`${key}.ticktext`]: places.map(worded[axis.exponentformat]) };
      })));
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
