"""Charts as SVG: coloured strokes and grey words, to be read on light and dark pages."""

import dataclasses
import html
import math

# Each with at least 3.4 times the contrast to white and to a dark page.
COLOURS = ["#3a79bf", "#c05621", "#2f855a", "#805ad5", "#b83280"]
GREY = "#888"
WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 40, 96  # of a chart of lines, around its panels
PANEL_TITLE = 20  # the height of one


@dataclasses.dataclass
class Scale:
    """Values [low, high] drawn over pixels [begin, end], and those that are marked."""
    low: float
    high: float
    begin: float
    end: float
    ticks: list  # (value, name)
    is_log: bool = False

    def at(self, value):
        if self.low == self.high:
            return (self.begin + self.end) / 2
        along = math.log if self.is_log else float
        share = (along(value) - along(self.low)) / (along(self.high) - along(self.low))
        return self.begin + (self.end - self.begin) * share


@dataclasses.dataclass
class Panel:
    """Lines over one pair of axes. An axis reaches from its first tick to its last."""
    x_ticks: list  # (value, name)
    y_ticks: list
    lines: list    # (name, points); a point: (x, low, value, high), the bar being an interval
    title: str = ""
    is_x_log: bool = False


def ticks_from_zero(high):
    """Round numbers from 0 to at or above `high`, and their names."""
    power = 10.0 ** math.floor(math.log10(high))
    step = next(power * share for share in (0.2, 0.5, 1, 2) if high <= 5 * power * share)
    return [(i * step, f"{i * step:,g}") for i in range(math.ceil(high / step - 1e-9) + 1)]


def text(x, y, words, anchor="start", size=12, colour=GREY):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}">{html.escape(words)}</text>')


def dot(x, y, colour):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def document(title, height, parts):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui,sans-serif" role="img"><title>{html.escape(title)}</title>',
        text(LEFT, 20, title, size=14), *parts]) + "\n</svg>\n"


def axes(x, y):
    """Lines across at y's marks, and the names of both axes' marks."""
    for value, name in y.ticks:
        level = y.at(value)
        yield (f'<line x1="{x.begin:g}" x2="{x.end:g}" y1="{level:.1f}" y2="{level:.1f}" '
               f'stroke="{GREY}" stroke-opacity="0.25"/>')
        yield text(x.begin - 6, level + 4, name, "end")
    for value, name in x.ticks:
        yield text(x.at(value), y.begin + 18, name, "middle")


def series(index, points, x, y):
    colour = COLOURS[index % len(COLOURS)]
    shift = 3 * index  # so that equal values stay apart
    placed = [(x.at(point[0]) + shift, *map(y.at, point[1:])) for point in points]
    path = " ".join(f"{px:.1f},{value:.1f}" for px, _, value, _ in placed)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for px, low, value, high in placed:
        yield (f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
               f'stroke="{colour}" stroke-opacity="0.4" stroke-width="2"/>')
        yield dot(px, value, colour)


def legend_entry(index, name, top):
    column, row = index % 2, index // 2
    colour = COLOURS[index % len(COLOURS)]
    x, y = LEFT + column * 330, top + 18 * row
    yield f'<rect x="{x}" y="{y - 9:.1f}" width="12" height="4" fill="{colour}"/>'
    yield text(x + 18, y - 3, name, colour=colour)


def line_chart(title, panels):
    """Panels side by side, whose lines have the same names; those are in the legend below."""
    top = TOP + (PANEL_TITLE if any(panel.title for panel in panels) else 0)
    bottom = HEIGHT - BOTTOM
    space = LEFT + (8 if len(panels) > 1 else 0)  # before a panel: names of the axes' marks
    width = (WIDTH - RIGHT) / len(panels) - space
    parts = []
    for i, panel in enumerate(panels):
        left = LEFT + i * (space + width)
        x = Scale(panel.x_ticks[0][0], panel.x_ticks[-1][0], left, left + width, panel.x_ticks,
                  panel.is_x_log)
        y = Scale(panel.y_ticks[0][0], panel.y_ticks[-1][0], bottom, top, panel.y_ticks)
        if panel.title:
            parts.append(text(left, top - 14, panel.title))
        parts += axes(x, y)
        for index, (name, points) in enumerate(panel.lines):
            parts += series(index, points, x, y)
            if i == 0:
                parts += legend_entry(index, name, bottom + 42)
    return document(title, HEIGHT, parts)
