"""The networks behind the metrics: each a FeatureExtractor, loaded from a file of known name."""

from workbench.evaluation.networks.known import KNOWN, KnownWeights
from workbench.evaluation.networks.weights import LocalWeights, WeightFiles

__all__ = ["KNOWN", "KnownWeights", "LocalWeights", "WeightFiles"]
