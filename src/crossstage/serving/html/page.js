"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const LONGEST = 1600; // pixels of a side of the canvas
  const CALM = 200; // ms without another move of a slider before the server is asked again
  const STAGES = { decode: "decode", preprocess: "preprocess", run: "run", total: "total, on the server", trip: "round trip" };

  let models = [];
  let shown = null; // { bitmap, file, answer }: what the canvas shows
  let asked = 0; // the number of the latest question: answers to earlier ones are dropped
  let stream = null;

  const chosen = () => models.find((one) => one.name === byId("model").value && one.runtime === byId("runtime").value);
  const say = (text, bad = false) => {
    byId("state").textContent = text;
    byId("state").classList.toggle("bad", bad);
  };
  const cell = (tag, text, number) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (number) made.className = "number";
    return made;
  };
  const rowOf = (cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  };
  const rgbOf = (id) => {
    const hue = (id * 137.508) % 360; // the golden angle: neighbours differ
    const part = (shift) => {
      const at = (shift + hue / 30) % 12;
      return Math.round(255 * (0.5 - 0.4 * Math.max(-1, Math.min(at - 3, 9 - at, 1))));
    };
    return [part(0), part(8), part(4)];
  };
  const colourOf = (id) => `rgb(${rgbOf(id).join(",")})`;

  function query(least) {
    const model = chosen();
    const given = new URLSearchParams({ model: model.name, runtime: model.runtime });
    if (model.task === "detect") {
      given.set("conf", least ? Math.max(model.conf.least, Number(byId("conf").min)) : byId("conf").value);
      if (!model.iou.fixed) given.set("iou", byId("iou").value);
    }
    return given;
  }

  async function ask() {
    if (!shown || !chosen()) return;
    const number = ++asked;
    const start = performance.now();
    const about = shown;
    say("Looking.");
    try {
      const form = new FormData();
      form.append("image", about.file, about.file.name || "image");
      const response = await fetch(`v1/predict?${query(true)}`, { method: "POST", body: form });
      const answer = await response.json();
      if (number !== asked || shown !== about) return;
      if (!response.ok) throw new Error(answer.detail);
      answer.milliseconds.trip = performance.now() - start;
      about.answer = answer;
      if (!about.bitmap) blank(about);
      draw();
    } catch (error) {
      if (number !== asked) return;
      about.answer = null;
      draw();
      say(error.message, true);
    }
  }

  function blank(about) { // a format that the server reads and this browser does not
    const canvas = new OffscreenCanvas(about.answer.width || 640, about.answer.height || 480);
    canvas.getContext("2d");
    about.bitmap = canvas;
  }

  const kept = (answer) => answer.detections.filter((found) => found.confidence > Number(byId("conf").value));

  function draw() {
    const canvas = byId("canvas");
    canvas.hidden = !shown?.bitmap;
    byId("hint").hidden = !canvas.hidden;
    if (canvas.hidden) return;
    const { bitmap, answer } = shown;
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "white"; // what is transparent lies on white for the network, too
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    if (answer) (answer.detections ? drawObjects : drawClasses)(context, answer);
    list(answer);
  }

  function drawObjects(context, answer) {
    const { width, height } = context.canvas;
    const found = kept(answer);
    const masks = found.filter((one) => one.mask);
    if (masks.length) {
      const pixels = context.getImageData(0, 0, width, height);
      for (const one of masks) tint(pixels, one.mask, rgbOf(one.class_id), 0.45);
      context.putImageData(pixels, 0, 0);
    }
    const line = Math.max(2, Math.round(Math.max(width, height) / 400));
    for (const one of [...found].reverse()) { // the best on top
      const [left, top, right, bottom] = one.box_xyxy.map((side, place) => side * (place % 2 ? height / answer.height : width / answer.width));
      context.strokeStyle = colourOf(one.class_id);
      context.lineWidth = line;
      context.strokeRect(left, top, right - left, bottom - top);
      label(context, `${one.class_name} ${one.confidence.toFixed(2)}`, left, top, one.class_id, line);
    }
  }

  function drawClasses(context, answer) {
    const [best] = answer.classes;
    label(context, `${best.class_name} ${best.probability.toFixed(2)}`, 0, 0, best.class_id, Math.max(2, context.canvas.width / 300));
  }

  function label(context, text, left, top, id, line) {
    const size = 6 * line + 4;
    context.font = `${size}px system-ui, sans-serif`;
    const across = context.measureText(text).width + size / 2;
    const above = top >= size * 1.3 ? top - size * 1.3 : top;
    context.fillStyle = colourOf(id);
    context.fillRect(left - line / 2, above, across, size * 1.3);
    const [red, green, blue] = rgbOf(id);
    context.fillStyle = red * 0.3 + green * 0.59 + blue * 0.11 > 140 ? "black" : "white";
    context.textBaseline = "middle";
    context.fillText(text, left + size / 4, above + size * 0.68);
  }

  function list(answer) {
    const rows = [];
    const entries = !answer ? [] : answer.detections
      ? kept(answer).map((one) => [one.class_id, one.class_name, one.confidence])
      : answer.classes.map((one) => [one.class_id, one.class_name, one.probability]);
    for (const [id, name, share] of entries) {
      const first = cell("td", name);
      const dot = document.createElement("span");
      dot.className = "dot";
      dot.style.background = colourOf(id);
      first.prepend(dot);
      rows.push(rowOf([first, cell("td", share.toFixed(answer.classes ? 3 : 2), true)]));
    }
    byId("objects").replaceChildren(...rows);
    const told = summary(answer, entries);
    byId("canvas").setAttribute("aria-label", told);
    if (answer) say(told);
    byId("latency").tBodies[0].replaceChildren(...Object.entries(STAGES).filter(([key]) => answer).map(([key, title]) =>
      rowOf([cell("td", title), cell("td", `${answer.milliseconds[key].toFixed(1)} ms`, true)])));
    command();
  }

  function summary(answer, entries) {
    if (!answer) return "An image without an answer";
    if (answer.classes) return `${entries[0][1]} ${entries[0][2].toFixed(2)}`;
    const counts = new Map();
    for (const [, name] of entries) counts.set(name, (counts.get(name) || 0) + 1);
    const told = [...counts].map(([name, count]) => `${count} ${name}`).join(", ");
    return entries.length ? `${entries.length} ${entries.length === 1 ? "object" : "objects"}: ${told}` : "No object found";
  }

  function command() {
    if (chosen()) byId("command").textContent = `curl -F image=@photo.jpg '${new URL("v1/predict", location.href)}?${query(false)}'`;
  }

  async function show(file, again = false) {
    if (!again) stop();
    const about = { file, bitmap: null, answer: null };
    try {
      about.bitmap = await createImageBitmap(file);
    } catch {
      say("This browser cannot show the image; the server may read it.");
    }
    shown = about;
    if (!again) draw();
    await ask();
  }

  async function film() {
    if (stream) {
      stop();
      return;
    }
    if (!navigator.mediaDevices) {
      say("Browsers film for pages of this machine or by https alone.", true);
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      say(`The camera cannot be used: ${error.message}`, true);
      return;
    }
    byId("camera").setAttribute("aria-pressed", "true");
    byId("camera").textContent = "Stop the camera";
    const video = byId("video");
    video.srcObject = stream;
    await video.play();
    const frame = document.createElement("canvas");
    while (stream) {
      frame.width = video.videoWidth;
      frame.height = video.videoHeight;
      frame.getContext("2d").drawImage(video, 0, 0);
      const file = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
      if (stream && file) await show(file, true);
      await new Promise(requestAnimationFrame);
    }
  }

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = null;
    byId("video").srcObject = null;
    byId("camera").setAttribute("aria-pressed", "false");
    byId("camera").textContent = "Use the camera";
  }

  function fill() { // runtimes and sliders of the chosen model
    const name = byId("model").value;
    const before = byId("runtime").value;
    const able = models.filter((one) => one.name === name).map((one) => one.runtime);
    byId("runtime").replaceChildren(...able.map((runtime) => new Option(runtime)));
    if (able.includes(before)) byId("runtime").value = before;
    const model = chosen();
    byId("sliders").hidden = model.task !== "detect";
    if (model.task === "detect") {
      byId("conf").min = Math.max(0.05, model.conf.least);
      byId("conf").value = Math.max(Number(byId("conf").value), model.conf.least);
      byId("iou").value = model.iou.default;
      byId("iou").disabled = model.iou.fixed;
    }
    const { height, width } = model.input;
    byId("about").textContent = `${model.name} in ${model.runtime}: ${model.classes.length} classes, input ${width} × ${height}.`;
    values();
    command();
  }

  function values() {
    for (const id of ["conf", "iou"]) byId(`${id}-value`).textContent = Number(byId(id).value).toFixed(2);
  }

  async function begin() {
    for (;;) {
      const answer = await fetch("v1/models").then((response) => response.json()).catch(() => ({ models: [] }));
      models = answer.models;
      if (models.length) break;
      await new Promise((done) => setTimeout(done, 500));
    }
    byId("model").append(...[...new Set(models.map((one) => one.name))].map((name) => new Option(name)));
    byId("conf").value = models[0].conf?.default ?? 0.25;
    fill();
    await ask();
  }

  const changed = () => {
    fill();
    ask();
  };
  byId("model").addEventListener("change", changed);
  byId("runtime").addEventListener("change", changed);
  byId("conf").addEventListener("input", () => {
    values();
    if (shown?.answer) draw();
    command();
  });
  let calm;
  byId("iou").addEventListener("input", () => {
    values();
    command();
    clearTimeout(calm);
    calm = setTimeout(ask, CALM);
  });
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) show(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
  byId("camera").addEventListener("click", film);
  const imageOf = (data) => [...(data?.files ?? [])][0];
  addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
    if (file) show(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
  addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    const file = imageOf(event.dataTransfer);
    if (file) show(file);
  });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
  begin();
})();
