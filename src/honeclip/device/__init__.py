"""The only code that says mps or cuda: detection, precision, memory, out of memory, randomness, a fake for tests."""
