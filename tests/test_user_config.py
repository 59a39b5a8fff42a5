"""workbench.toml: what is read from it, what takes its place, and what it may not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.evaluation.networks.weights import WeightFiles
from workbench.launching.slurm import slurm_settings
from workbench.pretrained import bundled_folder
from workbench.reports.api import where
from workbench.user_config import default_tracking_uri, load_user_config
from workbench.workspace import open_workspace

DOCS = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose subfolder is the current directory; nothing is set in the environment."""
    monkeypatch.delenv("WORKBENCH_WORKSPACE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "below" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "below" / "here")
    return tmp_path


def write(project: Path, text: str) -> None:
    (project / "workbench.toml").write_text(text, encoding="utf-8")


def test_example_of_the_docs(project: Path) -> None:
    """The file is found from below, its paths are its own, profiles go over what all jobs have."""
    write(project, DOCS.split("```toml\n")[1].partition("```")[0])
    config = load_user_config()
    assert config.workspace == project / "runs-of-sana"
    assert config.weights == {
        "inception": project / "weights" / "inception-2015-12-05.pt",
        "clip": Path("scenes-clip"),
    }
    assert default_tracking_uri() == "https://mlflow.example.org"
    plain, large = slurm_settings([]), slurm_settings(["profile=large", "time=60"])
    assert (plain.partition, plain.nodes, plain.extra) == ("gpu", 1, {"constraint": "h200"})
    assert (large.partition, large.nodes, large.time) == ("gpu", 4, 60)
    assert large.extra == {"constraint": "h200", "exclusive": "user"}


def test_precedence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option before environment before file before default, for commands and Python alike."""
    file = f"sqlite:///{project}/below/of-file.db"
    write(project / "below", 'workspace = "of-file"\ntracking_uri = "sqlite:///of-file.db"\n')
    place = open_workspace()
    assert place.root == project / "below" / "of-file"
    assert where(None, None) == (place, file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////of-environment.db")
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(project / "of-environment"))
    named = open_workspace()
    assert named.root == project / "of-environment"
    assert where(None, None) == (named, "sqlite:////of-environment.db")
    assert where(place.root, "sqlite:////named.db") == (place, "sqlite:////named.db")


def test_reading_makes_no_workspace(project: Path) -> None:
    with pytest.raises(RequestError, match=r"There is no workspace at .*mistyped"):
        where(project / "mistyped", None)
    assert where(None, None)[0].root == Path.cwd() / ".workbench"
    write(project, 'workspace = "mistyped"')
    with pytest.raises(RequestError, match=r"There is no workspace at .*mistyped"):
        where(None, None)
    assert [path.name for path in project.rglob("*") if path.is_dir()] == ["below", "here"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('workspce = "x"', r"workbench.toml: unknown key 'workspce'\. Did you mean 'workspace'\?"),
        ("workspace = 3", r"workbench.toml: workspace: .* \(got 3\)"),
        ("workspace =", r"Cannot read .*workbench.toml"),
        ('token = "x"', "token holds a password or token"),
        ('tracking_uri = "https://me:secret@host"', "tracking_uri holds a password or token"),
        ('tracking_uri = "https://TOKEN@host"', "tracking_uri holds a password or token"),
        ('tracking_uri = "postgresql://me:secret@host/db"', "tracking_uri holds a password"),
        ('tracking_uri = "postgresql://me@host/db?password=x"', "tracking_uri holds a password"),
        ('[slurm.profiles.a.extra]\nmy = "https://TOKEN@host"', "slurm.profiles.a.extra.my holds"),
    ],
)
def test_refusals_are_one_line(project: Path, text: str, said: str) -> None:
    write(project, text)
    with pytest.raises(RequestError, match=said) as refused:
        load_user_config()
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "TOKEN@" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[slurm]\npartitoin = "x"\n[slurm.profiles.a]',
            r"unknown key 'slurm.partitoin'\. Did you mean 'partition'",
        ),
        ("[slurm.profiles.a]\nnodes = 0", r"slurm.profiles.a.nodes: .* \(got 0\)"),
        ("[slurm.profiles.b]\nnodes = 1", r"no \[slurm.profiles.a\].* Profiles: b"),
    ],
)
def test_slurm_tables_are_checked(project: Path, text: str, said: str) -> None:
    write(project, text)
    with pytest.raises(RequestError, match=said):
        slurm_settings(["profile=a"])


def test_weights(project: Path) -> None:
    """What the command line names goes before the file, and the file before the workspace."""
    for name in ("of-file.pt", "given.pt"):
        (project / name).write_bytes(name.encode())
    write(project, '[weights]\nclip = "of-file.pt"')
    files = WeightFiles(project / "weights")
    assert files.find("clip").path == project / "of-file.pt"
    files.check_all_used()
    given = WeightFiles(project / "weights", {"clip": project / "given.pt"})
    assert given.find("clip").path == project / "given.pt"
    write(project, '[weights]\nclip = "scenes-clip"')
    assert files.find("clip").path == bundled_folder(Path("scenes-clip"))
    write(project, '[weights]\nclipp = "of-file.pt"')
    with pytest.raises(RequestError, match="Did you mean 'clip'"):
        files.find("clip")
