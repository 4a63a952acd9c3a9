import { ask, byId, problemItem } from "./common.js";

const dialog = byId("ask");
let run;
for (const button of document.querySelectorAll(".remove")) {
  button.addEventListener("click", () => {
    run = button.dataset.run;
    byId("refused").replaceChildren();
    byId("asked").textContent = `Remove ${run} (${button.dataset.size}) with its LoRAs, images and logs?`;
    dialog.showModal();
  });
}
byId("yes").addEventListener("click", async () => {
  const removed = await ask("/api/remove", { run });
  if (removed.problems) byId("refused").replaceChildren(...removed.problems.map(problemItem));
  else location.reload();
});
