"""Training itself: the replica, the user's job and its boundary, evaluation, and the driver of `train` and `resume`."""
