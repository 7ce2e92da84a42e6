"""Every peer, in the order of the table; importing it takes all their libraries."""

from __future__ import annotations

from bench.quality.detector import Contender
from bench.quality.peers.half_space_trees import HALF_SPACE_TREES
from bench.quality.peers.mahalanobis import MAHALANOBIS
from bench.quality.peers.pca import PCA
from bench.quality.peers.prophet_model import PROPHET
from bench.quality.peers.pyod_models import PYOD_ECOD, PYOD_IFOREST
from bench.quality.peers.robust_z import ROBUST_Z
from bench.quality.peers.textbook import TEXTBOOK
from bench.quality.peers.trivial import ALWAYS_ON, RANDOM

PEERS: tuple[Contender, ...] = (
    TEXTBOOK,
    ROBUST_Z,
    MAHALANOBIS,
    PCA,
    PYOD_IFOREST,
    PYOD_ECOD,
    HALF_SPACE_TREES,
    PROPHET,
    ALWAYS_ON,
    RANDOM,
)
