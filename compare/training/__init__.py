"""The training loop and its algorithms, with checkpoints that resume bit for bit."""

from compare.training.algorithms import ADV, ALGORITHMS, RSGD, SAM, Algorithm, Plain, SettingsError, algorithm
from compare.training.bend import Bend, BendError, BendSettings, train_bend
from compare.training.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from compare.training.descent import TrainingError
from compare.training.loop import Observer, Trained, train
from compare.training.phases import Note
from compare.training.settings import Optimiser, Recipe, TrainingSettings

__all__ = [
    "ADV",
    "ALGORITHMS",
    "RSGD",
    "SAM",
    "Algorithm",
    "Bend",
    "BendError",
    "BendSettings",
    "Checkpoint",
    "CheckpointError",
    "Note",
    "Observer",
    "Optimiser",
    "Plain",
    "Recipe",
    "SettingsError",
    "Trained",
    "TrainingError",
    "TrainingSettings",
    "algorithm",
    "read_checkpoint",
    "train",
    "train_bend",
]
