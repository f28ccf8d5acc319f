"""Genesis trains generators of synthetic tables, on one table or federated over many.

In short::

    from genesis import FederatedSynthesizer

    synthesizer = FederatedSynthesizer(method="ctgan", n_rounds=10)
    synthesizer.fit([north, south, west], discrete_columns=["diagnosis"])
    synthetic = synthesizer.generate(10_000)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from genesis.lazy import lazy_names

# Read when torch loads: how long its threads spin while they wait for each other. Usually it is
# milliseconds, which on a machine that others use too made training twenty times slower; not at all
# made it half as fast on a quiet one. A short while is good on both.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from genesis.blocks import TableBlocks as TableBlocks
    from genesis.classifier import Classifier as Classifier
    from genesis.encoding.encoder import Encoder as Encoder
    from genesis.errors import ConditionError as ConditionError
    from genesis.errors import DataError as DataError
    from genesis.errors import FederationError as FederationError
    from genesis.errors import GenesisError as GenesisError
    from genesis.errors import MissingExtraError as MissingExtraError
    from genesis.errors import ModelFileError as ModelFileError
    from genesis.errors import PlanError as PlanError
    from genesis.errors import PrivacyError as PrivacyError
    from genesis.errors import SchemaError as SchemaError
    from genesis.errors import TrainingError as TrainingError
    from genesis.evaluation.audit import audit as audit
    from genesis.evaluation.evaluate import evaluate as evaluate
    from genesis.evaluation.report import Report as Report
    from genesis.federated.simulation import FederatedSynthesizer as FederatedSynthesizer
    from genesis.schema import Column as Column
    from genesis.schema import Kind as Kind
    from genesis.schema import Schema as Schema
    from genesis.synthesizer import Synthesizer as Synthesizer
    from genesis.tables import read_table as read_table
    from genesis.tables import write_table as write_table

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "genesis.blocks": ["TableBlocks"],
        "genesis.classifier": ["Classifier"],
        "genesis.encoding.encoder": ["Encoder"],
        "genesis.errors": [
            "ConditionError",
            "DataError",
            "FederationError",
            "GenesisError",
            "MissingExtraError",
            "ModelFileError",
            "PlanError",
            "PrivacyError",
            "SchemaError",
            "TrainingError",
        ],
        "genesis.evaluation.audit": ["audit"],
        "genesis.evaluation.evaluate": ["evaluate"],
        "genesis.evaluation.report": ["Report"],
        "genesis.federated.simulation": ["FederatedSynthesizer"],
        "genesis.schema": ["Column", "Kind", "Schema"],
        "genesis.synthesizer": ["Synthesizer"],
        "genesis.tables": ["read_table", "write_table"],
    },
)
