//! End-to-end tests: the in-process fleet harness (`fleet`), and `tests/tests/` that use it.
#![forbid(unsafe_code)]

pub mod fleet;
