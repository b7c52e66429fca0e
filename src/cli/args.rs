//! The command line. Its words are interfaces: scripts and units rely on them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::mail::Address;
use crate::policy::Direction;

/// Journals mail: an SMTP hook that makes a durable copy of each message for the addresses that the
/// directory names, before the message goes on.
///
/// Start with `copyist demo`, which needs nothing else. Then write a configuration (see
/// config/copyist.toml), try it with `copyist check --online` and `copyist explain`, and start the
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
    /// SIGHUP reads the configuration again (a bad file leaves the old settings running), SIGTERM
    /// finishes what is under way and stops.
    Run {
        #[command(flatten)]
        config: Config,
    },
    /// Check the configuration; every mistake is shown with file, line and a value that would work.
    Check {
        #[command(flatten)]
        config: Config,
        /// Also connect to the directory and the relay.
        #[arg(long)]
        online: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look for mistakes around Copyist: routes of Postfix that pass it by, settings that do not
    /// fit, the disk, the clock, files. Each is told with the command that mends it; nothing is
    /// changed.
    ///
    /// Exit status 1 where there is an error or a warning; hints alone leave it at 0.
    Doctor(DoctorQuestion),
    /// Say what would be journaled to whom, and why. Nothing is sent.
    ///
    /// Exit status 0: it would be journaled. 3: nothing is journaled. 4: the message would be
    /// deferred. 5: every recipient is refused, as a guarded mailbox. 1 and 2 are failures, as of
    /// every command.
    Explain(Question),
    /// Show what the directory says about an address or a journal target.
    Resolve {
        #[command(flatten)]
        config: Config,
        /// An address of a person, or a journal target.
        #[arg(value_name = "ADDRESS|TARGET")]
        address: String,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List who is journaled where by attribute, and values that lead nowhere (exit status 1 where
    /// there are any).
    Coverage {
        #[command(flatten)]
        config: Config,
        #[command(flatten)]
        format: CoverageFormats,
        /// Only people with a value that leads nowhere or not to all members of a group, or with an
        /// address that mail does not find them by.
        #[arg(long)]
        problems: bool,
    },
    /// Show messages as they would leave, with the texts put in. Nothing is sent.
    Text(TextQuestion),
    /// Look at what is owed and act on it.
    Queue {
        #[command(flatten)]
        config: Config,
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// Act on what is known of the directory.
    Directory {
        #[command(flatten)]
        config: Config,
        #[command(subcommand)]
        command: DirectoryCommand,
    },
    /// Make a configuration of the Internet Mail Service Extension's registry key (imsext.dll of
    /// Exchange 5.5).
    ///
    /// What was guessed stands in it behind FILL IN, and is told on standard error, as is what has
    /// no equivalent.
    ImportRegistry(ImportRegistry),
    /// Propose a configuration in place of Postfix's always_bcc, sender_bcc_maps and
    /// recipient_bcc_maps.
    ///
    /// Reads main.cf by postconf, and the tables it names. What was guessed stands in the
    /// configuration behind FILL IN, and is told on standard error, as is what has no equivalent.
    /// No password is read into it.
    ImportPostfix(ImportPostfix),
    /// Print a schema: LDAP attributes for directories that have none to use, or the
    /// configuration's.
    Schema {
        /// Which one.
        which: Schema,
    },
    /// Print completions for a shell, to be read by it at its start.
    ///
    /// For bash: copyist completions bash > /etc/bash_completion.d/copyist
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// Where to write them; made where it is missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Show the whole journey on this machine: a directory, an MTA's part, a relay; nothing else
    /// needed.
    Demo {
        /// Where to leave the files to look at; a new temporary directory where not given.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print the result only.
        #[arg(long)]
        quiet: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Config {
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
pub(super) struct ImportRegistry {
    /// The exported key ...\MSExchangeIMC\Parameters\Extension, by Regedit or reg export.
    #[arg(value_name = "FILE.reg")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) import: Import,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportPostfix {
    /// The directory of main.cf; Postfix's own default where not given.
    #[arg(long, value_name = "DIR")]
    pub(super) config_directory: Option<PathBuf>,
    /// Write the people whom hash and other tables of text name into this file, as a directory in
    /// LDIF, and have the configuration use it where no LDAP server is known.
    #[arg(long, value_name = "FILE")]
    pub(super) ldif: Option<PathBuf>,
    #[command(flatten)]
    pub(super) import: Import,
}

/// What both imports take.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file to write, which must not exist yet; standard output where not given.
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// A mail domain of the organization, the main one first. May be given again.
    #[arg(long, value_name = "DOMAIN")]
    pub(super) domain: Vec<String>,
    /// An LDAP server, or ldif:FILE. May be given again.
    #[arg(long, value_name = "URL")]
    pub(super) directory_url: Vec<String>,
    /// The base of all searches in the directory.
    #[arg(long, value_name = "DN")]
    pub(super) base: Option<String>,
    /// The MTA that takes journal copies.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) relay: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DoctorQuestion {
    #[command(flatten)]
    pub(super) config: Config,
    /// Configuration directories of Postfix; where not given, the default one and the other
    /// instances it names.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(super) postfix: Vec<PathBuf>,
    /// Also ask the directory and the relay.
    #[arg(long)]
    pub(super) online: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct TextQuestion {
    #[command(flatten)]
    pub(super) config: Config,
    /// Whose texts: inbound, outbound or internal.
    #[arg(long, value_name = "DIRECTION")]
    pub(super) direction: Direction,
    /// The sender, whose attributes templates are filled with; the author of the message where not
    /// given.
    #[arg(long, value_name = "ADDRESS")]
    pub(super) from: Option<Address>,
    /// Print what would change instead of the message.
    #[arg(long, conflicts_with_all = ["json", "out"])]
    diff: bool,
    /// Print which parts would change and how, or why not, as JSON.
    #[arg(long)]
    json: bool,
    /// Write each message into this directory, under its own name, instead of printing it.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// The messages; "-" is standard input.
    #[arg(required = true, value_name = "MESSAGE.eml")]
    pub(super) messages: Vec<PathBuf>,
}

/// How `copyist text` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFormat {
    Message,
    Diff,
    Json,
}

impl TextQuestion {
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
    /// Print one JSON object a line: each person, and last the summary.
    #[arg(long)]
    json: bool,
    /// Print CSV (RFC 4180): each value of each person.
    #[arg(long)]
    csv: bool,
}

/// How coverage is printed.
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
pub(super) struct Question {
    #[command(flatten)]
    pub(super) config: Config,
    /// The envelope sender, as it stands in MAIL FROM; "<>" for the null reverse path.
    #[arg(long, value_name = "A")]
    pub(super) from: String,
    /// The envelope recipients, as they stand in RCPT TO: dan@example.com, dan,
    /// dan%example.net@example.com.
    #[arg(long, value_name = "B", required = true, num_args = 1..)]
    pub(super) to: Vec<String>,
    /// The address of the client that hands the message in.
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
        /// Only dead letters: neither the journal address nor the NDR address took them.
        #[arg(long)]
        dead: bool,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one item: targets, reasons, attempts, last replies, bounces.
    Show {
        /// The item's id.
        id: String,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the bounces and other notices that came back for reports that a relay had taken, newest
    /// first.
    Bounces {
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what operators did to items (retry, hold, release, drop, export), newest first.
    Audit {
        /// Only what was done to this item.
        id: Option<String>,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try items again now, dead letters too.
    Retry {
        /// The items' ids.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All items but those on hold.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Keep items back: nobody tries them until they are released. One that is being delivered may
    /// still go.
    Hold {
        /// The items' ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Let items go that were kept back with "hold".
    Release {
        /// The items' ids.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Write an item as the relay would get it.
    Export {
        /// The item's id.
        id: String,
        /// The file to write; standard output where not given.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Give an item up for ever. Export it first.
    Drop {
        /// The items' ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DirectoryCommand {
    /// Say that it is meant that nobody has an attribute any more, or that the values of some
    /// people are hidden.
    ///
    /// Where an attribute loses its last value, Copyist takes that for missing rights and defers
    /// mail. This ends it within seconds, without a restart. What is accepted is printed, and
    /// recorded in the state directory with time and user.
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
    /// The settings of the configuration file as a page (Markdown).
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
