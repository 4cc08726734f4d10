"""What stands in the bucket, and what follows from it: keys, records, snapshots, the log as one sees it, and the verbs that read a run."""
