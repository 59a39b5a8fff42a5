"""Published choices of the guidance scales by name, wherever the scales may be given."""

from __future__ import annotations

import pytest

from workbench.errors import RequestError
from workbench.methods import GuidanceConfig, SiDConfig
from workbench.training.config import RunConfig, validated
from workbench.training.overrides import with_overrides

# (training the fake score, evaluating it, evaluating the teacher)
SCALES = {
    "off": (1.0, 1.0, 1.0),
    "long-short": (4.5, 4.5, 4.5),
    "long-short-4.5": (4.5, 4.5, 4.5),
    "long-short-2": (2.0, 2.0, 2.0),
    "zero-cfg": (0.0, 0.0, 1.0),
    "anti-cfg": (-1.0, -1.0, 1.0),
    "anti-cfg-0.5": (-0.5, -0.5, 1.0),
}


@pytest.mark.parametrize("name", SCALES)
def test_a_name_is_its_scales(name: str) -> None:
    train_fake, eval_fake, eval_teacher = SCALES[name]
    scales = GuidanceConfig(train_fake=train_fake, eval_fake=eval_fake, eval_teacher=eval_teacher)
    assert GuidanceConfig.model_validate(name) == scales
    spelt = RunConfig(method=SiDConfig(guidance=scales))
    asked = with_overrides(RunConfig(), [f"method.guidance={name}"])
    from_python = RunConfig(method=SiDConfig(guidance=name))
    from_json = validated({"method": {"guidance": name}})
    assert asked == spelt == from_python == from_json
    assert len({config.fingerprint() for config in (asked, spelt, from_python, from_json)}) == 1


def test_a_scale_after_a_name_changes_that_scale_alone() -> None:
    changed = with_overrides(
        RunConfig(), ["method.guidance=zero-cfg", "method.guidance.eval_teacher=2.5"]
    )
    assert changed.method.guidance == GuidanceConfig(
        train_fake=0.0, eval_fake=0.0, eval_teacher=2.5
    )
    back = with_overrides(changed, ["method.guidance=off"])
    assert back.method.guidance == GuidanceConfig()


def test_a_name_survives_another_method() -> None:
    overrides = ["method.guidance=anti-cfg", "data.source=digits", "training.kimg=100"]
    config = with_overrides(RunConfig(), [*overrides, "method.name=sid2a"])
    assert config.method.guidance == GuidanceConfig.model_validate("anti-cfg")


@pytest.mark.parametrize(
    "name", ["zero-cgf", "zero-cfg-2", "long-short-", "long-short-x", "off-1", "long-short--2", ""]
)
def test_unknown_names_are_one_line_with_the_known_ones(name: str) -> None:
    with pytest.raises(RequestError, match="Unknown guidance") as caught:
        with_overrides(RunConfig(), [f"method.guidance={name}"])
    assert "anti-cfg, anti-cfg-1, long-short, long-short-4.5, off, zero-cfg" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="Unknown guidance"):
        GuidanceConfig.model_validate(name)
