//! `secateur-coordinator`: parse, start, wait for the signal, drain.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    secateur_coordinator::cli::main(std::env::args_os().collect())
}
