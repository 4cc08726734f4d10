"""One function at work: its coroutines, its leases, its share of the log, and the protocol of the world it lives in."""
