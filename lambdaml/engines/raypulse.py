"""Whether a Ray cluster's control service (GCS) is there, found out by asking it something now and then.

Ray itself looks for a lost GCS for a minute, in silence, and then ends the process with a line of its own
(`RAY_gcs_rpc_server_reconnect_timeout_s`); a question to it does not return until then. Nodes and functions go on for
that long, so who knows earlier can have them leave in good order. Hence the questions are asked in a thread of their
own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection


class Pulse:
    """Asks the GCS which nodes are being drained, and remembers when it last answered.

    Args:
        address: of the GCS, for those who read of it.
        draining: asks it, and may not return.
        every_s: seconds between questions.
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
        """Seconds since the latest answer was due."""
        return time.monotonic() - self._heard_at - self._every_s

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _go_on(self) -> None:
        while not self._closed.wait(self._every_s):
            self.draining = self._ask()
            self._heard_at = time.monotonic()
