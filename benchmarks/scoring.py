"""How the benchmarks judge synthetic rows, beside two controls that show what the scores mean."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sdmetrics.reports.single_table.quality_report import QualityReport
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import OrdinalEncoder

from genesis import Kind, Schema
from genesis.evaluation.detection import detect
from genesis.evaluation.rows import align


@dataclass(frozen=True)
class Judge:
    """Scores tables against a real one.

    Args:
        train: Real rows that generators were trained on.
        test: Real rows that they were not.
        target: A column of two labels, to be predicted from the others.
        rows: Rows that SDMetrics looks at.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    target: str
    rows: int = 20_000

    def score(self, synthetic: pd.DataFrame) -> dict[str, float]:
        """SDMetrics' quality and its two parts; AUROC of train on synthetic, test on real."""
        discrete = [c.name for c in Schema.infer(self.train) if c.kind is not Kind.NUMERIC]
        real, fake = _as_text(self.train, discrete), _as_text(synthetic, discrete)
        columns = {
            name: {"sdtype": "categorical" if name in discrete else "numerical"} for name in real
        }
        report = QualityReport()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report.generate(
                real.sample(min(self.rows, len(real)), random_state=0).reset_index(drop=True),
                fake.sample(min(self.rows, len(fake)), random_state=0).reset_index(drop=True),
                {"columns": columns},
                verbose=False,
            )
        parts: dict[str, Any] = dict(report.get_properties().to_numpy())
        return {
            "quality": float(report.get_score()),
            "shapes": float(parts["Column Shapes"]),
            "trends": float(parts["Column Pair Trends"]),
            "tstr": self._auroc(fake, _as_text(self.test, discrete), discrete),
        }

    def distinguish(self, synthetic: pd.DataFrame, seed: int = 0) -> float | None:
        """AUC of boosting that tells synthetic rows from training rows: 0.5 where it cannot.

        Of up to 20,000 rows of each; None for fewer than 30.
        """
        tables = {"real": self.train, "synthetic": synthetic}
        found = align(tables, schema=Schema.infer(self.train)).rows
        area = detect(found["real"], found["synthetic"], seed=seed).models.get("gradient_boosting")
        return None if area is None else area.value

    def distinguish_plainly(self, synthetic: pd.DataFrame, rows: int = 10_000) -> float:
        """The same as papers have it: 10,000 rows of each, labels as numbers, three folds.

        Boosting knows nothing of categories then, and tells less.
        """
        n = min(rows, len(self.train), len(synthetic))
        discrete = [c.name for c in Schema.infer(self.train) if c.kind is not Kind.NUMERIC]
        tables = [
            _as_text(table[list(self.train)].sample(n, random_state=0), discrete)
            for table in (self.train, synthetic)
        ]
        both = pd.concat(tables)
        both[discrete] = OrdinalEncoder().fit_transform(both[discrete])
        model = HistGradientBoostingClassifier(max_iter=100, random_state=0)
        which = np.repeat([0, 1], n)
        chances = cross_val_predict(
            model, both.to_numpy(np.float64), which, cv=3, method="predict_proba"
        )
        return float(roc_auc_score(which, chances[:, 1]))

    def controls(self, seed: int = 0) -> dict[str, dict[str, float]]:
        """Scores of rows without any dependence, of real rows never trained on, and of real ones.

        Training on the holdout would be tested on itself, so its utility is left open.
        """
        rng = np.random.default_rng(seed)
        shuffled = pd.DataFrame({n: rng.permutation(c.to_numpy()) for n, c in self.train.items()})
        return {
            "shuffled columns": self.score(shuffled),
            "real holdout": {**self.score(self.test), "tstr": float("nan")},
            "real training rows": self.score(self.train),
        }

    def _auroc(self, fake: pd.DataFrame, real: pd.DataFrame, discrete: list[str]) -> float:
        # Boosting refuses columns of nulls alone, which generators of few epochs produce.
        features = [name for name in real if name != self.target and fake[name].notna().any()]
        labels = [name for name in features if name in discrete]
        positive = self.train[self.target].value_counts().index[-1]
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        encoder.fit(pd.concat([fake[labels], real[labels]]))

        def matrix(table: pd.DataFrame) -> np.ndarray[Any, Any]:
            numbers = table[[name for name in features if name not in labels]].astype(float)
            return np.hstack([numbers, encoder.transform(table[labels])])

        wanted = fake[self.target] == str(positive)
        if wanted.nunique() < 2:
            return 0.5
        model = HistGradientBoostingClassifier(max_iter=150, random_state=0)
        predicted = model.fit(matrix(fake), wanted).predict_proba(matrix(real))[:, 1]
        return float(roc_auc_score(real[self.target] == str(positive), predicted))


def _as_text(table: pd.DataFrame, discrete: list[str]) -> pd.DataFrame:
    """Nulls as a label of their own, so that both sides spell them alike."""
    texts = {n: table[n].astype(object).where(table[n].notna(), "?").astype(str) for n in discrete}
    return table.assign(**texts).reset_index(drop=True)
