//! End-to-end tests: the in-process fleet harness (`fleet`), a line that counts (`tap`), and `tests/tests/` that use it.
#![forbid(unsafe_code)]

pub mod fleet;
pub mod tap;
