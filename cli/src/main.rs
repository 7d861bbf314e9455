//! The program `secateur`. Everything is in the library, so that tests can use it; only the allocator is here.
#![forbid(unsafe_code)]

/// Counts the heap, so that an agent run by this program can report its inference's peak.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn main() -> std::process::ExitCode {
    secateur_cli::main()
}
