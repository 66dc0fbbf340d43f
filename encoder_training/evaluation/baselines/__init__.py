"""What an encoder must beat: naive Bayes, ridge and nearest neighbours, on the same windows.

Each baseline weighs the training frames for a window, and its patches are the mixture of their true
patches by these weights; so nothing of the size of the patches is ever fitted.
"""

from encoder_training.evaluation.baselines.bayes import fit_bayes
from encoder_training.evaluation.baselines.decoder import BaselineDecoder, FrameMixture
from encoder_training.evaluation.baselines.knn import fit_knn
from encoder_training.evaluation.baselines.ridge import fit_ridge
from encoder_training.evaluation.baselines.training_data import BaselineData

FITS = {"naive Bayes": fit_bayes, "ridge": fit_ridge, "kNN": fit_knn}
"""Every baseline, by the name that reports use."""

__all__ = [
    "FITS",
    "BaselineData",
    "BaselineDecoder",
    "FrameMixture",
    "fit_bayes",
    "fit_knn",
    "fit_ridge",
]
