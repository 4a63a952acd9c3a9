import { ask, byId, duration, el, fileUrl, problemItem, svg, thumbnailUrl } from "./common.js";

const path = byId("run").dataset.path;
const STATES = { running: "running", done: "done", failed: "it failed", stopped: "stopped" };
let run, isStopping = false;

async function look() {
  const found = await ask(`/api/run?path=${encodeURIComponent(path)}`);
  if (found.problems) {
    byId("problems").replaceChildren(...found.problems.map(problemItem));
  } else {
    run = found;
    show();
  }
  setTimeout(look, found.gone ? 3000 : run?.is_running || run?.trained_by ? 1000 : 5000);
}

function show() {
  const job = run.job;
  if (!run.is_running) isStopping = false;
  byId("state").textContent = describe(job);
  byId("problems").replaceChildren(...(run.is_finished || run.is_running || !job ? [] : job.problems.map(problemItem)));
  showPhases(job);
  byId("verdict").textContent = run.verdict?.sentence ?? "";
  byId("stop").hidden = !run.is_running;
  byId("stop").textContent = isStopping ? "Stop at once" : "Stop at a checkpoint";
  byId("continue").hidden = !run.can_continue;
  for (const id of ["sample", "compare", "away"]) byId(id).hidden = !run.is_finished;
  drawLosses();
  showList("previews", run.previews);
  byId("loras").replaceChildren(...Object.entries(run.phases).filter(([, one]) => one.lora).map(([name, one]) =>
    el("li", {}, el("a", { href: fileUrl(one.lora), download: `${path.split("/").at(-1)}-${name}.safetensors` }, `${name} LoRA`), `, ${(one.bytes / 1e6).toFixed(1)} MB`)));
  byId("notes").replaceChildren(...(job?.notes ?? []).map((one) => el("li", {}, one)));
  byId("log").textContent = (job?.said ?? []).join("\n");
  byId("command").textContent = job?.command ?? "";
}

function describe(job) {
  if (run.trained_by) return `being trained by ${run.trained_by}`;
  if (run.is_running && isStopping) return "stopping: the trainer saves a checkpoint first";
  if (run.is_running) {
    const at = job.sampling;
    if (job.fetched && job.fetched.bytes < job.fetched.total_bytes) {
      return `fetching ${job.fetched.model}: ${(job.fetched.bytes / 1e9).toFixed(1)} of ${(job.fetched.total_bytes / 1e9).toFixed(1)} GB`;
    }
    if (at && at.done < at.total) {
      const left = at.eta_seconds ? `, ${duration(at.eta_seconds)} left` : "";
      return `running: ${at.task}, ${at.done} of ${at.total} steps${left}`;
    }
    return "running";
  }
  if (run.is_finished) return "done: both LoRAs are there";
  return job ? STATES[job.state] : "not finished";
}

function showPhases(job) {
  const place = byId("phases");
  place.replaceChildren();
  for (const name of ["slow", "fast"]) {
    const kept = run.phases[name], told = job?.phases[name] ?? {};
    if (!kept && !told.stage) continue;
    const isDone = kept?.state === "done";
    const step = isDone ? kept.steps : Math.max(kept?.step ?? 0, told.step ?? 0), steps = kept?.steps ?? told.steps ?? 1;
    const words = [`${name}: `, isDone ? "done" : run.is_running && told.stage ? told.stage : kept?.state ?? "",
      `, step ${step} of ${steps}`];
    if (kept?.loss) words.push(`, loss ${kept.loss.toPrecision(4)}`);
    if (run.is_running && !isDone && told.eta_seconds) words.push(`, ${duration(told.eta_seconds)} left`);
    place.append(el("div", { className: "phase", id: `phase-${name}` }, el("label", {}, ...words,
      el("progress", { max: steps, value: step }))));
  }
}

function showList(id, paths) {
  const section = byId(id);
  section.hidden = !paths.length;
  const list = section.querySelector("ul");
  if (list.children.length === paths.length) return;
  list.replaceChildren(...paths.map((one) => el("li", { className: "tile" },
    el("a", { href: fileUrl(one) }, el("img", { src: thumbnailUrl(one), alt: one, loading: "lazy" })),
    el("div", { className: "soft" }, one.split("/").at(-1)))));
}

function drawLosses() {
  const chart = byId("chart"), [width, height, left, bottom] = [600, 260, 56, 28];
  const phases = Object.entries(run.phases).filter(([, one]) => one.losses.length);
  const losses = phases.flatMap(([, one]) => one.losses).map(([, loss]) => loss).filter((one) => one > 0);
  chart.replaceChildren();
  if (!losses.length) {
    chart.append(svg("text", { x: left, y: 40 }, "no step is done yet"));
    return;
  }
  const steps = Math.max(...phases.flatMap(([, one]) => one.losses.map(([step]) => step)), 2);
  const low = Math.log(Math.min(...losses)) - 0.05, high = Math.log(Math.max(...losses)) + 0.05;
  const x = (step) => left + (width - left - 10) * (step - 1) / (steps - 1);
  const y = (loss) => 10 + (height - bottom - 10) * (high - Math.log(Math.max(loss, 1e-12))) / (high - low);
  for (const value of [low, (low + high) / 2, high]) {
    const at = y(Math.exp(value));
    chart.append(svg("line", { class: "axis", x1: left, x2: width - 10, y1: at, y2: at }),
      svg("text", { x: 4, y: at + 4 }, Math.exp(value).toPrecision(3)));
  }
  chart.append(svg("text", { x: left, y: height - 8 }, "step 1"), svg("text", { x: width - 60, y: height - 8 }, `step ${steps}`));
  phases.forEach(([name, one], place) => {
    for (const [step, loss] of one.losses) chart.append(svg("circle", { class: name, cx: x(step), cy: y(loss), r: 2.5 }));
    chart.append(svg("polyline", { class: name, points: one.trend.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" ") }));
    chart.append(svg("text", { x: width / 2 - 40 + 70 * place, y: height - 8, class: `label-${name}` }, `${name} (${place ? "orange" : "blue"})`));
  });
}

byId("stop").addEventListener("click", async () => {
  await ask("/api/stop", { id: run.job.id });
  isStopping = true;
  show();
});
byId("continue").addEventListener("click", async () => {
  const started = await ask("/api/continue", { run: path });
  if (started.problems) byId("problems").replaceChildren(...started.problems.map(problemItem));
  else byId("continue").hidden = true;
});
look();
