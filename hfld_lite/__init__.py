"""Hierarchical feature-logit knowledge distillation on small signals.

The names here are the ones that a first program needs; everything else is in the modules.
"""

import os
import sys

# How often a waiting thread of GNU OpenMP looks for work before it sleeps; read when torch loads.
# The default, 300,000, suits a machine of one's own. Measured on two cores with two threads, ms a
# step of ResNet10-1D 1/16 and ResNet18-1D 1/4: alone 8.9 and 31.9 by default, 8.4 and 32.6 by
# 10,000; beside programs that began later up to 930 and 5470 by default, 146 and 340 by 10,000.
if "torch" not in sys.modules and not (
    {"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"} & os.environ.keys()
):
    os.environ["GOMP_SPINCOUNT"] = "10000"

from hfld_lite import rivals
from hfld_lite.data.readers import read_folder, read_long_mat, read_mat, read_wav_folder
from hfld_lite.data.recordings import Recordings
from hfld_lite.data.simulator.simulate import simulate_tiles
from hfld_lite.data.splits import Split, published_split, split
from hfld_lite.data.views import (
    averaged_spectrum,
    frequencies,
    log_mel,
    log_spectrum,
    spectrogram,
    spectrum,
    time_view,
)
from hfld_lite.distillation import rival, term
from hfld_lite.errors import ArgumentError, DataError, HfldError, RecipeError
from hfld_lite.evaluation.detector import Detector
from hfld_lite.hierarchy import Chain, distill_chain
from hfld_lite.networks import Output, adapt, resnet1d
from hfld_lite.recipes import Network, Recipe
from hfld_lite.rivals.presets import preset
from hfld_lite.version import __version__
from hfld_lite.weighting import weighting

__all__ = [
    "ArgumentError",
    "Chain",
    "DataError",
    "Detector",
    "HfldError",
    "Network",
    "Output",
    "Recipe",
    "RecipeError",
    "Recordings",
    "Split",
    "__version__",
    "adapt",
    "averaged_spectrum",
    "distill_chain",
    "frequencies",
    "log_mel",
    "log_spectrum",
    "preset",
    "published_split",
    "read_folder",
    "read_long_mat",
    "read_mat",
    "read_wav_folder",
    "resnet1d",
    "rival",
    "rivals",
    "simulate_tiles",
    "spectrogram",
    "spectrum",
    "split",
    "term",
    "time_view",
    "weighting",
]
