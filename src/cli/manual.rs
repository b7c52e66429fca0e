//! `copyist man` and `copyist completions`: what the command line says of itself, for `man` and for shells.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Args;
use super::{Failure, print_line};

/// Writes a page for the command and for each of its subcommands.
pub(super) fn pages(directory: &Path) -> Result<(), Failure> {
    let failed = |cause| Failure::failed(format!("{}: {cause}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), directory).map_err(failed)?;
    print_line(&format!("manual pages are in {}", directory.display()))
}

/// Prints the completions for one shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "copyist", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}
