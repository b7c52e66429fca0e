//! How the service's log is written: for people and `grep`, for scripts, or for systemd's journal.

use std::fmt::{self, Write as _};

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, LogSettings};
use crate::mail::{escape_for_display, needs_escape};

/// Log lines go to standard error, where systemd and containers look for them. `COPYIST_LOG` takes
/// the usual filters of tracing, and goes before the level of the settings.
pub(super) fn start(settings: LogSettings) {
    // lettre's own lines would show what is sent; rustls and hyper talk about every handshake.
    let filter = EnvFilter::try_from_env("COPYIST_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,copyist={}", settings.level)));
    let log = tracing_subscriber::fmt()
        // Else a line that cannot be written is complained about on standard error, and where
        // nobody reads that either, the complaint panics: in the middle of a delivery, which would
        // be repeated for ever.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
        LogFormat::Plain => log.event_format(Lines { is_journal: false }).init(),
        LogFormat::Journald => log.event_format(Lines { is_journal: true }).init(),
        LogFormat::Auto => {
            let is_journal = is_journal();
            log.event_format(Lines { is_journal }).init();
        }
    }
}

/// Whether standard error is systemd's journal, which reads the level of a line from a number in
/// front. systemd says so by device and inode (systemd.exec(5)): a redirection leads elsewhere.
pub(super) fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = fstat(std::io::stderr());
    found.is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Writes why a command failed, to people or to the journal.
pub(super) fn tell_failure(text: &str) {
    let level = match is_journal() {
        true => format!("<{}>", priority(Level::ERROR)),
        false => String::new(),
    };
    for (at, line) in text.split('\n').enumerate() {
        let name = if at == 0 { "copyist: " } else { "" };
        eprintln!("{level}{name}{}", escape_for_display(line));
    }
}

/// One line for each event, the MTA's queue id first, as postmasters look for it.
struct Lines {
    /// The journal has a clock of its own, and reads the level from a number in front
    /// (sd-daemon(3)).
    is_journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let level = *event.metadata().level();
        if self.is_journal {
            write!(to, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut to)?;
            write!(to, " {level:>5} ")?;
        }
        if !said.queue_id.is_empty() {
            write!(to, "{}: ", said.queue_id)?;
        }
        writeln!(to, "{}{}", said.message, said.fields)
    }
}

/// The number of a level in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    queue_id: String,
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            // It is the MTA's word, and on one line like all else.
            "queue_id" => self.queue_id = OneLine(&format_args!("{value}")).to_string(),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A String takes whatever is written to it.
        let _ = match field.name() {
            "message" => write!(self.message, "{}", OneLine(value)),
            name => write!(self.fields, " {name}={}", OneLine(value)),
        };
    }
}

/// A value without line breaks and other characters that cannot be seen: what strangers write must
/// not look like a line of ours.
struct OneLine<'a>(&'a dyn fmt::Debug);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match needs_escape(c) {
                    true => write!(self.0, "{}", c.escape_default()),
                    false => self.0.write_char(c),
                })
            }
        }
        write!(Escape(f), "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(is_journal: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Lines { is_journal })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = kept.0.lock().expect("nobody panicked").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_queue_id_stands_first() {
        let line = logged(false, || {
            tracing::info!(queue_id = "4XyZ", to = "a@b.test", ms = 3, "journaled");
        });
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.ends_with('Z'), "{line}");
        assert_eq!(rest, " INFO 4XyZ: journaled to=\"a@b.test\" ms=3\n");
    }

    #[test]
    fn the_journal_gets_a_level_and_no_time() {
        let line = logged(true, || tracing::warn!(queue_id = "", "the relay is away"));
        assert_eq!(line, "<4>the relay is away\n");
    }

    #[test]
    fn what_strangers_write_stays_on_its_line() {
        let subject = "x\n<3>2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{202e}\u{9b}2J";
        let line = logged(
            true,
            || tracing::info!(queue_id = "A\nB", %subject, "{subject}"),
        );
        assert_eq!(line.lines().count(), 1, "{line:?}");
        let shown = line.trim_end_matches('\n');
        assert!(!shown.contains(needs_escape), "{line:?}");
        assert!(shown.contains(r"forged\u{1b}[2J\u{202e}"), "{line:?}");
    }
}
