"""The networks and cores of many functions at once: jobs that each function does one after the other."""

from __future__ import annotations

import numpy as np

from lambdaml.simulation.draws import Floats, Ints


def in_order(function: Ints, ready_s: Floats, takes_s: Floats | float, free_s: Floats) -> Floats:
    """Return when jobs are done that each function does one by one, first come, first served.

    Args:
        function: The function that does each job.
        ready_s: The moment at which each job can begin.
        takes_s: The seconds that each job takes.
        free_s: For each function, the moment from which it is free. It is moved to the end of its last job.
    """
    if not function.size:
        return np.empty(0)
    order = np.lexsort((ready_s, function))
    server, begins = function[order], np.maximum(ready_s, free_s[function])[order]
    takes = np.broadcast_to(takes_s, ready_s.shape)[order]
    until = np.cumsum(takes)
    first = np.flatnonzero(np.concatenate(([True], server[1:] != server[:-1])))
    number = np.repeat(np.arange(first.size), np.diff(first, append=server.size))
    idle = begins - (until - takes)  # when the first job would have had to begin, had there been no pause
    apart = number * (np.ptp(idle) + 1.0)  # keeps functions apart in the running maximum
    done = np.empty(ready_s.size)
    done[order] = ended = np.maximum.accumulate(idle + apart) - apart + until
    last = np.append(first[1:], server.size) - 1
    free_s[server[last]] = ended[last]
    return done


class Network:
    """One direction of the networks of all functions; see `lambdaml.simulation.channel.Pipe`.

    Args:
        functions: The number of functions.
        bytes_per_s: The bandwidth of a function's network.
        connection_bytes_per_s: The bandwidth of a connection.

    Attributes:
        free_s: For each function, the moment from which its network is free.
    """

    def __init__(self, functions: int, bytes_per_s: float, connection_bytes_per_s: float) -> None:
        self.free_s = np.zeros(functions)
        self._bytes_per_s, self._connection_bytes_per_s = bytes_per_s, connection_bytes_per_s

    def moved(self, function: Ints, at: Floats, size_bytes: Floats | float) -> Floats:
        """Return when transfers end that begin at these moments, each through the network of its function."""
        done: Floats = np.maximum(
            at + size_bytes / self._connection_bytes_per_s,
            in_order(function, at, size_bytes / self._bytes_per_s, self.free_s),
        )
        return done
