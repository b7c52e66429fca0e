//! The commands. Each module is one command: arguments in, text or JSON out, exit status.
//!
//! Exit status: 0 fine, 1 failed, 2 wrong usage or configuration; what an answer has beside these
//! its command says.

mod args;
mod check;
mod coverage;
mod demo;
mod directory;
mod doctor;
mod explain;
mod import;
mod import_postfix;
mod import_registry;
mod log;
mod manual;
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

/// Why a command failed, and with which exit status.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Status 1: what was asked for could not be done.
    Failed(String),
    /// Status 2: the question or the configuration is wrong.
    Wrong(String),
    /// No failure: an answer that was printed, for which scripts have this status.
    Answer(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text) | Failure::Wrong(text) => f.write_str(text),
            Failure::Answer(status) => write!(f, "status {status}"),
        }
    }
}

impl Failure {
    fn failed(error: impl fmt::Display) -> Failure {
        Failure::Failed(error.to_string())
    }

    fn wrong(error: impl fmt::Display) -> Failure {
        Failure::Wrong(error.to_string())
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
    // Threads that sit in a system call (a hanging disk) must not keep a finished command alive.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(match failure {
            Failure::Failed(text) => {
                log::tell_failure(&text);
                1
            }
            Failure::Wrong(text) => {
                log::tell_failure(&text);
                2
            }
            Failure::Answer(status) => status,
        }),
    }
}

fn load(file: &Path) -> Result<Settings, Failure> {
    config::load(file).map_err(Failure::wrong)
}

/// Prints a value for scripts.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print_text(&plain_json(&text))
}

/// Returns JSON in which strings hold no character that acts on a terminal: the escapes of JSON
/// (RFC 8259 section 7) stand for them, so a reader gets the same value.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Between the values; in strings it is escaped already.
            '\n' => plain.push(c),
            c if needs_escape(c) => (c.encode_utf16(&mut [0; 2]).iter())
                .for_each(|unit| plain.push_str(&format!("\\u{unit:04x}"))),
            c => plain.push(c),
        }
    }
    plain
}

/// Prints a line, which may hold what strangers or the directory wrote.
fn print_line(line: &str) -> Result<(), Failure> {
    print_text(&escape_for_display(line))
}

/// Prints lines; a line break within one of them does not begin another.
fn print_lines<L: AsRef<str>>(lines: impl IntoIterator<Item = L>) -> Result<(), Failure> {
    let mut lines = lines.into_iter();
    lines.try_for_each(|line| print_line(line.as_ref()))
}

/// Returns the lines of a message to people, each as it may be shown.
fn shown(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape_for_display).collect();
    lines.join("\n")
}

/// Prints a text as it is: our own, or one for programs. A reader that has gone away (`| head`) is
/// no failure.
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
    fn json_is_exact_and_acts_on_no_terminal() {
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
