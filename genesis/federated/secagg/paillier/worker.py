"""The program that `Pool` starts: reads what is wanted, writes powers, and ends.

python -m genesis.federated.secagg.paillier.worker
"""

from __future__ import annotations

import contextlib
import os
import sys

from genesis.federated.secagg.paillier.randomness import serve


def main() -> None:
    """Do as the one line of standard input says, behind whatever else the machine does."""
    if hasattr(os, "nice"):
        os.nice(5)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        for content in serve(sys.stdin.readline()):
            sys.stdout.buffer.write(content)


if __name__ == "__main__":
    main()
