//! The cost of the spool, compared with the minimum for its guarantee on the same disk.
//!
//! ```text
//! cargo bench --bench spool -- commits            10 KiB a message, 50 sessions, beside groups of append + fdatasync
//! cargo bench --bench spool -- bodies             100 MB in one file, beside a plain write + fdatasync
//! cargo bench --bench spool -- depth --most N     what a commit, a claim and a removal take with 1,000 to N items there
//! ```
//!
//! Options: `--dir DIRECTORY` (where the disk is that is measured; the target directory),
//! `--messages N`, `--sessions N`, `--size N`, `--rounds N`, `--json` (a line for scripts).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use copyist::journal::{Item, ItemId, Kind};
use copyist::mail::{Address, BodyKind, Content};
use copyist::policy::Direction;
use copyist::spool::{DeliveryOutcome, DeliveryResult, Settings, Spool, Submission};
use tokio::sync::{mpsc, oneshot};

/// Appends that share a sync at most, as in the spool.
const GROUP: usize = 256;
/// Bytes of a body file that arrive at a time.
const PIECE: usize = 65_536;

struct Options {
    what: String,
    dir: PathBuf,
    messages: usize,
    sessions: usize,
    size: usize,
    rounds: usize,
    most: usize,
    json: bool,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut words = words.filter(|word| word != "--bench");
        let mut options = Options {
            what: words.next().unwrap_or_default(),
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            messages: 20_000,
            sessions: 50,
            size: 10_240,
            rounds: 5,
            most: 100_000,
            json: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text}: not a number"));
            match word.as_str() {
                "--dir" => options.dir = value()?.into(),
                "--messages" => options.messages = number(value()?)?,
                "--sessions" => options.sessions = number(value()?)?,
                "--size" => options.size = number(value()?)?,
                "--rounds" => options.rounds = number(value()?)?,
                "--most" => options.most = number(value()?)?,
                "--json" => options.json = true,
                _ => return Err(format!("unknown option: {word}")),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(flaw) => {
            eprintln!("spool: {flaw}");
            return ExitCode::from(2);
        }
    };
    let done = match options.what.as_str() {
        "commits" => commits(&options).await,
        "bodies" => bodies(&options).await,
        "depth" => depth(&options).await,
        // `cargo bench` and `cargo test` run every bench.
        _ => {
            println!("usage: spool commits|bodies|depth, see benches/spool.rs");
            return ExitCode::SUCCESS;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("spool: {}: {cause}", options.what);
            ExitCode::FAILURE
        }
    }
}

fn place(options: &Options) -> io::Result<tempfile::TempDir> {
    std::fs::create_dir_all(&options.dir)?;
    tempfile::Builder::new()
        .prefix("spool-")
        .tempdir_in(&options.dir)
}

fn open(place: &Path) -> io::Result<Spool> {
    Spool::open(&Settings::new(place)).map_err(io::Error::other)
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("it is one")
}

fn id(number: usize) -> ItemId {
    let letters = (0..16).rev().map(|digit| {
        let value = (number >> (digit * 4) & 15) as u8;
        char::from(b'a' + value)
    });
    ItemId::parse(&letters.collect::<String>()).expect("it is one")
}

/// A report as the composer writes them, by size and number of pieces.
fn submission(number: usize, original: &Content) -> Submission {
    let item = Item {
        id: id(number),
        kind: Kind::Report,
        direction: Direction::Inbound,
        sender: Some(address("ndr@example.test")),
        targets: vec![address("journal@archive.test")],
        ndr: Some(address("ndr@example.test")),
        message_id: format!("<{number}@copyist.test>"),
        envelope_id: number.to_string(),
        subject: "A message of the usual kind".into(),
        reasons: vec!["journal@archive.test: inbound, attribute journal of cn=u1,dc=t".into()],
        prefix: Bytes::from(vec![b'p'; 1200]),
        suffix: Bytes::from_static(b"\r\n--boundary--\r\n"),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    };
    Submission {
        original: original.clone(),
        items: vec![item],
    }
}

/// As many tasks as there are sessions, each beginning its next message when the last is durable;
/// messages a second.
async fn closed_loop<F, W>(options: &Options, from: usize, work: W) -> io::Result<f64>
where
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(from));
    let end = from + options.messages;
    let begun = Instant::now();
    let sessions: Vec<_> = (0..options.sessions)
        .map(|_| {
            let (next, work) = (next.clone(), work.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return Ok::<(), io::Error>(());
                    }
                    work(number).await?;
                }
            })
        })
        .collect();
    for session in sessions {
        session.await.map_err(io::Error::other)??;
    }
    Ok(options.messages as f64 / begun.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The minimum: one thread that appends all waiting messages and syncs once.
struct Appender {
    jobs: mpsc::Sender<(Bytes, oneshot::Sender<()>)>,
}

impl Appender {
    fn start(path: &Path) -> io::Result<Appender> {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let (jobs, mut waiting) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(1024);
        std::thread::spawn(move || {
            while let Some(first) = waiting.blocking_recv() {
                let mut group = vec![first];
                while group.len() < GROUP
                    && let Ok(job) = waiting.try_recv()
                {
                    group.push(job);
                }
                // A failure drops the group, and every caller learns of it.
                let written = group
                    .iter()
                    .try_for_each(|(bytes, _)| file.write_all(bytes));
                if written.and_then(|()| file.sync_data()).is_err() {
                    return;
                }
                for (_, acknowledge) in group {
                    let _ = acknowledge.send(());
                }
            }
        });
        Ok(Appender { jobs })
    }

    async fn append(&self, bytes: Bytes) -> io::Result<()> {
        let (acknowledge, durable) = oneshot::channel();
        let sent = self.jobs.send((bytes, acknowledge)).await;
        sent.map_err(|_| io::Error::other("the appender has ended"))?;
        durable.await.map_err(io::Error::other)
    }
}

async fn commits(options: &Options) -> io::Result<()> {
    let place = place(options)?;
    let bytes = Bytes::from(vec![b'm'; options.size]);
    let spool = open(place.path())?;
    let appender = Arc::new(Appender::start(&place.path().join("log"))?);
    let (mut floors, mut rates) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let (appender, body) = (appender.clone(), bytes.clone());
        let floor = closed_loop(options, 0, move |_| {
            let (appender, body) = (appender.clone(), body.clone());
            async move { appender.append(body).await }
        });
        floors.push(floor.await?);
        let original = Content::from(bytes.clone());
        let committing = spool.clone();
        let rate = closed_loop(options, round * options.messages, move |number| {
            let (spool, submission) = (committing.clone(), submission(number, &original));
            async move {
                let committed = spool.commit("Q", SystemTime::now(), vec![submission]).await;
                committed.map_err(io::Error::other)
            }
        });
        rates.push(rate.await?);
    }
    let (floor, rate) = (median(floors), median(rates));
    if options.json {
        println!(
            r#"{{"sessions":{},"size":{},"floor":{floor},"spool":{rate}}}"#,
            options.sessions, options.size
        );
    } else {
        println!(
            "{} bytes, {} sessions: append + fdatasync {floor:.0}/s, spool {rate:.0}/s: {:.2}",
            options.size,
            options.sessions,
            rate / floor
        );
    }
    Ok(())
}

async fn bodies(options: &Options) -> io::Result<()> {
    const SIZE: usize = 100_000_000;
    let place = place(options)?;
    let spool = open(place.path())?;
    let piece = vec![b'm'; PIECE];
    let pieces = SIZE / PIECE;
    let (mut floors, mut rates) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let path = place.path().join("plain");
        let begun = Instant::now();
        let mut file = File::create(&path)?;
        for _ in 0..pieces {
            file.write_all(&piece)?;
        }
        file.sync_data()?;
        floors.push(begun.elapsed().as_secs_f64());
        std::fs::remove_file(&path)?;

        let begun = Instant::now();
        let mut incoming = spool.new_body().await?;
        for _ in 0..pieces {
            incoming.append(&piece)?;
        }
        let original = Content::stored(incoming.finish())?;
        let committed = spool.commit("Q", SystemTime::now(), vec![submission(round, &original)]);
        committed.await.map_err(io::Error::other)?;
        rates.push(begun.elapsed().as_secs_f64());
        deliver(&spool, round).await?;
    }
    let mb = |seconds: Vec<f64>| (pieces * PIECE) as f64 / 1e6 / median(seconds);
    let (floor, rate) = (mb(floors), mb(rates));
    if options.json {
        println!(r#"{{"floor_mb":{floor},"spool_mb":{rate}}}"#);
    } else {
        println!(
            "one body of 100 MB: write + fdatasync {floor:.0} MB/s, spool {rate:.0} MB/s: {:.2}",
            rate / floor
        );
    }
    Ok(())
}

async fn deliver(spool: &Spool, number: usize) -> io::Result<()> {
    let result = DeliveryResult {
        outcomes: vec![(address("journal@archive.test"), DeliveryOutcome::Delivered)],
        next_attempt: SystemTime::now(),
        ndr: None,
        ndr_limit: None,
        relay_reached: true,
    };
    let recorded = spool.record(&id(number), result, SystemTime::now()).await;
    recorded.map(|_| ()).map_err(io::Error::other)
}

/// One after the other, so that each operation is measured alone.
async fn depth(options: &Options) -> io::Result<()> {
    const TRIES: usize = 200;
    let place = place(options)?;
    let spool = open(place.path())?;
    let original = Content::from(Bytes::from(vec![b'm'; options.size]));
    let (mut there, mut depth) = (0, 1000);
    while depth <= options.most {
        let fill = Options {
            messages: depth - there,
            sessions: 200,
            what: String::new(),
            dir: PathBuf::new(),
            ..*options
        };
        let (filling, body) = (spool.clone(), original.clone());
        closed_loop(&fill, there, move |number| {
            let (spool, submission) = (filling.clone(), submission(number, &body));
            async move {
                let committed = spool.commit("Q", SystemTime::now(), vec![submission]).await;
                committed.map_err(io::Error::other)
            }
        })
        .await?;
        there = depth;
        let mut took = [Duration::ZERO; 4];
        for number in 0..TRIES {
            let number = usize::MAX / 2 + number;
            let mut lap = Instant::now();
            let mut lap_to = |which: usize| {
                took[which] += lap.elapsed();
                lap = Instant::now();
            };
            let committed =
                spool.commit("Q", SystemTime::now(), vec![submission(number, &original)]);
            committed.await.map_err(io::Error::other)?;
            lap_to(0);
            let claimed = spool.claim(SystemTime::now(), 1).await;
            let claimed = claimed.map_err(io::Error::other)?;
            lap_to(1);
            let [claimed] = &claimed[..] else {
                return Err(io::Error::other("nothing is due in a full spool"));
            };
            spool.load(claimed).await.map_err(io::Error::other)?;
            lap_to(2);
            spool.unclaim(claimed);
            deliver(&spool, number).await?;
            lap_to(3);
        }
        let [commit, claim, load, remove] =
            took.map(|all| all.as_secs_f64() * 1000.0 / TRIES as f64);
        if options.json {
            println!(
                r#"{{"depth":{depth},"commit_ms":{commit},"claim_ms":{claim},"load_ms":{load},"remove_ms":{remove}}}"#
            );
        } else {
            println!(
                "{depth} items wait: commit {commit:.3} ms, claim {claim:.3} ms, load {load:.3} ms, remove {remove:.3} ms"
            );
        }
        depth *= 10;
    }
    Ok(())
}
