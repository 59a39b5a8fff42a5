"""`workbench recipes`: what there is, and every setting with who says so."""

from __future__ import annotations

from tests.cli.conftest import InsideWorkbench
from workbench.teachers.hub_catalog import HUB_TEACHERS


def test_the_list_has_a_full_and_an_adapter_recipe_for_each_hub_teacher(
    workbench: InsideWorkbench,
) -> None:
    listed = {one["name"]: one for one in workbench.json("recipes", "list")}
    for teacher in HUB_TEACHERS:
        assert listed[teacher.name]["teachers"] == [teacher.name]
        assert listed[teacher.name]["card_gib"] is None
        adapters = listed[f"{teacher.name}-lora"]
        assert adapters["pipeline"] == teacher.pipeline_class
        assert adapters["card_gib"] in (24, 48, 80)
        assert adapters["task"] == "coco"
    (row,) = [
        line for line in workbench("recipes", "list").stdout.splitlines() if "sid-dit" in line
    ]
    assert [cell.strip() for cell in row.split("│")[1:5]] == ["sid-dit", "-", "-", "-"]


def test_show_names_values_and_sources_of_recipe_and_task(workbench: InsideWorkbench) -> None:
    shown = workbench.json("recipes", "show", "sana-0.6b-512")
    assert (shown["task"], shown["method"]) == ("coco", "sid")
    assert shown["settings"]["training.batch_size"] == {
        "value": "256",
        "source": "recipe sana-0.6b-512 (ml-sid-dit, launch script)",
    }
    assert shown["settings"]["evaluation.reference"]["source"].startswith("task coco (")
    assert "data.source" not in shown["settings"]
    text = workbench("recipes", "show", "sana-0.6b-512").stdout
    assert "SANA 0.6B at 512 px" in text
    for key, one in shown["settings"].items():
        assert any(key in line for line in text.splitlines()), key
        assert one["source"].split(" (")[0] in text


def test_show_follows_the_method(workbench: InsideWorkbench) -> None:
    shown = workbench.json("recipes", "show", "flux.1-dev-512-lora", "--method", "dmd2")
    settings = shown["settings"]
    assert settings["data.source"]["value"] == "hf:brivangl/midjourney-v6-llava"
    assert settings["training.optimizers.discriminator.lr"]["value"] == "5e-05"
    assert "method.sid_alpha" not in settings
    assert "method.weighting" not in settings


def test_unknown_names_are_refused_with_the_nearest(workbench: InsideWorkbench) -> None:
    told = workbench("recipes", "show", "sana-0.6b", code=2).stderr
    assert "Unknown recipe 'sana-0.6b'. Did you mean 'sana-0.6b-512'?" in told
    told = workbench("recipes", "show", "sid-dit", "--method", "dmd3", code=2).stderr
    assert "Unknown method 'dmd3'. Did you mean 'dmd'?" in told
