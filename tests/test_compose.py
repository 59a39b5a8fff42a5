"""compose.yaml: what it publishes and demands, and its very command lines, run without Docker."""

from __future__ import annotations

import base64
import json
import re
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import yaml
from packaging.requirements import Requirement

from tests.services import ON_CI, HttpService, Postgres, free_port, postgres_programs
from workbench.errors import WorkbenchError
from workbench.tracking import MlflowTracker, RunIdentity, UploaderSettings, list_runs

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRETS = {
    name: f"{name.lower()}-of-this-test"
    for name in (
        *("POSTGRES_PASSWORD", "MLFLOW_DB_PASSWORD", "OPTUNA_DB_PASSWORD"),
        *("MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"),
    )
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """What Compose makes of ${NAME}, ${NAME:-default} and ${NAME:?message}."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if values.get(name):
            return values[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest if kind == "-" else ""

    return _VARIABLE.sub(value, text)


def test_ports_are_published_on_loopback_unless_somebody_says_otherwise() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert {name: len(ports) for name, ports in published.items()} == dict.fromkeys(SERVICES, 1)
    for [port] in published.values():
        assert filled_in(port, {}).startswith("127.0.0.1:")
    assert not any("network_mode" in service for service in SERVICES.values())
    # The dashboard has no password, so nothing opens it to others.
    assert filled_in(published["dashboard"][0], {"WORKBENCH_BIND": "0.0.0.0"}) == (
        "127.0.0.1:8080:8080"
    )


def test_no_service_starts_without_its_secrets_and_none_has_a_default() -> None:
    demanded = set()
    for name, service in SERVICES.items():
        secret = [k for k in service["environment"] if "PASSWORD" in k or "SECRET" in k]
        assert secret, name
        for key in secret:
            found = re.fullmatch(r"\$\{(\w+):\?[^}]+\}", service["environment"][key])
            assert found is not None, f"{name}: {key}"
            demanded.add(found[1])
    assert demanded == set(SECRETS)
    assert not re.search(r"://[^/@\s]+:[^/@\s]+@", (ROOT / "compose.yaml").read_text())
    assert "--app-name=basic-auth" in SERVICES["mlflow"]["command"]


def test_the_server_is_of_a_version_that_the_workbench_takes() -> None:
    recipe = SERVICES["mlflow"]["build"]["dockerfile_inline"]
    installed = [Requirement(text) for text in re.findall(r'"([^"]+)"', recipe)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        requirement.name: requirement.specifier
        for text in (*project["dependencies"], *project["optional-dependencies"]["postgres"])
        for requirement in [Requirement(text)]
    }
    [version] = [item.version for r in installed if r.name == "mlflow" for item in r.specifier]
    assert version in wanted["mlflow"]
    assert SERVICES["mlflow"]["image"].endswith(version)
    shared = {r.name: r.specifier for r in installed if r.name in ("psycopg", "optuna")}
    assert shared == {name: wanted[name] for name in ("psycopg", "optuna")}


class Team:
    """The compose file's databases and its MLflow server, on this machine's loopback."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self.postgres = postgres
        self._folder = folder
        values = {**SECRETS, "MLFLOW_NAME": "lab.example.org"}
        databases = SERVICES["postgres"]["environment"]
        postgres.run_sql(
            COMPOSE["configs"]["databases"]["content"],
            {key: filled_in(value, values) for key, value in databases.items()},
        )
        postgres.require_passwords()
        (folder / "auth.ini").write_text(self._here(COMPOSE["configs"]["auth"]["content"]))
        port = free_port()
        environment = {
            key: self._here(filled_in(value, values))
            for key, value in SERVICES["mlflow"]["environment"].items()
        }
        # One worker instead of two only because each takes seconds to import MLflow.
        moved = {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=5000": f"--port={port}",
            "--workers=2": "--workers=1",
        }
        command = [self._here(moved.get(part, part)) for part in SERVICES["mlflow"]["command"]]
        self.server = HttpService(folder, [sys.executable, "-m", *command], port, environment)

    def _here(self, text: str) -> str:
        places = {
            "@postgres:5432/": f"@127.0.0.1:{self.postgres.port}/",
            "/etc/mlflow-auth.ini": str(self._folder / "auth.ini"),
            "=/artifacts": f"={self._folder / 'artifacts'}",
        }
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    def status(self, path: str, user: str = "", host: str = "", body: object = None) -> int:
        """The HTTP status of one request; ``user`` is NAME:PASSWORD."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server.uri}/api/2.0/mlflow/{path}", data)
        request.add_header("Content-Type", "application/json")
        if user:
            token = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        if host:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    if postgres_programs() is None and not ON_CI:
        pytest.skip("needs Debian's postgresql (CI has it)")
    with Postgres() as postgres:
        team = Team(postgres, tmp_path)
        team.server.start()
        yield team
        team.server.kill()


def test_a_team_shares_runs_and_studies_behind_passwords(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, admin = team.server.uri, f"admin:{SECRETS['MLFLOW_ADMIN_PASSWORD']}"
    search = "experiments/search?max_results=1"
    assert [team.status(search, user) for user in ("", "admin:wrong", admin)] == [401, 401, 200]
    assert team.status(search, admin, "lab.example.org") == 200
    assert team.status(search, admin, "elsewhere.example.org") == 403
    newcomer = {"username": "ada", "password": "a long enough password"}
    assert team.status("users/create", body=newcomer) == 401
    assert team.status("users/create", admin, body=newcomer) == 200

    def run_as(user: str, name: str) -> None:
        for key, value in zip(("USERNAME", "PASSWORD"), user.split(":"), strict=True):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", value)
        identity = RunIdentity("shared", name)
        settings = UploaderSettings(0.05, 60.0, 0.0)
        tracker = MlflowTracker(tmp_path / name, uri, None, identity, settings)
        tracker.log_metrics({"eval/fid": 1.0}, 0)
        tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), 0)
        assert tracker.finish("FINISHED") == 0

    run_as(admin, "first")
    run_as(":".join(newcomer.values()), "second")
    rows = {row.name: row for row in list_runs(uri, "shared")}
    assert {row.status for row in rows.values()} == {"FINISHED"}
    assert set(rows) == {"first", "second"}
    assert len(list((tmp_path / "artifacts").rglob("*.png"))) == 2
    ada = ":".join(newcomer.values())
    assert team.status("runs/delete", ada, body={"run_id": rows["first"].run_id}) == 403
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-her-password")
    with pytest.raises(WorkbenchError, match="401") as refused:
        list_runs(uri, "shared")
    assert "not-her-password" not in str(refused.value)
    _study_is_behind_its_own_password(team.postgres, monkeypatch)


def _study_is_behind_its_own_password(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna
    import psycopg

    storage = postgres.url("optuna").replace("postgres@", "optuna@")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(storage)
    monkeypatch.setenv("PGPASSWORD", SECRETS["OPTUNA_DB_PASSWORD"])
    study = optuna.create_study(storage=storage, study_name="shared")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(optuna.load_study(study_name="shared", storage=storage).trials) == 2
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(postgres.url("mlflow").replace("postgres@", "optuna@"))
