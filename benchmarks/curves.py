"""The picture of `growth`: a row for each factor, time on the left and memory on the right, points and their straight lines."""

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 80, 40, 50, 60  # of a panel, and its margins, in pixels
INK, GREY, BLUE, ORANGE = "#222222", "#dddddd", "#1f5fa8", "#d9730d"


class Panel:
    """A pair of axes from 0 to the largest value, whose upper left corner lies at `corner`."""

    def __init__(self, image, corner, x_most, y_most):
        self.ink, self.corner, self.most = ImageDraw.Draw(image), corner, (x_most * 1.05, y_most * 1.35)
        self.font = ImageFont.load_default(20)

    def at(self, x, y):
        """Where on the picture the point (x, y) lies."""
        across, up = x / self.most[0] * (WIDTH - LEFT - RIGHT), y / self.most[1] * (HEIGHT - TOP - BOTTOM)
        return self.corner[0] + LEFT + across, self.corner[1] + HEIGHT - BOTTOM - up

    def axes(self, title, label, ticks):
        """Title, both axes, the values measured at as ticks below, thirds of the range as ticks on the left."""
        self.text(self.corner[0] + LEFT, self.corner[1] + 12, title, "la")
        for y in nice(self.most[1]):
            self.ink.line([self.at(0, y), self.at(self.most[0], y)], GREY, 1)
            self.text(self.at(0, y)[0] - 8, self.at(0, y)[1], f"{y:g}", "rm")
        self.ink.line([self.at(0, self.most[1]), self.at(0, 0), self.at(self.most[0], 0)], INK, 2)
        last = -100
        for x in ticks:
            across, down = self.at(x, 0)
            if across - last > 40:  # labels that would touch are left out
                self.text(across, down + 6, f"{x:g}", "ma")
                last = across
        self.text(*(sum(pair) / 2 for pair in zip(self.at(0, 0), self.at(self.most[0], 0), strict=True)), label, "ma", 30)

    def curve(self, points, fit, colour):
        """The points, and the fitted line over their range."""
        ends = [min(x for x, _ in points), max(x for x, _ in points)]
        self.ink.line([self.at(x, max(0, fit["slope"] * x + fit["intercept"])) for x in ends], colour, 3)
        for point in points:
            x, y = self.at(*point)
            self.ink.ellipse([x - 6, y - 6, x + 6, y + 6], colour)

    def text(self, x, y, words, anchor, below=0, colour=INK):
        """Words at (x, y), or so many pixels below."""
        self.ink.text((x, y + below), words, colour, self.font, anchor)


def nice(most):
    """Three or so round numbers from 0 to `most`."""
    step = next(s * 10**e for e in range(-2, 9) for s in (1, 2, 5) if most / (s * 10**e) <= 4)
    return [step * k for k in range(int(most / step) + 1)]


def draw(path, rows, fits):
    """Write the picture of `growth`'s rows {factor, value, measures} and fits {factor: {measure: line}}."""
    image = Image.new("RGB", (2 * WIDTH, len(fits) * HEIGHT), "white")
    for place, (factor, lines) in enumerate(fits.items()):
        of = [row for row in rows if row["factor"] == factor]
        for column, measures in enumerate((("time",), ("memory", "memory_less_vectors"))):
            values = [row["value"] for row in of]
            measures = [m for m in measures if m != "memory_less_vectors" or factor == "N"]
            most = max(row[measure] for row in of for measure in measures)
            panel = Panel(image, (column * WIDTH, place * HEIGHT), max(values), most)
            panel.axes(f"{measures[0]} of an iteration, relative", factor, values)
            for number, measure in enumerate(measures):
                colour = (BLUE, ORANGE)[number]
                panel.curve([(row["value"], row[measure]) for row in of], lines[measure], colour)
                words = measure.replace("_less_vectors", ", less the N+1 vectors") + f": R^2 {lines[measure]['r2']:.3f}"
                panel.text(panel.corner[0] + LEFT + 12, panel.corner[1] + 42, words, "la", 24 * number, colour)
    image.save(path)
