"""Train again what judges scenes: ``python -m workbench.evaluation.scenes.train clip OUT``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from workbench.data.bundled import BUNDLED
from workbench.data.scenes import Scene, Scenes
from workbench.evaluation.scenes.clip import ClipRecipe, quality, train_clip
from workbench.evaluation.scenes.detector import save_detector
from workbench.evaluation.scenes.detector_training import DetectorRecipe, accuracy, train_detector


def train_and_judge_clip(out: Path) -> None:
    """Train the CLIP, write its folder and say what it tells apart."""
    train_clip(out, ClipRecipe(), _progress())
    for title, share in quality(out, _unseen()).items():
        print(f"{title}: {share:.3f}")


def train_and_judge_detector(out: Path) -> None:
    """Train the detector, write ``OUT/detector.safetensors`` and say how much it finds."""
    trained = train_detector(DetectorRecipe(), _progress())
    trained.accuracy = accuracy(trained, [scene.objects for scene in _unseen()])
    out.mkdir(parents=True, exist_ok=True)
    save_detector(out / "detector.safetensors", trained)
    print(f"finds all of {trained.accuracy:.2%} of scenes-val exactly")


NETWORKS: Mapping[str, Callable[[Path], None]] = {
    "clip": train_and_judge_clip,
    "detector": train_and_judge_detector,
}


def _unseen() -> tuple[Scene, ...]:
    scenes = BUNDLED["scenes-val"]
    assert isinstance(scenes, Scenes)
    return scenes.scenes


def _progress() -> Callable[[int, int, float], None]:
    started = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - started
            left = seconds * (steps - step) / step
            print(
                f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s, {left:.0f} s left",
                flush=True,
            )

    return show


def main(arguments: list[str] | None = None) -> None:
    """Train what is named."""
    parser = argparse.ArgumentParser(prog="python -m workbench.evaluation.scenes.train")
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    chosen = parser.parse_args(arguments)
    NETWORKS[chosen.network](chosen.out)


if __name__ == "__main__":
    main(sys.argv[1:])
