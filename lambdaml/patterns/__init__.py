"""Patterns: how the bytes of updates reach every replica. One file each; `gather` is the one there is so far."""
