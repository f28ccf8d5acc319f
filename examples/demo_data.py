"""Write the demo's tables: the flights that left each of New York's three airports.

python examples/demo_data.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from airports import departures

from genesis import write_table


def main() -> None:
    """One CSV an airport."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for airport, rows in departures(every=20).items():
        write_table(rows, directory / f"{airport}.csv")
        print(f"{airport}: {len(rows)} flights")


if __name__ == "__main__":
    main()
