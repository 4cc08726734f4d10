"""The pulse finds out whether a Ray cluster's control service (GCS) is alive, by asking it something now and then.

Ray itself silently looks for a lost GCS for a minute, and then ends the process with a line of its own
(`RAY_gcs_rpc_server_reconnect_timeout_s`); a question to the GCS does not return until then. Nodes and functions go on
for that long, so if the engine knows earlier, they can still leave in good order. Therefore a thread of its own asks
the questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection


class Pulse:
    """Asks the GCS which nodes are being drained, and remembers when it last answered.

    Args:
        address: The address of the GCS, for messages.
        draining: A callable that asks the GCS for the nodes that are being drained. It may not return.
        every_s: The time between questions, in seconds.
    """

    def __init__(self, address: str, draining: Callable[[], Collection[str]], every_s: float) -> None:
        self.address = address
        self.draining: Collection[str] = ()
        self._ask = draining
        self._every_s = every_s
        self._heard_at = time.monotonic()
        self._closed = threading.Event()
        threading.Thread(target=self._go_on, name="pulse", daemon=True).start()

    def silent_s(self) -> float:
        """Return the seconds since the latest answer was due."""
        return time.monotonic() - self._heard_at - self._every_s

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()

    def _go_on(self) -> None:
        while not self._closed.wait(self._every_s):
            self.draining = self._ask()
            self._heard_at = time.monotonic()
