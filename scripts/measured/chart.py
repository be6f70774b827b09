"""A line chart as SVG: values in percent over lengths, drawn to be read on light and dark pages."""

import html

COLOURS = ["#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280"]
WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 40, 96


def place(index, count):
    return LEFT + (WIDTH - LEFT - RIGHT) * (index / max(count - 1, 1))


def level(percent):
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - percent / 100)


def text(x, y, words, anchor="start", size=12, colour="#888"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}">{html.escape(words)}</text>')


def axes(labels):
    for percent in range(0, 101, 25):
        y = level(percent)
        yield (f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#888" '
               'stroke-opacity="0.25"/>')
        yield text(LEFT - 6, y + 4, f"{percent} %", "end")
    for i, label in enumerate(labels):
        yield text(place(i, len(labels)), level(0) + 18, label, "middle")


def series(index, name, values, count):
    """Points that are there, joined; the name in the legend below. `values`: (low, value, high)."""
    colour = COLOURS[index % len(COLOURS)]
    shift = 3 * index  # so that equal values stay apart
    points = [(place(i, count) + shift, value) for i, value in enumerate(values)
              if value is not None]
    path = " ".join(f"{x:.1f},{level(value[1]):.1f}" for x, value in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, (low, value, high) in points:
        yield (f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{level(low):.1f}" y2="{level(high):.1f}" '
               f'stroke="{colour}" stroke-opacity="0.4" stroke-width="2"/>')
        yield f'<circle cx="{x:.1f}" cy="{level(value):.1f}" r="3.5" fill="{colour}"/>'
    column, row = index % 2, index // 2
    x, y = LEFT + column * 330, level(0) + 42 + 18 * row
    yield f'<rect x="{x}" y="{y - 9}" width="12" height="4" fill="{colour}"/>'
    yield text(x + 18, y - 3, name, colour=colour)


def line_chart(title, labels, lines):
    """lines: [(name, [(low, value, high) in percent, or None, a label])]; bars are intervals."""
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'font-family="system-ui,sans-serif" role="img"><title>{html.escape(title)}</title>',
           text(LEFT, 20, title, size=14, colour="#888"), *axes(labels)]
    for i, (name, values) in enumerate(lines):
        out += series(i, name, values, len(labels))
    return "\n".join(out) + "\n</svg>\n"
