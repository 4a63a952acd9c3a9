// What all pages share. Text from anywhere goes in as text, never as HTML.

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

export const byId = (id) => document.getElementById(id);

// GET, or with a body POST; returns the JSON, with `problems` where it was refused.
export async function ask(url, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  return await answer(url, options);
}

export async function send(url, file) {
  const most = Number(document.body.dataset.mostUploaded);
  if (file.size > most) {
    return { problems: [{ message: `${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB, more than ${most / 2 ** 20}`, hint: "make it smaller first" }] };
  }
  return await answer(`${url}?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
}

async function answer(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch {
    return { gone: true, problems: [{ message: "the server does not answer", hint: "start it again: glance web" }] };
  }
  try {
    return await response.json();
  } catch {
    return { problems: [{ message: `the server refused it (${response.status})`, hint: "reload the page" }] };
  }
}

export function problemItem(problem) {
  const item = el("li", {}, problem.message);
  if (problem.hint) item.append(el("span", { className: "hint" }, problem.hint));
  return item;
}

export function fileUrl(path) {
  return `/file?path=${encodeURIComponent(path)}`;
}

export function thumbnailUrl(path) {
  return `/thumbnail?path=${encodeURIComponent(path)}`;
}

export function duration(seconds) {
  const all = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

// Two images of one size above each other; what lies on top is cut where the control stands.
export function slider(below, above, names, alt) {
  const over = el("div", { className: "over" }, el("img", { src: fileUrl(above), alt: "" }));
  const control = el("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: `From ${names[1]} to ${names[0]}` });
  const cut = () => { over.style.clipPath = `inset(0 ${100 - control.value}% 0 0)`; };
  control.addEventListener("input", cut);
  cut();
  return el("div", { className: "slider" },
    el("div", { className: "names" }, el("span", {}, names[1]), el("span", {}, names[0])),
    el("div", { className: "stack" }, el("img", { src: fileUrl(below), alt }), over), control);
}

// Ask for a job until it is over; `show` is called with each answer.
export async function follow(id, show) {
  for (;;) {
    const job = await ask(`/api/job?id=${encodeURIComponent(id)}`);
    if (!job.gone) show(job);
    if (job.state !== "running" && !job.gone) return job;
    await new Promise((done) => setTimeout(done, job.gone ? 3000 : 700));
  }
}

export function describeSampling(job) {
  const at = job.sampling;
  if (job.state === "running" && !at) return job.notes.at(-1) ?? "starting";
  if (job.state === "running") {
    const left = at.eta_seconds ? `, ${duration(at.eta_seconds)} left` : "";
    return `${at.task}: ${at.phase ? `${at.phase} phase, ` : ""}step ${at.step} of ${at.steps}${left}`;
  }
  return { done: "done", stopped: "stopped: start it again to continue", failed: "it failed" }[job.state];
}
