"""What a client keeps of its own at every checkpoint: its model, optimiser and control variate.

The server's part of a checkpoint is in `checkpoint`. A client's part never leaves it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from genesis.errors import DataError
from genesis.model_file import Contents, read_file, write_file
from genesis.tables import make_private_folder

__all__ = ["Parts", "folder_of_round", "read_part", "write_part"]

MOST_ROUNDS = 99_999  # as many as names of folders have digits for
KEPT = 2  # a server that dies between its clients' parts and its own goes back by one round


def folder_of_round(directory: Path, rounds: int) -> Path:
    """Where clients' parts are after so many rounds."""
    return directory / f"round-{rounds:05d}"


class Parts:
    """A client's parts of the last checkpoints, in a folder or in memory.

    Args:
        folder: Where they are kept; in memory if None, which a restart forgets.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._memory: dict[int, tuple[str, Mapping[str, Tensor]]] = {}

    def keep(self, rounds: int, run: str, number: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state after so many rounds, and forget what is older than the one before.

        Args:
            rounds: Rounds played.
            run: What tells this run from another one in the same folder.
            number: Number of the client in the run.
            state: Tensors by name.

        Raises:
            DataError: The disk refuses, or there cannot be so many rounds.
        """
        if not 0 <= rounds <= MOST_ROUNDS:
            # Asked by a server elsewhere, whose folders nobody would ever clear away.
            raise DataError(
                "no checkpoint is kept of a round of that number",
                do=f"plan {MOST_ROUNDS:,} rounds at most",
            )
        if self.folder is None:
            self._memory[rounds] = run, _copies(state)
        else:
            write_part(folder_of_round(self.folder, rounds), number, run, state)
        # Also those of later rounds: they belong to a run that is played anew from here.
        for old in self._rounds():
            if not rounds - KEPT < old <= rounds:
                self._forget(old)

    def find(
        self, rounds: int, run: str, number: int, *, exactly: bool = False
    ) -> Mapping[str, Tensor] | None:
        """The last state kept in so many rounds of this run, if there is one.

        A client that takes no part in a round remembers what it did before, unless the state must
        be of exactly so many rounds.

        Raises:
            ModelFileError: It is damaged.
        """
        for kept in sorted(self._rounds(), reverse=True):
            if exactly and kept != rounds:
                continue
            if kept <= rounds and (state := self._read(kept, run, number)) is not None:
                return state
        return None

    def _rounds(self) -> list[int]:
        """After how many rounds something was kept."""
        if self.folder is None:
            return list(self._memory)
        found = self.folder.glob("round-[0-9][0-9][0-9][0-9][0-9]")
        return [int(path.name.removeprefix("round-")) for path in found]

    def _read(self, rounds: int, run: str, number: int) -> Mapping[str, Tensor] | None:
        if self.folder is not None:
            return read_part(folder_of_round(self.folder, rounds), number, run)
        kept, state = self._memory[rounds]
        return _copies(state) if kept == run else None

    def _forget(self, rounds: int) -> None:
        if self.folder is not None:
            shutil.rmtree(folder_of_round(self.folder, rounds), ignore_errors=True)
        else:
            del self._memory[rounds]


def write_part(folder: Path, number: int, run: str, state: Mapping[str, Tensor]) -> None:
    """Write a client's part into the folder of a round.

    Raises:
        DataError: The disk refuses.
    """
    make_private_folder(folder)
    write_file(_path(folder, number), Contents("part", {"run": run}, state))


def read_part(folder: Path, number: int, run: str) -> Mapping[str, Tensor] | None:
    """Read what `write_part` wrote; None if there is nothing, or only of another run.

    Raises:
        ModelFileError: It is damaged.
    """
    if not _path(folder, number).exists():
        return None
    contents = read_file(_path(folder, number), "part")
    return contents.tensors if contents.meta.get("run") == run else None


def _path(folder: Path, number: int) -> Path:
    return folder / f"client-{number}.safetensors"


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that training does not write into."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
