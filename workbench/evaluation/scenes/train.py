"""Make again what judges scenes: ``python -m workbench.evaluation.scenes.train clip OUT``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from workbench.data.scenes import Scenes
from workbench.evaluation.scenes.clip import ClipRecipe, quality, train_clip


def clip(out: Path) -> None:
    """Train the CLIP, write it to a folder and say what it tells apart."""
    started = time.monotonic()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s", flush=True)

    train_clip(out, ClipRecipe(), show)
    for title, share in quality(out, Scenes("scenes-val", count=5000, seed=1).scenes).items():
        print(f"{title}: {share:.3f}")


def main(arguments: list[str] | None = None) -> None:
    """Train what is named."""
    trained = {"clip": clip}
    parser = argparse.ArgumentParser(prog="python -m workbench.evaluation.scenes.train")
    parser.add_argument("what", choices=sorted(trained))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    chosen = parser.parse_args(arguments)
    trained[chosen.what](chosen.out)


if __name__ == "__main__":
    main(sys.argv[1:])
