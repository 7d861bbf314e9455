//! The `secateur` program, built with the tests so that they can run it as real processes.
#![forbid(unsafe_code)]

fn main() {}
