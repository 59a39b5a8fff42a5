"""Benchmarks that score elsewhere: images go out in their layout, their result files come in.

GenEval (Ghosh et al. 2023) needs an object detector of its own environment, ImageReward (Xu et al.
2023) an older transformers. Both read the folder that is exported here with their own, unchanged
scripts. The folder's ``external.json`` remembers what was drawn, so that a result file can be held
against it.
"""

from workbench.evaluation.external.benchmarks import BENCHMARKS, get_benchmark, open_export
from workbench.evaluation.external.export import Benchmark, Export, ExternalScores, import_results

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Export",
    "ExternalScores",
    "get_benchmark",
    "import_results",
    "open_export",
]
