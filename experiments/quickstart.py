"""The five-minute path: one data-free SiD run on the embedded teacher."""

from workbench.registry import Experiment
from workbench.registry.experiment import Part
from workbench.studies import Choice, Real

EXPERIMENT = Experiment(
    name="quickstart",
    question="Does four-step SiD work out of the box on a small flow-matching teacher?",
    hypothesis="At four steps the student is much nearer to the data than the teacher is.",
    variants={"default": {}},
    tasks={
        "digits": Part(
            {
                "training.kimg": 38.4,
                "schedule.evaluate_kimg": 6.4,
                "evaluation.teacher_steps": [50, 20, 4],
            }
        )
    },
    space={
        "training.optimizers.generator.lr": Real(1e-4, 2e-3, log=True),
        "training.optimizers.fake_score.lr": Real(1e-4, 2e-3, log=True),
        "method.sid_alpha": Real(0.8, 1.4),
        "method.weighting": Choice(("1-t", "(1-t)^2", "1/t", "sid")),
    },
)
