import { ask, byId, el, fileUrl, send, slider } from "./common.js";
import { fill } from "./form.js";
import { unfinished, work } from "./work.js";

const form = byId("form");

async function showImages() {
  const run = form.querySelector("[name=run]").value;
  const { images = [] } = await ask(`/api/images?run=${encodeURIComponent(run)}`);
  byId("images").replaceChildren(...images.map((one) => {
    const name = one.image.split("/").at(-1);
    const shown = one.base ? slider(one.base, one.image, ["base model", "with the pair"], name)
      : el("img", { src: fileUrl(one.image), alt: name });
    const caption = el("figcaption", {}, el("a", { href: fileUrl(one.image) }, name), " ");
    const again = el("button", { type: "button" }, "Use its settings");
    again.addEventListener("click", async () => use(await (await fetch(fileUrl(one.image))).blob(), name));
    caption.append(again);
    const figure = el("figure", { className: "card" }, shown, caption);
    if (one.slow) figure.append(el("details", {}, el("summary", {}, "At the hand-over"), el("img", { src: fileUrl(one.slow), alt: `${name} at the hand-over` })));
    return figure;
  }));
}

async function use(blob, name) {
  const found = await send("/api/records", new File([blob], name));
  const said = byId("record-said");
  if (found.problems) {
    said.textContent = found.problems.map((one) => [one.message, one.hint].filter(Boolean).join(": ")).join("; ");
    return;
  }
  said.textContent = `${name}: its settings are in the form${found.run ? "" : "; its run is not here"}`;
  fill(form, found.document);
}

if (form) {
  const working = work(form, {
    more: () => ({ with_base: byId("with-base").checked }),
    done: showImages,
  });
  const chooser = byId("file-record"), drop = byId("record");
  chooser.addEventListener("change", () => { for (const one of chooser.files) use(one, one.name); chooser.value = ""; });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    for (const one of event.dataTransfer.files) use(one, one.name);
  });
  form.querySelector("[name=run]").addEventListener("change", showImages);
  showImages();
  const earlier = unfinished(form);
  if (earlier) working.resume(earlier);
}
