//! The `secateur` program, built with the tests so that they can run it as real processes.
#![forbid(unsafe_code)]

/// As in the program itself: an agent reports the heap that its inference takes.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn main() -> std::process::ExitCode {
    secateur_cli::main()
}
