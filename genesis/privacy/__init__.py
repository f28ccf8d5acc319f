"""Differential privacy: one ε for everything that leaves a client.

Read `budget` first (what is promised), then `guard` (what stands between a table and the world).

    budget        the promise, and how it is divided
    events        what was released, as data
    ledger        all of it, in memory and on its owner's disk
    accounting    what it costs together
    guard         writes releases down, then makes them
    histograms    counts and labels with noise
    dp_sgd        steps of training with noise
    opacus_steps  the same, where Opacus computes the gradients
    client_level  updates of clients with noise
    ftrl          the same, correlated over rounds
    distributed   the same, with noise that clients add together
    client_guard  what a guard is to records, to a client whose noise is part of all clients'
    report        what is told of it
    one_table     a table and its guard, from the schema to the statistics
    sums          the same of a fit from sums over the rows: planned, paid, given once
    noise         where all of it comes from
"""
