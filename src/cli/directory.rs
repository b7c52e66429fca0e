//! `copyist directory`: operator decisions about the directory.

use std::path::Path;

use nix::unistd::{Uid, User};

use super::args::DirectoryCommand;
use super::{Failure, load, print_line};
use crate::directory::{self, Acceptance};

pub(super) fn directory(config: &Path, command: DirectoryCommand) -> Result<(), Failure> {
    match command {
        DirectoryCommand::AcceptEmpty => accept_empty(config),
    }
}

fn accept_empty(config: &Path) -> Result<(), Failure> {
    let state_dir = load(config)?.state_dir;
    let user = user();
    let accepted = directory::accept_empty(&state_dir, &user).map_err(|error| {
        Failure::Failed(format!(
            "cannot record the decision in {}: {error}",
            state_dir.display()
        ))
    })?;
    let Acceptance {
        when,
        missing,
        present,
        hidden,
    } = accepted;
    print_line(&format!(
        "accepted at {when} by {user}; takes effect within seconds:"
    ))?;
    if missing.is_empty() && hidden.is_empty() {
        print_line("  the service has not noticed anything missing")?;
    }
    for attribute in &missing {
        print_line(&format!("  no object has {attribute}"))?;
    }
    for attribute in &present {
        print_line(&format!(
            "  {attribute} had values until now; their absence is accepted"
        ))?;
    }
    for dn in &hidden {
        print_line(&format!("  {dn} is no longer journaled"))?;
    }
    Ok(())
}

/// Returns the user who runs the command; under sudo, the caller.
fn user() -> String {
    let own = || {
        let id = Uid::current();
        let name = User::from_uid(id).ok().flatten().map(|user| user.name);
        name.unwrap_or_else(|| id.to_string())
    };
    match std::env::var("SUDO_USER") {
        Ok(caller) if Uid::current().is_root() && !caller.is_empty() => caller,
        _ => own(),
    }
}
