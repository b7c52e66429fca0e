//! The process whose power is cut: verifies earlier acknowledgements, then commits new messages.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use copyist::spool::{DeliveryOutcome, DeliveryResult, Spool};

use super::book::Book;
use super::messages::{Act, act, act_on, commit, settings};

/// More items than this are delivered before new ones are made, so that a long proof does not grow.
const ENOUGH: u64 = 300;

/// Orders for the worker.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// The state directory.
    pub directory: PathBuf,
    /// The book of acknowledgements.
    pub book: PathBuf,
    /// The number of the first message; from 500,000 on in each million all are body files.
    pub first: usize,
    /// Number of concurrent commits; 0: only verify.
    pub tasks: usize,
    /// Pause of each task between two messages.
    pub pause: Duration,
    /// Number of messages of each task; 0: unlimited.
    pub messages: usize,
    /// Whether to wait for a line on standard input before opening and after verifying.
    pub waits: bool,
}

const NAMES: [&str; 7] = [
    "COPYIST_TEST_DIRECTORY",
    "COPYIST_TEST_BOOK",
    "COPYIST_TEST_FIRST",
    "COPYIST_TEST_TASKS",
    "COPYIST_TEST_PAUSE",
    "COPYIST_TEST_MESSAGES",
    "COPYIST_TEST_WAITS",
];

impl Orders {
    pub(super) fn give(&self, command: &mut Command) {
        command
            .env(NAMES[0], &self.directory)
            .env(NAMES[1], &self.book)
            .env(NAMES[2], self.first.to_string())
            .env(NAMES[3], self.tasks.to_string())
            .env(NAMES[4], self.pause.as_micros().to_string())
            .env(NAMES[5], self.messages.to_string())
            .env(NAMES[6], if self.waits { "1" } else { "0" });
    }

    fn take() -> Orders {
        let path = |k: usize| PathBuf::from(std::env::var_os(NAMES[k]).expect("the parent says"));
        let number = |k: usize| -> usize {
            let text = std::env::var(NAMES[k]).ok();
            text.and_then(|n| n.parse().ok()).expect("the parent says")
        };
        Orders {
            directory: path(0),
            book: path(1),
            first: number(2),
            tasks: number(3),
            pause: Duration::from_micros(number(4) as u64),
            messages: number(5),
            waits: number(6) == 1,
        }
    }
}

/// The time of an acknowledgement, in nanoseconds since 1970.
fn now() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_nanos()
}

fn wait(orders: &Orders) {
    if orders.waits {
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}

/// One write, so that a kill does not halve a line.
fn say(text: &str) {
    let said = std::io::stdout()
        .lock()
        .write_all(format!("{text}\n").as_bytes());
    if said.is_err() {
        std::process::exit(0);
    }
}

/// Runs the worker, for a test named `child` in each test program. It has one thread for tasks and
/// one for blocking work: each thread does the same in every run, so that every step can be chosen.
pub fn child() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_keep_alive(Duration::from_secs(3600))
        .build()
        .expect("a runtime");
    // libtest has written the beginning of a line.
    say("");
    say(&format!("pid {}", std::process::id()));
    runtime.block_on(work(Orders::take()));
}

async fn work(orders: Orders) {
    wait(&orders);
    let started = Instant::now();
    let spool = match Spool::open(&settings(&orders.directory)) {
        Ok(spool) => spool,
        Err(error) => return say(&format!("unopened {error}")),
    };
    say(&format!("opened {}", started.elapsed().as_micros()));
    let book = Book::read(&orders.book);
    let broken = book.broken(&spool).await;
    if let Some(newest) = book.newest {
        let is_broken = broken.iter().any(|(n, _)| *n == newest);
        say(&format!(
            "newest {} {newest}",
            if is_broken { "lost" } else { "kept" }
        ));
    }
    for (n, why) in broken {
        say(&format!("lost {n} {why}"));
    }
    say(&format!("looked {}", book.promised.len()));
    if spool.depth().await.expect("the spool can be read").items > ENOUGH {
        empty(&spool).await;
        say("emptied 0");
    }
    say("ready 0");
    wait(&orders);
    let tasks = (0..orders.tasks).map(|task| {
        let (spool, orders) = (spool.clone(), orders.clone());
        tokio::spawn(async move { promise(&spool, &orders, task).await })
    });
    futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
    say(&format!(
        "done {}",
        if spool.is_failed() { "failed" } else { "well" }
    ));
    // To be killed here, or to close the spool.
    wait(&orders);
}

/// Commits messages, and records the delivery result of the message before the last one.
async fn promise(spool: &Spool, orders: &Orders, task: usize) {
    let all = (orders.first + task..).step_by(orders.tasks);
    let limit = if orders.messages == 0 {
        usize::MAX
    } else {
        orders.messages
    };
    let mut committed = HashSet::new();
    for n in all.take(limit) {
        // Read before the commit begins: the lines of several tasks come in any order.
        let failed = spool.is_failed();
        match commit(spool, n).await {
            Ok(()) if failed => say(&format!("false {n}")),
            Ok(()) => {
                say(&format!("committed {n} {}", now()));
                committed.insert(n);
            }
            Err(error) => say(&format!(
                "refused {} {} {n}",
                error.reply().code,
                spool.is_failed()
            )),
        }
        let earlier = n.checked_sub(2 * orders.tasks);
        if let Some(m) = earlier.filter(|m| act_on(*m) != Act::Stay && committed.contains(m)) {
            say(&format!("acting {m}"));
            let failed = spool.is_failed();
            match act(spool, m).await {
                Ok(()) if failed => say(&format!("false {m}")),
                Ok(()) => say(&format!("acted {m} {}", now())),
                Err(error) => say(&format!("unrecorded {m} {error}")),
            }
        }
        if !orders.pause.is_zero() {
            tokio::time::sleep(orders.pause).await;
        }
    }
}

/// Delivers everything.
async fn empty(spool: &Spool) {
    loop {
        let due = spool
            .claim(SystemTime::now(), 100)
            .await
            .expect("the spool can be read");
        if due.is_empty() {
            return;
        }
        for id in due {
            let Ok(item) = spool.load(&id).await else {
                continue;
            };
            let result = DeliveryResult {
                outcomes: item
                    .waiting
                    .into_iter()
                    .map(|to| (to, DeliveryOutcome::Delivered))
                    .collect(),
                next_attempt: SystemTime::now(),
                ndr: None,
                ndr_limit: None,
                relay_reached: true,
            };
            let recorded = spool.record(&id, result, SystemTime::now()).await;
            recorded.expect("written down");
        }
    }
}
