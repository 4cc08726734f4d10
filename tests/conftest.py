"""What all tests share."""

from hypothesis import settings

# Two busy cores are no reason for a property to fail, and a failure must come again in the next run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
