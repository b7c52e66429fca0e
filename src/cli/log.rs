//! The log formats: for people and `grep`, for scripts, and for systemd's journal.

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

/// Starts logging to standard error, where systemd and containers expect it. `COPYIST_LOG` takes the
/// usual filters of tracing and overrides the level of the settings.
pub(super) fn start(settings: LogSettings) {
    // lettre would log message content; rustls and hyper log every handshake.
    let filter = EnvFilter::try_from_env("COPYIST_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,copyist={}", settings.level)));
    let log = tracing_subscriber::fmt()
        // Otherwise a failed write is reported on standard error, and if that fails, too, it panics:
        // in the middle of a delivery, which would be repeated forever.
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

/// Whether standard error is systemd's journal, which reads a line's level from a numeric prefix.
/// systemd passes its device and inode (systemd.exec(5)), so that a redirection is detected.
pub(super) fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = fstat(std::io::stderr());
    found.is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}

/// Prints the error of a failed command, for people or for the journal.
pub(super) fn print_failure(text: &str) {
    let level = match is_journal() {
        true => format!("<{}>", priority(Level::ERROR)),
        false => String::new(),
    };
    for (at, line) in text.split('\n').enumerate() {
        let name = if at == 0 { "copyist: " } else { "" };
        eprintln!("{level}{name}{}", escape_for_display(line));
    }
}

/// One line per event, the MTA's queue ID first, as postmasters expect.
struct Lines {
    /// Whether to write a level prefix instead of time and level (sd-daemon(3)).
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
        let mut text = EventText::default();
        event.record(&mut text);
        let level = *event.metadata().level();
        if self.is_journal {
            write!(to, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut to)?;
            write!(to, " {level:>5} ")?;
        }
        if !text.queue_id.is_empty() {
            write!(to, "{}: ", text.queue_id)?;
        }
        writeln!(to, "{}{}", text.message, text.fields)
    }
}

/// Returns the syslog(3) priority of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The fields of an event.
#[derive(Default)]
struct EventText {
    queue_id: String,
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            // From the MTA, so it must stay on one line.
            "queue_id" => self.queue_id = OneLine(&format_args!("{value}")).to_string(),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{}", OneLine(value)),
            name => write!(self.fields, " {name}={}", OneLine(value)),
        };
    }
}

/// A value with line breaks and other invisible characters escaped: external text must not look like
/// a log line.
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
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(is_journal: bool, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Lines { is_journal })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().expect("nobody panicked").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_queue_id_comes_first() {
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
    fn external_text_stays_on_its_line() {
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
