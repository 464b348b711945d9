"""Weights to begin a training with: transfer learning from a bundle or another run.

`training.run.take_over` copies what fits; the last layer of a pretrained network does not, and stays fresh.
"""

from __future__ import annotations

import pickle
from pathlib import Path

from inference.bundle import CARD, ENSEMBLE, read_bundle
from inference.engine import load_network
from training.errors import RunError
from training.run import BEST, RUN, Start, State, best_state, read_record


def read_start(path: Path) -> Start:
    """The weights of a bundle folder, or the best ones of a run folder of `fit` or `pretrain`.

    The origin names no folder, so that a run can be continued where the weights lie elsewhere. Raises
    BundleError when the bundle is damaged or its weights are of another network than it says, and
    RunError when the folder is neither of both, holds no plain weights, or an ensemble.
    """
    if (path / CARD).is_file():
        return _of_bundle(path)
    if (path / RUN).is_file():
        kind = "pretraining" if "pretraining" in read_record(path) else "run"
        return Start(_best(path), f"{kind} {path.resolve().name}")
    raise RunError(
        f"{path} holds neither a bundle ({CARD}) nor a run ({RUN}): give the folder of a bundle, or the "
        "--out of `dicomtrain fit` or `dicomtrain pretrain`"
    )


def _of_bundle(path: Path) -> Start:
    bundle = read_bundle(path)
    if bundle.network_def["_target_"] == ENSEMBLE:
        raise RunError(f"{path} is an ensemble: begin with the bundle of one of its members")
    state = load_network(bundle).state_dict()
    return Start(state, f"bundle {bundle.card.name} {bundle.card.version}")


def _best(path: Path) -> State:
    try:
        return best_state(path)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path / BEST} holds no plain weights: restore the file or train again") from error
