"""The page of `make report` as a browser shows it, and the templates that its plots are drawn with."""

import copy
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import vl_convert
import yaml
from conftest import ROOT
from PIL import Image
from ruamel.yaml import YAML
from test_pipeline import dvc

from mtt import pictures
from mtt.imageset import ImageSet
from report import gallery
from report.__main__ import plots
from report.parameters import plain, read, stale

NAMES = ["<b>&", "{plot_divs}", "</script>$page"]
STEPS = [0, 1, 10]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.slow


def colours(view):
    """Three images of one colour for each class, class by class, that no other view has: (9, 3, 8, 8)."""
    return (torch.tensor([[view, k, 4 * j] for k in range(3) for j in range(3)]) / 8)[:, :, None, None].expand(-1, -1, 8, 8)


def toy(view):
    return ImageSet(colours(view), torch.arange(3).repeat_interleave(3), "toy", NAMES, [0.0] * 3, [1.0] * 3)


def fabricate(folder):
    """A set of three classes in a clone, and pictures: the result is view 0, as networks see it 1; the first two of each on their way."""
    toy(0).save(folder / "data/distilled/set.safetensors")
    for view, name in enumerate(["images.png", "seen.png"]):
        pictures.save_set(folder / "results/distill" / name, toy(view))
    for view, step in enumerate(STEPS, 2):
        pictures.save_set(folder / f"data/distilled/history/{step:06d}.png", toy(view), most=2)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What is committed, with the code as it stands, and no data."""
    folder = tmp_path_factory.mktemp("report") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for part in ("mtt", "stages", "report", "dvc.yaml", "dvc.lock", "params.yaml", "results"):
        subprocess.run(["cp", "-r", str(ROOT / part), str(folder)], check=True)
    subprocess.run(["cp", "-r", str(ROOT / ".dvc/plots"), str(folder / ".dvc")], check=True)
    return folder


def build(folder, name):
    """The page that the command writes."""
    environment = {**os.environ, "PYTHONPATH": ""}
    found = subprocess.run([sys.executable, "-m", "report", name], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{name}: ")
    return folder / name


@pytest.fixture(scope="module")
def bare(clone):
    """The page of the committed results alone."""
    return build(clone, "bare.html")


@pytest.fixture(scope="module")
def page(clone, bare):
    """The page with a set and its history: alone in a folder, as one sends it."""
    fabricate(clone)
    shutil.move(build(clone, "page.html"), bare.parent.parent / "page.html")
    return bare.parent.parent / "page.html"


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium, path, width=1280, scheme="light"):
    """A page opened by file://, with a picture of it beside; nothing may fail in it, and nothing be asked for beyond the file."""
    faults, context = [], chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: None if allowed(request.url, path) else faults.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_function("[...document.querySelectorAll('.curves figure')].every(one => one.querySelector('svg'))")
    tab.screenshot(path=path.with_name(f"{path.stem}-{width}-{scheme}.png"), full_page=True)
    yield tab
    context.close()
    assert not faults, faults


def allowed(url, path):
    return url == path.as_uri() or url.startswith(("data:", "blob:"))


@pytest.fixture(scope="module")
def tab(chromium, page):
    """The page on a desk."""
    with opened(chromium, page) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_fits_the_page_on_a_desk_and_on_a_phone_by_day_and_by_night(chromium, page, width, scheme):
    """No sideways scrolling; each plot as wide as its place, each key in one line; plots in the page's ink; tables scroll in themselves."""
    with opened(chromium, page, width, scheme) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        for figure in tab.query_selector_all(".curves figure"):
            place, svg = figure.bounding_box(), figure.query_selector("svg").bounding_box()
            assert 0.9 * place["width"] <= svg["width"] <= place["width"] + 1, figure.text_content()
        lines = "key => { const text = document.createRange(); text.selectNodeContents(key); return text.getClientRects().length }"
        assert {key.evaluate(lines) for key in tab.query_selector_all(".parameters dt")} == {1}  # however long the value beside it
        table = tab.query_selector(".wide").bounding_box()
        assert table["x"] + table["width"] <= width
        ink = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('.curves svg text')).fill]")
    with Image.open(page.with_name(f"{page.stem}-{width}-{scheme}.png")) as shot:
        paper = shot.convert("L").getpixel((2, 2))
    assert (paper > 200) == (scheme == "light")
    assert ink[0] == ink[1]


def test_plots_follow_the_width_of_a_window_that_changes(chromium, page):
    with opened(chromium, page) as tab:
        tab.set_viewport_size({"width": 390, "height": 900})
        tab.wait_for_function("[...document.querySelectorAll('.curves svg')].every(one => one.getBoundingClientRect().right <= 390)")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_every_plot_of_the_pipeline_is_drawn_under_its_title(tab, monkeypatch):
    monkeypatch.chdir(ROOT)
    wanted = {
        name: axes
        for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
        if isinstance(plot, dict)
        for name, axes in plot.items()
    }
    assert set(plots(ROOT / "dvc.yaml")) == set(wanted)
    found = [title.text_content() for title in tab.query_selector_all(".curves h3")]
    assert {axes.get("title", name) for name, axes in wanted.items()} <= set(found)


def centres(tab, index):
    """{name of the class: the colours in the middle of its tiles}, as the page shows them in one of its galleries, in eighths."""
    found = {}
    for figure in tab.query_selector_all(".classes")[index].query_selector_all("figure"):
        name = figure.query_selector("figcaption").text_content()
        for tile in figure.query_selector_all("svg"):
            shot = Image.open(io.BytesIO(tile.screenshot())).convert("RGB")
            pixel = shot.getpixel((shot.width // 2, shot.height // 2))
            found.setdefault(name, []).append([round(number / 255 * 8) for number in pixel])
    return found


def wanted(view, each):
    return {name: [[view, k, 4 * j] for j in range(each)] for k, name in enumerate(NAMES)}


def test_each_tile_shows_the_image_of_its_class_as_it_is_and_as_networks_see_it(tab):
    assert centres(tab, 0) == wanted(0, 3)
    tab.get_by_label("as networks see them").check()
    assert centres(tab, 0) == wanted(1, 3)
    tab.get_by_label("the result").check()
    assert centres(tab, 0) == wanted(0, 3)


def test_the_slider_goes_through_the_iterations_and_says_which(tab):
    slider = tab.locator(".views [type=range]")
    assert centres(tab, 1) == wanted(2, 2)
    for index, step in [*enumerate(STEPS)][::-1]:
        slider.fill(str(index))
        assert tab.locator(".views output").text_content() == f"iteration {step}"
        assert centres(tab, 1) == wanted(2 + index, 2)
    slider.press("ArrowRight")
    assert centres(tab, 1) == wanted(3, 2)
    assert centres(tab, 0) == wanted(0, 3)


@pytest.mark.parametrize(("k", "each", "most"), [(3, 4, 2), (10, 1, 1), (30, 1, 1), (30, 4, 3), (25, 2, 1)])
def test_a_picture_of_the_first_images_of_each_class_is_taken_for_what_it_is(tmp_path, k, each, most):
    """Whatever number of classes stand in a row."""
    found = ImageSet(
        torch.rand(k * each, 1, 8, 8), torch.arange(k).repeat_interleave(each), "toy", [str(i) for i in range(k)], [0.0], [1.0]
    )
    pictures.save_set(tmp_path / "all.png", found)
    pictures.save_set(tmp_path / "first.png", found, most)
    side = gallery.tile(found, gallery.size(tmp_path / "all.png"))
    index, columns = gallery.layout(found, side, gallery.size(tmp_path / "first.png"))
    assert (side, columns, index.tolist()) == ((64, 64), pictures.order(found, most)[1], pictures.order(found, most)[0].tolist())
    with pytest.raises(ValueError, match="found a picture of 100 x 100 pixels; wanted one of the images in data/"):
        gallery.layout(found, side, (100, 100))


def test_the_pictures_are_not_smoothed(tab):
    assert tab.evaluate("getComputedStyle(document.querySelector('#result')).imageRendering") == "pixelated"


def flat(values, place=""):
    """{dotted key: value}, of the keys that have one."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
    return found


def test_every_parameter_stands_on_the_page_with_its_value_and_the_words_beside_it(clone, tab):
    values, found = read(clone / "params.yaml"), {}
    for section in tab.query_selector_all(".parameters section"):
        name = section.query_selector("h3").text_content()
        place = f"{name}." if name in values else ""
        for row in section.query_selector_all("dl div"):
            key, value, words = [cell.text_content() for cell in row.query_selector_all("dt, dd")]
            found[f"{place}{key}"] = value, words
    wanted, beside = flat(values), dict(re.findall(r"^ *(\w+):.*# (.*)$", (clone / "params.yaml").read_text(), re.M))
    assert {key: found[key][0] for key in wanted} == {key: plain(value) for key, value in wanted.items()}
    assert found["distill.syn_steps"] == (str(values["distill"]["syn_steps"]), beside["syn_steps"])
    assert set(found) - set(wanted) <= {"baseline.random", "baseline.dc", "baseline.dsa", "baseline.dm"} | {
        key.rsplit(".", 1)[0] for key in wanted
    }


def test_scores_commit_and_commands_stand_on_the_page(clone, tab):
    lines = [
        [cell.text_content() for cell in line.query_selector_all("th, td")] for line in tab.query_selector("table").query_selector_all("tr")
    ]
    architectures, table = lines[0][1:], {line[0]: line[1:] for line in lines[1:]}
    for row in pd.read_csv(clone / "results/scores.csv").itertuples():
        wanted = f"{100 * row.mean:.1f} ± {100 * row.std:.1f} ({row.n})"
        assert table[row.method][architectures.index(row.architecture)] == wanted
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True).stdout.strip()
    text = tab.locator("body").text_content()
    assert f"git checkout {commit}" in text
    for stage in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].values():
        assert stage["cmd"] in text
    assert "Changed in params.yaml" not in text


def test_a_parameter_that_was_changed_since_the_run_is_named():
    values, stages = read(ROOT / "params.yaml"), read(ROOT / "dvc.lock")["stages"]
    assert stale(values, stages) == []
    values["distill"]["validate"]["every"] += 1
    values["baseline"]["random"] = {"new": 1}
    values["architectures"] = ["ConvNet"]
    assert stale(values, stages) == ["distill.validate.every", "baseline.random.new", "architectures"]


def test_what_dvc_leaves_in_the_lock_of_runs_before_is_not_of_this_one(clone, tmp_path):
    """Of an architecture that is no longer listed, with another network."""
    shutil.copytree(clone, tmp_path / "new", ignore=shutil.ignore_patterns("distilled"), symlinks=True)
    lock = read(ROOT / "dvc.lock")
    left = lock["stages"]["evaluate@left-AlexNet"] = copy.deepcopy(lock["stages"]["evaluate@distilled-AlexNet"])
    left["cmd"], left["params"]["params.yaml"]["network"] = "what was run before", {"width": 7, "depth": 2}
    with open(tmp_path / "new/dvc.lock", "w") as file:
        YAML().dump(lock, file)
    text = build(tmp_path / "new", "new.html").read_text()
    assert "what was run before" not in text
    assert "Changed in params.yaml" not in text


def test_scores_of_other_images_than_those_that_stand_here_are_called_so(bare, page):
    words = "Not of what stands here: evaluate@distilled-ConvNet, "
    assert words in page.read_text()
    assert words not in bare.read_text()


def test_committed_results_make_a_page_too_which_says_what_brings_the_rest(chromium, bare):
    with opened(chromium, bare, 390) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert "No names of classes and no slider here: dvc pull brings the images." in tab.locator("body").text_content()
        assert tab.locator(".views").count() == 0
        images = tab.query_selector_all("figure.wide img")
        assert images
        assert all(image.evaluate("one => one.naturalWidth > 0") for image in images)


def test_a_run_without_scores_or_validation_makes_a_page_without_them(clone, tmp_path, chromium):
    """A CSV with nothing but names has no curve."""
    shutil.copytree(clone, tmp_path / "new", ignore=shutil.ignore_patterns("scores.csv", "distilled"), symlinks=True)
    (tmp_path / "new/results/distill/validation.csv").write_text("iteration,validation_accuracy\n")
    with opened(chromium, build(tmp_path / "new", "new.html")) as tab:
        assert "No scores here: dvc repro makes them." in tab.locator("body").text_content()
        titles = [title.text_content() for title in tab.query_selector_all(".curves h3")]
        assert "Matching loss" in titles
        assert not [title for title in titles if "on validation of networks" in title]
    shutil.rmtree(tmp_path / "new/results")
    with opened(chromium, build(tmp_path / "new", "new.html")) as tab:
        assert "No curves here: dvc repro draws them." in tab.locator("body").text_content()


def test_without_git_the_error_is_one_line(clone, tmp_path):
    shutil.copytree(clone, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"), symlinks=True)
    environment = {**os.environ, "PYTHONPATH": "", "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    found = subprocess.run([sys.executable, "-m", "report"], cwd=tmp_path / "copy", env=environment, capture_output=True, text=True)
    assert found.returncode == 1
    assert re.fullmatch(r"error: dvc: found .*not a git repository.*; wanted a clone of the project\n", found.stderr)


def test_outside_the_repository_the_error_says_so(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-m", "report"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == "error: params.yaml: no such file; run this in the repository: `make report`\n"


PLOTS = """plots:
  - Scores: {template: bars, x: mean, x_label: accuracy, y: {scores.csv: method}}
  - Loss: {template: by_epoch, x: start_epoch, y: {loss.csv: loss}}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The plots of two revisions of a repository with nothing but data: {name: specification}, and the same of the last alone."""
    folder = tmp_path_factory.mktemp("plots")
    cells = [("distilled", "ConvNet", 0.9, 0.05, 5), ("random", "ConvNet", 0.7, 0.02, 5), ("distilled", "AlexNet", 0.125, 0.25, 5)]
    losses = [(epoch, loss) for epoch in range(12) for loss in (0.5, 0.75, "" if epoch else 1.0)]
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    assert dvc("init", "--quiet", cwd=folder).returncode == 0
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    (folder / "dvc.yaml").write_text(PLOTS)
    for change in (1, 0.5):
        table = pd.DataFrame(cells, columns=["method", "architecture", "mean", "std", "n"])
        table.assign(mean=table["mean"] * change).to_csv(folder / "scores.csv", index=False)
        pd.DataFrame(losses, columns=["start_epoch", "loss"]).to_csv(folder / "loss.csv", index=False)
        if change == 1:
            subprocess.run(["git", "-C", str(folder), "add", "."], check=True)
            who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
            subprocess.run(["git", "-C", str(folder), *who, "commit", "--quiet", "-m", "one"], check=True)

    def specifications(*words):
        found = dvc("plots", *words, "--json", cwd=folder)
        assert found.returncode == 0, found.stderr
        return {name.split("::")[-1]: plots[0]["content"] for name, plots in json.loads(found.stdout)["data"].items()}

    return SimpleNamespace(both=specifications("diff", "HEAD", "workspace"), last=specifications("show"))


def marks(specification, kind):
    """What the marks of a kind in a picture stand for, and their attributes."""
    found = []
    for element in re.findall(f'<[^>]*aria-roledescription="{kind}"[^>]*>', vl_convert.vegalite_to_svg(specification)):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', element))
        found.append(attributes | dict(pair.split(": ", 1) for pair in attributes["aria-label"].split("; ")))
    return found


def test_bars_have_a_deviation_each_and_those_of_two_revisions_stand_side_by_side(drawn):
    """A bar for each row, as long as its mean; the error bar from mean - std, at least 0, to mean + std; a colour for each revision."""
    found = marks(drawn.both["Scores"], "rule mark")
    bounds = {(bar["method"], bar["architecture"], bar["rev"]): (float(bar["accuracy"]), float(bar["high"])) for bar in found}
    wanted = {("distilled", "ConvNet"): (0.9, 0.05), ("random", "ConvNet"): (0.7, 0.02), ("distilled", "AlexNet"): (0.125, 0.25)}
    revisions = {"HEAD": 1, "workspace": 0.5}
    assert bounds == {
        (*cell, revision): pytest.approx((max(0, times * mean - std), times * mean + std))
        for cell, (mean, std) in wanted.items()
        for revision, times in revisions.items()
    }
    bars = marks(drawn.both["Scores"], "bar")
    assert len(bars) == 6
    assert len({(bar["rev"], bar["fill"]) for bar in bars}) == len({bar["fill"] for bar in bars}) == 2
    assert len({bar["d"].split("h")[0] for bar in bars if bar["architecture"] == "ConvNet"}) == 4
    assert len(marks(drawn.last["Scores"], "bar")) == 3


def test_what_lies_over_one_epoch_has_a_mean_and_epochs_stand_in_the_order_of_numbers(drawn):
    svg = vl_convert.vegalite_to_svg(drawn.both["Loss"])
    order = [int(word) for word in re.findall(r"<text[^>]*>(\d+)</text>", svg)]
    assert order[:12] == list(range(12))
    assert len(re.findall('aria-roledescription="point"', svg)) == 2 * (3 + 11 * 2) + 2 * 12
