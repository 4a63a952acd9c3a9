// A form of a command: what it says as a document, and what the command says of it, live.
import { ask, byId, el, problemItem, send, thumbnailUrl } from "./common.js";

const WAIT = 350; // ms after the last key

export function read(form) {
  const document_ = {};
  for (const one of form.querySelectorAll("[data-kind]")) {
    const kind = one.dataset.kind;
    if (kind === "check") {
      if (one.checked) document_[one.name] = true;
      continue;
    }
    const text = one.value.trim();
    if (!text) continue;
    const isList = ["lines", "prompts"].includes(kind) || (kind === "image" && one.tagName === "TEXTAREA");
    document_[one.name] = isList ? text.split("\n").map((line) => line.trim()).filter(Boolean) : text;
  }
  return document_;
}

export function fill(form, document_) {
  for (const [key, value] of Object.entries(document_)) {
    const one = form.querySelector(`[name="${CSS.escape(key)}"]`);
    if (!one) continue;
    if (one.dataset.kind === "check") one.checked = value === true;
    else one.value = Array.isArray(value) ? value.join("\n") : String(value);
  }
  form.dispatchEvent(new Event("input"));
}

// Plan after each change; `shown` gets the plan, or null where something is wrong.
export function live(form, shown) {
  let timer, turn = 0, isTouched = false;
  const check = async () => {
    const mine = ++turn;
    const found = await ask("/api/plan", { command: form.dataset.command, document: read(form) });
    if (mine !== turn) return; // there has been another change
    if (found.problems && !isTouched) byId("findings").textContent = "What is missing or wrong is told here as you fill in the form.";
    else showFindings(form, found);
    byId("start").disabled = Boolean(found.problems);
    const plan = byId("plan");
    plan.hidden = Boolean(found.problems);
    if (!found.problems) showPlan(found);
    shown(found.problems ? null : found);
  };
  form.addEventListener("input", () => {
    isTouched = true;
    byId("start").disabled = true;
    clearTimeout(timer);
    timer = setTimeout(check, WAIT);
  });
  for (const drop of form.querySelectorAll(".drop[data-for]")) takeImages(form, drop);
  check();
}

function showFindings(form, found) {
  const place = byId("findings");
  place.replaceChildren();
  for (const entry of form.querySelectorAll(".entry")) {
    entry.classList.remove("wrong");
    entry.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  }
  if (found.problems) {
    place.append(el("ul", { className: "problems" }, ...found.problems.map(problemItem)));
    found.problems.forEach((one) => mark(form, one));
    return;
  }
  if (found.warnings.length) {
    place.append(el("ul", { className: "warnings" }, ...found.warnings.map(problemItem)));
  }
  place.append(el("p", { className: "fine" }, "Nothing is wrong with it."));
}

function mark(form, problem) {
  const said = `${problem.message} ${problem.hint ?? ""}`;
  for (const entry of form.querySelectorAll(".entry[data-key]")) {
    const key = entry.dataset.key;
    if (problem.message.startsWith(`${key} `) || said.includes(`--${key} `) || said.endsWith(`--${key}`)) {
      entry.classList.add("wrong");
      entry.querySelector("[data-kind]")?.setAttribute("aria-invalid", "true");
      return;
    }
  }
}

function showPlan(found) {
  byId("rows").replaceChildren(...found.rows.flatMap((row) => [
    el("dt", {}, row.name), el("dd", {}, ...row.lines.map((line) => el("div", {}, line))),
  ]));
  byId("command").textContent = found.command;
}

function takeImages(form, drop) {
  const field = byId(drop.dataset.for), chooser = drop.querySelector("input[type=file]");
  const shown = drop.querySelector(".shown");
  const isSeveral = field.tagName === "TEXTAREA";
  const take = async (files) => {
    for (const file of files) {
      if (/\.(txt|caption)$/i.test(file.name)) {
        const caption = form.querySelector("[name=caption]");
        if (caption) caption.value = (await file.text()).trim();
        continue;
      }
      const kept = await send("/api/uploads", file);
      if (kept.problems) {
        shown.append(el("ul", { className: "problems" }, ...kept.problems.map(problemItem)));
        continue;
      }
      field.value = isSeveral && field.value.trim() ? `${field.value.trim()}\n${kept.path}` : kept.path;
    }
    form.dispatchEvent(new Event("input"));
  };
  const look = () => {
    const paths = field.value.split("\n").map((one) => one.trim()).filter(Boolean);
    for (const one of shown.querySelectorAll("img")) one.remove();
    shown.append(...paths.map((path) => el("img", { src: thumbnailUrl(path), alt: path, onerror() { this.remove(); } })));
  };
  form.addEventListener("input", look);
  chooser.addEventListener("change", () => {
    shown.replaceChildren();
    take(chooser.files);
    chooser.value = "";
  });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    shown.replaceChildren();
    take(event.dataTransfer.files);
  });
}
