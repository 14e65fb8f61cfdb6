// Moving hands in a browser: no libraries, no requests. Everything comes from the JSON in #data.
// The frame is the camera of the photograph (OpenCV: x right, y down, z forward, metres).
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const asked = new URLSearchParams(location.hash.slice(1)); // such as #t=1&play=0&view=side

  // -- numbers

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const hands = data.hands.map((hand) => ({
    ...hand,
    faces: new Uint16Array(bytes(hand.faces)),
    mean: new Float32Array(bytes(hand.mean)),
    basis: new Int16Array(bytes(hand.basis)),
    scale: new Float32Array(bytes(hand.scale)),
    share: new Int16Array(bytes(hand.share)),
    pose: new Float32Array(bytes(hand.pose)),
    there: new Uint8Array(bytes(hand.there)),
  }));
  const keys = data.keys; // stored frames of a future
  const length = data.seconds; // of the motion
  const futures = data.futures.length;

  // between which stored frames a time lies
  function moment(time) {
    const place = Math.min(Math.max(time / length, 0), 1) * (keys - 1) || 0;
    const first = Math.floor(place);
    return { first, second: Math.min(first + 1, keys - 1), part: place - first };
  }

  function blend(array, width, future, when) {
    const a = (future * keys + when.first) * width;
    const b = (future * keys + when.second) * width;
    const mixed = new Float32Array(width);
    for (let i = 0; i < width; i++) mixed[i] = array[a + i] * (1 - when.part) + array[b + i] * when.part;
    return mixed;
  }

  // quaternion (w, x, y, z), of any length → rows of the rotation
  function rotation(q) {
    const n = Math.hypot(...q) || 1;
    const [w, x, y, z] = q.map((value) => value / n);
    return [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ];
  }

  // vertices of a hand at a time, or null where it is absent
  function vertices(side, future, time) {
    const hand = hands[side];
    const when = moment(time);
    if (!hand.there[future * keys + when.first]) return null;
    const rank = hand.scale.length;
    const share = blend(hand.share, rank, future, when);
    const local = Float32Array.from(hand.mean);
    for (let k = 0; k < rank; k++) {
      const weight = share[k] * hand.scale[k];
      const start = k * local.length;
      for (let i = 0; i < local.length; i++) local[i] += weight * hand.basis[start + i];
    }
    const pose = blend(hand.pose, 7, future, when);
    const r = rotation([...pose.subarray(0, 4)]);
    const placed = new Float32Array(local.length);
    for (let i = 0; i < local.length; i += 3) {
      const [x, y, z] = [local[i], local[i + 1], local[i + 2]];
      placed[i] = r[0] * x + r[1] * y + r[2] * z + pose[4];
      placed[i + 1] = r[3] * x + r[4] * y + r[5] * z + pose[5];
      placed[i + 2] = r[6] * x + r[7] * y + r[8] * z + pose[6];
    }
    return placed;
  }

  function normals(points, faces) {
    const sums = new Float32Array(points.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [faces[f] * 3, faces[f + 1] * 3, faces[f + 2] * 3];
      const u = [0, 1, 2].map((i) => points[b + i] - points[a + i]);
      const v = [0, 1, 2].map((i) => points[c + i] - points[a + i]);
      const cross = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let i = 0; i < 3; i++) sums[corner + i] += cross[i];
    }
    return sums; // the shader makes them unit vectors
  }

  // -- matrices, column by column as WebGL has them

  function product(a, b) {
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++)
      for (let r = 0; r < 4; r++)
        for (let k = 0; k < 4; k++) out[c * 4 + r] += a[k * 4 + r] * b[c * 4 + k];
    return out;
  }
  const minus = (a, b) => a.map((value, i) => value - b[i]);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => a.map((value) => value / (Math.hypot(...a) || 1));
  const FLIP = new Float32Array([1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1]); // OpenCV → OpenGL

  function perspective(tangent, aspect, near, far) {
    const deep = near - far;
    return new Float32Array([
      1 / (tangent * aspect), 0, 0, 0, 0, 1 / tangent, 0, 0,
      0, 0, (far + near) / deep, -1, 0, 0, (2 * far * near) / deep, 0,
    ]);
  }
  function lookAt(eye, target) {
    const back = unit(minus(eye, target));
    const right = unit(cross([0, 1, 0], back));
    const up = cross(back, right);
    return new Float32Array([
      right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
    ]);
  }

  // -- drawing

  const canvas = byId("scene");
  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    const note = document.createElement("div");
    note.className = "panel";
    note.id = "trouble";
    note.textContent = "This page draws with WebGL, which this browser does not offer or has switched off.";
    document.body.append(note);
    return;
  }

  function program(vertex, fragment) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    return made;
  }
  const meshes = program(
    `attribute vec3 place, normal; uniform mat4 view, screen; varying vec3 n, eye;
     void main() { vec4 p = view*vec4(place, 1.); eye = -p.xyz; n = (view*vec4(normal, 0.)).xyz;
       gl_Position = screen*p; }`,
    `precision mediump float; varying vec3 n, eye; uniform vec3 color;
     void main() { vec3 m = normalize(n), e = normalize(eye), light = normalize(vec3(-.4, .8, .6));
       if (dot(m, e) < 0.) m = -m;
       float soft = .62 + .38*dot(m, light); float shine = pow(max(dot(m, normalize(light + e)), 0.), 24.);
       gl_FragColor = vec4(color*soft + .12*shine, 1.); }`,
  );
  const lines = program( // each piece of a line is a rectangle that faces the reader
    `attribute vec3 place, other; attribute float side; attribute vec3 tint; uniform mat4 view, screen;
     uniform vec2 size; uniform float wide; varying vec3 color;
     void main() { vec4 a = screen*view*vec4(place, 1.), b = screen*view*vec4(other, 1.);
       vec2 way = (b.xy/max(b.w, .001) - a.xy/max(a.w, .001))*size; float far = length(way);
       vec2 across = far > 0. ? vec2(-way.y, way.x)/far : vec2(0.);
       a.xy += across*side*wide/size*a.w; color = tint; gl_Position = a; }`,
    `precision mediump float; varying vec3 color; void main() { gl_FragColor = vec4(color, 1.); }`,
  );
  const pictures = program(
    `attribute vec3 place; attribute vec2 uv; uniform mat4 view, screen; varying vec2 at;
     void main() { at = uv; gl_Position = screen*view*vec4(place, 1.); }`,
    `precision mediump float; varying vec2 at; uniform sampler2D photo;
     void main() { gl_FragColor = texture2D(photo, at); }`,
  );

  const buffers = new Map();
  function feed(made, name, width, array) {
    const where = gl.getAttribLocation(made, name);
    if (!buffers.has(name)) buffers.set(name, gl.createBuffer());
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.get(name));
    gl.bufferData(gl.ARRAY_BUFFER, array, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(where);
    gl.vertexAttribPointer(where, width, gl.FLOAT, false, 0, 0);
    return where;
  }
  function start(made, eye) {
    gl.useProgram(made);
    gl.uniformMatrix4fv(gl.getUniformLocation(made, "view"), false, eye.view);
    gl.uniformMatrix4fv(gl.getUniformLocation(made, "screen"), false, eye.screen);
  }
  function finish(used) {
    for (const where of used) gl.disableVertexAttribArray(where);
  }

  const indices = hands.map((hand) => {
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, hand.faces, gl.STATIC_DRAW);
    return buffer;
  });
  function drawHand(eye, side, future, pale) {
    const points = vertices(side, future, state.time);
    if (!points) return;
    start(meshes, eye);
    const used = [feed(meshes, "place", 3, points), feed(meshes, "normal", 3, normals(points, hands[side].faces))];
    gl.uniform3fv(gl.getUniformLocation(meshes, "color"), mixed(hands[side].color, pale));
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, indices[side]);
    gl.drawElements(gl.TRIANGLES, hands[side].faces.length, gl.UNSIGNED_SHORT, 0);
    finish(used);
  }
  const mixed = (color, pale) => color.map((value) => value + (1 - value) * pale);

  function drawLines(eye, pieces, wide) { // pieces: [from, to, color]
    if (!pieces.length) return;
    const place = [], other = [], side = [], tint = [];
    for (const [from, to, color] of pieces)
      for (const [here, there, which] of [
        [from, to, 1], [from, to, -1], [to, from, -1], [to, from, -1], [from, to, -1], [to, from, 1],
      ]) {
        place.push(...here); other.push(...there); side.push(which); tint.push(...color);
      }
    start(lines, eye);
    gl.uniform2f(gl.getUniformLocation(lines, "size"), canvas.width, canvas.height);
    gl.uniform1f(gl.getUniformLocation(lines, "wide"), wide * ratio());
    const used = [
      feed(lines, "place", 3, new Float32Array(place)), feed(lines, "other", 3, new Float32Array(other)),
      feed(lines, "side", 1, new Float32Array(side)), feed(lines, "tint", 3, new Float32Array(tint)),
    ];
    gl.drawArrays(gl.TRIANGLES, 0, side.length);
    finish(used);
  }

  function wrist(side, future, key) {
    const start = (future * keys + key) * 7 + 4;
    return [...hands[side].pose.subarray(start, start + 3)];
  }
  function way(side, future) {
    const pieces = [];
    for (let key = 1; key < keys; key++) {
      if (!hands[side].there[future * keys + key]) continue;
      const color = mixed(hands[side].color, (0.65 * key) / keys);
      pieces.push([wrist(side, future, key - 1), wrist(side, future, key), color]);
    }
    return pieces;
  }
  function gridLines() {
    const pieces = [], step = 0.1, [x, , z] = box.middle, y = box.high[1];
    const [cx, cz] = [Math.round(x / step) * step, Math.round(z / step) * step];
    for (let i = -6; i <= 6; i++) {
      pieces.push([[cx + i * step, y, cz - 0.6], [cx + i * step, y, cz + 0.6], [0.78, 0.78, 0.76]]);
      pieces.push([[cx - 0.6, y, cz + i * step], [cx + 0.6, y, cz + i * step], [0.78, 0.78, 0.76]]);
    }
    return pieces;
  }

  // the photograph, upright in the view of its camera, behind all hands
  const corners = data.photo && data.photo.rays.map((ray) => ray.map((value) => value * data.photo.depth));
  let texture = null;
  function drawPhoto(eye) {
    start(pictures, eye);
    const [a, b, c, d] = corners;
    const used = [
      feed(pictures, "place", 3, new Float32Array([a, b, c, a, c, d].flat())),
      feed(pictures, "uv", 2, new Float32Array([0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1])),
    ];
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.drawArrays(gl.TRIANGLES, 0, 6);
    finish(used);
  }
  function frustum() {
    const grey = [0.6, 0.6, 0.6];
    return corners.flatMap((corner, i) => [[[0, 0, 0], corner, grey], [corner, corners[(i + 1) % 4], grey]]);
  }
  if (data.photo) {
    const image = new Image();
    image.onload = () => {
      texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, image);
      for (const [name, value] of [
        [gl.TEXTURE_MIN_FILTER, gl.LINEAR], [gl.TEXTURE_MAG_FILTER, gl.LINEAR],
        [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
      ]) gl.texParameteri(gl.TEXTURE_2D, name, value);
      state.dirty = true;
    };
    image.src = data.photo.jpeg;
  }

  // -- where the reader stands

  const box = (() => { // around the wrists and a hand's length
    const low = [9, 9, 9], high = [-9, -9, -9];
    hands.forEach((hand, side) => {
      if (!hand.shown) return;
      for (let future = 0; future < futures; future++)
        for (let key = 0; key < keys; key++) {
          if (!hand.there[future * keys + key]) continue;
          wrist(side, future, key).forEach((value, i) => {
            low[i] = Math.min(low[i], value - 0.12);
            high[i] = Math.max(high[i], value + 0.12);
          });
        }
    });
    if (low[0] > high[0]) return { low: [-0.3, -0.3, 0.3], high: [0.3, 0.3, 0.9], middle: [0, 0, 0.6], radius: 0.4 };
    const middle = low.map((value, i) => (value + high[i]) / 2);
    return { low, high, middle, radius: Math.hypot(...minus(high, low)) / 2 };
  })();
  const centre = [box.middle[0], -box.middle[1], -box.middle[2]]; // y up from here on
  const aspect = () => canvas.width / Math.max(canvas.height, 1);
  const lens = data.photo ? data.photo.tangents : [0.577, 0.433]; // of half the photograph, across and down
  const tangent = () => Math.max(lens[1], lens[0] / aspect()) * 1.05;
  const apart = () => (1.1 * box.radius) / Math.min(tangent(), tangent() * aspect());
  const VIEWS = {
    camera: () => ({ target: [0, 0, centre[2]], yaw: 0, pitch: 0, away: -centre[2] }),
    slant: () => ({ target: centre, yaw: 0.55, pitch: 0.3, away: apart() }),
    side: () => ({ target: centre, yaw: 1.5, pitch: 0.1, away: apart() }),
    above: () => ({ target: centre, yaw: 0, pitch: 1.5, away: apart() }),
  };
  const state = {
    time: 0, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches, dirty: true,
    view: null, goal: null, future: 0,
  };
  const ratio = () => Math.min(devicePixelRatio || 1, 2);
  function eyes() {
    const { target, yaw, pitch, away } = state.view;
    const eye = [
      target[0] + away * Math.sin(yaw) * Math.cos(pitch), target[1] + away * Math.sin(pitch),
      target[2] + away * Math.cos(yaw) * Math.cos(pitch),
    ];
    const screen = perspective(tangent(), aspect(), 0.01, 50);
    return { view: product(lookAt(eye, target), FLIP), screen, fromCamera: Math.hypot(...eye) };
  }
  function approach() { // glide to a chosen view
    if (!state.goal) return;
    const { view, goal } = state;
    let left = 0;
    const nearer = (a, b) => { left = Math.max(left, Math.abs(b - a)); return a + 0.2 * (b - a); };
    state.view = {
      target: view.target.map((value, i) => nearer(value, goal.target[i])),
      yaw: nearer(view.yaw, goal.yaw), pitch: nearer(view.pitch, goal.pitch), away: nearer(view.away, goal.away),
    };
    if (left < 1e-3) state.goal = null;
    state.dirty = true;
  }

  // -- a picture

  const shown = (side) => byId(`hand${side}`).checked;
  function draw() {
    const eye = eyes();
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.957, 0.957, 0.945, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    if (texture && byId("photo").checked) {
      drawPhoto(eye);
      if (eye.fromCamera > 0.15) drawLines(eye, frustum(), 1);
    }
    if (byId("grid").checked) drawLines(eye, gridLines(), 1);
    const all = state.future < 0;
    for (let future = 0; future < futures; future++) {
      if (!all && future !== state.future) continue;
      for (let side = 0; side < 2; side++) {
        if (!shown(side)) continue;
        drawHand(eye, side, future, all && future ? 0.45 : 0);
        if (byId("ways").checked) drawLines(eye, way(side, future), 2.5);
      }
    }
  }

  // -- controls

  const slider = byId("slider");
  function setTime(time) {
    state.time = Math.min(Math.max(time, 0), length);
    slider.value = state.time;
    byId("seconds").textContent = `${state.time.toFixed(2)} of ${length.toFixed(2)} s`;
    state.dirty = true;
  }
  function setPlaying(playing) {
    state.playing = playing;
    if (playing && state.time >= length) setTime(0);
    byId("play").textContent = playing ? "❚❚" : "▶";
  }
  function setFuture(future) {
    state.future = future;
    byId("future").value = future;
    state.dirty = true;
  }
  function setView(name) {
    state.goal = (VIEWS[name] || VIEWS.slant)();
    state.dirty = true;
  }

  data.futures.forEach((name, i) => byId("future").add(new Option(name, i)));
  if (futures > 1) byId("future").add(new Option("all of them", -1));
  hands.forEach((hand, side) => {
    const label = document.createElement("label");
    const tick = Object.assign(document.createElement("input"), { type: "checkbox", id: `hand${side}`, checked: hand.shown });
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${hand.color.map((value) => Math.round(255 * value))})`;
    label.append(tick, swatch, hand.name);
    byId("hands").append(label);
  });
  byId("photo").checked = !!data.photo;
  byId("photo").disabled = !data.photo;
  byId("ways").checked = true;
  byId("grid").checked = !data.photo;
  slider.max = length;

  byId("show").addEventListener("change", (event) => {
    if (event.target.id === "future") setFuture(+event.target.value);
    state.dirty = true;
  });
  byId("views").addEventListener("click", (event) => event.target.dataset.view && setView(event.target.dataset.view));
  byId("play").addEventListener("click", () => setPlaying(!state.playing));
  slider.addEventListener("input", () => { setPlaying(false); setTime(+slider.value); });
  addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT", "BUTTON"].includes(event.target.tagName) && event.key !== "Escape") return;
    if (event.key === " ") { setPlaying(!state.playing); event.preventDefault(); }
    if (event.key === "ArrowRight") { setPlaying(false); setTime(state.time + 1 / data.fps); }
    if (event.key === "ArrowLeft") { setPlaying(false); setTime(state.time - 1 / data.fps); }
  });

  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    state.goal = null;
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const was = Math.hypot(...minus(before, other)), is = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      zoom(was / Math.max(is, 1));
    } else if (event.buttons === 2 || event.shiftKey) pan(dx, dy);
    else turn(dx, dy);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(event.deltaY * 0.001)); }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  function turn(dx, dy) {
    state.view.yaw -= dx * 0.006;
    state.view.pitch = Math.min(Math.max(state.view.pitch + dy * 0.006, -1.5), 1.5);
    state.dirty = true;
  }
  function pan(dx, dy) {
    const { target, yaw, away } = state.view, step = (2 * away * tangent()) / canvas.clientHeight;
    state.view.target = [target[0] - dx * step * Math.cos(yaw), target[1] + dy * step, target[2] + dx * step * Math.sin(yaw)];
    state.dirty = true;
  }
  function zoom(factor) {
    state.goal = null;
    state.view.away = Math.min(Math.max(state.view.away * factor, 0.05), 20);
    state.dirty = true;
  }

  // -- going

  function fit() {
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio())));
    if (canvas.width === width && canvas.height === height) return;
    [canvas.width, canvas.height] = [width, height];
    state.dirty = true;
  }
  let last = null;
  function tick(now) {
    fit();
    approach();
    if (state.playing && last !== null) {
      const next = state.time + ((now - last) / 1000) * +byId("speed").value;
      if (next <= length) setTime(next);
      else if (byId("loop").checked && length > 0) setTime(next % length);
      else { setTime(length); setPlaying(false); }
    }
    last = now;
    if (state.dirty) { state.dirty = false; draw(); }
    requestAnimationFrame(tick);
  }
  fit();
  const first = data.photo ? VIEWS.camera : VIEWS.slant; // on the photograph, until the reader turns
  state.view = (VIEWS[asked.get("view")] || first)();
  setFuture(Math.max(-1, Math.min(futures - 1, +(asked.get("future") || 0))));
  setTime(+(asked.get("t") || 0));
  setPlaying(asked.has("play") ? asked.get("play") === "1" : state.playing);
  globalThis.viewer = { data, state, vertices, setTime, setPlaying, setFuture, setView };
  requestAnimationFrame(tick);
})();
