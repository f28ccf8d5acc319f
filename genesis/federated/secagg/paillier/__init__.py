"""Sums under encryption: clients encrypt, the server multiplies, and a client decrypts the product.

Which makes sense where a client can be trusted with more than the server, or where masks are not
wanted: `masking` is faster by far and trusts less. In short:

    the server alone       learns the sums, whatever it does: it has no key, cannot have anything
                           else decrypted than the sum of the clients that agreed on it (`mac`,
                           `sums`), and cannot put keys of its own in between (`channels`)
    a client alone         learns nothing but what the server tells everybody; a key holder also
                           the sums, as it opens them
    the server with any    reads everybody's vectors: a holder has the key, and any other client
    one client             knows what the holder checks by, or may become the holder, if it is
                           among the first third (`setup.holders`)

So all clients have to be trusted not to help the server, where masking bears a third of them that
do. What passes between client and server has to be encrypted as usual (TLS): whoever could read it
and knows the key holder would be another server.

    keys        the encryption
    randomness  the slow part of it, made ahead
    packing     many numbers in a plaintext
    mac         that a product is the sum of certain clients
    channels    between clients, through the server
    setup       keys for a session
    sums        one sum, step by step
"""

from __future__ import annotations

from genesis.errors import FederationError
from genesis.federated.secagg import Sum
from genesis.federated.secagg.identity import Identity
from genesis.federated.secagg.paillier.keys import KEY_BITS, check_key_bits
from genesis.federated.secagg.paillier.randomness import Pool, Powers, n_cores
from genesis.federated.secagg.paillier.setup import (
    ClientKeys,
    ServerKeys,
    SetupCollector,
    SetupParty,
)
from genesis.federated.secagg.paillier.sums import AGREE, UPLOAD, SumCollector, SumParty

__all__ = ["REVEAL", "UPLOAD", "ClientSide", "ServerSide"]

REVEAL = AGREE
"""The step by which a client lets a sum be opened."""


class ServerSide:
    """The server's end, for a session.

    Args:
        key_bits: Of the key that clients are to make, as they have it themselves.
        insecure_key_bits: Whether it may be shorter than is safe; for tests.

    Raises:
        PlanError: The key is too short.
    """

    def __init__(self, key_bits: int = KEY_BITS, insecure_key_bits: bool = False) -> None:
        check_key_bits(key_bits, insecure_key_bits)
        self._key_bits = key_bits
        self._keys: ServerKeys | None = None

    def setup(self, sum: Sum) -> SetupCollector:
        """Keys for all sums of a session, whose clients have to be among these."""
        return SetupCollector(sum, self._key_bits, self._learn)

    def collector(self, sum: Sum) -> SumCollector:
        """For one sum.

        Raises:
            FederationError: Its clients have no keys, or none of them can get at the secret one.
        """
        keys = self._keys
        if keys is None or not set(sum.cohort) <= set(keys.survivors):
            raise FederationError(
                "a sum was asked of clients that have no keys for it",
                do="let all clients join before the first round, or begin a new session",
            )
        return SumCollector(sum, keys)

    def _learn(self, keys: ServerKeys) -> None:
        """The setup is done."""
        self._keys = keys


class ClientSide:
    """A client's end, for a session.

    Args:
        client_id: Whose.
        identity: What it signs with.
        key_bits: Of the key that it makes if it is the first client, or accepts if it is not.
        insecure_key_bits: Whether it may be shorter than is safe; for tests.
        workers: Processes that prepare, and threads that decrypt; as many as there are cores if
            None. With 0 nothing is prepared.

    Raises:
        PlanError: The key is too short.
    """

    def __init__(
        self,
        client_id: str,
        identity: Identity,
        key_bits: int = KEY_BITS,
        insecure_key_bits: bool = False,
        workers: int | None = None,
    ) -> None:
        check_key_bits(key_bits, insecure_key_bits)
        self._client_id, self._identity, self._key_bits = client_id, identity, key_bits
        self._n_workers = n_cores() if workers is None else workers
        self._keys: ClientKeys | None = None
        self._pool: Pool | None = None
        self._last = -1

    def setup(self, sum: Sum) -> SetupParty:
        """What the client does once before the first sum.

        Raises:
            FederationError: It was done already, or is about somebody else.
        """
        return SetupParty(sum, self._begin(sum), self._identity, self._key_bits, self._learn)

    def party(self, sum: Sum) -> SumParty:
        """For one sum, of a higher number than those before.

        Raises:
            FederationError: There was one, or its clients have no keys for it.
        """
        keys = self._keys
        self._begin(sum)
        if keys is None or self._pool is None or sum.session != keys.setup.session:
            raise FederationError(
                f"client '{self._client_id}' has no keys for this session: it came after they were "
                "made, or was started again",
                do="begin a new session",
            )
        members = {
            keys.setup.cohort[position]: keys.setup.keys[position] for position in keys.members
        }
        if not dict(zip(sum.cohort, sum.keys, strict=True)).items() <= members.items():
            raise FederationError(
                "a sum was asked for with clients that have no keys for it",
                do="begin a new session",
            )
        return SumParty(sum, keys, self._identity, self._pool, max(self._n_workers, 1))

    def close(self) -> None:
        """Stop preparing. It is done for you when the program ends."""
        if self._pool is not None:
            self._pool.close()

    def _begin(self, sum: Sum) -> int:
        """Note that a sum was begun; the position of this client in it."""
        position = sum.at(self._client_id)
        if sum.number <= self._last or sum.keys[position] != self._identity.public:
            raise FederationError(
                "a sum was asked for twice, or with another key of this client than it has",
                got=f"sum {sum.number} after sum {self._last}",
                do="begin a new session",
            )
        self._last = sum.number
        return position

    def _learn(self, keys: ClientKeys) -> None:
        """The setup is done."""
        self.close()
        public = keys.announcement.public
        powers = Powers.of(public, keys.secret)
        self._keys, self._pool = keys, Pool(powers, public.width, self._n_workers)
