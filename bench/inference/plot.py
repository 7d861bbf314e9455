"""Bars of each engine's time over onnxruntime's on the dense model, as SVG."""
COLOURS = {"ours": "#2f6f4f", "onnxruntime": "#8a8a8a", "tract": "#c28f2c", "openvino": "#4a6fa5", "deepsparse": "#a05195"}
BAR, LEFT, WIDTH = 9, 250, 520


def svg(rows, engines):
    dense, parts, y = {}, [], 30
    for row in rows:
        model = row["model"].rsplit(" dense", 1)[0] if row["model"].endswith("dense") else None
        if model:
            dense = row["engines"].get("onnxruntime") or dense
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR * len(engines) / 2 + 4}" text-anchor="end">{row["model"]}</text>')
        for engine in engines:
            one = row["engines"].get(engine)
            if one and dense:
                ratio = one["p50"] / dense["p50"]
                width = min(ratio, 2.5) / 2.5 * WIDTH
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{COLOURS[engine]}"/>')
                parts.append(f'<text x="{LEFT + width + 4:.1f}" y="{y + BAR - 1}" font-size="8">{ratio:.2f}</text>')
            y += BAR
        y += 8
    one = LEFT + WIDTH / 2.5
    line = f'<line x1="{one}" y1="24" x2="{one}" y2="{y}" stroke="#333" stroke-dasharray="3 3"/>'
    legend = "".join(f'<rect x="{LEFT + 110 * i}" y="6" width="10" height="10" fill="{COLOURS[e]}"/><text x="{LEFT + 110 * i + 14}" y="15">{e}</text>' for i, e in enumerate(engines))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" height="{y + 10}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="white"/>{legend}{line}{"".join(parts)}</svg>\n')
