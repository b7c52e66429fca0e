//! The real `copyist` binary, as an operator runs it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Log, Program};
use super::{PATIENCE, write};

/// The log line of the binary once all its listeners are bound.
const READY: &str = "copyist is ready";

/// A running `copyist run` with a state directory of its own, which outlives every restart.
pub struct Copyist {
    directory: TempDir,
    environment: Vec<(String, String)>,
    /// How many descriptors it may have, if not as many as the tests.
    descriptors: Option<u64>,
    log: Log,
    running: Option<Program>,
}

impl Copyist {
    /// Starts it and waits until it is ready; panics with its log where it ends before.
    ///
    /// The configuration lacks only `state_dir`, which is put on top of it.
    pub fn start(config: &str) -> Copyist {
        Copyist::start_in(Vec::new(), config)
    }

    /// The same with these environment variables.
    pub fn start_in(environment: Vec<(String, String)>, config: &str) -> Copyist {
        let mut copyist = Copyist {
            environment,
            ..Copyist::install(config)
        };
        copyist.restart();
        copyist
    }

    /// Has systemd's tool listen on these addresses; the first who connects has it started and
    /// handed the sockets.
    pub fn start_on_demand(listen: &[String], config: &str) -> Copyist {
        super::need("systemd-socket-activate", "systemd");
        let mut copyist = Copyist::install(config);
        let mut tool = Command::new("systemd-socket-activate");
        for address in listen {
            tool.arg("--listen").arg(address);
        }
        let run = copyist.run();
        tool.arg(run.get_program()).args(run.get_args());
        tool.current_dir(copyist.directory.path());
        copyist.running = Some(Program::start("copyist", &mut tool, &copyist.log));
        for address in listen {
            copyist.wait_for_log(0, &format!("Listening on {address}"));
        }
        copyist
    }

    /// Puts its configuration in place; [`Copyist::restart`] starts it.
    pub fn install(config: &str) -> Copyist {
        let copyist = Copyist {
            environment: Vec::new(),
            descriptors: None,
            directory: tempfile::tempdir().expect("the system has a temporary directory"),
            log: Log::default(),
            running: None,
        };
        copyist.write_config(config);
        copyist
    }

    /// Has it started with so many descriptors from now on.
    pub fn limit_descriptors(&mut self, descriptors: Option<u64>) {
        self.descriptors = descriptors;
    }

    /// A line of `/proc/PID/status`, in its unit: `VmRSS` and `RssAnon` in KiB, `Threads`.
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("copyist runs");
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| value.split_ascii_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.id());
        std::fs::read_dir(directory).expect("copyist runs").count()
    }

    /// How many bytes its spool has on disk.
    pub fn spool_bytes(&self) -> u64 {
        let spool = self.state_dir().join("spool");
        let of = |directory: PathBuf| -> u64 {
            let files = std::fs::read_dir(directory).into_iter().flatten();
            // Files come and go meanwhile.
            files
                .filter_map(|file| file.ok()?.metadata().ok())
                .filter(Metadata::is_file)
                .map(|file| file.blocks() * 512)
                .sum()
        };
        of(spool.join("bodies")) + of(spool)
    }

    /// The number of queued items.
    pub fn queued(&self) -> usize {
        let listed = self.command(&["queue", "list", "--json", "--limit", "1"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout)
            .unwrap_or_else(|error| panic!("{error}: {listed:?}"));
        let total = listed["total"].as_u64().expect("a number");
        usize::try_from(total).expect("it is small")
    }

    /// Puts another configuration in place; it counts from the next start or [`Copyist::hup`].
    pub fn write_config(&self, config: &str) {
        let state = self.state_dir();
        let text = format!("state_dir = \"{}\"\n{config}", state.display());
        write(&self.config_file(), text);
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("copyist.toml")
    }

    /// Where it keeps what must last.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Its log, over all restarts.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How many lines it logged; a place for [`Copyist::wait_for_log`] to look from.
    pub fn log_length(&self) -> usize {
        self.log.length()
    }

    /// Waits for a log line, at or after line `from`, that holds this text, and gives it.
    pub fn wait_for_log(&self, from: usize, text: &str) -> String {
        let line = self.log.wait_for(from, PATIENCE, |line| {
            line.contains(text).then(|| line.to_owned())
        });
        line.unwrap_or_else(|why| panic!("no {text:?} in copyist's log ({why:?})\n{}", self.log()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("copyist runs").id()
    }

    /// Ends it as a power cut would end it.
    pub fn kill9(&mut self) {
        if let Some(mut program) = self.running.take() {
            program.kill();
        }
    }

    /// Starts it again, on the same state; kills it first where it still runs.
    pub fn restart(&mut self) {
        self.kill9();
        let from = self.log.length();
        let mut run = self.run();
        self.running = Some(Program::start("copyist", &mut run, &self.log));
        self.wait_for_log(from, READY);
    }

    /// Starts it where it must not start, and gives what it says of that.
    pub fn refusal(&self) -> String {
        let mut run = self.run();
        let run = run.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = run.spawn().expect("the binary was built for this test");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("it is ours") {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("copyist starts");
                }
            }
        };
        assert!(!status.success(), "{status}");
        let said = child.wait_with_output().expect("it has ended").stderr;
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Starts it again with nobody to read its log; ready when it listens on this port.
    pub fn restart_unheard(&mut self, port: u16) {
        self.kill9();
        let program = Program::start_unheard("copyist", &mut self.run());
        self.running = Some(program);
        super::wait_for_listener(port);
    }

    fn run(&self) -> Command {
        let mut run = self.binary();
        run.arg("run").arg("--config").arg(self.config_file());
        run.envs(self.environment.iter().cloned());
        if let Some(descriptors) = self.descriptors {
            let mut limited = Command::new(super::need("prlimit", "util-linux"));
            limited.arg(format!("--nofile={descriptors}:{descriptors}"));
            limited.arg(run.get_program()).args(run.get_args());
            limited.current_dir(self.directory.path());
            for (name, value) in run.get_envs() {
                match value {
                    Some(value) => limited.env(name, value),
                    None => limited.env_remove(name),
                };
            }
            return limited;
        }
        run
    }

    /// Has it read its configuration again (SIGHUP).
    pub fn hup(&mut self) {
        self.running.as_mut().expect("copyist runs").signal("HUP");
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn term_and_wait(&mut self) -> ExitStatus {
        let mut program = self.running.take().expect("copyist runs");
        program.terminate()
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut program = self.running.take().expect("copyist runs");
        let ended = program.wait(PATIENCE);
        ended.unwrap_or_else(|| panic!("copyist goes on\n{}", self.log()))
    }

    /// Runs another command of the binary on the same configuration, for example
    /// `["queue", "list", "--json"]`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.binary()
            .args(arguments)
            .arg("--config")
            .arg(self.config_file())
            .output()
            .expect("the binary was built for this test")
    }

    fn binary(&self) -> Command {
        // Long proofs are about the binary that is installed, which is built with optimizations.
        let binary = std::env::var_os("COPYIST_PROOF_BINARY")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_copyist").into());
        let mut command = Command::new(binary);
        // Settings of whoever runs the tests must not leak in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COPYIST__") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.directory.path());
        command
    }
}
