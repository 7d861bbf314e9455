//! The program `secateur-agent`. Everything is in the library; only the allocator is here.
#![forbid(unsafe_code)]

/// Counts the heap, so that the agent can report its inference's peak.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn main() -> std::process::ExitCode {
    secateur_agent::cli::main(std::env::args_os())
}
