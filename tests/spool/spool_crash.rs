//! The spool's promise when the process is killed and when the disk is full or fails.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use copyist::journal::{Item, ItemId, Kind};
use copyist::mail::{Address, BodyKind};
use copyist::policy::Direction;
use copyist::spool::{
    CommitError, DeliveryOutcome, DeliveryResult, QueuedItem, Settings, Spool, Submission,
};

/// Tells the child where and from which number on.
const DIRECTORY: &str = "COPYIST_TEST_DIRECTORY";
const FIRST: &str = "COPYIST_TEST_FIRST";

fn settings(directory: &Path) -> Settings {
    Settings {
        inline_limit: 10_000,
        ..Settings::new(directory)
    }
}

fn address() -> Address {
    Address::parse("journal@archive.test").expect("a valid address")
}

fn id(n: usize) -> ItemId {
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (n >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("an id")
}

/// Every fourth is a file of its own.
/// The whole original.
fn bytes(loaded: &QueuedItem) -> Bytes {
    loaded.original.read().expect("readable")
}

fn original(n: usize) -> Bytes {
    let size = if n.is_multiple_of(4) { 20_000 } else { 2_000 };
    Bytes::from(
        format!("message {n}\r\n")
            .into_bytes()
            .into_iter()
            .cycle()
            .take(size + n % 7)
            .collect::<Vec<u8>>(),
    )
}

fn item(n: usize) -> Item {
    Item {
        id: id(n),
        kind: Kind::Report,
        direction: Direction::Inbound,
        sender: Some(address()),
        targets: vec![address()],
        ndr: Some(address()),
        message_id: format!("<{n}@c.test>"),
        envelope_id: n.to_string(),
        subject: String::new(),
        reasons: Vec::new(),
        prefix: Bytes::from_static(b"before"),
        suffix: Bytes::from_static(b"after"),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    }
}

async fn commit(spool: &Spool, n: usize) -> Result<(), CommitError> {
    spool
        .commit(
            "Q",
            UNIX_EPOCH,
            vec![Submission {
                original: original(n).into(),
                items: vec![item(n)],
            }],
        )
        .await
}

/// The process that is killed: commits from eight tasks, and prints the acknowledgements.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other tests run it as a process of its own"]
async fn child() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the parent says where"));
    let first: usize = std::env::var(FIRST)
        .ok()
        .and_then(|n| n.parse().ok())
        .expect("the parent says");
    let spool = Spool::open(&settings(&directory)).expect("opened");
    let tasks = (0..8).map(|task| {
        let spool = spool.clone();
        tokio::spawn(async move {
            for n in (first + task..).step_by(8) {
                // Asked before the commit begins: what eight tasks say afterwards comes in any
                // order.
                let failed = spool.is_failed();
                let said = match commit(&spool, n).await {
                    Ok(()) if failed => format!("acknowledged after a failure: {n}\n"),
                    Ok(()) => format!("durable {n}\n"),
                    Err(error) => {
                        format!("refused {} {} {n}\n", error.reply().code, spool.is_failed())
                    }
                };
                if std::io::stdout().lock().write_all(said.as_bytes()).is_err() {
                    return;
                }
            }
        })
    });
    futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
}

fn start_child(directory: &Path, first: usize, through: &[&str]) -> std::process::Child {
    let own = std::env::current_exe().expect("a test program has a path");
    let mut words = through
        .iter()
        .map(std::ffi::OsString::from)
        .chain([own.into_os_string()]);
    Command::new(words.next().expect("there is a program"))
        .args(words)
        .args(["--ignored", "--exact", "spool_crash::child", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started")
}

#[tokio::test]
async fn acknowledged_items_survive_twenty_kills() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut durable = Vec::new();
    for round in 0..20 {
        let mut child = start_child(directory.path(), round * 1_000_000, &[]);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let wanted = 5 + round * 13 % 60;
        let acknowledged = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
        durable.extend(acknowledged.take(wanted).collect::<Vec<usize>>());
        child.kill().expect("SIGKILL");
        child.wait().expect("it ended");
    }
    let spool = Spool::open(&settings(directory.path())).expect("opened");
    for n in &durable {
        let loaded = spool
            .load(&id(*n))
            .await
            .unwrap_or_else(|error| panic!("{n} is lost: {error}"));
        assert_eq!(bytes(&loaded), original(*n));
    }
    println!("{} acknowledged commits survived 20 kills", durable.len());
}

/// A small file system of its own; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .status()
            .expect("mount is a program");
        assert!(
            mounted.success(),
            "mounting a file system takes root; tests/run sees to that"
        );
        Disk(directory)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_defers_mail_until_there_is_space() {
    let disk = Disk::new("24m");
    let others = disk.0.path().join("somebody-elses-file");
    std::fs::write(&others, vec![0; 8 * 1024 * 1024]).expect("there is room");
    let spool = Spool::open(&settings(disk.0.path())).expect("opened");
    let mut kept = Vec::new();
    let error = loop {
        let n = kept.len();
        match commit(&spool, n).await {
            Ok(()) => kept.push(n),
            Err(error) => break error,
        }
        assert!(n < 100_000, "the disk is never full");
    };
    let is_full =
        |error: &CommitError| matches!(error, CommitError::Full | CommitError::Low { .. });
    assert!(is_full(&error), "{error}");
    assert_eq!(error.reply().code, 452);
    assert!(!spool.is_failed());
    assert!(
        is_full(&commit(&spool, kept.len()).await.expect_err("full")),
        "and again"
    );
    std::fs::remove_file(others).expect("removed");
    // Without a restart: every item is there, deliveries can be recorded, and more is
    // taken.
    for n in &kept {
        let loaded = spool.load(&id(*n)).await.expect("it is there");
        assert_eq!(bytes(&loaded), original(*n));
        let result = DeliveryResult {
            outcomes: vec![(address(), DeliveryOutcome::Delivered)],
            next_attempt: UNIX_EPOCH,
            ndr: None,
            ndr_limit: None,
            relay_reached: true,
        };
        spool
            .record(&id(*n), result, SystemTime::now())
            .await
            .expect("written down");
    }
    // What is free is looked at once a second.
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = commit(&spool, 1_000_000).await {
        assert!(is_full(&error) && Instant::now() < deadline, "{error}");
    }
    println!("{} messages filled the disk", kept.len());
}

#[tokio::test]
async fn nothing_is_acknowledged_after_an_io_error() {
    let directory = tempfile::tempdir().expect("a directory");
    // No file may grow beyond 2 MiB, and the signal that says so is ignored: writes fail with
    // EFBIG.
    let limited = [
        "sh",
        "-c",
        "trap '' XFSZ; ulimit -f 4096; exec \"$@\"",
        "sh",
    ];
    let mut child = start_child(directory.path(), 0, &limited);
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut durable = Vec::new();
    let mut refused = Vec::new();
    for line in lines.map_while(Result::ok) {
        assert!(!line.starts_with("acknowledged after"), "{line}");
        if let Some(n) = line.strip_prefix("durable ") {
            durable.push(n.parse::<usize>().expect("a number"));
        } else if let Some(said) = line.strip_prefix("refused ") {
            refused.push(said.to_owned());
            if refused.len() == 50 {
                break;
            }
        }
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("it ended");
    assert!(
        refused
            .last()
            .is_some_and(|said| said.starts_with("451 true ")),
        "{refused:?}"
    );
    let spool = Spool::open(&settings(directory.path())).expect("opened");
    for n in &durable {
        assert_eq!(
            bytes(&spool.load(&id(*n)).await.expect("it is there")),
            original(*n)
        );
    }
    println!(
        "{} commits were acknowledged before the error, and all are there",
        durable.len()
    );
}
