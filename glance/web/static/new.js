import { ask, byId, el, problemItem } from "./common.js";
import { fill, live, read } from "./form.js";

const form = byId("form");
const plot = byId("plot");

live(form, (plan) => {
  if (!plan) return;
  const { slow, fast } = plan.schedule, said = read(form);
  const query = new URLSearchParams({ slow: slow.timesteps.join(","), fast: fast.timesteps.join(",") });
  for (const name of ["model", "family"]) if (said[name]) query.set(name, said[name]);
  const address = `/schedule.svg?${query}`;
  if (plot.getAttribute("src") !== address) plot.src = address;
  byId("files").replaceChildren(...Object.entries(plan.files).map(([name, content]) =>
    el("details", {}, el("summary", {}, name), el("pre", {}, JSON.stringify(content, null, 2)))));
});
plot.addEventListener("load", () => { plot.hidden = false; });
plot.addEventListener("error", () => { plot.hidden = true; });

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("start").disabled = true;
  const started = await ask("/api/start", { command: form.dataset.command, document: read(form) });
  if (started.problems) {
    byId("findings").replaceChildren(el("ul", { className: "problems" }, ...started.problems.map(problemItem)));
    return;
  }
  location.href = `/run?path=${encodeURIComponent(started.run)}`;
});

const TOY = { model: "small-flux", device: "cpu", launcher: "direct", steps: 20 };
byId("toy").addEventListener("click", () => {
  const more = form.dataset.command === "train" ? { rank: 4, resolution: 64 } : {
    "teacher-steps": 20, schedule: "own", "slow-steps": 2, "fast-steps": 2, "learning-rate": "0.002",
    prompt: ["a landscape with a small sun low in the middle over a flat sea", "a landscape with a large moon high on the left over snow and mountains"],
  };
  fill(form, { ...TOY, ...more });
});
