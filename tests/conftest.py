"""What all tests share."""

import signal

from hypothesis import settings

from lambdaml.training import numerics

# Whatever the environment that tests are run in: before anything here or in a worker of xdist loads NumPy or torch.
numerics.prepare("reproducible")

# A shell has what it starts in the background ignore Ctrl-C, which would then be tested in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two busy cores are no reason for a property to fail, and a failure must come again in the next run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
