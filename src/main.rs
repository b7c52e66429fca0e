//! The `copyist` command; everything it does is in the library.

use std::process::ExitCode;

/// Memory that an hour of a relay's absence took goes back to the system. With glibc's allocator it
/// did not: each such time left some of it in pieces, and an hour of steady load ended 3 MiB above
/// where it began (`docs/figures.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    copyist::cli::main()
}
