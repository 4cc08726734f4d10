"""What all tests share."""

from hypothesis import settings

from lambdaml import numerics

# Whatever the environment that tests are run in: before anything here or in a worker of xdist loads NumPy or torch.
numerics.prepare("reproducible")

# Two busy cores are no reason for a property to fail, and a failure must come again in the next run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
