//! Mail at a steady rate, to journaled users and others, over a server that may die at any moment;
//! and what became of each try.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, OUTSIDE, SendOutcome, every_third, message, user};

/// How much mail.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Messages a second; what could not be sent in time is made up for as fast as it goes.
    pub per_second: f64,
    /// How many clients send at a time.
    pub clients: usize,
}

/// One try to send a message. Each try is a message with a Message-ID of its own.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its Message-ID.
    pub id: String,
    /// Whether its recipient is journaled.
    pub is_journaled: bool,
    /// Its outcome.
    pub outcome: Outcome,
    /// When it began, after the traffic did.
    pub at: Duration,
    /// From MAIL to the answer to the data.
    pub took: Duration,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 250 after the data.
    Accepted,
    /// A 4xx, or a connection that was lost before the end of the data: it is tried again.
    Deferred,
    /// The connection was lost after the end of the data: nobody knows, and it is tried again.
    Unknown,
}

/// Clients that send until they are told to stop.
pub struct Traffic {
    clients: Vec<JoinHandle<Vec<Attempt>>>,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    rate: Rate,
    started: Instant,
    next: AtomicUsize,
    accepted: AtomicUsize,
    is_over: AtomicBool,
}

impl Traffic {
    /// Starts sending.
    pub fn start(server: SocketAddr, rate: Rate) -> Traffic {
        let shared = Arc::new(Shared {
            server,
            rate,
            started: Instant::now(),
            next: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let clients = (0..rate.clients).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.send_all())
        });
        Traffic {
            clients: clients.collect(),
            shared,
        }
    }

    /// How many messages were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Ends it and gives every try. Messages under way are tried to their end.
    pub fn finish(self) -> Vec<Attempt> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let clients = self.clients.into_iter();
        clients
            .flat_map(|client| client.join().expect("a client"))
            .collect()
    }
}

impl Shared {
    fn send_all(&self) -> Vec<Attempt> {
        let mut tries = Vec::new();
        let mut client = None;
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs_f64(n as f64 / self.rate.per_second);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
            if self.is_over.load(Ordering::Relaxed) {
                return tries;
            }
            self.insist(n, &mut client, &mut tries);
        }
    }

    /// Tries message `n` until it is accepted.
    fn insist(&self, n: usize, client: &mut Option<Client>, tries: &mut Vec<Attempt>) {
        let number = addressee(n);
        let text = text(n);
        for attempt in 0.. {
            let id = format!("<{n}.{attempt}@elsewhere.test>");
            let content = message(&id, &format!("message {n}")) + &text;
            let at = self.started.elapsed();
            let sent = self.attempt(client, &user(number), &content);
            let outcome = match sent {
                SendOutcome::Answered(reply) => match reply.code {
                    250 => Outcome::Accepted,
                    400..500 => Outcome::Deferred,
                    _ => panic!("refused for good: {reply:?}"),
                },
                SendOutcome::Lost => Outcome::Deferred,
                SendOutcome::Unknown => Outcome::Unknown,
            };
            tries.push(Attempt {
                id,
                is_journaled: every_third(number).is_some(),
                outcome,
                at,
                took: self.started.elapsed() - at,
            });
            if outcome == Outcome::Accepted {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                return;
            }
            // Postfix does not ask a milter that it lost again within one session.
            *client = None;
            // As a client waits; without it, ports would run out before anything is back.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn attempt(&self, client: &mut Option<Client>, to: &str, content: &str) -> SendOutcome {
        let mut open = match client.take() {
            Some(open) => open,
            None => match Client::try_connect_from(OUTSIDE, self.server) {
                Ok(open) => open,
                Err(_) => return SendOutcome::Lost,
            },
        };
        let sent = open.try_message("a@elsewhere.test", &[to], content);
        *client = Some(open);
        sent
    }
}

/// The user that message `n` is for: four of five are journaled. Users that leave a remainder of 2
/// when divided by three get nothing: they are there for whoever needs somebody that nobody has
/// asked for.
fn addressee(n: usize) -> usize {
    n * 7 % 333 * 3 + usize::from(n.is_multiple_of(5))
}

/// Mostly short, sometimes long enough for a body file.
fn text(n: usize) -> String {
    let lines = match n {
        _ if n % 500 == 499 => 30_000,
        _ if n % 50 == 49 => 4_000,
        _ => 20 + n % 30,
    };
    format!("{}\r\n", "x".repeat(70)).repeat(lines)
}
