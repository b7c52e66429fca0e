//! The spool, stopped at every step: each system call that changes a file, in each thread.
//!
//! A thread is stopped by strace, which kills the process at the thread's N-th such call; then the power is cut. N
//! goes up until the work is done before it is reached, and an independent count of all calls of all threads says
//! that none was left out.

mod lab;
mod spool;

use std::collections::BTreeMap;
use std::path::Path;

use copyist::spool::Spool;
use spool::{Book, FileSystem, Image, Orders, Started, Strace, settings};

/// Every system call by which the spool changes something on disk.
const CALLS: &str = "openat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,\
                     unlink,unlinkat,link,linkat,ftruncate,fallocate,mkdir,mkdirat";

/// A multiple of 40 and 4: a body file that is delivered, one that stays, three items of one message.
const FIRST: usize = 20;
const THREADS: [&str; 3] = ["child", "spool", "tokio-rt-worker"];

/// The process that is stopped.
#[test]
#[ignore = "the other tests run it as a process of its own"]
fn child() {
    spool::child();
}

/// How many messages are made while the process is watched.
fn messages() -> usize {
    let set = std::env::var("COPYIST_PROOF_MESSAGES").ok();
    set.map_or(3, |n| n.parse().expect("a number"))
}

/// When the process is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum While {
    /// It makes a new spool.
    Making,
    /// It opens one that was left in the midst of work.
    Opening,
    /// It commits, and writes down what became of it.
    Working,
}

/// A run up to a point.
struct Run {
    worker: Started,
    book: Book,
    strace: Strace,
}

/// Starts a worker in `directory`, watched as the options say from the beginning of the work on, and runs it to
/// its end or the point where it is killed.
fn run(
    directory: &Path,
    book_file: &Path,
    when: While,
    thread: Option<&str>,
    options: &[&str],
    log: &Path,
) -> (Run, Vec<String>) {
    let mut book = Book::default();
    let orders = Orders {
        directory: directory.to_owned(),
        book: book_file.to_owned(),
        first: FIRST,
        tasks: 1,
        messages: messages(),
        waits: true,
        ..Orders::default()
    };
    if when == While::Opening {
        let mut worker = spool::start(&orders, &[]);
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
    book.write(book_file);
    let mut worker = spool::start(&orders, &[]);
    worker.until("pid");
    if when == While::Working {
        worker.go();
        worker.until("ready");
    }
    let id = match thread {
        Some(name) => worker.thread(name),
        None => worker.pid().expect("it said so"),
    };
    let strace = Strace::attach(id, options, log);
    worker.go();
    let said = match when {
        While::Working => worker.until("done"),
        While::Making | While::Opening => worker.until("opened"),
    };
    said.iter().for_each(|line| _ = book.note(line));
    (
        Run {
            worker,
            book,
            strace,
        },
        said,
    )
}

/// Runs it once to the end, and counts the calls of each thread on files of the spool: all of them must be points.
fn count(directory: &Path, when: While, beside: &Path) -> BTreeMap<(&'static str, String), usize> {
    let log = beside.join("all");
    let options = ["-f", "-y", "-e", &format!("trace={CALLS}")];
    let (run, said) = run(directory, &beside.join("book"), when, None, &options, &log);
    assert!(ends_well(&said), "{said:?}");
    let threads = if when == While::Working {
        &THREADS[..]
    } else {
        &THREADS[..1]
    };
    let ids: Vec<_> = threads
        .iter()
        .map(|name| (run.worker.thread(name).to_string(), *name))
        .collect();
    run.worker.kill();
    run.strace.wait();
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(log)
        .expect("strace wrote it")
        .lines()
    {
        // A call that another thread interrupted in the log has a second line.
        let Some((before, arguments)) = line.split_once('(').filter(|_| !line.contains("resumed>"))
        else {
            continue;
        };
        if line.contains(&*directory.to_string_lossy()) {
            let (id, call) = before.split_once(' ').expect("a thread and its call");
            let known = ids.iter().find(|(known, _)| known == id);
            let (_, thread) =
                known.unwrap_or_else(|| panic!("a thread that nobody stops changes files: {line}"));
            *calls.entry((*thread, call.trim().to_owned())).or_insert(0) += 1;
        }
        let last = match when {
            While::Working => ", \"done ",
            While::Making | While::Opening => ", \"opened ",
        };
        if arguments.contains(last) {
            return calls;
        }
    }
    panic!("it did not say the end");
}

fn ends_well(said: &[String]) -> bool {
    said.last()
        .is_some_and(|line| line == "done well" || line.starts_with("opened "))
}

async fn look(directory: &Path, book: &Book) -> Vec<(usize, String)> {
    match Spool::open(&settings(directory)) {
        Ok(spool) => {
            let broken = book.broken(&spool).await;
            let again = spool::commit(&spool, 1_000_000).await;
            assert!(again.is_ok(), "what was recovered takes nothing: {again:?}");
            broken
        }
        Err(error) => vec![(0, format!("cannot be opened: {error}"))],
    }
}

/// Cuts the power at each point; gives how many there were.
async fn every_point(kind: FileSystem, when: While) -> usize {
    let mut image = Image::new(kind);
    let beside = image.beside("");
    image.mount();
    let calls = count(&image.path().join("all"), when, &beside);
    image.unmount();
    let mut points = 0;
    for ((thread, call), all) in &calls {
        // strace counts each call of each thread by itself, and those on pipes as well.
        let mut on_files = 0;
        for n in 1.. {
            image.mount();
            let directory = image.path().join(format!("{thread}-{call}-{n}"));
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let options = ["-y", "-e", &format!("trace={call}"), "-e", &inject];
            let log = beside.join("point");
            let (run, said) = run(
                &directory,
                &beside.join("book"),
                when,
                Some(thread),
                &options,
                &log,
            );
            let ended = ends_well(&said);
            run.worker.kill();
            run.strace.wait();
            let log = std::fs::read_to_string(log).expect("strace wrote it");
            let stopped_at = log
                .lines()
                .rfind(|line| line.contains('('))
                .unwrap_or_default();
            image.cut();
            image.unmount();
            image.mount();
            let broken = look(&directory, &run.book).await;
            assert!(
                broken.is_empty(),
                "{when:?}, {call} number {n} of thread {thread}: {broken:?}"
            );
            std::fs::remove_dir_all(&directory).expect("removed");
            image.unmount();
            if ended {
                assert_eq!(
                    on_files, *all,
                    "points of {call} in thread {thread}, and calls counted"
                );
                break;
            }
            points += 1;
            on_files += usize::from(stopped_at.contains(&*directory.to_string_lossy()));
        }
    }
    println!(
        "{}, {when:?}: power cut before each of {points} calls, nothing lost",
        kind.name()
    );
    points
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_the_work_loses_nothing() {
    let points = every_point(FileSystem::Ext4, While::Working).await;
    assert!(points > 50, "{points}");
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_making_a_spool_leaves_one_that_opens() {
    every_point(FileSystem::Ext4, While::Making).await;
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_opening_one_again_loses_nothing() {
    every_point(FileSystem::Ext4, While::Opening).await;
}
