"""How good synthetic rows are, and whether they leak.

`evaluate` and `audit` are the ways in, and the files to read first; both return a `report`. What
they measure, one file a kind of score:

    fidelity              columns and pairs of columns look alike
    detection             a classifier tells synthetic rows from real ones
    utility               a model trained on synthetic rows works on real ones
    similarity            how close rows come to real ones, which is not privacy
    membership, attacks/  who was trained on? with controls, tables whose answer is known
    copies, fingerprint   members as they are, and counts of values that only members have
    white_box, shadow     membership for those who hold the model, or train others like it
    attributes, singling_out, linkability
                          what synthetic rows tell about a person
    one_run               a lower bound on the ε of a training method
    mechanism/            does a private step do what its ε was computed for?
    verdict               what all that lets one say

What they are made of:

    rows                  tables made comparable, and every cell a number
    space, neighbours     where rows have distances, and who lies near whom
    features              rows as scikit-learn wants them, and its models
    intervals, guesses    areas, shares and risks with what is known of them
    training, steps       the method under audit, for shadows and canaries; how far work has come
    pictures, report/     what plots draw; the page
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genesis.lazy import lazy_names

if TYPE_CHECKING:
    from genesis.evaluation.audit import audit as audit
    from genesis.evaluation.evaluate import check_tables as check_tables
    from genesis.evaluation.evaluate import evaluate as evaluate
    from genesis.evaluation.mechanism import audit_step as audit_step
    from genesis.evaluation.one_run import audit_one_run as audit_one_run
    from genesis.evaluation.one_run import epsilon_one_run as epsilon_one_run
    from genesis.evaluation.report import Report as Report

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "genesis.evaluation.audit": ["audit"],
        "genesis.evaluation.evaluate": ["check_tables", "evaluate"],
        "genesis.evaluation.mechanism": ["audit_step"],
        "genesis.evaluation.one_run": ["audit_one_run", "epsilon_one_run"],
        "genesis.evaluation.report": ["Report"],
    },
)
