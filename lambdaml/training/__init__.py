"""This package trains: it holds the replica, the boundary to the user's job, evaluation, and the driver of `train` and
`resume`."""
