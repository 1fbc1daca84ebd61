"use strict";

const PAGE = 60;
const SVG = "http://www.w3.org/2000/svg";
const WORDS = { found: "found", right: "found", missed: "missed", false: "false", wrong: "wrong class", crowd: "crowd", ignored: "on a crowd" };
const byId = (id) => document.getElementById(id);
const form = byId("filters");
const detail = byId("detail");
let about = null;
let first = 0; // the place of the page's first image among those that are wanted
let total = 0;
let shown = []; // the images of the page
let open = -1; // the place of the open image among those that are wanted
let asked = 0; // answers to earlier questions are dropped

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function hue(number) {
  return `hsl(${((number * 137.508) % 360).toFixed(1)} 75% 50%)`;
}

async function get(address) {
  const answer = await fetch(address);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.detail);
  return content;
}

function wanted() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value) query.set(name, value);
  return query;
}

function className(number) {
  return number < 0 ? "a class that the data lack" : about.classes[number];
}

// Boxes in pixels of the image, laid over it however large it is shown.
function overlay(image, sides) {
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  drawn.setAttribute("aria-hidden", "true");
  for (const [rows, guess] of sides) {
    for (const [x, y, width, height, number, state, score] of rows) {
      const box = document.createElementNS(SVG, "rect");
      for (const [name, value] of Object.entries({ x, y, width: Math.max(0, width), height: Math.max(0, height) })) box.setAttribute(name, value);
      box.setAttribute("class", `${state}${guess ? " guess" : ""}`);
      if (!about.model) box.setAttribute("stroke", hue(number));
      const title = document.createElementNS(SVG, "title");
      title.textContent = `${className(number)}${guess ? ` ${score.toFixed(2)}` : ""}${state ? `, ${WORDS[state]}` : ""}`;
      box.append(title);
      drawn.append(box);
    }
  }
  return drawn;
}

function frame(image, address, sides, mask) {
  const made = element("span", undefined, "frame");
  const pixels = element("img");
  pixels.loading = "lazy";
  pixels.alt = "";
  pixels.addEventListener("error", () => made.classList.add("empty"));
  pixels.src = address;
  made.append(pixels);
  if (mask) {
    const over = element("img", undefined, "mask");
    over.alt = "";
    over.src = mask;
    made.append(over);
  }
  if (image.boxes) made.append(overlay(image, sides));
  return made;
}

function counts(image) {
  const made = element("span", undefined, "counts");
  if (image.boxes) made.append(element("span", `${image.objects} object${image.objects === 1 ? "" : "s"}`));
  else made.append(element("span", className(image.label)));
  if (image.guesses && image.guesses.length) {
    const [number, probability] = image.guesses[0];
    made.append(element("b", `${className(number)} ${probability.toFixed(2)}`, number === image.label ? "right" : "wrong"));
  } else if (image.errors) {
    for (const [kind, count] of Object.entries(image.errors)) if (count) made.append(element("b", `${count} ${WORDS[kind]}`, kind));
  }
  if (image.faults.length) made.append(element("span", `${image.faults.length} fault${image.faults.length === 1 ? "" : "s"}`, "odd"));
  return made;
}

function tile(image, place) {
  const item = element("li");
  const button = element("button", undefined, "tile");
  button.type = "button";
  button.dataset.number = image.number;
  button.append(frame(image, `small/${image.number}`, [[image.boxes || [], false], [image.found || [], true]]));
  button.title = image.name;
  button.append(element("span", image.name.split(/[\\/]/).pop(), "name"), counts(image));
  button.setAttribute("aria-label", `${image.name}: ${button.querySelector(".counts").innerText}`);
  button.addEventListener("click", () => show(place));
  item.append(button);
  return item;
}

async function turn(to) {
  const mine = ++asked;
  const query = wanted();
  query.set("from", Math.max(0, to));
  query.set("count", PAGE);
  try {
    const found = await get(`images?${query}`);
    if (mine !== asked) return false;
    first = Math.max(0, to);
    total = found.total;
    shown = found.images;
  } catch (error) {
    if (mine === asked) byId("state").textContent = error.message;
    return false;
  }
  byId("tiles").replaceChildren(...shown.map((image, at) => tile(image, first + at)));
  byId("state").textContent = total ? `${first + 1} to ${first + shown.length} of ${total} images` : "No such image";
  byId("before").disabled = first === 0;
  byId("after").disabled = first + shown.length >= total;
  return true;
}

function figure(title, image, sides, mask) {
  const made = element("figure");
  made.append(frame(image, `whole/${image.number}`, sides, mask), element("figcaption", title));
  return made;
}

function fact(text, name) {
  byId("facts").append(element("li", text, name));
}

// Shows the image at a place among those that are wanted, on whichever page it is.
async function show(place) {
  if (place < 0 || place >= total) return;
  if ((place < first || place >= first + shown.length) && !(await turn(Math.floor(place / PAGE) * PAGE))) return;
  const image = shown[place - first];
  if (!image) return;
  open = place;
  byId("name").textContent = `${image.name} (${image.part})`;
  byId("place").textContent = `${place + 1} of ${total}`;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place + 1 >= total;
  byId("facts").replaceChildren();
  for (const text of image.faults) fact(text, "false");
  const [held, found] = image.masks || [false, false];
  const views = [figure("labels", image, [[image.boxes || [], false]], held && `masks/${image.number}`)];
  if (image.boxes) {
    if (about.model) views.push(figure(about.model, image, [[image.found, true]], found && `found/${image.number}`));
    for (const [, , width, height, number, state] of image.boxes) fact(`${className(number)}, ${Math.round(width)} x ${Math.round(height)} px${state ? `: ${WORDS[state]}` : ""}`, state);
    for (const [, , , , number, state, score] of image.found) if (state !== "right") fact(`${about.model}: ${className(number)} ${score.toFixed(2)}: ${WORDS[state]}`, state);
  } else {
    fact(`label: ${className(image.label)}`);
    for (const [number, probability] of image.guesses) fact(`${about.model}: ${className(number)} ${probability.toFixed(2)}`, number === image.label ? "right" : "");
  }
  byId("views").replaceChildren(...views);
  layers();
  if (!detail.open) detail.showModal();
}

function layers() {
  for (const mask of document.querySelectorAll("#views .mask")) mask.hidden = !byId("masks").checked;
  for (const boxes of document.querySelectorAll("#views svg")) boxes.toggleAttribute("hidden", !byId("boxes").checked);
}

function option(select, value, text) {
  const made = element("option", text);
  made.value = value;
  byId(select).append(made);
}

async function start() {
  about = await get("about");
  document.body.classList.toggle("judging", Boolean(about.model));
  document.body.classList.toggle("boxes", about.boxes);
  document.body.classList.toggle("masks", about.masks);
  byId("title").textContent = about.path;
  const classes = `${about.classes.length} class${about.classes.length === 1 ? "" : "es"}`;
  byId("about").textContent = `${about.format}, ${about.images} images, ${classes}${about.model ? `, looked at by ${about.model}` : ""}`;
  for (const part of about.parts) option("part", part.name, `${part.name} (${part.images})`);
  about.classes.forEach((name, number) => option("class", number, name));
  about.kinds.forEach((kind, number) => kind.images && option("fault", number, `${kind.text.slice(0, 80)} (${kind.images})`));
  if (about.homeless.count) {
    const box = byId("homeless");
    box.hidden = false;
    box.querySelector("summary").textContent = `${about.homeless.count} faults of no single image`;
    for (const text of about.homeless.told) box.querySelector("ul").append(element("li", text));
  }
  byId("order").value = about.model ? "worst" : "data";
  await turn(0);
}

form.addEventListener("change", () => turn(0));
form.addEventListener("submit", (event) => event.preventDefault());
byId("before").addEventListener("click", () => turn(first - PAGE));
byId("after").addEventListener("click", () => turn(first + PAGE));
byId("previous").addEventListener("click", () => show(open - 1));
byId("next").addEventListener("click", () => show(open + 1));
byId("close").addEventListener("click", () => detail.close());
byId("masks").addEventListener("change", layers);
byId("boxes").addEventListener("change", layers);
detail.addEventListener("close", () => byId("tiles").children[open - first]?.querySelector("button").focus());
detail.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") show(open - 1);
  else if (event.key === "ArrowRight") show(open + 1);
  else if (event.key === "m") byId("masks").click();
  else if (event.key === "b") byId("boxes").click();
});
start().catch((error) => { byId("state").textContent = error.message; });
