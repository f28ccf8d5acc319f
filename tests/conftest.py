"""What every test runs under."""

import os

from hypothesis import settings

# Read when torch is first imported, by these tests or by a program that they start. A test's
# tensors are small: more threads only wait for each other, and spin while they do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run, so that a green run stays green; `--hypothesis-profile=search`
# looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("same")
