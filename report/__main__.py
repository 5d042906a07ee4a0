"""`python -m report [OUT.html]` writes the page of what stands in results/ and, where `dvc pull` brought it, in data/."""

import os
import subprocess
import tempfile
from pathlib import Path
from string import Template

import vl_convert
import yaml

from mtt.files import write
from mtt.params import run
from report import gallery, parameters, provenance, scores
from report.markup import absent

PAGE = Path(__file__).with_name("template.html")


def main(out="report.html"):
    """Write the page to `out`. Raises ValueError where params.yaml is not to be read, or where git or DVC fail."""
    values = parameters.read("params.yaml")
    stages, changed = provenance.current()
    parts = {
        "title": parameters.title(values),
        "metrics": scores.metrics("results/distill/metrics.json"),
        "scores": scores.scores("results/scores.csv", [name for name in changed if name.startswith(("evaluate", "report"))]),
        "robustness": scores.robustness("results/robustness.csv"),
        "pictures": gallery.html("data/distilled/set.safetensors", "results/distill", "data/distilled/history"),
        "parameters": parameters.cards(values),
        "run": provenance.html(values, stages),
        "vega": vl_convert.javascript_bundle(),
    }
    page = curves(Template(PAGE.read_text()).substitute(parts), plots("dvc.yaml"))
    write(out, page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB")


def plots(path):
    """The names of the plots of dvc.yaml that are drawn and have a file to draw. Those without axes are pictures: the gallery's."""
    found = {}
    for plot in yaml.safe_load(Path(path).read_text())["plots"]:
        found |= plot if isinstance(plot, dict) else {}
    files = {name: axes["y"] if isinstance(axes["y"], dict) else [name] for name, axes in found.items() if "y" in (axes or {})}
    return [name for name, those in files.items() if any(map(os.path.exists, those))]


def curves(page, names):
    """The page with the plots in place of its `{plot_divs}`, as `dvc plots show` draws them."""
    if not names:
        return page.replace("{plot_divs}", absent("No curves", "`dvc repro` draws them"))
    with tempfile.TemporaryDirectory() as folder:
        template, made = Path(folder, "template.html"), Path(folder, "plots/index.html")
        template.write_text(page)
        command = ["dvc", "plots", "show", "--quiet", "--html-template", str(template), "--out", str(made.parent), *names]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            raise ValueError("dvc.yaml: found dvc plots show failing, as above; wanted it to draw the plots")
        return made.read_text()


if __name__ == "__main__":
    run(main)
