import { byId, el, fileUrl, slider, svg } from "./common.js";
import { unfinished, work } from "./work.js";

const form = byId("form");

function drawIntervals(chart) {
  const found = JSON.parse(chart.dataset.intervals), [width, left] = [600, 120];
  const reach = Math.max(0.05, ...found.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)])) * 1.1;
  const x = (value) => left + (width - left - 20) * (value + reach) / (2 * reach);
  const height = 20 + 40 * found.length;
  chart.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 8, y2: height }),
    svg("text", { x: x(0) - 8, y: height + 18 }, "0 %"),
    svg("text", { x: left, y: height + 18 }, "pair nearer"), svg("text", { x: width - 80, y: height + 18 }, "pair farther"));
  found.forEach((one, place) => {
    const y = 28 + 40 * place;
    chart.append(svg("text", { x: 4, y: y + 4 }, one.name),
      svg("line", { class: "interval", x1: x(one.low), x2: x(one.high), y1: y, y2: y }),
      svg("circle", { class: "middle", cx: x(one.middle), cy: y, r: 6 }),
      svg("text", { x: x(one.middle) - 14, y: y - 10 }, `${one.middle > 0 ? "+" : ""}${(100 * one.middle).toFixed(0)} %`));
  });
}

for (const figure of document.querySelectorAll("figure.compared")) {
  const images = JSON.parse(figure.dataset.images), labels = JSON.parse(figure.dataset.labels);
  if (images.base && images.both) figure.prepend(slider(images.base, images.both, [labels.base, labels.both], "base and pair"));
  const rest = Object.keys(images).filter((name) => !["base", "both"].includes(name));
  figure.append(el("div", { className: "tiles" }, ...rest.map((name) => el("div", { className: "tile" },
    el("img", { src: fileUrl(images[name]), alt: labels[name], loading: "lazy" }), el("div", { className: "soft" }, labels[name])))));
}
const chart = byId("intervals");
if (chart) drawIntervals(chart);

if (form) {
  const run = form.querySelector("[name=run]");
  const here = () => `/compare?run=${encodeURIComponent(run.value)}`;
  const working = work(form, { done: (job) => { if (job.state === "done") location.href = here(); } });
  run.addEventListener("change", () => { location.href = here(); });
  const earlier = unfinished(form);
  if (earlier) working.resume(earlier);
}
