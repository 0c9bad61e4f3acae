"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MOST = 40; // times that an image is enlarged at most
  const KINDS = { truth: ["found", "missed"], prediction: ["found", "false"] };

  // Tables

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const valueOf = (row, column) => {
      const cell = row.cells[column];
      const data = cell.querySelector("data");
      return data ? Number(data.value) : cell.textContent.trim();
    };
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
        rows.sort(([a], [b]) => {
          const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
          return down ? -order : order;
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  document.querySelectorAll("table.sortable").forEach(sortable);

  // Images: two panes that show the same part of the image

  class Picture {
    constructor(article) {
      this.article = article;
      this.panes = [...article.querySelectorAll(".pane")];
      [, , this.width, this.height] = this.panes[0].getAttribute("viewBox").split(" ").map(Number);
      this.view = { x: 0, y: 0, width: this.width };
      this.pointers = new Map();
      this.drawn = null;
      this.panes.forEach((pane) => this.listen(pane));
      article.querySelectorAll("[data-zoom]").forEach((button) => {
        button.addEventListener("click", () => this.zoom(Number(button.dataset.zoom)));
      });
    }

    marks(prediction) {
      return this.article.querySelector(`.marks[data-prediction="${prediction}"]`);
    }

    // Outlines

    draw(prediction) {
      if (this.drawn === prediction) return;
      this.drawn = prediction;
      this.all ??= JSON.parse(this.article.querySelector("script.outlines").textContent);
      const { found, missed, right, false: wrong, outlines } = this.all.predictions[prediction];
      const chosen = {
        truth: { found, missed },
        prediction: { found: right, false: wrong },
      };
      for (const pane of this.panes) {
        const side = pane.dataset.side;
        const paths = side === "truth" ? this.all.truth : outlines;
        pane.querySelectorAll(".outline").forEach((path) => path.remove());
        for (const kind of KINDS[side]) {
          const d = chosen[side][kind].map((k) => paths[k]).join("");
          for (const layer of ["under", kind]) {
            const path = document.createElementNS(SVG, "path");
            path.setAttribute("class", `outline of-${kind} ${layer}`);
            path.setAttribute("d", d);
            pane.append(path);
          }
        }
      }
    }

    // Zoom

    show() {
      const { view, width, height } = this;
      view.width = Math.min(width, Math.max(width / MOST, view.width));
      const part = view.width / width;
      view.x = Math.min(width - view.width, Math.max(0, view.x));
      view.y = Math.min(height * (1 - part), Math.max(0, view.y));
      const box = [view.x, view.y, view.width, height * part].map((x) => x.toFixed(3)).join(" ");
      this.panes.forEach((pane) => pane.setAttribute("viewBox", box));
      this.article.classList.toggle("zoomed", part < 1);
      this.article.classList.toggle("magnified", this.panes[0].clientWidth > 3 * view.width);
      this.article.querySelector("output").textContent = `${Number((1 / part).toFixed(1))}\u00d7`;
    }

    // Enlarges what is shown around a point of the image, default its middle; 0 shows all of it.
    zoom(factor, at) {
      const { view } = this;
      const part = view.width / this.width;
      at ??= { x: view.x + view.width / 2, y: view.y + (this.height * part) / 2 };
      const width = factor ? view.width / factor : this.width;
      const bounded = Math.min(this.width, Math.max(this.width / MOST, width));
      const scale = bounded / view.width;
      view.x = at.x - (at.x - view.x) * scale;
      view.y = at.y - (at.y - view.y) * scale;
      view.width = bounded;
      this.show();
    }

    move(dx, dy) {
      this.view.x += dx;
      this.view.y += dy;
      this.show();
    }

    listen(pane) {
      const place = ({ clientX, clientY }) =>
        new DOMPoint(clientX, clientY).matrixTransform(pane.getScreenCTM().inverse());

      pane.addEventListener(
        "wheel",
        (event) => {
          // Who scrolls down the page does not want to be caught in an image.
          if (!event.ctrlKey && !this.article.contains(document.activeElement)) return;
          event.preventDefault();
          const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
          const speed = event.ctrlKey ? 0.01 : 0.002; // a pinch on a touchpad has small steps
          this.zoom(Math.exp(-event.deltaY * lines * speed), place(event));
        },
        { passive: false },
      );

      pane.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        pane.focus({ preventScroll: true });
        pane.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, event);
      });
      pane.addEventListener("pointermove", (event) => {
        this.point(pane, place(event));
        const before = this.pointers.get(event.pointerId);
        if (!before) return;
        const other = [...this.pointers.values()].find((x) => x.pointerId !== event.pointerId);
        const apart = (x) => Math.hypot(x.clientX - other.clientX, x.clientY - other.clientY);
        const middle = (x) =>
          place({
            clientX: (x.clientX + (other ?? x).clientX) / 2,
            clientY: (x.clientY + (other ?? x).clientY) / 2,
          });
        if (other) this.zoom(apart(event) / Math.max(1, apart(before)), middle(before));
        const from = middle(before);
        const to = middle(event);
        this.move(from.x - to.x, from.y - to.y);
        this.pointers.set(event.pointerId, event);
      });
      for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
        pane.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
      }
      pane.addEventListener("pointerleave", () => this.point());
      pane.addEventListener("dblclick", (event) => this.zoom(2, place(event)));

      pane.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const step = this.view.width / 8;
        const act = {
          "+": () => this.zoom(2),
          "=": () => this.zoom(2),
          "-": () => this.zoom(0.5),
          0: () => this.zoom(0),
          ArrowLeft: () => this.move(-step, 0),
          ArrowRight: () => this.move(step, 0),
          ArrowUp: () => this.move(0, -step),
          ArrowDown: () => this.move(0, step),
          Escape: () => pane.blur(),
        }[event.key];
        if (!act) return;
        event.preventDefault();
        act();
      });
    }

    // A ring in the other pane, where the pointer is in this one.
    point(pane, at) {
      for (const other of this.panes) {
        other.querySelector(".cursor")?.remove();
        if (!pane || other === pane) continue;
        const ring = document.createElementNS(SVG, "circle");
        ring.setAttribute("class", "cursor");
        ring.setAttribute("cx", at.x);
        ring.setAttribute("cy", at.y);
        ring.setAttribute("r", this.view.width / 80);
        other.append(ring);
      }
    }
  }

  const shelf = document.getElementById("pictures");
  if (!shelf) return;

  const pictures = [...shelf.children].map((article) => new Picture(article));
  const choice = document.getElementById("prediction");
  const order = document.getElementById("order");
  let prediction = Number(shelf.dataset.best);

  // What comes near the window is drawn, the rest when it does.
  const near = new Set();
  const pictureOf = new Map(pictures.map((picture) => [picture.article, picture]));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const picture = pictureOf.get(target);
        if (isIntersecting) near.add(picture);
        else near.delete(picture);
      }
      drawNear();
    },
    { rootMargin: "800px" },
  );

  function drawNear() {
    for (const picture of near) {
      if (picture.marks(prediction)) picture.draw(prediction);
    }
  }

  function arrange() {
    const score = (picture) => Number(picture.marks(prediction)?.dataset.aji);
    const orders = {
      worst: (a, b) => score(a) - score(b),
      best: (a, b) => score(b) - score(a),
      name: (a, b) => a.article.dataset.name.localeCompare(b.article.dataset.name, "en", { numeric: true }),
    };
    for (const { article } of pictures) {
      article.hidden = !article.querySelector(`.marks[data-prediction="${prediction}"]`);
      article.querySelectorAll(".marks").forEach((marks) => {
        marks.hidden = Number(marks.dataset.prediction) !== prediction;
      });
    }
    const shown = pictures.filter(({ article }) => !article.hidden).sort(orders[order.value]);
    shelf.append(...shown.map(({ article }) => article));
    drawNear();
  }

  function choose(number) {
    prediction = number;
    if (choice) choice.value = number;
    arrange();
  }

  choice?.addEventListener("change", () => choose(Number(choice.value)));
  order.addEventListener("change", arrange);
  document.querySelectorAll("a[data-prediction]").forEach((link) => {
    link.addEventListener("click", () => choose(Number(link.dataset.prediction)));
  });
  document.querySelectorAll(".legend input").forEach((box) => {
    box.addEventListener("change", () => {
      shelf.classList.toggle(`hide-${box.dataset.kind}`, !box.checked);
    });
  });
  window.addEventListener("beforeprint", () => {
    for (const picture of pictures) {
      if (picture.marks(prediction)) picture.draw(prediction);
    }
  });

  arrange();
  pictures.forEach((picture) => watcher.observe(picture.article));
})();
