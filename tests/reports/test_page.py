"""The report: one file, all of the findings, nothing from outside."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import PIL.Image
import pytest

from tests.populate import Shape, populate
from workbench.errors import RequestError
from workbench.registry import Experiment, make_plan, register
from workbench.reports.page import ReportRequest, write_report
from workbench.tracking import default_uri, list_runs, read_artifact
from workbench.workspace import Workspace, open_workspace

# Nearly equal seeds, but for "moved": with two of them an interval is wide.
SHAPES = {
    "near": Shape(0.40, spread=0.005),
    "far": Shape(0.9, spread=0.005),
    "moved": Shape(0.41, spread=0.05),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """A registered experiment: three variants ran, one did not; "moved" ran on another machine."""
    workspace = open_workspace(tmp_path_factory.mktemp("page") / "workspace")
    shutil.copy(fresh_store, workspace.root)
    uri = default_uri(workspace.root)
    alphas = {"near": 1.0, "far": 0.5, "moved": 1.2, "never": 2.0}
    variants = {
        name: {"method.sid_alpha": alpha, "training.kimg": 12.8} for name, alpha in alphas.items()
    }
    experiment = Experiment("alpha", "Does <b>alpha</b> & co matter?", "No.", variants)
    plan = make_plan(experiment)
    register(plan, [0, 1], workspace, uri)
    configs = [plan.config(name, seed) for name in SHAPES for seed in (0, 1)]
    ids = populate(uri, workspace, configs, SHAPES)
    # A newer run under the same name, of another plan: no business of this page.
    tried = make_plan(experiment, ["training.kimg=6.4"])
    populate(uri, workspace, [tried.config("near", 0)], SHAPES)
    from workbench.tracking.store import open_store

    store = open_store(uri)
    for config, run_id in zip(configs, ids, strict=True):
        folder = Path(store.get_run(run_id).data.tags["folder"])
        picture = folder / "figures" / "samples.png"
        if config.variant != "far":
            picture.parent.mkdir()
            shade = 10 * config.seed + 100 * (config.variant == "moved")
            PIL.Image.new("L", (8, 8), shade).save(picture)
        if config.variant == "moved":
            store.log_artifact(run_id, str(picture), "figures")
            store.set_tag(run_id, "host", "another-machine")
            picture.unlink()
    return workspace


@pytest.fixture(scope="module")
def page(place: Workspace) -> str:
    path = place.root / "out" / "page.html"
    stored = write_report(ReportRequest("alpha"), path, default_uri(place.root), place)
    assert stored == "report/alpha.html"
    return path.read_text(encoding="utf-8")


def shade_of(picture: str) -> int:
    import io

    return int(PIL.Image.open(io.BytesIO(base64.b64decode(picture))).getpixel((0, 0)))


def test_nothing_comes_from_outside(page: str) -> None:
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"<(link|script|iframe)|@import|url\(|href=", page)


def test_what_people_wrote_is_text(page: str) -> None:
    assert "Does &lt;b&gt;alpha&lt;/b&gt; &amp; co matter?" in page
    assert "<b>alpha</b>" not in page


def test_the_findings_are_there(page: str, place: Workspace) -> None:
    for row in list_runs(default_uri(place.root), "alpha"):
        ours = "variant" in row.tags and row.params["training.kimg"] == "12.8"
        assert (row.run_id in page) == ours
    assert "older:" not in page
    text = re.sub(r"<[^>]+>|\s+", " ", page)
    assert "Registered, but not in this page" in text
    assert "never." in text
    assert re.search(r"told apart, not, no verdict +(1, 1, 0|0, 2, 0)", text)
    assert re.search(r"far +\+0\.\d+ .* worse", text)
    settings = text[text.index("What differs") :]
    for variant, alpha in (("near", "1.0"), ("moved", "1.2"), ("far", "0.5")):
        assert re.search(rf"method.sid_alpha .*{variant} +{alpha}", settings)
    assert re.search(r"training.kimg +12.8", text)
    assert len(re.findall("data:image/svg", page)) == 2


def test_samples_come_from_the_folder_else_from_mlflow(page: str) -> None:
    pictures = re.findall(r"data:image/png;base64,([^\"]+)\"[^>]*>\s*<figcaption>([\w-]+),", page)
    figures = re.split("<figure>", page)[1:]
    shown = {}
    for figure in figures:
        found = re.search(r'base64,([^"]+)" alt="Samples of (\w+)"', figure)
        if found:
            shown[found[2]] = shade_of(found[1])
    assert shown == {"near": 0, "moved": 100}, pictures
    assert page.count("No samples of this run") == 1  # of "far"


def test_mlflow_keeps_the_page_beside_the_plan(page: str, place: Workspace) -> None:
    uri = default_uri(place.root)
    (plan,) = [row for row in list_runs(uri, "alpha") if row.tags.get("kind") == "plan"]
    assert read_artifact(uri, plan.run_id, "report/alpha.html") == page


def test_wrong_requests(place: Workspace, tmp_path: Path) -> None:
    uri = default_uri(place.root)
    with pytest.raises(RequestError, match="beta"):
        write_report(ReportRequest("beta"), tmp_path / "x.html", uri, place)
    with pytest.raises(RequestError, match="Cannot write"):
        write_report(ReportRequest("alpha"), tmp_path, uri, place)
    assert list(tmp_path.iterdir()) == []
