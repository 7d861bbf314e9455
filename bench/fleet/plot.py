"""What a fleet costs over its size, one panel a measure, each with its goal, as SVG."""
PANELS = [
    ("KiB a connection", "KiB"),
    ("µs a report", "us"),
    ("directive p99, s", "directive_s"),
    ("back after a cut, s", "storm_s"),
]
WIDTH, HEIGHT, LEFT, TOP, GAP = 170, 130, 50, 34, 60
OURS, GOAL = "#2f6f4f", "#c28f2c"


def panel(at, name, goal, rows):
    x0, top = LEFT + at * (WIDTH + GAP), max([goal, *(row[name] for row in rows)]) * 1.1
    x = lambda index: x0 + WIDTH * (index + 0.5) / len(rows)
    y = lambda value: TOP + HEIGHT * (1 - value / top)
    parts = [f'<text x="{x0}" y="{TOP - 12}" font-weight="bold">{name}</text>']
    parts.append(f'<path d="M{x0} {TOP}V{TOP + HEIGHT}H{x0 + WIDTH}" fill="none" stroke="#888"/>')
    parts.append(f'<path d="M{x0} {y(goal):.1f}H{x0 + WIDTH}" stroke="{GOAL}" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{x0 - 4}" y="{y(goal) + 4:.1f}" text-anchor="end" fill="{GOAL}">{goal:g}</text>')
    points = " ".join(f"{x(index):.1f},{y(row[name]):.1f}" for index, row in enumerate(rows))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{OURS}" stroke-width="2"/>')
    for index, row in enumerate(rows):
        parts.append(f'<circle cx="{x(index):.1f}" cy="{y(row[name]):.1f}" r="3" fill="{OURS}"/>')
        parts.append(f'<text x="{x(index):.1f}" y="{y(row[name]) - 6:.1f}" text-anchor="middle">{row[name]:.3g}</text>')
        parts.append(f'<text x="{x(index):.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">{row["devices"]:,}</text>')
    return "".join(parts)


def svg(rows, goals):
    body = "".join(panel(at, name, goals[goal], rows) for at, (name, goal) in enumerate(PANELS))
    width = LEFT + len(PANELS) * (WIDTH + GAP)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + 24}" font-family="sans-serif" '
            f'font-size="10"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n')
