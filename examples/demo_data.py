"""Write the demo's tables: the flights that left each of New York's three airports.

One table an airport in the folder airports, and in holdout.csv flights that none of them has.

python examples/demo_data.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from airports import departures

from genesis import write_table


def main() -> None:
    """One CSV an airport, and one of all three."""
    directory = Path(sys.argv[1])
    (directory / "airports").mkdir(parents=True, exist_ok=True)
    for airport, rows in departures(every=20).items():
        write_table(rows, directory / "airports" / f"{airport}.csv")
        print(f"{airport}: {len(rows)} flights")
    others = pd.concat(departures(every=20, first=10).values(), ignore_index=True)
    write_table(others, directory / "holdout.csv")
    print(f"holdout: {len(others)} flights")


if __name__ == "__main__":
    main()
