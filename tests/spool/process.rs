//! Starting the worker, perhaps through another program, and listening to it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::super::lab::{PATIENCE, need};

use super::worker::Orders;

/// A started worker. What it said can be read to the end also after it was killed.
pub struct WorkerProcess {
    started: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its own process id, which is not that of a program it was started through.
    pid: Option<u32>,
}

/// Starts the test program again as the worker; `through` is a program that starts it, with its
/// arguments.
pub fn start(orders: &Orders, through: &[&str]) -> WorkerProcess {
    let own = std::env::current_exe().expect("a test program has a path");
    let mut words = through
        .iter()
        .map(OsString::from)
        .chain([own.into_os_string()]);
    let mut command = Command::new(words.next().expect("there is a program"));
    command
        .args(words)
        .args([
            "--ignored",
            "--exact",
            "child",
            "--nocapture",
            "--test-threads=1",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    orders.give(&mut command);
    let mut started = command.spawn().expect("started");
    let lines = BufReader::new(started.stdout.take().expect("piped")).lines();
    WorkerProcess {
        started,
        lines,
        pid: None,
    }
}

impl WorkerProcess {
    /// The next line of it; `None` at its end.
    pub fn line(&mut self) -> Option<String> {
        let line = self.lines.next()?.ok()?;
        if let Some(pid) = line.strip_prefix("pid ") {
            self.pid = pid.parse().ok();
        }
        Some(line)
    }

    /// Kills it, and gives what it said until then.
    pub fn kill(mut self) -> Vec<String> {
        match self.pid {
            // The id is still its own: nobody waited for it yet. What it was started through ends
            // by itself.
            Some(pid) if pid != self.started.id() => {
                let _ = Command::new("sh")
                    .args(["-c", &format!("kill -9 {pid}")])
                    .stderr(Stdio::null())
                    .status();
            }
            _ => self.started.kill().expect("SIGKILL"),
        }
        self.rest()
    }

    /// Waits for its end, and gives what it said until then.
    pub fn rest(mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(line) = self.line() {
            rest.push(line);
        }
        let _ = self.started.wait();
        rest
    }

    /// Its process id, once it said so.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Lets it continue where it waits for a line.
    pub fn go(&mut self) {
        let stdin = self.started.stdin.as_mut().expect("piped");
        stdin.write_all(b"go\n").expect("it listens");
    }

    /// Reads lines until one begins with this word, and gives them all; to its end where there is
    /// none.
    pub fn until(&mut self, word: &str) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.line() {
            let is_it = line.split(' ').next() == Some(word);
            said.push(line);
            if is_it {
                break;
            }
        }
        said
    }

    /// The thread of it that has this name.
    pub fn thread(&self, name: &str) -> u32 {
        let pid = self.pid.expect("it said so");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
            let named = threads.filter_map(Result::ok).find(|thread| {
                let comm = std::fs::read_to_string(thread.path().join("comm"));
                comm.is_ok_and(|comm| comm.trim() == name)
            });
            if let Some(named) = named {
                let id = named.file_name();
                return id.to_string_lossy().parse().expect("a thread id");
            }
            // It gives itself its name once it runs.
            assert!(Instant::now() < deadline, "no thread is named {name}");
            std::thread::yield_now();
        }
    }
}

/// strace on a running worker, from now on.
pub struct Strace(Child);

impl Strace {
    /// Attaches to one thread (or with `-f` to all) and returns once that is done. What it sees
    /// goes to `log`.
    pub fn attach(id: u32, options: &[&str], log: &Path) -> Strace {
        let mut strace = Command::new(need("strace", "strace"))
            .args(options)
            .arg("-o")
            .arg(log)
            .args(["-p", &id.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        let mut said = BufReader::new(strace.stderr.take().expect("piped"));
        said.read_line(&mut line).expect("it says something");
        assert!(line.contains(" attached"), "strace: {line}");
        // It says more when the worker ends; nobody may wait for that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Strace(strace)
    }

    /// Waits until it has written all it saw: the worker has ended.
    pub fn wait(mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
