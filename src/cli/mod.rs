//! The commands. Each module is one command: arguments in, text or JSON out, exit status.
//!
//! Exit status: 0 success, 1 failure, 2 invalid usage or configuration; others are documented with
//! their command.

mod args;
mod check;
mod coverage;
mod demo;
mod directory;
mod doctor;
mod explain;
mod import_postfix;
mod import_registry;
mod log;
mod manual;
mod migrate;
mod queue;
mod resolve;
mod run;
mod schema;
mod text;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::config::{self, Settings};
use crate::mail::{escape_for_display, needs_escape};

use args::{Args, Command};

/// The failure of a command, with its exit status.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Status 1: the command failed.
    Failed(String),
    /// Status 2: invalid usage or configuration.
    Invalid(String),
    /// No failure: a result for scripts, already printed.
    Answer(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text) | Failure::Invalid(text) => f.write_str(text),
            Failure::Answer(status) => write!(f, "status {status}"),
        }
    }
}

impl Failure {
    fn failed(error: impl fmt::Display) -> Failure {
        Failure::Failed(error.to_string())
    }

    fn invalid(error: impl fmt::Display) -> Failure {
        Failure::Invalid(error.to_string())
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // clap itself ends with status 2 for wrong usage.
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("copyist: cannot start threads: {error}");
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        match args.command {
            Command::Run { config } => run::run(&config.file).await,
            Command::Check {
                config,
                online,
                json,
            } => check::check(&config.file, online, json).await,
            Command::Doctor(question) => doctor::doctor(question).await,
            Command::Explain(question) => explain::explain(question).await,
            Command::Resolve {
                config,
                address,
                json,
            } => resolve::resolve(&config.file, &address, json).await,
            Command::Coverage {
                config,
                format,
                problems,
            } => coverage::coverage(&config.file, format.chosen(), problems).await,
            Command::Text(question) => text::text(question).await,
            Command::Queue { config, command } => queue::queue(&config.file, command).await,
            Command::Directory { config, command } => directory::directory(&config.file, command),
            Command::ImportRegistry(what) => import_registry::import_registry(&what),
            Command::ImportPostfix(what) => import_postfix::import_postfix(&what),
            Command::Schema { which } => schema::schema(which),
            Command::Completions { shell } => manual::completions(shell),
            Command::Man { directory } => manual::pages(&directory),
            Command::Demo { dir, quiet } => demo::demo(dir, quiet).await,
        }
    });
    // A thread blocked in a system call (hanging disk) must not keep a finished command alive.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(match failure {
            Failure::Failed(text) => {
                log::print_failure(&text);
                1
            }
            Failure::Invalid(text) => {
                log::print_failure(&text);
                2
            }
            Failure::Answer(status) => status,
        }),
    }
}

fn load(file: &Path) -> Result<Settings, Failure> {
    config::load(file).map_err(Failure::invalid)
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print_text(&plain_json(&text))
}

/// Returns JSON without characters that control a terminal: they are escaped (RFC 8259 section 7),
/// which does not change the value.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Between values; in strings it is already escaped.
            '\n' => plain.push(c),
            c if needs_escape(c) => (c.encode_utf16(&mut [0; 2]).iter())
                .for_each(|unit| plain.push_str(&format!("\\u{unit:04x}"))),
            c => plain.push(c),
        }
    }
    plain
}

/// Prints a line, which may contain external text.
fn print_line(line: &str) -> Result<(), Failure> {
    print_text(&escape_for_display(line))
}

/// Prints lines; line breaks within a line are escaped.
fn print_lines<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Result<(), Failure> {
    let mut lines = lines.into_iter();
    lines.try_for_each(|line| print_line(line.as_ref()))
}

/// Returns a message with every line made safe for a terminal.
fn shown(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape_for_display).collect();
    lines.join("\n")
}

/// Prints text unchanged: our own, or for programs. A closed pipe (`| head`) is not a failure.
fn print_text(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_exact_and_safe_for_terminals() {
        let value = "a\u{9b}2J\u{202e}\u{7f}\n\u{e0041} ä \\u";
        let text = serde_json::to_string_pretty(&[value]).expect("JSON");
        let plain = plain_json(&text);
        assert!(
            plain.chars().all(|c| c == '\n' || !needs_escape(c)),
            "{plain:?}"
        );
        assert_eq!(
            serde_json::from_str::<[String; 1]>(&plain).expect("JSON"),
            [value]
        );
    }
}
