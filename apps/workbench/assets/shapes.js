// Objects over a slide: unpacked (see `Layer.packed` in layers.py), kept by squares, and drawn on one canvas.
"use strict";

(() => {
  const POINTS_BELOW = 3; // px on the screen: smaller objects are drawn as squares, since their outlines could not be told
  const MARGIN = 0.5; // of the view, drawn beyond it on each side, so that a drag shows no empty edge
  const PIECE = 128; // rings a path: one path of thousands takes seconds to fill
  const AT_ONCE = 16; // paths drawn at once; then as many a frame as the machine keeps up with
  const SLOW_MS = 25; // between two frames: fewer paths a frame
  const CELL = 512; // level-0 px: side of the squares that objects are kept by

  /** Objects of one concept: outlines in level-0 pixels, kept by squares so that a view draws what it shows. */
  class Shapes {
    constructor(buffer) {
      const head = new Uint32Array(buffer, 0, 2);
      const [rings] = head;
      this.objects = new Uint32Array(buffer, 8, rings); // number of the object that each ring belongs to
      this.ends = new Uint32Array(buffer, 8 + 4 * rings, rings); // where its points end
      this.points = new Int32Array(buffer, 8 + 8 * rings); // x, y, x, y, ...
      this.boxes = new Int32Array(4 * rings);
      this.cells = new Map();
      for (let ring = 0, at = 0; ring < rings; ring++) {
        let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
        for (; at < this.ends[ring]; at++) {
          const [x, y] = [this.points[2 * at], this.points[2 * at + 1]];
          if (x < left) left = x;
          if (x > right) right = x;
          if (y < top) top = y;
          if (y > bottom) bottom = y;
        }
        this.boxes.set([left, top, right, bottom], 4 * ring);
        for (let row = Math.floor(top / CELL); row <= Math.floor(bottom / CELL); row++) {
          for (let column = Math.floor(left / CELL); column <= Math.floor(right / CELL); column++) {
            const key = row * 65536 + column;
            if (!this.cells.has(key)) this.cells.set(key, []);
            this.cells.get(key).push(ring);
          }
        }
      }
    }

    /** Numbers of the rings that may lie in a box. */
    *within(left, top, right, bottom) {
      const seen = new Set();
      for (let row = Math.floor(top / CELL); row <= Math.floor(bottom / CELL); row++) {
        for (let column = Math.floor(left / CELL); column <= Math.floor(right / CELL); column++) {
          for (const ring of this.cells.get(row * 65536 + column) || []) {
            if (!seen.has(ring)) {
              seen.add(ring);
              yield ring;
            }
          }
        }
      }
    }

    /** Numbers of the rings that lie in a box, those of an object one after another. */
    inside(left, top, right, bottom) {
      const found = [];
      for (const ring of this.within(left, top, right, bottom)) {
        const at = 4 * ring;
        if (
          this.boxes[at + 2] >= left &&
          this.boxes[at + 3] >= top &&
          this.boxes[at] <= right &&
          this.boxes[at + 1] <= bottom
        ) {
          found.push(ring);
        }
      }
      return Uint32Array.from(found).sort();
    }

    /** Trace some of `rings` from the place `at` on: whole objects, some `PIECE` rings; returns the place after them. */
    trace(context, rings, at, scale) {
      const small = POINTS_BELOW / scale;
      const until = at + PIECE;
      context.beginPath();
      for (; at < rings.length; at++) {
        const ring = rings[at];
        if (at >= until && this.objects[ring] !== this.objects[rings[at - 1]]) break;
        const [left, top] = [this.boxes[4 * ring], this.boxes[4 * ring + 1]];
        const [width, height] = [this.boxes[4 * ring + 2] - left, this.boxes[4 * ring + 3] - top];
        if (width < small && height < small) {
          context.rect(left, top, Math.max(width, 1 / scale), Math.max(height, 1 / scale));
          continue;
        }
        const begin = ring ? this.ends[ring - 1] : 0;
        context.moveTo(this.points[2 * begin], this.points[2 * begin + 1]);
        for (let point = begin + 1; point < this.ends[ring]; point++) {
          context.lineTo(this.points[2 * point], this.points[2 * point + 1]);
        }
        context.closePath();
      }
      return at;
    }
  }

  /** What was found, of all concepts, over the slide: drawn anew when the view has come to rest, some of it a frame, on a
   * canvas of its own, while the one that is seen moves along with the slide. */
  const Overlay = L.Layer.extend({
    initialize() {
      this.concepts = [];
    },
    onAdd(map) {
      this._map = map;
      [this._canvas, this._hidden] = [0, 1].map(() => {
        const canvas = L.DomUtil.create("canvas", "leaflet-zoom-animated overlay");
        canvas.setAttribute("aria-hidden", "true");
        map.getPanes().overlayPane.appendChild(canvas);
        return canvas;
      });
      map.on("moveend zoomend resize", this.redraw, this);
      map.on("zoomanim", this._animate, this);
      this.redraw();
    },
    onRemove(map) {
      map.off("moveend zoomend resize", this.redraw, this);
      map.off("zoomanim", this._animate, this);
      cancelAnimationFrame(this._next);
      for (const canvas of [this._canvas, this._hidden]) canvas.remove();
    },
    show(concepts) {
      this.concepts = concepts;
      this.redraw();
    },
    _animate(event) {
      cancelAnimationFrame(this._next);
      const scale = this._map.getZoomScale(event.zoom, this._zoom);
      const offset = this._map._latLngToNewLayerPoint(this._corner, event.zoom, event.center);
      L.DomUtil.setTransform(this._canvas, offset, scale);
    },
    redraw() {
      const map = this._map;
      if (!map) return;
      cancelAnimationFrame(this._next);
      const size = map.getSize();
      const corner = map.containerPointToLayerPoint(size.multiplyBy(-MARGIN));
      const whole = size.multiplyBy(1 + 2 * MARGIN);
      const view = { corner: map.layerPointToLatLng(corner), place: corner, zoom: map.getZoom(), whole };
      if (this._corner) {
        const scale = map.getZoomScale(view.zoom, this._zoom);
        L.DomUtil.setTransform(this._canvas, map.latLngToLayerPoint(this._corner), scale);
      }
      const work = this._pieces(view);
      let [pieces, last] = [AT_ONCE, 0];
      const go = (now) => {
        if (last) pieces = now - last > SLOW_MS ? Math.max(1, pieces >> 1) : pieces + 1;
        last = now;
        let done = false;
        for (let count = 0; !done && count < pieces; count++) done = work.next().done;
        if (!done) this._next = requestAnimationFrame(go);
      };
      go(0);
    },
    /** Draws a view on the other canvas piece by piece, then shows that one in place of the one that is seen. */
    *_pieces({ corner, place, zoom, whole }) {
      const ratio = window.devicePixelRatio || 1;
      const canvas = this._hidden;
      canvas.width = Math.round(whole.x * ratio);
      canvas.height = Math.round(whole.y * ratio);
      canvas.style.width = `${whole.x}px`;
      canvas.style.height = `${whole.y}px`;
      const scale = this._map.getZoomScale(zoom, this._map.last); // screen px a level-0 px
      const [x, y] = [corner.lng, corner.lat];
      const context = canvas.getContext("2d");
      context.setTransform(scale * ratio, 0, 0, scale * ratio, -x * scale * ratio, -y * scale * ratio);
      for (const one of this.concepts.filter((concept) => concept.shapes && concept.shown)) {
        const rings = one.shapes.inside(x, y, x + whole.x / scale, y + whole.y / scale);
        context.fillStyle = context.strokeStyle = one.colour;
        context.lineWidth = 1.5 / scale;
        for (let at = 0; at < rings.length; ) {
          at = one.shapes.trace(context, rings, at, scale);
          context.globalAlpha = one.opacity;
          context.fill("evenodd");
          context.globalAlpha = Math.min(1, one.opacity + 0.5);
          context.stroke();
          yield;
        }
      }
      L.DomUtil.setTransform(canvas, place, 1);
      [this._canvas, this._hidden] = [canvas, this._canvas];
      this._canvas.style.visibility = "";
      this._hidden.style.visibility = "hidden";
      [this._corner, this._zoom] = [corner, zoom];
    },
  });

  window.slidekickShapes = { Shapes, Overlay };
})();
