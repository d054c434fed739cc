"use strict";
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  vegaEmbed(place, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } });
}
for (const gallery of document.querySelectorAll(".gallery")) {
  const pictures = [...gallery.querySelectorAll(".picture")];
  let at = 0;
  const turn = (step) => {
    pictures[at].classList.remove("shown");
    at = (at + step + pictures.length) % pictures.length;
    pictures[at].classList.add("shown");
    gallery.querySelector("output").textContent = `${at + 1} of ${pictures.length}`;
  };
  gallery.classList.add("paged");
  gallery.addEventListener("click", (event) => turn(Number(event.target.dataset.step ?? 0)));
  gallery.addEventListener("keydown", (event) => turn({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0));
  turn(0);
}
