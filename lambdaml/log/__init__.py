"""The objects of a run in its bucket (keys, records, snapshots), the log state that follows from them, and the verbs
that read a run."""
