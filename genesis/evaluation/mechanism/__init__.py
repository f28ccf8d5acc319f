"""Does a private step of training do what its ε was computed for? An audit with canaries.

The accountant believes that one step releases Σ_i clip_C(g_i) + N(0, σ² C²), summed over a batch by
Poisson sampling. Then adding a record moves the sum by at most C, and whoever is to tell from the
result whether it was there faces two normal distributions that are at most

    μ = 1/σ

standard deviations apart (Dong, Roth & Su 2022, "Gaussian differential privacy"). Here the step
that is shipped is run many times with a record, the canary, and without (Nasr et al. 2021,
"Adversary instantiation"), and the distance that is seen is compared with that. The statistic is
the inner product of the noisy sum and the direction in which the canary moves it. Where whole
clients are hidden, a record is a client, and its gradient the change that it sends.

The auditor knows all but the noise: the parameters, every other record, the seed, and which entry
of its pool of random numbers a record takes. What ε promises holds against them, too. They see the
noisy mean of a step with a learning rate of 0, so that every step begins where the first one did,
and so that neither noise nor records may show in parameters or in what is derived from them.

A direction chosen badly makes an audit blind, and never makes it wrong. So canaries and directions
are chosen by steps that are almost without noise: those that move the sum furthest. They tell the
sensitivity of the sum as well, to many digits; but that the noise fits it, only the noise tells.

Models that are fitted from sums take no steps, but answer. An answer is audited as a step on all
records is: C is the norm that its question says, and μ is what the ledger has of it.

A single step is audited, and no code is proved right: that a table was fitted privately before, or
that ε was computed well, are other questions.

    audit       the experiment: `audit_step`, the file to read first
    shipped     the private steps that there are, each to be taken again and again
    summed      the noisy answers that there are, the same
    records     what they are taken on: ordinary records, and candidates for canaries
    comparing   how far apart results are, how large their noise is, and how batches are drawn
    findings    what is said of it
"""

from genesis.evaluation.mechanism.audit import audit_step
from genesis.evaluation.mechanism.findings import Batches, Canary, Mechanism, NoiseScale
from genesis.evaluation.mechanism.shipped import private_methods, private_steps

__all__ = [
    "Batches",
    "Canary",
    "Mechanism",
    "NoiseScale",
    "audit_step",
    "private_methods",
    "private_steps",
]
