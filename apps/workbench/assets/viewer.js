// The slide beside the chat: deep zoom, scale bar, what was found drawn over it, and the tools that draw a region.
//
// The page tells what to show in the attribute data-state of #viewer-state (JSON; see `state` in viewer.py), and is
// told of what was drawn through #viewer-said. Nothing here comes from elsewhere: Leaflet is served beside this file.
"use strict";

(() => {
  const { Shapes, Overlay } = window.slidekickShapes;
  const FILL = 0.35; // opacity of what is drawn at first

  /** Length on the slide: a round number of µm or mm, or pixels where the scale is unknown. */
  const ScaleBar = L.Control.extend({
    options: { position: "bottomleft" },
    initialize(mpp) {
      this._mpp = mpp;
    },
    onAdd(map) {
      this._line = L.DomUtil.create("div", "scale-bar");
      map.on("move zoomend", this._update, this);
      this._map = map;
      this._update();
      return this._line;
    },
    onRemove(map) {
      map.off("move zoomend", this._update, this);
    },
    _update() {
      const px = 1 / this._map.getZoomScale(this._map.getZoom(), this._map.last); // level-0 px a screen px
      const unit = this._mpp ? px * this._mpp : px;
      const most = unit * 140;
      const power = 10 ** Math.floor(Math.log10(most));
      const length = [5, 2, 1].map((one) => one * power).find((one) => one <= most) || power;
      this._line.style.width = `${length / unit}px`;
      this._line.textContent = this._mpp
        ? length >= 1000 ? `${length / 1000} mm` : `${length} µm`
        : `${length} px`;
    },
  });

  /** What is drawn by hand: a box, a polygon, or points that correct a mask. */
  class Drawing {
    constructor(map, said) {
      this.map = map;
      this.said = said;
      this.mode = null;
      this.sketch = null;
      map.on("mousedown", (event) => this.down(event));
      map.on("mousemove", (event) => this.move(event));
      map.on("mouseup", (event) => this.up(event));
      map.on("click", (event) => this.click(event));
      map.on("dblclick", () => this.mode === "polygon" && this.end());
      map.getContainer().addEventListener("keydown", (event) => {
        if (event.key === "Escape") this.set(null);
        if (event.key === "Enter" && this.mode === "polygon") this.end();
      });
    }

    set(mode) {
      this.mode = mode;
      this.clear();
      this.map.dragging[mode ? "disable" : "enable"]();
      this.map.doubleClickZoom[mode ? "disable" : "enable"]();
      this.map.getContainer().classList.toggle("drawing", Boolean(mode));
      for (const button of document.querySelectorAll(".viewer-tools [data-mode]")) {
        button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
      }
    }

    clear() {
      if (this.sketch) this.sketch.remove();
      this.sketch = null;
      this.corners = [];
    }

    down(event) {
      if (this.mode !== "box") return;
      this.from = event.latlng;
      this.sketch = L.rectangle([this.from, this.from], { className: "sketch" }).addTo(this.map);
    }

    move(event) {
      if (this.mode === "box" && this.sketch) this.sketch.setBounds(L.latLngBounds(this.from, event.latlng));
      if (this.mode === "polygon" && this.sketch) this.sketch.setLatLngs([...this.corners, event.latlng]);
    }

    up(event) {
      if (this.mode !== "box" || !this.sketch) return;
      const box = boxOf(L.latLngBounds(this.from, event.latlng), this.map.slide);
      this.set(null);
      if (box[2] >= 8 && box[3] >= 8) this.said({ kind: "region", box });
    }

    click(event) {
      const place = pixelOf(event.latlng);
      if (this.mode === "polygon") {
        this.corners.push(event.latlng);
        if (!this.sketch) this.sketch = L.polygon(this.corners, { className: "sketch" }).addTo(this.map);
      } else if (this.mode === "in" || this.mode === "out") {
        this.said({ kind: "point", x: place[0], y: place[1], inside: this.mode === "in" });
      } else if (!this.mode) {
        this.map.fire("pick", { latlng: event.latlng, place });
      }
    }

    end() {
      const corners = this.corners.map(pixelOf).filter((one, i, all) => !i || one.join() !== all[i - 1].join());
      this.set(null);
      if (corners.length >= 3) this.said({ kind: "region", polygon: corners });
    }
  }

  const pixelOf = (latlng) => [Math.round(latlng.lng), Math.round(latlng.lat)];

  function boxOf(bounds, slide) {
    const clip = (value, most) => Math.min(Math.max(Math.round(value), 0), most);
    const [left, right] = [clip(bounds.getWest(), slide.width), clip(bounds.getEast(), slide.width)];
    const [low, high] = [bounds.getSouth(), bounds.getNorth()].sort((a, b) => a - b);
    const [top, bottom] = [clip(low, slide.height), clip(high, slide.height)];
    return [left, top, right - left, bottom - top];
  }

  const save = (href, download) => Object.assign(document.createElement("a"), { href, download }).click();

  const boundsOf = ([x, y, width, height]) => L.latLngBounds([y, x], [y + height, x + width]);

  /** The viewer of the page. */
  class Viewer {
    constructor(element, said) {
      this.element = element;
      this.said = said;
      this.kept = new Map(); // shapes by address
      this.settings = JSON.parse(localStorage.getItem("slidekick-overlays") || "{}");
    }

    async show(state) {
      if (!state.base) return this.close(state);
      if (!this.state || this.state.base !== state.base) this.open(state);
      this.state = state;
      this.region(state.region);
      this.points(state.points || []);
      if (state.fly && state.fly.number !== this.flown) {
        this.flown = state.fly.number;
        this.map.flyToBounds(boundsOf(state.fly.box).pad(0.25), { maxZoom: this.map.last + 1, duration: 0.6 });
        this.element.focus({ preventScroll: true });
      }
      if (!(await this.concepts(state))) return; // another state has come meanwhile
      this.element.dataset.ready = String(state.number);
    }

    close(state = null) {
      if (this.map) this.map.remove();
      this.map = this.flown = null;
      this.state = state;
      this.element.dataset.ready = "";
    }

    open(state) {
      this.close();
      const last = state.levels - 1;
      const part = 1 / 2 ** last;
      const crs = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(part, 0, part, 0) });
      const whole = boundsOf([0, 0, state.width, state.height]);
      const map = (this.map = L.map(this.element, {
        crs, attributionControl: false, zoomSnap: 0.25, zoomDelta: 1, maxZoom: last + 3, minZoom: 0, fadeAnimation: false,
        maxBounds: whole.pad(0.5), maxBoundsViscosity: 0.7, keyboard: true,
      }));
      map.last = last;
      map.slide = state;
      const tiles = L.tileLayer(`${state.base}/tiles/{z}/{x}_{y}.jpeg`, {
        tileSize: state.tile, maxNativeZoom: last, maxZoom: last + 3, minZoom: 0, noWrap: true, bounds: whole,
        keepBuffer: 4,
      });
      // Those at the slide's edge are smaller, and would be stretched; half a pixel more hides the seams between tiles.
      tiles.on("tileload", ({ tile }) => {
        const scale = tiles.getTileSize().x / state.tile;
        tile.style.width = `${tile.naturalWidth * scale + 0.5}px`;
        tile.style.height = `${tile.naturalHeight * scale + 0.5}px`;
      });
      tiles.addTo(map);
      map.fitBounds(whole);
      map.setMinZoom(Math.max(0, Math.floor(map.getZoom()) - 1));
      this.overlay = new Overlay().addTo(map);
      new ScaleBar(state.mpp ? (state.mpp[0] + state.mpp[1]) / 2 : null).addTo(map);
      this.drawing = new Drawing(map, this.said);
      this.pinned = L.layerGroup().addTo(map);
      map.on("pick", (event) => this.pick(event));
    }

    export() {
      save(this.state.history, "slidekick.json");
    }

    exportShapes() {
      if (this.state && this.state.base) save(`${this.state.base}/shapes.geojson`, "shapes.geojson");
    }

    region(region) {
      if (this.outline) this.outline.remove();
      this.outline = null;
      if (!region) return;
      const style = { className: "region", fill: false, interactive: false };
      this.outline = region.polygon
        ? L.polygon(region.polygon.map(([x, y]) => [y, x]), style)
        : L.rectangle(boundsOf(region.box), style);
      this.outline.addTo(this.map);
    }

    points(points) {
      this.pinned.clearLayers();
      for (const [x, y, inside] of points) {
        L.circleMarker([y, x], { radius: 5, className: inside ? "point in" : "point out" }).addTo(this.pinned);
      }
    }

    /** Draw what was found; false where another state has taken this one's place before all was fetched. */
    async concepts(state) {
      const shown = [];
      for (const one of state.concepts || []) {
        const address = `${state.base}/shapes/${one.number}?v=${one.version}`;
        if (one.found && !this.kept.has(address)) {
          const reply = await fetch(address);
          if (reply.ok) this.kept.set(address, new Shapes(await reply.arrayBuffer()));
        }
        if (this.state !== state) return false;
        const own = this.settings[one.name] || {};
        shown.push({
          ...one, shapes: this.kept.get(address), shown: own.shown ?? !one.quiet, opacity: own.opacity ?? FILL,
        });
      }
      this.overlay.show(shown);
      this.legend(shown);
      return true;
    }

    legend(concepts) {
      const list = document.getElementById("viewer-legend");
      if (!list) return;
      list.replaceChildren(...concepts.map((one) => this.entry(one)));
    }

    entry(one) {
      const entry = document.createElement("div");
      entry.className = one.found ? "entry" : "entry absent";
      if (!one.found) {
        entry.textContent = one.told;
        return entry;
      }
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: one.shown });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = one.colour;
      label.append(box, swatch, one.told);
      const slider = Object.assign(document.createElement("input"), {
        type: "range", min: 0, max: 100, value: Math.round(100 * one.opacity),
      });
      slider.setAttribute("aria-label", `Opacity of ${one.name}`);
      const set = () => {
        one.shown = box.checked;
        one.opacity = slider.value / 100;
        this.settings[one.name] = { shown: one.shown, opacity: one.opacity };
        localStorage.setItem("slidekick-overlays", JSON.stringify(this.settings));
        this.overlay.redraw();
      };
      box.addEventListener("change", set);
      slider.addEventListener("input", set);
      entry.append(label, slider);
      return entry;
    }

    async pick({ latlng, place }) {
      const reply = await fetch(`${this.state.base}/at?x=${place[0]}&y=${place[1]}`);
      if (!reply.ok) return;
      const told = await reply.json();
      if (!told.lines.length) return;
      const text = document.createElement("div");
      for (const line of told.lines) text.append(Object.assign(document.createElement("div"), { textContent: line }));
      L.popup({ className: "measured" }).setLatLng(latlng).setContent(text).openOn(this.map);
    }
  }

  /** Tell the page: its hidden text box takes JSON, as if it had been typed. */
  let told = 0;
  function say(message) {
    const field = document.querySelector("#viewer-said textarea, #viewer-said input");
    const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set;
    set.call(field, JSON.stringify({ ...message, number: ++told + Date.now() }));
    field.dispatchEvent(new Event("input", { bubbles: true }));
    document.querySelector("#viewer-tell button, button#viewer-tell").click();
  }

  function begin() {
    const element = document.getElementById("viewer");
    if (!element || element.dataset.begun) return;
    element.dataset.begun = "yes";
    const viewer = (window.slidekick = new Viewer(element, say));
    const read = () => {
      const state = document.querySelector("#viewer-state [data-state]");
      const text = state ? state.dataset.state : "";
      if (text && text !== viewer.text) {
        viewer.text = text;
        viewer.show(JSON.parse(text)).catch((error) => console.error(error));
      }
    };
    new MutationObserver(read).observe(document.body, { subtree: true, childList: true, attributeFilter: ["data-state"] });
    read();
    document.addEventListener("click", (event) => {
      const tool = event.target.closest(".viewer-tools [data-mode]");
      if (tool && viewer.map) viewer.drawing.set(viewer.drawing.mode === tool.dataset.mode ? null : tool.dataset.mode);
      if (event.target.closest(".viewer-tools [data-whole]")) say({ kind: "region", box: null });
      const mark = event.target.closest('a[href^="#mark-"]');
      if (mark) {
        event.preventDefault();
        say({ kind: "mark", id: mark.getAttribute("href").slice(6) });
      }
    });
  }

  new MutationObserver(begin).observe(document, { subtree: true, childList: true });
  begin();
})();
