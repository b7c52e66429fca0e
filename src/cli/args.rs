//! The command line. Commands and options are interfaces: scripts and units rely on them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::mail::Address;
use crate::policy::Direction;

/// Mail journaling agent: stores a durable copy of each message for the journal addresses in the
/// directory before the MTA accepts the message.
///
/// Start with `copyist demo`, which needs no setup. Then write a configuration (see
/// config/copyist.toml), test it with `copyist check --online` and `copyist explain`, and start the
/// service with `copyist run`.
#[derive(Debug, Parser)]
#[command(name = "copyist", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the service: listen for the MTA, journal, deliver.
    ///
    /// SIGHUP reloads the configuration (if that fails, the previous one stays active); SIGTERM
    /// finishes work in progress and stops.
    Run {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Check the configuration. Prints every problem with file, line and a valid value.
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// Also connect to the directory and the relay.
        #[arg(long)]
        online: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Diagnose the installation: Postfix routes that bypass Copyist, conflicting settings, disk,
    /// clock, files. Prints the fix for each problem; changes nothing.
    ///
    /// Exit status 1 if there are errors or warnings; 0 if there are only hints.
    Doctor(DoctorArgs),
    /// Show the journal copies of a message, and the reasons. Nothing is sent.
    ///
    /// Exit status 0: journaled. 3: not journaled. 4: deferred. 5: every recipient is rejected as a
    /// guarded address. 1 and 2 are failures, as for every command.
    Explain(ExplainArgs),
    /// Look up an address or a journal target in the directory.
    Resolve {
        #[command(flatten)]
        config: ConfigArg,
        /// An address of a person, or a journal target.
        #[arg(value_name = "ADDRESS|TARGET")]
        address: String,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List everyone journaled by attribute, with their journal addresses, and values that do not
    /// resolve (exit status 1 if there are any).
    Coverage {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        format: CoverageFormats,
        /// Only people with a value that does not resolve completely, or an address that mail lookups
        /// do not find.
        #[arg(long)]
        problems: bool,
    },
    /// Show messages with the disclaimer texts added. Nothing is sent.
    Text(TextArgs),
    /// Inspect and manage the queue.
    Queue {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// Manage what Copyist has learned about the directory.
    Directory {
        #[command(flatten)]
        config: ConfigArg,
        #[command(subcommand)]
        command: DirectoryCommand,
    },
    /// Translate the Internet Mail Service Extension's registry key (imsext.dll of Exchange 5.5) to a
    /// configuration.
    ///
    /// Guesses are marked FILL IN. These and settings without an equivalent are listed on standard
    /// error.
    ImportRegistry(ImportRegistryArgs),
    /// Propose a configuration that replaces Postfix's always_bcc, sender_bcc_maps and
    /// recipient_bcc_maps.
    ///
    /// Reads main.cf with postconf, and the tables it names. Guesses are marked FILL IN. These and
    /// settings without an equivalent are listed on standard error. Passwords are left out.
    ImportPostfix(ImportPostfixArgs),
    /// Print a schema: LDAP attributes for a directory without suitable ones, or the configuration's.
    Schema {
        /// The schema to print.
        which: Schema,
    },
    /// Print completions for a shell.
    ///
    /// For bash: copyist completions bash > /etc/bash_completion.d/copyist
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// The output directory; created if missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Demonstrate journaling on this machine, with a simulated MTA and relay. Needs no setup.
    Demo {
        /// The directory for the demo's files, which must not exist. Default: a new temporary directory.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print only the result.
        #[arg(long)]
        quiet: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArg {
    /// The configuration file.
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "COPYIST_CONFIG",
        default_value = "/etc/copyist/copyist.toml",
        global = true
    )]
    pub(super) file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportRegistryArgs {
    /// The key ...\MSExchangeIMC\Parameters\Extension, exported with Regedit or reg export.
    #[arg(value_name = "FILE.reg")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) site: SiteArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportPostfixArgs {
    /// The directory of main.cf. Default: Postfix's own.
    #[arg(long, value_name = "DIR")]
    pub(super) config_directory: Option<PathBuf>,
    /// Write the people in hash and other text tables to this LDIF file, which the configuration uses
    /// as the directory if no LDAP server is known.
    #[arg(long, value_name = "FILE")]
    pub(super) ldif: Option<PathBuf>,
    #[command(flatten)]
    pub(super) site: SiteArgs,
}

/// Options of both translations.
#[derive(Debug, clap::Args)]
pub(super) struct SiteArgs {
    /// The file to write, which must not exist. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// A mail domain of the organization, the main one first. Can be repeated.
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Vec<String>,
    /// An LDAP server, or ldif:FILE. Can be repeated.
    #[arg(long, value_name = "URL")]
    pub(super) directory_url: Vec<String>,
    /// The base of all searches in the directory.
    #[arg(long, value_name = "DN")]
    pub(super) base: Option<String>,
    /// The relay for journal copies.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) relay: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// Configuration directories of Postfix. Default: the default instance and the others that it
    /// lists.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(super) postfix: Vec<PathBuf>,
    /// Also query the directory and the relay.
    #[arg(long)]
    pub(super) online: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct TextArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// The direction: inbound, outbound or internal.
    #[arg(long, value_name = "DIRECTION")]
    pub(super) direction: Direction,
    /// The sender, whose attributes fill the templates. Default: the author of the message.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) from: Option<Address>,
    /// Print the changes instead of the message.
    #[arg(long, conflicts_with_all = ["json", "out"])]
    diff: bool,
    /// Print the changed parts, or the reason for no change, as JSON.
    #[arg(long)]
    json: bool,
    /// Write each message to this directory under its own name, instead of printing it.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// The messages; "-" is standard input.
    #[arg(required = true, value_name = "MESSAGE.eml")]
    pub(super) messages: Vec<PathBuf>,
}

/// The output format of `copyist text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFormat {
    Message,
    Diff,
    Json,
}

impl TextArgs {
    pub(super) fn format(&self) -> TextFormat {
        match (self.diff, self.json) {
            (true, _) => TextFormat::Diff,
            (_, true) => TextFormat::Json,
            _ => TextFormat::Message,
        }
    }
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct CoverageFormats {
    /// Print one JSON object per line: each person, then the summary.
    #[arg(long)]
    json: bool,
    /// Print CSV (RFC 4180), one row for each value of each person.
    #[arg(long)]
    csv: bool,
}

/// The output format of `copyist coverage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CoverageFormat {
    Text,
    Json,
    Csv,
}

impl CoverageFormats {
    pub(super) fn chosen(&self) -> CoverageFormat {
        match (self.json, self.csv) {
            (true, _) => CoverageFormat::Json,
            (_, true) => CoverageFormat::Csv,
            _ => CoverageFormat::Text,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// The envelope sender, as in MAIL FROM; "<>" for the null reverse path.
    #[arg(long, value_name = "A")]
    pub(super) from: String,
    /// The envelope recipients, as in RCPT TO: dan@example.com, dan, dan%example.net@example.com.
    #[arg(long, value_name = "B", required = true, num_args = 1..)]
    pub(super) to: Vec<String>,
    /// The IP address of the client.
    #[arg(long, value_name = "IP")]
    pub(super) client: Option<IpAddr>,
    /// The user the client authenticated as.
    #[arg(long, value_name = "USER")]
    pub(super) auth: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// List the items, oldest first.
    List {
        /// Only dead letters: rejected by both the journal address and the NDR address.
        #[arg(long)]
        dead: bool,
        /// The most entries listed.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one item: targets, reasons, attempts, last replies, bounces.
    Show {
        /// The item ID.
        id: String,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List bounces and other notices received for delivered reports, newest first.
    Bounces {
        /// The most entries listed.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List operator actions (retry, hold, release, drop, export), newest first.
    Audit {
        /// Only actions on this item.
        id: Option<String>,
        /// The most entries listed.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Retry items now, including dead letters.
    Retry {
        /// The item IDs.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All items except those on hold.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Put items on hold: they are not delivered until released. A delivery in progress may still
    /// succeed.
    Hold {
        /// The item IDs.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Release items that were put on hold.
    Release {
        /// The item IDs.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Export an item as the relay would receive it.
    Export {
        /// The item ID.
        id: String,
        /// The file to write. Default: standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete items permanently. Export them first.
    Drop {
        /// The item IDs.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Confirm the deletion.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DirectoryCommand {
    /// Confirm that nobody has an attribute any more, or that the values of some people are
    /// intentionally gone.
    ///
    /// If an attribute loses its last value, Copyist assumes missing rights and defers mail. This
    /// command ends that within seconds, without a restart. It prints what is accepted and records it
    /// in the state directory with time and user.
    AcceptEmpty,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Schema {
    /// OpenLDAP: LDIF for cn=config.
    Openldap,
    /// Active Directory: LDIF for ldifde.
    Ad,
    /// JSON schema of the configuration file, for editors.
    Config,
    /// The settings reference (Markdown).
    Settings,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
