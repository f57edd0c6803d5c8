"""What scikit-learn and scipy compute for the inputs in `calibration.json`. Run by hand, never by the tests:

python3 -m venv VENV && VENV/bin/pip install scikit-learn scipy && VENV/bin/python calibration_sklearn.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score


def ece(c: np.ndarray, y: np.ndarray, strategy: str) -> float:
    """From the means of scikit-learn's bins, weighted by counts over its own bounds."""
    accuracy, confidence = calibration_curve(y, c, n_bins=10, strategy=strategy)
    bounds = np.percentile(c, np.linspace(0, 1, 11) * 100) if strategy == "quantile" else np.linspace(0, 1, 11)
    counts = np.bincount(np.searchsorted(bounds[1:-1], c), minlength=10)
    return float(np.sum(counts[counts > 0] * np.abs(accuracy - confidence)) / len(c))


def temperature(c: np.ndarray, y: np.ndarray) -> float:
    logits = np.log(c) - np.log1p(-c)
    found = minimize_scalar(
        lambda t: np.mean(np.logaddexp(0, np.where(y == 1, -1, 1) * logits / t)),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-13},
    )
    return float(found.x)


def case(c: np.ndarray, y: np.ndarray) -> dict[str, object]:
    inside = np.clip(c, 1e-12, 1 - 1e-12)
    return {
        "confidences": c.tolist(),
        "correct": y.tolist(),
        "ece": ece(c, y, "uniform"),
        "ece_equal_mass": ece(c, y, "quantile"),
        "brier": float(brier_score_loss(y, c)),
        "auroc": float(roc_auc_score(y, c)),
        "log_loss": float(log_loss(y, inside)),
        "temperature": temperature(inside, y) if c.min() > 0 and c.max() < 1 else None,
    }


def main() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.uniform(0.02, 0.98, 200)
    rough = np.round(rng.uniform(0, 1, 200), 1)  # ties, and confidences of 0 and 1
    sure = np.clip(rng.beta(8, 1, 300), 1e-6, 1 - 1e-6)
    cases = [
        case(smooth, (rng.uniform(size=200) < smooth).astype(float)),
        case(rough, (rng.uniform(size=200) < rough / 2 + 0.25).astype(float)),
        case(sure, (rng.uniform(size=300) < 0.5 * sure).astype(float)),
    ]
    made = {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__, "cases": cases}
    (Path(__file__).parent / "calibration.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
