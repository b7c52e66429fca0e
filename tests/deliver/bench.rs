//! A delivery side on a spool of its own, and items to deliver.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program compiles all of it and uses a part"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use copyist::deliver::{self, RelaySettings, Retry, Settings, Tls};
use copyist::journal::{self, Composer, ComposerHandle, Item, ItemId, Key, Kind};
use copyist::mail::{Address, BodyKind};
use copyist::policy::Direction;
use copyist::spool::{self, ListFilter, QueueEntry, Spool, Submission};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Attempts follow each other at once.
pub const AT_ONCE: Retry = Retry {
    first: Duration::from_millis(10),
    max: Duration::from_millis(20),
};
/// There is one attempt, and no other within a test.
pub const ONCE: Retry = Retry {
    first: Duration::from_secs(3600),
    max: Duration::from_secs(3600),
};

/// A running delivery side.
pub struct Bench {
    pub spool: Spool,
    pub settings: Arc<ArcSwap<Settings>>,
    pub stop: CancellationToken,
    running: JoinHandle<()>,
    dir: TempDir,
}

/// A relay as a test's settings name it: one connection, so that order is order.
pub fn relay(address: SocketAddr) -> RelaySettings {
    RelaySettings {
        host: address.ip().to_string(),
        port: address.port(),
        tls: Tls::None,
        ca_file: None,
        login: None,
        connections: 1,
        helo_name: "copyist.c.test".into(),
        timeout: Duration::from_secs(20),
    }
}

impl Bench {
    /// Delivers to this relay.
    pub fn start(relay: RelaySettings, retry: Retry) -> Bench {
        let (dir, spool) = fresh();
        Bench::start_on(dir, spool, relay, retry)
    }

    /// Delivers the items of this spool.
    pub fn start_on(dir: TempDir, spool: Spool, relay: RelaySettings, retry: Retry) -> Bench {
        let settings = Arc::new(ArcSwap::from_pointee(Settings { relay, retry }));
        let stop = CancellationToken::new();
        let running = tokio::spawn(deliver::run(
            spool.clone(),
            settings.clone(),
            ComposerHandle::new(composer()),
            stop.clone(),
        ));
        Bench {
            spool,
            settings,
            stop,
            running,
            dir,
        }
    }

    /// The files that large originals are kept in.
    pub fn body_files(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.dir.path().join("spool/bodies")).expect("there");
        listed.map(|file| file.expect("listed").path()).collect()
    }

    /// The spool as a command of an operator opens it, in another process.
    pub fn operator(&self) -> Spool {
        Spool::inspect(&spool::Settings::new(self.dir.path())).expect("opened")
    }

    /// Another relay from now on.
    pub fn reload(&self, relay: RelaySettings) {
        let retry = self.settings.load().retry;
        self.settings.store(Arc::new(Settings { relay, retry }));
    }

    /// Enqueues one item.
    pub async fn enqueue(&self, item: Item, original: impl Into<Bytes>) {
        self.enqueue_since(SystemTime::now(), item, original).await;
    }

    /// Enqueues one item of a message that came then.
    pub async fn enqueue_since(
        &self,
        received: SystemTime,
        item: Item,
        original: impl Into<Bytes>,
    ) {
        enqueue_in(&self.spool, received, item, original).await;
    }

    /// The queued items.
    pub async fn listed(&self) -> Vec<QueueEntry> {
        let all = ListFilter {
            dead_only: false,
            limit: 100_000,
        };
        self.spool.list(all).await.expect("read")
    }

    /// Waits until the queue is as described.
    pub async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&[QueueEntry]) -> bool,
    ) -> Vec<QueueEntry> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            let listed = self.listed().await;
            if is_so(&listed) {
                return listed;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: not after {PATIENCE:?}; queued: {listed:#?}"
            );
            tick.tick().await;
        }
    }

    /// Waits until the queue is empty.
    pub async fn until_queue_is_empty(&self) {
        self.until("the queue is empty", <[QueueEntry]>::is_empty)
            .await;
    }

    /// Waits until an item was tried; gives it and what was said to its first target.
    pub async fn until_tried(&self, n: usize) -> (QueueEntry, String) {
        let found = self
            .until("an item was tried", |listed| {
                listed
                    .iter()
                    .any(|item| item.id == id(n) && item.attempts > 0)
            })
            .await;
        let item = found
            .into_iter()
            .find(|item| item.id == id(n))
            .expect("listed");
        let said = item.targets[0].last_reply.clone().unwrap_or_default();
        (item, said)
    }

    /// Stops it, and waits until it has stopped. The directory goes with what is given beside the
    /// spool.
    pub async fn stopped(self) -> (Spool, TempDir) {
        self.stop.cancel();
        patiently("delivery stops", self.running)
            .await
            .expect("no panic");
        (self.spool, self.dir)
    }
}

/// An empty spool.
pub fn fresh() -> (TempDir, Spool) {
    let dir = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(&spool::Settings::new(dir.path())).expect("opened");
    (dir, spool)
}

/// Enqueues one item in this spool, of a message that came then.
pub async fn enqueue_in(
    spool: &Spool,
    received: SystemTime,
    item: Item,
    original: impl Into<Bytes>,
) {
    let submission = Submission {
        original: original.into().into(),
        items: vec![item],
    };
    let committed = spool.commit("Q1", received, vec![submission]).await;
    committed.expect("committed");
}

/// Waits, but not for ever.
pub async fn patiently<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event)
        .await
        .unwrap_or_else(|_| panic!("{what}: not after {PATIENCE:?}"))
}

/// Composes the items of the tests.
pub fn composer() -> Composer {
    let settings = journal::Settings {
        report_from: address("journal@c.test"),
        hostname: "copyist.c.test".into(),
    };
    Composer::new(settings, Key::ephemeral().expect("random numbers"))
}

pub fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

/// The name of item `n`.
pub fn id(n: usize) -> ItemId {
    let text: String = (0..16)
        .rev()
        .map(|digit| char::from(b'a' + (n >> (digit * 4) & 15) as u8))
        .collect();
    ItemId::parse(&text).expect("an id")
}

/// The first lines of item `n`.
pub fn prefix(n: usize) -> String {
    format!("Message-ID: <{n}@c.test>\r\n\r\n")
}

/// A report to these.
pub fn item(n: usize, targets: &[&str]) -> Item {
    Item {
        id: id(n),
        kind: Kind::Report,
        direction: Direction::Outbound,
        sender: Some(address("bounces@c.test")),
        targets: targets.iter().map(|text| address(text)).collect(),
        ndr: Some(address("ndr@c.test")),
        message_id: format!("<{n}@c.test>"),
        envelope_id: format!("copyist.{n}"),
        subject: "x".into(),
        reasons: vec!["because".into()],
        prefix: Bytes::from(prefix(n)),
        suffix: Bytes::new(),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    }
}
