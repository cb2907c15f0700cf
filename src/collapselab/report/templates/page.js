"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const phone = window.matchMedia("(max-width: 560px)");

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--text").trim();
    const card = style.getPropertyValue("--card").trim();
    return {
      "font.color": text,
      "font.size": phone.matches ? 12 : 13,
      "hoverlabel.bgcolor": card,
      "hoverlabel.font.color": text,
      "hoverlabel.bordercolor": text,
    };
  };

  // Arrow keys walk over the points: left and right along a line, up and down between lines (or rows).
  const walk = (chart) => {
    let curve = 0, point = -1, row = 0;
    const readout = document.getElementById(chart.id + "-readout");
    const show = () => {
      const trace = chart.data[curve];
      if (trace.type === "heatmap") {
        Plotly.Fx.hover(chart, [{ curveNumber: 0, pointNumber: [row, point] }]);
      } else {
        Plotly.Fx.hover(chart, [{ curveNumber: curve, pointNumber: point }]);
      }
    };
    chart.on("plotly_hover", (event) => {
      const at = event.points[0];
      const given = at.data.type === "heatmap" ? (at.customdata ?? at.z) : at.y;
      const value = Number(given).toPrecision(3);
      const place = at.data.type === "heatmap" ? `${at.y}, ${at.x}` : `${at.data.name}, ${at.customdata && chart.id === "variance" ? at.customdata : at.x}`;
      readout.textContent = `${place}: ${value}`;
    });
    chart.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (event.key === "Escape") { Plotly.Fx.unhover(chart); readout.textContent = ""; return; }
      if (!move) return;
      event.preventDefault();
      const trace = chart.data[curve];
      const clamp = (value, length) => Math.min(Math.max(value, 0), length - 1);
      if (trace.type === "heatmap") {
        row = clamp(row + move[1], chart.calcdata[0][0].z.length);
        point = clamp(point + move[0], chart.calcdata[0][0].z[0].length);
      } else {
        curve = clamp(curve + move[1], chart.data.length);
        point = clamp(point + move[0], chart.calcdata[curve].length);
      }
      show();
    });
  };

  const draw = Promise.all(Object.entries(figures).map(async ([id, figure]) => {
    const chart = document.getElementById(id);
    await Plotly.newPlot(chart, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    await Plotly.relayout(chart, theme());
    walk(chart);
  }));
  const repaint = () => Object.keys(figures).forEach((id) => Plotly.relayout(id, theme()));
  dark.addEventListener("change", repaint);
  phone.addEventListener("change", repaint);
  draw.then(() => { document.documentElement.dataset.drawn = String(Object.keys(figures).length); });
})();
