"""Make again what judges scenes: ``python -m workbench.evaluation.scenes.train detector OUT``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from workbench.data.bundled import BUNDLED
from workbench.data.scenes import Scenes
from workbench.evaluation.scenes.detector import save_detector
from workbench.evaluation.scenes.detector_training import DetectorRecipe, accuracy, train_detector


def detector(out: Path) -> None:
    """Train the detector and write ``OUT/detector.safetensors``."""
    started = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s", flush=True)

    trained = train_detector(DetectorRecipe(), show)
    unseen = BUNDLED["scenes-val"]
    assert isinstance(unseen, Scenes)
    trained.accuracy = accuracy(trained, [scene.objects for scene in unseen.scenes])
    out.mkdir(parents=True, exist_ok=True)
    save_detector(out / "detector.safetensors", trained)
    print(f"finds all of {trained.accuracy:.2%} of scenes-val exactly")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench.evaluation.scenes.train")
    parser.add_argument("what", choices=["detector"])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    detector(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main(sys.argv[1:])
