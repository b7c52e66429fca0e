//! `copyist man` and `copyist completions`: manual pages and shell completions from the command line.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Args;
use super::{Failure, print_line};
use crate::config;

/// Further sections of the main page.
const FURTHER: &str = r#".SH FILES
.TP
\fI/etc/copyist/copyist.toml\fR
The configuration, see \fBcopyist.toml\fR(5). \fI/usr/share/copyist/copyist.toml\fR has every key with comments.
.TP
\fI/var/lib/copyist\fR
The spool and the saved state of the directory (\fBstate_dir\fR).
.TP
\fI/usr/share/doc/copyist\fR
The manual.
.SH EXAMPLES
.TP
\fBcopyist check \-\-online\fR
Validates the configuration and tests the directory and the relay.
.TP
\fBcopyist doctor\fR
Finds mail that bypasses Copyist, and prints the fix.
.TP
\fBcopyist explain \-\-from someone@elsewhere.example \-\-to dan@example.com \-\-client 192.0.2.1\fR
Shows the journal copies of such a message, and the reasons. Nothing is sent.
.SH SEE ALSO
\fBcopyist.toml\fR(5), \fBpostconf\fR(5), \fBldap.conf\fR(5)
"#;

/// See [`Failure`].
const EXIT_STATUS: &str = r#".SH "EXIT STATUS"
.TP
.B 0
Success.
.TP
.B 1
The command failed, or found a problem.
.TP
.B 2
Invalid usage or configuration.
"#;

/// Writes a page for the command, one for each of its subcommands, and one for the configuration
/// file.
pub(super) fn pages(directory: &Path) -> Result<(), Failure> {
    let failed = |cause: io::Error| Failure::failed(format!("{}: {cause}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    write_pages(command, directory, FURTHER).map_err(failed)?;
    let settings = settings_page(&config::settings_page());
    std::fs::write(directory.join("copyist.toml.5"), settings).map_err(failed)?;
    print_line(&format!("manual pages written to {}", directory.display()))
}

/// Writes the pages, in section 8 for system administration (man-pages(7)).
fn write_pages(command: Command, directory: &Path, further: &str) -> io::Result<()> {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_pages(one.clone(), directory, "")?;
    }
    let page = Man::new(command).section("8");
    let mut text = Vec::new();
    page.render(&mut text)?;
    write!(text, "{EXIT_STATUS}{further}")?;
    std::fs::write(directory.join(page.get_filename()), text)
}

/// Converts the output of `copyist schema settings` to a manual page.
fn settings_page(markdown: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        ".TH copyist.toml 5 \"\" \"copyist {version}\"\n.SH NAME\ncopyist.toml \\- the configuration of copyist(8)\n.SH DESCRIPTION\n"
    );
    for line in markdown.lines() {
        let row = line.strip_prefix("| `").map(|row| row.split(" | "));
        // Writing to a String cannot fail.
        if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(page, ".SH \"{}\"", roff(title));
        } else if let Some(mut cells) = row {
            let key = cells.next().unwrap_or_default().trim_end_matches('`');
            let default = cells.next().unwrap_or_default().trim();
            let about: Vec<&str> = cells.collect();
            let about = about.join(" | ");
            let about = about.trim_end_matches(" |");
            let _ = writeln!(page, ".TP\n.B {}\n{}", roff(key), roff(about));
            if !default.is_empty() {
                let _ = writeln!(page, "Default: {}.", roff(default));
            }
        } else if !line.starts_with(['#', '|']) {
            let _ = writeln!(page, "{}", roff(line));
        }
    }
    page
}

/// Escapes a line of text for troff, with code in bold.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let mut line = String::with_capacity(escaped.len());
    for (number, part) in escaped.split('`').enumerate() {
        if number > 0 {
            line.push_str(if number % 2 == 1 { "\\fB" } else { "\\fR" });
        }
        line.push_str(part);
    }
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}

/// Prints the completions for one shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "copyist", &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}
