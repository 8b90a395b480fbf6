// Returns the findings about the page as it is now: one sentence for each.
() => {
  const findings = [];
  const width = document.documentElement.clientWidth;
  const short = (text) => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 40));

  // A colour as [red, green, blue, alpha], whatever CSS calls it.
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = text;
    pixel.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const probe = document.createElement("div");
  probe.style.backgroundColor = "Canvas";
  document.body.append(probe);
  const canvas = colour(getComputedStyle(probe).backgroundColor);
  probe.remove();
  const ancestors = (element) => (element ? [element, ...ancestors(element.parentElement)] : []);
  const background = (element) =>
    ancestors(element).reverse().reduce((below, e) => over(colour(getComputedStyle(e).backgroundColor), below), canvas);
  // Relative luminance and contrast as WCAG 2 defines them.
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };

  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, noscript, template, title, desc")) continue;
    const what = short(node.data);
    const style = getComputedStyle(element);
    const range = document.createRange();
    range.selectNodeContents(node);
    const rects = [...range.getClientRects()].filter((r) => r.width > 0.5 && r.height > 0.5);
    const opacity = ancestors(element).reduce((o, e) => o * Number(getComputedStyle(e).opacity), 1);
    if (style.visibility !== "visible" || opacity < 0.05 || (!rects.length && style.display === "none")) {
      findings.push(`${what} is hidden`);
      continue;
    }
    if (!rects.length) {
      findings.push(`${what} has no size or is hidden`);
      continue;
    }
    const svg = element.ownerSVGElement;
    const scale = svg ? svg.getScreenCTM().a : 1;
    const size = Number.parseFloat(style.fontSize) * scale;
    if (size < 8) findings.push(`${what} is ${size.toFixed(1)} px high, which is too small to read`);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const paint = colour(svg ? style.fill : style.color);
    const behind = background(element);
    const ratio = contrast(over([...paint.slice(0, 3), paint[3] * opacity], behind), behind);
    if (ratio < (large ? 3 : 4.5)) findings.push(`${what} has a contrast of ${ratio.toFixed(1)}, too little to read`);

    for (let rect of rects) {
      let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom];
      let shown = true;
      for (const box of ancestors(element)) {
        const { overflowX, overflowY } = getComputedStyle(box);
        if (box === document.body || box === document.documentElement) break;
        if (box.ownerSVGElement || (overflowX === "visible" && overflowY === "visible")) continue;
        const edge = box.getBoundingClientRect();
        const clipped = (mode, low, high, from, to) => (mode === "hidden" || mode === "clip") && (low < from - 2 || high > to + 2);
        if (clipped(overflowX, left, right, edge.left, edge.right) || clipped(overflowY, top, bottom, edge.top, edge.bottom)) {
          findings.push(`${what} is cut off by its <${box.localName}>`);
          shown = false;
          break;
        }
        [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
        [top, bottom] = [Math.max(top, edge.top), Math.min(bottom, edge.bottom)];
      }
      if (shown && (left < -1 || top + scrollY < -1)) findings.push(`${what} is outside the page`);
      if (shown && right > left && bottom > top) boxes.push({ node, what, left, top, right, bottom });
    }
  }

  boxes.sort((a, b) => a.top - b.top);
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length && boxes[j].top < boxes[i].bottom; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (a.node !== b.node && wide > 2 && high > 0.3 * Math.min(a.bottom - a.top, b.bottom - b.top)) {
        findings.push(`${a.what} overlaps ${b.what}`);
      }
    }
  }

  if (document.documentElement.scrollWidth > width) {
    const inside = (e) => ancestors(e.parentElement).some((box) => ["auto", "scroll"].includes(getComputedStyle(box).overflowX));
    const wide = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > width + 1 && !inside(e));
    const names = [...new Set(wide.map((e) => `<${e.localName}>`))].slice(0, 4).join(", ");
    findings.push(`the page is ${document.documentElement.scrollWidth} px wide: ${names} overflows`);
  }
  return [...new Set(findings)];
}
