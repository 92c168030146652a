"""Renderings of the chart that were read and found right.

`python -m tests.chart.golden` writes them anew; read the difference.
"""

from pathlib import Path

from tests.chart.rendering import CHART, VALUES, template

GOLDEN = Path(__file__).parent / "golden"


def comparable(text):
    """Return a rendering in which files of the chart stand for their content."""
    for name in ("dashboard.json", "predict.py"):
        content = (CHART / "files" / name).read_text().rstrip("\n")
        indented = "\n".join(f"    {line}" for line in content.split("\n"))
        text = text.replace(indented, f"    (files/{name})")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def rendering_of(values):
    return comparable(template(f"--values={values}"))


if __name__ == "__main__":
    for path in VALUES:
        (GOLDEN / path.name).write_text(rendering_of(path))
