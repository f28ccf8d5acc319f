"""How good synthetic rows are, and whether they leak.

`evaluate` and `audit` are the ways in, and the files to read first; both return a `report`. Every
other file is one kind of score:

    rows, space           tables made comparable; where rows have distances
    fidelity              columns and pairs of columns look alike
    detection             a classifier tells synthetic rows from real ones
    utility               a model trained on synthetic rows works on real ones
    similarity            how close rows come to real ones, which is not privacy
    membership, attacks/  who was trained on? beside controls whose answer is known
    white_box, shadow     the same for those who hold the model, or train others like it
    attributes, singling_out, linkability
                          what synthetic rows tell about a person
    one_run               a lower bound on the ε of a training method
    verdict               what all that lets one say
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genesis.lazy import lazy_names

if TYPE_CHECKING:
    from genesis.evaluation.audit import audit as audit
    from genesis.evaluation.evaluate import check_tables as check_tables
    from genesis.evaluation.evaluate import evaluate as evaluate
    from genesis.evaluation.one_run import audit_one_run as audit_one_run
    from genesis.evaluation.one_run import epsilon_one_run as epsilon_one_run
    from genesis.evaluation.report import Report as Report

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "genesis.evaluation.audit": ["audit"],
        "genesis.evaluation.evaluate": ["check_tables", "evaluate"],
        "genesis.evaluation.one_run": ["audit_one_run", "epsilon_one_run"],
        "genesis.evaluation.report": ["Report"],
    },
)
