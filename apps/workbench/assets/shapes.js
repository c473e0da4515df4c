// Objects over a slide: unpacked (see `Layer.packed` in layers.py), kept by squares, and drawn on one canvas.
"use strict";

(() => {
  const POINTS_BELOW = 3; // px on the screen: smaller objects are drawn as squares, since their outlines could not be told
  const MARGIN = 0.5; // of the view, drawn beyond it on each side, so that a drag shows no empty edge
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

    /** Draw what lies in a box on a canvas that is scaled to show it. */
    draw(context, box, scale) {
      const small = POINTS_BELOW / scale;
      context.beginPath();
      for (const ring of this.within(...box)) {
        const [left, top, right, bottom] = this.boxes.subarray(4 * ring, 4 * ring + 4);
        if (right < box[0] || bottom < box[1] || left > box[2] || top > box[3]) continue;
        if (right - left < small && bottom - top < small) {
          context.rect(left, top, Math.max(right - left, 1 / scale), Math.max(bottom - top, 1 / scale));
          continue;
        }
        const begin = ring ? this.ends[ring - 1] : 0;
        context.moveTo(this.points[2 * begin], this.points[2 * begin + 1]);
        for (let at = begin + 1; at < this.ends[ring]; at++) {
          context.lineTo(this.points[2 * at], this.points[2 * at + 1]);
        }
        context.closePath();
      }
    }
  }

  /** One canvas over the slide for all concepts; drawn anew when the view has come to rest, moved along while it moves. */
  const Overlay = L.Layer.extend({
    initialize() {
      this.concepts = [];
    },
    onAdd(map) {
      this._map = map;
      this._canvas = L.DomUtil.create("canvas", "leaflet-zoom-animated overlay");
      this._canvas.setAttribute("aria-hidden", "true");
      map.getPanes().overlayPane.appendChild(this._canvas);
      map.on("moveend zoomend resize", this.redraw, this);
      map.on("zoomanim", this._animate, this);
      this.redraw();
    },
    onRemove(map) {
      map.off("moveend zoomend resize", this.redraw, this);
      map.off("zoomanim", this._animate, this);
      this._canvas.remove();
    },
    show(concepts) {
      this.concepts = concepts;
      this.redraw();
    },
    _animate(event) {
      const scale = this._map.getZoomScale(event.zoom, this._zoom);
      const offset = this._map._latLngToNewLayerPoint(this._corner, event.zoom, event.center);
      L.DomUtil.setTransform(this._canvas, offset, scale);
    },
    redraw() {
      const map = this._map;
      if (!map) return;
      const size = map.getSize();
      const pad = size.multiplyBy(MARGIN);
      const corner = map.containerPointToLayerPoint(pad.multiplyBy(-1));
      this._corner = map.layerPointToLatLng(corner);
      this._zoom = map.getZoom();
      const ratio = window.devicePixelRatio || 1;
      const whole = size.multiplyBy(1 + 2 * MARGIN);
      const canvas = this._canvas;
      canvas.width = Math.round(whole.x * ratio);
      canvas.height = Math.round(whole.y * ratio);
      canvas.style.width = `${whole.x}px`;
      canvas.style.height = `${whole.y}px`;
      L.DomUtil.setTransform(canvas, corner, 1);
      const scale = map.getZoomScale(map.getZoom(), map.last); // screen px a level-0 px
      const [x, y] = [this._corner.lng, this._corner.lat];
      const context = canvas.getContext("2d");
      context.setTransform(scale * ratio, 0, 0, scale * ratio, -x * scale * ratio, -y * scale * ratio);
      const box = [x, y, x + whole.x / scale, y + whole.y / scale];
      for (const one of this.concepts.filter((concept) => concept.shapes && concept.shown)) {
        one.shapes.draw(context, box, scale);
        context.globalAlpha = one.opacity;
        context.fillStyle = one.colour;
        context.fill("evenodd");
        context.globalAlpha = Math.min(1, one.opacity + 0.5);
        context.strokeStyle = one.colour;
        context.lineWidth = 1.5 / scale;
        context.stroke();
        context.globalAlpha = 1;
      }
    },
  });

  window.slidekickShapes = { Shapes, Overlay };
})();
