"use strict";
// Without this script every layer stands below the other; with it, one layer and one step are shown.
(() => {
  const layers = [...document.querySelectorAll("section.layer")];
  const rows = [...document.querySelectorAll("tr[data-layer]")];
  const controls = document.querySelector(".controls");
  const choice = document.getElementById("choose-layer");
  const step = document.getElementById("choose-step");
  const told = document.getElementById("chosen-step");
  const SIDE = 224; // pixels of the enlarged map

  const facts = (layer) => JSON.parse(layer.dataset.facts);
  const chosen = () => layers[choice.selectedIndex];

  function canvasOf(layer) {
    const found = layer.querySelector("canvas");
    const maps = layer.querySelector(".maps");
    if (found || !maps) return found;
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    maps.prepend(canvas);
    return canvas;
  }

  function drawStep() {
    const layer = chosen(), { steps, rates, map } = facts(layer), i = Number(step.value);
    told.textContent = `${steps[i]}: ${(100 * rates[i]).toFixed(1)} % fire`;
    const canvas = canvasOf(layer);
    if (!canvas) return;
    const { width, height, across, gap } = map, scale = Math.max(1, Math.floor(SIDE / width));
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.setAttribute("aria-label", `firing rate by place, ${steps[i]}`);
    const pencil = canvas.getContext("2d");
    pencil.imageSmoothingEnabled = false;
    const x = (i % across) * (width + gap), y = Math.floor(i / across) * (height + gap);
    const strip = layer.querySelector(".strip img");
    pencil.drawImage(strip, x, y, width, height, 0, 0, canvas.width, canvas.height);
    const shown = strip.width / strip.naturalWidth, mark = layer.querySelector(".mark").style;
    mark.left = `${x * shown}px`;
    mark.top = `${y * shown}px`;
    mark.width = `${width * shown}px`;
    mark.height = `${height * shown}px`;
  }

  function pick(event) {
    const { map, steps } = facts(chosen()), strip = event.target;
    const shown = strip.width / strip.naturalWidth;
    const column = Math.floor(event.offsetX / shown / (map.width + map.gap));
    const row = Math.floor(event.offsetY / shown / (map.height + map.gap));
    step.value = Math.min(steps.length - 1, row * map.across + column);
    drawStep();
  }

  function show(number) {
    choice.selectedIndex = number;
    layers.forEach((layer, i) => layer.classList.toggle("chosen", i === number));
    rows.forEach((row, i) => row.classList.toggle("chosen", i === number));
    const last = facts(layers[number]).steps.length - 1;
    const share = step.max > 0 ? step.value / step.max : 0;
    step.max = last;
    step.value = Math.round(share * last);
    step.disabled = last === 0;
    drawStep();
  }

  function follow() {
    const number = layers.findIndex((layer) => `#${layer.id}` === location.hash);
    if (number >= 0) show(number);
  }

  document.body.classList.add("scripted");
  controls.hidden = false;
  choice.addEventListener("change", () => show(choice.selectedIndex));
  step.addEventListener("input", drawStep);
  document.querySelectorAll(".strip img").forEach((strip) => strip.addEventListener("click", pick));
  window.addEventListener("hashchange", follow);
  window.addEventListener("load", drawStep);
  show(0);
  follow();
})();
