//! The spool at every step: each system call that changes a file, in each thread, is where the
//! power is cut, and where the system says no.
//!
//! strace stops or fails a thread's N-th call of a kind. N goes up until the work is done before it
//! is reached, and an independent count of the calls of all threads says that none was left out.

use crate::spool;
use std::path::Path;

use copyist::spool::Spool;
use spool::{Book, Disk, FileSystem, Image, Run, Stage, count, settings};

/// How many messages are made while the process is watched.
fn messages() -> usize {
    let set = std::env::var("COPYIST_PROOF_MESSAGES").ok();
    set.map_or(3, |n| n.parse().expect("a number"))
}

/// Lists broken acknowledgements, and checks that the spool accepts more.
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

/// Cuts the power before each call; gives how many there were.
async fn cut_everywhere(stage: Stage) -> usize {
    let mut image = Image::new(FileSystem::Ext4);
    let beside = image.beside("");
    image.mount();
    let calls = count(&image.path().join("all"), &beside, stage, messages());
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
            let run = Run::new(
                &directory,
                &beside,
                stage,
                Some(thread),
                messages(),
                &options,
            );
            let (is_whole, book) = (run.is_whole(), run.book.clone());
            let seen = run.end();
            image.cut();
            image.unmount();
            image.mount();
            let broken = look(&directory, &book).await;
            assert!(
                broken.is_empty(),
                "{stage:?}, {call} number {n} of thread {thread}: {broken:?}"
            );
            std::fs::remove_dir_all(&directory).expect("removed");
            image.unmount();
            if is_whole {
                assert_eq!(
                    on_files, *all,
                    "points of {call} in thread {thread}, and calls counted"
                );
                break;
            }
            points += 1;
            on_files += usize::from(seen.ends_on_a_file());
        }
    }
    println!("ext4, {stage:?}: power cut before each of {points} calls, nothing lost");
    points
}

#[tokio::test]
async fn a_power_cut_at_any_step_loses_nothing() {
    let points = cut_everywhere(Stage::Working).await;
    assert!(points > 50, "{points}");
}

#[tokio::test]
async fn a_power_cut_while_a_spool_is_created_leaves_one_that_opens() {
    cut_everywhere(Stage::Making).await;
}

#[tokio::test]
async fn a_power_cut_while_a_spool_is_reopened_loses_nothing() {
    cut_everywhere(Stage::Opening).await;
}

/// Has each call fail with this error, one at a time; where `only` is not empty, only these calls.
async fn fail_everywhere(stage: Stage, error: &str, only: &[&str]) {
    let (disk, beside) = (Disk::new("64m"), tempfile::tempdir().expect("a directory"));
    let calls = count(&disk.path().join("all"), beside.path(), stage, messages());
    let (mut faults, mut latched) = (0, 0);
    for ((thread, call), all) in calls
        .iter()
        .filter(|((_, call), _)| only.is_empty() || only.contains(&call.as_str()))
    {
        let mut on_files = 0;
        for n in 1.. {
            let directory = disk.path().join(format!("{thread}-{call}-{n}"));
            let inject = format!("inject={call}:error={error}:when={n}");
            let options = ["-y", "-e", &format!("trace={call}"), "-e", &inject];
            let run = Run::new(
                &directory,
                beside.path(),
                stage,
                Some(thread),
                messages(),
                &options,
            );
            let (said, book) = (run.said.clone(), run.book.clone());
            let (is_whole, seen) = (run.is_whole(), run.end());
            let what = format!("{error} of {call} number {n} of thread {thread}: {said:?}");
            let Some(line) = seen.injected() else {
                assert!(is_whole, "{what}");
                assert!(on_files >= *all, "{what}: {on_files} of {all} calls");
                // Each has a reserve, and the disk is small.
                std::fs::remove_dir_all(&directory).expect("removed");
                break;
            };
            // One on a pipe is the harness's own.
            if seen.is_on_a_file(line) {
                on_files += 1;
                faults += 1;
                latched += usize::from(said.last().is_some_and(|line| line == "done failed"));
                judge(stage, call, error, &said, &format!("{what}\n{line}"));
                let broken = look(&directory, &book).await;
                assert!(broken.is_empty(), "{what}\n{line}: {broken:?}");
            }
            std::fs::remove_dir_all(&directory).expect("removed");
        }
    }
    println!(
        "{error}, {stage:?}: {faults} calls failed one at a time, {latched} of them for good; nothing lost, nothing acknowledged falsely"
    );
    assert!(faults > 0);
}

/// Judges the output of a worker that had a failing call.
fn judge(stage: Stage, call: &str, error: &str, said: &[String], what: &str) {
    let last = said.last().map(String::as_str).unwrap_or_default();
    if stage != Stage::Working {
        // A panic would say nothing at all.
        let is_reported = said
            .iter()
            .any(|line| line.starts_with("opened ") || line.starts_with("unopened "));
        return assert!(is_reported, "{what}");
    }
    assert!(last.starts_with("done "), "{what}");
    assert!(!said.iter().any(|line| line.starts_with("false")), "{what}");
    let mut refused = said.iter().filter_map(|line| line.strip_prefix("refused "));
    assert!(refused.all(|reply| reply.starts_with('4')), "{what}");
    // The next sync of the same file would succeed, and mean nothing. An interrupted one has lost
    // nothing.
    if call.ends_with("sync") && error != "EINTR" {
        assert_eq!(last, "done failed", "{what}");
    }
}

#[tokio::test]
async fn an_io_error_anywhere_is_never_a_success() {
    fail_everywhere(Stage::Working, "EIO", &[]).await;
}

#[tokio::test]
async fn a_full_disk_anywhere_is_never_a_success() {
    fail_everywhere(Stage::Working, "ENOSPC", &[]).await;
}

#[tokio::test]
async fn a_read_only_disk_is_never_a_success() {
    let calls = [
        "openat",
        "rename",
        "unlink",
        "pwrite64",
        "ftruncate",
        "fsync",
        "fdatasync",
    ];
    fail_everywhere(Stage::Working, "EROFS", &calls).await;
}

#[tokio::test]
async fn missing_descriptors_and_interrupts_are_never_a_success() {
    fail_everywhere(Stage::Working, "EMFILE", &["openat"]).await;
    fail_everywhere(
        Stage::Working,
        "EINTR",
        &["openat", "pwrite64", "fsync", "fdatasync"],
    )
    .await;
}

#[tokio::test]
async fn an_error_at_the_start_is_reported_and_loses_nothing() {
    for error in ["EIO", "ENOSPC"] {
        fail_everywhere(Stage::Making, error, &[]).await;
        fail_everywhere(Stage::Opening, error, &[]).await;
    }
}
