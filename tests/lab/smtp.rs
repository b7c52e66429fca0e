//! Postfix's own load generator and sink: programs that nobody here wrote.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Log, Program};
use super::{PATIENCE, free_port, need, open_directory};

/// `smtp-sink`: takes every message, counts it, and keeps it where asked to.
pub struct SmtpSink {
    address: SocketAddr,
    kept: Option<TempDir>,
    options: Vec<String>,
    program: Option<Program>,
    /// The number of messages it had accepted when it was stopped.
    before: usize,
}

impl SmtpSink {
    /// A sink that only counts.
    pub fn start() -> SmtpSink {
        SmtpSink::start_with(&[])
    }

    /// A sink that only counts, with options of `smtp-sink`: what it does not announce, or refuses.
    pub fn start_with(options: &[&str]) -> SmtpSink {
        SmtpSink::start_as(None, options)
    }

    /// A sink that keeps every message in a file of its own.
    pub fn start_keeping() -> SmtpSink {
        let directory = open_directory();
        // It writes as the user it becomes.
        super::set_mode(directory.path(), 0o777);
        SmtpSink::start_as(Some(directory), &[])
    }

    fn start_as(kept: Option<TempDir>, options: &[&str]) -> SmtpSink {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // A port that was free may be taken by now.
        let (address, program) = (0..10)
            .find_map(|_| {
                let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
                let program =
                    SmtpSink::try_start(kept.as_ref().map(TempDir::path), &options, address)?;
                Some((address, program))
            })
            .expect("smtp-sink finds a port to listen on");
        SmtpSink {
            address,
            kept,
            options,
            program: Some(program),
            before: 0,
        }
    }

    /// Stops it; its port refuses connections from then on. What it keeps stays.
    pub fn stop(&mut self) {
        self.before = self.count();
        self.program = None;
    }

    /// Starts it again where it was, with other options.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.to_owned()).collect();
        self.restart();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        let program = SmtpSink::try_start(
            self.kept.as_ref().map(TempDir::path),
            &self.options,
            self.address,
        );
        self.program = Some(program.expect("nobody took the sink's port"));
    }

    fn try_start(
        keep_in: Option<&Path>,
        options: &[String],
        address: SocketAddr,
    ) -> Option<Program> {
        let mut command = Command::new(need("smtp-sink", "postfix"));
        if super::is_root() {
            // It refuses to stay root.
            command.args(["-u", "postfix"]);
        }
        if let Some(directory) = keep_in {
            command.arg("-d").arg(directory.join("%s."));
        }
        command.args(options);
        // -c prints the counters, ended by a carriage return, whenever one of them moves.
        command.args(["-c", &address.to_string(), "1000"]);
        let log = Log::default();
        let mut program = Program::start_with_line_end("smtp-sink", &mut command, &log, b'\r');
        // It says nothing when it is ready: a connection tells.
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            if program.wait(Duration::from_millis(5)).is_some() || Instant::now() > deadline {
                return None;
            }
        }
        Some(program)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many messages it has taken.
    pub fn count(&self) -> usize {
        let last = (self.program.as_ref()).and_then(|program| program.log().last());
        self.before + last.as_deref().and_then(taken).unwrap_or(0)
    }

    /// Waits until it has taken this many messages; panics where they do not come.
    pub fn wait_for(&self, messages: usize, patience: Duration) {
        let program = self.program.as_ref().expect("the sink runs");
        let came = program.log().wait_for(0, patience, |line| {
            (self.before + taken(line)? >= messages).then_some(())
        });
        assert!(
            came.is_ok(),
            "the sink has {} of {messages} messages after {patience:?} ({came:?})",
            self.count(),
        );
    }

    /// Hands over each message that it keeps and that is whole, and removes it; tells how many. One
    /// that the sink itself removes meanwhile, because its client went away in the middle of it,
    /// was never taken.
    pub fn harvest(&self, is_whole: impl Fn(&str) -> bool, mut take: impl FnMut(&str)) -> usize {
        let directory = (self.kept.as_ref()).expect("the sink was started to keep its messages");
        let mut count = 0;
        for file in std::fs::read_dir(directory).expect("the directory is ours") {
            let path = file.expect("it can be listed").path();
            let bytes = match std::fs::read(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                read => read.expect("it can be read"),
            };
            let text = String::from_utf8_lossy(&bytes);
            if is_whole(&text) {
                take(&text);
                std::fs::remove_file(&path).expect("the directory is ours");
                count += 1;
            }
        }
        count
    }

    /// The messages it keeps, envelope lines (`X-Mail-Args:`, `X-Rcpt-Args:`) on top; in no order.
    pub fn messages(&self) -> Vec<String> {
        let directory = (self.kept.as_ref()).expect("the sink was started to keep its messages");
        std::fs::read_dir(directory)
            .expect("the directory is ours")
            .map(|file| std::fs::read(file.expect("it can be listed").path()))
            .map(|bytes| String::from_utf8_lossy(&bytes.expect("it can be read")).into_owned())
            .collect()
    }
}

/// The number of messages in a line of counters: `sess=1 quit=1 mesg=1`.
fn taken(counters: &str) -> Option<usize> {
    counters.rsplit_once("mesg=")?.1.trim().parse().ok()
}

/// The result of a run of `smtp-source`.
pub struct Load {
    /// Its output and exit status: it fails if any message is rejected.
    pub output: Output,
    /// From its start to its end.
    pub took: Duration,
}

/// Runs Postfix's load generator to its end, for example with `["-s", "20", "-m", "2000", "-l",
/// "10240", "-f", "a@elsewhere.test", "-t", "u00000@example.test"]`.
pub fn smtp_source(server: SocketAddr, arguments: &[&str]) -> Load {
    let started = Instant::now();
    let output = Command::new(need("smtp-source", "postfix"))
        .args(arguments)
        .arg(server.to_string())
        .output()
        .expect("smtp-source is a program");
    Load {
        output,
        took: started.elapsed(),
    }
}
