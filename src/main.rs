//! The `copyist` command, implemented in the library.

use std::process::ExitCode;

/// Returns memory to the system after an hour-long relay outage. glibc's allocator fragmented: each
/// outage left some memory behind, and an hour of steady load ended 3 MiB above its start
/// (`docs/figures.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    copyist::cli::main()
}
