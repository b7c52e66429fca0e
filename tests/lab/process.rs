//! A child process whose output is read as it comes.
//!
//! Promises: whoever waits for a line is woken by that line, by the process's end or by a deadline;
//! the process is ended, by its own id, when its value is dropped.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The output of a process, shared with the threads that read it.
#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    /// Pipes that may still bring a line.
    open: usize,
}

/// The reason why no line arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The process closed its output: it has ended.
    Ended,
    /// The deadline passed.
    TimedOut,
}

impl Log {
    /// All lines so far, as one text.
    pub fn text(&self) -> String {
        self.state().lines.join("\n")
    }

    /// The newest line.
    pub fn last(&self) -> Option<String> {
        self.state().lines.last().cloned()
    }

    /// How many lines there are; a place to wait from.
    pub fn length(&self) -> usize {
        self.state().lines.len()
    }

    /// Waits until `found` gives something for a line at or after line `from`.
    pub fn wait_for<T>(
        &self,
        from: usize,
        patience: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Result<T, WaitError> {
        let deadline = Instant::now() + patience;
        let mut next = from;
        let mut state = self.state();
        loop {
            while let Some(line) = state.lines.get(next) {
                if let Some(what) = found(line) {
                    return Ok(what);
                }
                next += 1;
            }
            if state.open == 0 {
                return Err(WaitError::Ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WaitError::TimedOut);
            }
            state = (self.0.changed.wait_timeout(state, left))
                .expect("no reader panics while it holds this")
                .0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        (self.0.state.lock()).expect("no reader panics while it holds this")
    }

    /// Reads a pipe to its end in a thread of its own; nobody joins it, for a grandchild may hold
    /// the pipe longer than the child lives.
    fn follow(&self, pipe: impl Read + Send + 'static, line_end: u8) {
        self.state().open += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(line_end, &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line);
                log.state().lines.push(text.trim_end().to_owned());
                log.0.changed.notify_all();
                line.clear();
            }
            log.state().open -= 1;
            log.0.changed.notify_all();
        });
    }
}

/// A running child and what it prints.
pub struct Program {
    name: String,
    child: Child,
    log: Log,
}

impl Program {
    /// Starts a command, its output going to `log`, line by line.
    pub fn start(name: &str, command: &mut Command, log: &Log) -> Program {
        Program::start_with_line_end(name, command, log, b'\n')
    }

    /// The same for a program that ends its lines with another byte.
    pub fn start_with_line_end(
        name: &str,
        command: &mut Command,
        log: &Log,
        line_end: u8,
    ) -> Program {
        // A group of its own: a Ctrl-C at the test must not race with the orderly end, and
        // Postfix's master ends its children by signalling its group.
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        log.follow(child.stdout.take().expect("it was piped"), line_end);
        log.follow(child.stderr.take().expect("it was piped"), line_end);
        Program {
            name: name.to_owned(),
            child,
            log: log.clone(),
        }
    }

    /// Starts a command whose output nobody reads: whatever it writes fails.
    pub fn start_unheard(name: &str, command: &mut Command) -> Program {
        let (reader, writer) = std::io::pipe().expect("the system has pipes");
        drop(reader);
        let child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("the system has descriptors"))
            .stderr(writer)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Program {
            name: name.to_owned(),
            child,
            log: Log::default(),
        }
    }

    /// Its output.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by the name that `kill` knows it under.
    pub fn signal(&mut self, signal: &str) {
        // The id is still the child's own: until it is waited for, the kernel gives it to no other.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal_process(self.id(), signal);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => {
                    // std has no wait with a deadline.
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return None,
            }
        }
    }

    /// Asks it to end (SIGTERM) and waits; panics where it does not.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(PATIENCE)
            .unwrap_or_else(|| panic!("{} does not end on SIGTERM\n{}", self.name, self.log.text()))
    }

    /// Ends it without asking (SIGKILL) and waits.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it and all that it has started, without asking.
    pub fn kill_group(&mut self) {
        // It leads a group of its own, and is in it until it has been waited for. `-s`: dash takes
        // `-KILL --` for a mistake.
        let killed = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -s KILL -- -{}", self.id()))
            .status();
        assert!(killed.is_ok_and(|status| status.success()), "{}", self.name);
        self.kill();
    }
}

/// The processes that this one has started and that still run, with their names.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let processes = std::fs::read_dir("/proc").expect("every Linux machine has it");
    let read = processes.filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name stands in parentheses, and may hold some itself.
        let (head, tail) = stat.rsplit_once(')')?;
        let of: u32 = tail.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let name = head.split_once('(')?.1.to_owned();
        (of == parent).then_some((id, name))
    });
    read.collect()
}

/// Sends a signal, by the name that `kill` knows it under, to one process, which the caller has
/// started or found by [`children`].
pub fn signal_process(process: u32, signal: &str) {
    // The shell's own kill: procps need not be installed.
    let _ = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{signal} {process}"))
        .stderr(Stdio::null())
        .status();
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
