//! One thread of the worker, watched by strace from a stage of its life on, and a count of what
//! every thread does.

use std::collections::BTreeMap;
use std::path::Path;

use super::book::Book;
use super::process::{Strace, WorkerProcess, start};
use super::worker::Orders;

/// Every system call by which the spool changes something on disk.
const CALLS: &str = "openat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,\
                     unlink,unlinkat,link,linkat,ftruncate,fallocate,mkdir,mkdirat";

/// A body file that is delivered, one that stays, three items of one message: 20 is a multiple of 5
/// and 4.
const FIRST: usize = 20;
/// The one that opens and asks, the one that writes, the one that does what blocks.
const THREADS: [&str; 3] = ["child", "spool", "tokio-rt-worker"];

/// When the worker is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The worker creates a spool.
    Making,
    /// The worker opens a spool that was left in the midst of work.
    Opening,
    /// The worker commits messages and records their delivery results.
    Working,
}

/// A run that has come to its end, or to where it was ended.
pub struct Run {
    pub book: Book,
    /// Its output since it is traced.
    pub said: Vec<String>,
    worker: WorkerProcess,
    strace: Strace,
    directory: String,
    log: std::path::PathBuf,
}

/// A call of a thread, and how often it was counted on files of the spool.
pub type Calls = BTreeMap<(&'static str, String), usize>;

impl Run {
    /// Runs a worker in `directory`, one thread of it (or all) watched with these options, as far
    /// as the stage goes. `beside` is a directory for what must outlive it.
    pub fn new(
        directory: &Path,
        beside: &Path,
        stage: Stage,
        thread: Option<&str>,
        messages: usize,
        options: &[&str],
    ) -> Run {
        let mut book = Book::default();
        let orders = Orders {
            directory: directory.to_owned(),
            book: beside.join("book"),
            first: FIRST,
            tasks: 1,
            messages,
            waits: true,
            ..Orders::default()
        };
        if stage == Stage::Opening {
            let mut worker = start(&orders, &[]);
            worker.until("pid");
            worker.go();
            worker.until("ready");
            worker.go();
            worker
                .until("done")
                .iter()
                .for_each(|line| _ = book.note(line));
            worker.kill();
        }
        book.write(&orders.book);
        let mut worker = start(&orders, &[]);
        worker.until("pid");
        if stage == Stage::Working {
            worker.go();
            worker.until("ready");
        }
        let id = match thread {
            Some(name) => worker.thread(name),
            None => worker.pid().expect("it said so"),
        };
        let log = beside.join("strace");
        let strace = Strace::attach(id, options, &log);
        worker.go();
        let said = worker.until(if stage == Stage::Working {
            "done"
        } else {
            "opened"
        });
        said.iter().for_each(|line| _ = book.note(line));
        Run {
            book,
            said,
            worker,
            strace,
            directory: directory.to_string_lossy().into_owned(),
            log,
        }
    }

    /// Whether it came to the end of its stage.
    pub fn is_whole(&self) -> bool {
        let last = self.said.last();
        last.is_some_and(|line| line.starts_with("done ") || line.starts_with("opened "))
    }

    /// Kills it, if nothing else did. Gives what it said after the stage, and what strace saw.
    pub fn end(self) -> SystemCalls {
        self.worker.kill();
        self.strace.wait();
        let log = std::fs::read_to_string(&self.log).expect("strace wrote it");
        SystemCalls {
            directory: self.directory,
            log,
        }
    }
}

/// Output of strace.
pub struct SystemCalls {
    directory: String,
    log: String,
}

impl SystemCalls {
    /// Whether the last call was on a file of the spool.
    pub fn ends_on_a_file(&self) -> bool {
        let last = self.log.lines().rfind(|line| line.contains('('));
        last.is_some_and(|line| line.contains(&self.directory))
    }

    /// The call that was made to fail, if it was reached.
    pub fn injected(&self) -> Option<&str> {
        self.log.lines().find(|line| line.contains("(INJECTED)"))
    }

    /// Whether a call was on a file of the spool.
    pub fn is_on_a_file(&self, line: &str) -> bool {
        line.contains(&self.directory)
    }
}

/// Runs it once to the end of the stage, and counts the calls of each thread on files of the spool.
pub fn count(directory: &Path, beside: &Path, stage: Stage, messages: usize) -> Calls {
    let options = ["-f", "-y", "-e", &format!("trace={CALLS}")];
    let run = Run::new(directory, beside, stage, None, messages, &options);
    assert!(run.is_whole(), "{:?}", run.said);
    let threads = if stage == Stage::Working {
        &THREADS[..]
    } else {
        &THREADS[..1]
    };
    let ids: Vec<_> = threads
        .iter()
        .map(|name| (run.worker.thread(name).to_string(), *name))
        .collect();
    let seen = run.end();
    let mut calls = Calls::new();
    for line in seen.log.lines() {
        // A call that another thread interrupted in the log has a second line.
        let Some((before, arguments)) = line.split_once('(').filter(|_| !line.contains("resumed>"))
        else {
            continue;
        };
        if seen.is_on_a_file(line) {
            let (id, call) = before.split_once(' ').expect("a thread and its call");
            let known = ids.iter().find(|(known, _)| known == id);
            let (_, thread) =
                known.unwrap_or_else(|| panic!("a thread that nobody stops changes files: {line}"));
            *calls.entry((*thread, call.trim().to_owned())).or_insert(0) += 1;
        }
        let last = match stage {
            Stage::Working => ", \"done ",
            Stage::Making | Stage::Opening => ", \"opened ",
        };
        if arguments.contains(last) {
            return calls;
        }
    }
    panic!("it did not say the end");
}
