"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const phone = window.matchMedia("(max-width: 560px)");

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--text").trim();
    return {
      "font.color": text,
      "font.size": phone.matches ? 12 : 13,
      "hoverlabel.bgcolor": style.getPropertyValue("--card").trim(),
      "hoverlabel.font.color": text,
      "hoverlabel.bordercolor": text,
    };
  };

  // One point in words: its line, what it is called, its value. Positions on logarithmic axes are not values.
  const inWords = (trace, at) => {
    if (trace.type === "heatmap")
      return plain(`${trace.meta.y[at[0]]}, ${trace.meta.x[at[1]]}: ${short(trace.customdata[at[0]][at[1]])}`);
    const value = trace.customdata[at];
    const words = trace.meta.percent && value !== null ? `${short(100 * value)}%` : short(value);
    return plain(`${trace.meta.name}, ${trace.text[at]}: ${words}`);
  };
  // Figures hold text in plotly's own markup.
  const plain = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  const short = (value) => (value === null ? "undefined" : String(Number(Number(value).toPrecision(3))));

  // Arrow keys walk over the points: left and right along a line, up and down between lines (or rows). Escape starts anew.
  const walk = (chart) => {
    let line = 0, row = 0, point = -1;
    // Grounds are no lines to walk on.
    const lines = chart.data.flatMap((trace, curve) => (trace.hoverinfo === "skip" ? [] : [curve]));
    if (!lines.length) return;
    const readout = document.getElementById(chart.id + "-readout");
    chart.on("plotly_hover", (event) => {
      const at = event.points[0];
      readout.textContent = inWords(chart.data[at.curveNumber], at.pointNumber ?? at.pointIndex);
    });
    chart.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        Plotly.Fx.unhover(chart);
        readout.textContent = "";
        [line, row, point] = [0, 0, -1];
        return;
      }
      const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (!move) return;
      event.preventDefault();
      const clamp = (value, length) => Math.min(Math.max(value, 0), length - 1);
      const isMap = chart.data[lines[line]].type === "heatmap";
      if (isMap) row = clamp(row + move[1], chart.data[0].y.length);
      else line = clamp(line + move[1], lines.length);
      const curve = lines[line];
      point = clamp(point + move[0], chart.data[curve].x.length);
      const at = isMap ? [row, point] : point;
      Plotly.Fx.hover(chart, [{ curveNumber: curve, pointNumber: at }]);
      // Hovering by call raises no event.
      readout.textContent = inWords(chart.data[curve], at);
    });
  };

  // Saving: every panel of a figure as a picture, or its table as numbers.
  const save = {
    svg: (figure) => figure.querySelectorAll(".chart").forEach((chart) =>
      Plotly.downloadImage(chart, { format: "svg", filename: chart.id, width: chart.clientWidth, height: chart.clientHeight })),
    csv: (figure) => {
      const quoted = (cell) => `"${cell.textContent.replaceAll('"', '""')}"`;
      const rows = [...figure.querySelectorAll("tr")].map((row) => [...row.cells].map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([rows.join("\r\n") + "\r\n"], { type: "text/csv" }));
      link.download = `${figure.querySelector(".chart").id.replace(/-\d+$/, "")}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    },
  };
  document.querySelectorAll("[data-save]").forEach((button) =>
    button.addEventListener("click", () => save[button.dataset.save](button.closest("figure"))));

  // Packed, plotly takes 0.7 MB of a page instead of 1.5.
  const unpack = async () => {
    if (!Object.keys(figures).length) return;
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const library = document.createElement("script");
    library.textContent = await new Response(unpacked).text();
    document.head.append(library);
  };

  const draw = unpack().then(() => Promise.all(Object.entries(figures).map(async ([id, figure]) => {
    const chart = document.getElementById(id);
    // Plotly draws as high as it is told, but does not make room for it.
    chart.style.minHeight = `${figure.layout.height}px`;
    await Plotly.newPlot(chart, figure.data, figure.layout, { responsive: true, displayModeBar: false });
    await Plotly.relayout(chart, theme());
    walk(chart);
  })));
  const repaint = () => draw.then(() => Object.keys(figures).forEach((id) => Plotly.relayout(id, theme())));
  dark.addEventListener("change", repaint);
  phone.addEventListener("change", repaint);
  draw.then(() => { document.documentElement.dataset.drawn = String(Object.keys(figures).length); });
})();
