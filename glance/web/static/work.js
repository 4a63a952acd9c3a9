// A form that starts a job beside it: sampling, comparing.
import { ask, byId, describeSampling, el, follow, problemItem } from "./common.js";
import { live, read } from "./form.js";

export function work(form, { more = () => ({}), done, shown = () => {} }) {
  let id;
  live(form, shown);
  const show = (job) => {
    byId("state").textContent = describeSampling(job);
    byId("stop").hidden = job.state !== "running";
    const bar = byId("progress"), at = job.sampling;
    bar.hidden = job.state !== "running";
    if (at) [bar.max, bar.value] = [at.total, at.done];
    else bar.removeAttribute("value");
    if (job.state === "failed") {
      byId("findings").replaceChildren(el("ul", { className: "problems" }, ...job.problems.map(problemItem)));
    }
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("start").disabled = true;
    const started = await ask("/api/start", { command: form.dataset.command, document: read(form), ...more() });
    if (started.problems) {
      byId("findings").replaceChildren(el("ul", { className: "problems" }, ...started.problems.map(problemItem)));
    } else {
      id = started.job;
      byId("command").textContent = started.command;
      await watch(id, form, show, done);
    }
    byId("start").disabled = false;
  });
  byId("stop").addEventListener("click", () => ask("/api/stop", { id }));
  return { resume: async (job) => { id = job; await watch(id, form, show, done); } };
}

async function watch(id, form, show, done) {
  sessionStorage.setItem(`glance-${form.dataset.command}`, id); // a reload finds it again
  let images = -1;
  const over = await follow(id, (job) => {
    show(job);
    if (job.images.length !== images) {
      images = job.images.length;
      if (job.state === "running" && images) done(job);
    }
  });
  sessionStorage.removeItem(`glance-${form.dataset.command}`);
  await done(over);
}

export function unfinished(form) {
  return sessionStorage.getItem(`glance-${form.dataset.command}`);
}
