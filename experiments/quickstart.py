"""The five-minute path: one data-free SiD run on the embedded teacher."""

from workbench.registry import Experiment
from workbench.training.config import RunConfig

EXPERIMENT = Experiment(
    name="quickstart",
    question="Does four-step SiD work out of the box on a small flow-matching teacher?",
    hypothesis="At four steps the student is much nearer to the data than the teacher is.",
    variants={"default": RunConfig()},
)
