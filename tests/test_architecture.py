"""The layers: a module imports only from rooms below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "workbench"
ROOMS = [
    ("errors", "hashing", "lazy", "rounding", "settings", "sizes"),
    ("pretrained",),
    ("user_config",),
    ("bundled", "lookup", "metrics", "samplers", "workspace"),
    ("data", "flow"),
    ("teachers",),
    ("methods",),
    ("training",),
    ("evaluation",),
    ("plotting",),
    ("tracking",),
    ("students",),
    ("runs", "scoring"),
    ("launching",),
    ("doctor",),
    ("studies",),
    ("registry",),
    ("reports",),
    ("api",),
    ("cli",),
    ("__main__",),
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "mlflow",
    "optuna",
    "pandas",
    "matplotlib",
    "sklearn",
}
MODULE_NAMES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, module_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if module_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and not module_level_only:
            found |= {str(node.value)} & MODULE_NAMES  # for importlib and tables of lazy names
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"{path} is in no room"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "workbench" or len(parts) < 2 or parts[1] not in LEVEL:
            continue
        below = LEVEL[parts[1]] < LEVEL[room]
        assert below or parts[1] == room, f"{path}: {room} must not import {parts[1]}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_import_heavy_packages_inside(path: Path) -> None:
    if path.name in ("progress.py", "building.py", "live.py"):  # only imported inside commands
        return
    tops = {name.split(".")[0] for name in imports(path, module_level_only=True)}
    rooms = {
        name.split(".")[1]
        for name in imports(path, module_level_only=True)
        if name.startswith("workbench.")
    }
    assert not tops & HEAVY
    assert rooms <= {"cli", "errors", "metrics", "__version__"}


def test_three_files_know_about_processes() -> None:
    knowing = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(
            name.startswith(("torch.distributed", "torch.distributed.fsdp"))
            and not name.startswith(("torch.distributed.checkpoint", "torch.distributed.tensor"))
            for name in imports(path)
        )
    }
    assert knowing == {f"training/{name}.py" for name in ("launch", "parallel", "world")}


def test_only_the_command_figures_loads_the_scripts() -> None:
    """Else a run's end, or a comparison, would depend on files that a person edits."""
    loading = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if 'bundled_folder("analysis")' in path.read_text(encoding="utf-8")
    }
    assert loading == {"reports/scripts.py"}
