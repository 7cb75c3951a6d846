//! The tests that go through the public API: one binary, so that heavy libraries are linked once.
