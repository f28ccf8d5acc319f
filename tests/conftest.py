"""What every test runs under."""

import os

# Read when torch is first imported, by these tests or by a program that they start. A test's
# tensors are small: more threads only wait for each other, and spin while they do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
