"""The same rounds over Flower's Grid, for organisations that run a SuperLink already.

    transport     FlowerTransport: requests and replies as Flower's messages
    server_app    the ServerApp: a plan from the run config, the rounds, the files at the end
    client_app    the ClientApp: one node's rows

Flower's own commands load the apps by name, so that no code travels; see docs/flower.md.

Raises:
    MissingExtraError: Flower is not installed.
"""

from __future__ import annotations

import os
import sys

from genesis.errors import MissingExtraError

# Flower reports home unless it is told not to, and asks when it is first imported. Where it has
# been, as in the processes that its commands start, what it read then is put right.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
if "flwr.supercore.telemetry" in sys.modules:
    vars(sys.modules["flwr.supercore.telemetry"])["FLWR_TELEMETRY_ENABLED"] = "0"

try:
    import flwr  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "flwr":
        raise
    raise MissingExtraError(
        "Flower is not installed", do="pip install 'genesis-federated[flower]'"
    ) from None
