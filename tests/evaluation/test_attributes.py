"""Whether a secret column can be guessed."""

import numpy as np
import pandas as pd
import pytest

from genesis import SchemaError
from genesis.evaluation.attributes import attributes
from tests.evaluation.three_tables import AWKWARD, check_entry, copied, fresh, three


def test_a_copier_is_caught() -> None:
    """Everything but a number that is far from its neighbours is read from the copy."""
    found = attributes(*copied())
    secret, way = found.worst
    worst = found.columns[secret][way].guesses
    assert worst.rate is not None
    assert worst.control is not None
    assert worst.rate.low > worst.control.high + 0.2
    assert worst.sure_risk > 0.8
    for ways in found.columns.values():
        nearest = ways["nearest"]
        assert nearest.guesses.sure_risk > 0
        assert nearest.gain is not None
        assert nearest.gain.low > 0, "real rows of others do not tell as much"


def test_fresh_rows_are_not_accused() -> None:
    accused = 0
    for seed in range(20):
        found = attributes(*fresh(300, 200, seed), seed=seed)
        secret, way = found.worst
        accused += found.columns[secret][way].guesses.sure_risk > 0
    assert accused <= 2


def _table(n: int, seed: int) -> pd.DataFrame:
    """`answer` follows from x, nearly; `place` follows from nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    answer = np.where(x + 0.1 * rng.normal(size=n) > 0, "yes", "no")
    number = 100 * x + rng.normal(size=n)
    return pd.DataFrame(
        {"x": x, "answer": answer, "number": number, "place": rng.choice(list("pqrst"), n)}
    )


def test_knowledge_of_the_population_is_no_leak() -> None:
    """Fresh rows tell the answer well; so do real rows of others, and of others it is told too."""
    found = attributes(
        *three(*(_table(800, seed) for seed in range(3))), secrets=["answer", "number", "place"]
    )
    for name, ways in found.columns.items():
        for each in ways.values():
            guesses = each.guesses
            assert guesses.rate is not None
            assert guesses.baseline is not None
            assert guesses.sure_risk <= 0
            assert each.gain is not None
            assert each.gain.low <= 0 <= each.gain.high
            better = guesses.rate.low > guesses.baseline
            assert better == (name != "place")


def test_boosting_learns_from_the_synthetic_rows() -> None:
    """Where they lie about the population, it is led astray, and real rows tell more."""
    lying = _table(800, 2).assign(answer=lambda t: t["answer"].map({"yes": "no", "no": "yes"}))
    boosting = attributes(
        *three(_table(800, 0), _table(800, 1), lying), secrets=["answer"]
    ).columns["answer"]["boosting"]
    assert boosting.guesses.rate is not None
    assert boosting.guesses.rate.high < 0.2
    assert boosting.reference is not None
    assert boosting.reference.low > 0.8
    assert boosting.gain is not None
    assert boosting.gain.high < -0.6


def test_one_guess_for_all_is_the_baseline() -> None:
    """The largest category's share; of numbers, what lies within the tolerance of ranks."""
    found = attributes(*fresh(800, 800), secrets=["smoker", "zeros", "größe, cm"])
    baselines = {name: ways["nearest"].guesses.baseline for name, ways in found.columns.items()}
    assert baselines["smoker"] == pytest.approx(0.7, abs=0.06)
    assert baselines["zeros"] == pytest.approx(0.4, abs=0.06)
    assert baselines["größe, cm"] == pytest.approx(0.2, abs=0.05), "the nulls"


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_tables(name: str, named: bool) -> None:
    rows = three(*AWKWARD[name])
    entry = attributes(*rows, secrets=rows.members.columns.names if named else ()).to_dict()
    check_entry(entry)
    assert set(entry["columns"]) == set(rows.members.columns.names)
    for secret, ways in entry["columns"].items():
        for way, each in ways.items():
            check_entry(each)
            assert (each["secret"], each["attacker"]) == (secret, way)


def test_rows_and_columns_in_any_order() -> None:
    tables = AWKWARD["numbers and words"]
    mixed = [table.sample(frac=1, random_state=1).iloc[:, ::-1] for table in tables]
    assert attributes(*three(*mixed)).to_dict() == attributes(*three(*tables)).to_dict()


def test_a_secret_that_is_not_there() -> None:
    with pytest.raises(SchemaError, match="no column 'smokr' can be guessed; did you mean smoker"):
        attributes(*fresh(50, 50), secrets=["smokr"])
