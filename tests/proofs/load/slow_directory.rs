//! Mail of known and of unknown people while the directory is slow, or hangs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lab::{
    self, Client, DirectoryServer, Fault, OUTSIDE, PATIENCE, SendOutcome, Site, SiteOptions, Slapd,
    message, setting, user, wait,
};

/// Users whom every row has for itself, so that nobody knows them yet.
const FOR_EACH_ROW: usize = 1000;
/// The user who is known.
const KNOWN: usize = 3;

/// Their names in the table.
const KNOWN_PEOPLE: &str = "somebody known";
/// For an answer of the directory, as by default.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The duration of one message, and whether it was accepted.
type Met = (Duration, bool);

/// One kind of mail beside one kind of directory.
struct Row {
    directory: String,
    people: &'static str,
    met: Vec<Met>,
}

impl Row {
    fn quantile(&self, part: f64) -> Duration {
        let mut all: Vec<Duration> = self.met.iter().map(|(took, _)| *took).collect();
        all.sort_unstable();
        let at = (all.len() as f64 * part).ceil() as usize;
        all[at.clamp(1, all.len()) - 1]
    }

    fn accepted(&self) -> usize {
        self.met.iter().filter(|(_, accepted)| *accepted).count()
    }

    fn print(&self) {
        println!(
            "| {} | {} | {} | {} | {:.3} s | {:.3} s | {:.3} s |",
            self.directory,
            self.people,
            self.met.len(),
            self.accepted(),
            self.quantile(0.5).as_secs_f64(),
            self.quantile(0.99).as_secs_f64(),
            self.quantile(1.0).as_secs_f64(),
        );
    }
}

fn send(server: SocketAddr, to: &str, id: &str) -> Met {
    let mut client = Client::connect_from(OUTSIDE, server);
    client.set_patience(Duration::from_secs(120));
    let begun = Instant::now();
    let content = message(&format!("<{id}@elsewhere.test>"), "hello");
    let sent = client.try_message("someone@elsewhere.test", &[to], &content);
    let took = begun.elapsed();
    match sent {
        SendOutcome::Answered(reply) => (took, reply.code == 250),
        lost => panic!("{lost:?}"),
    }
}

/// Sends one message to each of these at once, each by a client of its own.
fn send_to_all(server: SocketAddr, to: &[String]) -> Vec<Met> {
    std::thread::scope(|scope| {
        let sending: Vec<_> = to
            .iter()
            .map(|to| scope.spawn(move || send(server, to, &to.replace('@', "."))))
            .collect();
        let met = sending.into_iter().map(|one| one.join().expect("sent"));
        met.collect()
    })
}

/// `tests/proof/slow-directory` sets these: `TABLE_LATENCIES` in seconds, or `hang`;
/// `TABLE_SECONDS`, for which mail to somebody known goes on in each row; `TABLE_UNKNOWN`, the
/// number of unknown people.
#[test]
fn mail_passes_beside_a_slow_directory() {
    let _alone = crate::alone();
    let seconds: u64 = setting("TABLE_SECONDS", 3);
    let unknown: usize = setting("TABLE_UNKNOWN", 10);
    let latencies: String = setting("TABLE_LATENCIES", "0 0.3".to_owned());
    let latencies: Vec<Option<Duration>> = latencies
        .split_whitespace()
        .map(|word| word.parse().ok().map(Duration::from_secs_f64))
        .collect();
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(FOR_EACH_ROW * (latencies.len() + 1)),
        SiteOptions {
            ttl: "10s",
            is_breakable: true,
            ..SiteOptions::default()
        },
    );
    let config = site
        .config
        .replacen("timeout = \"3s\"", "timeout = \"5s\"", 1);
    site.copyist.write_config(&config);
    site.copyist.restart();
    let between = site.between.as_ref().expect("it is breakable");
    let server = site.postfix.smtp_addr();
    println!("| answers of the directory | mail to | messages | accepted | p50 | p99 | longest |");
    println!("|---|---|---|---|---|---|---|");
    for (at, latency) in latencies.iter().enumerate() {
        between.directory.set(Fault::Pass);
        wait("the directory is used", PATIENCE, || {
            let new = user(FOR_EACH_ROW * (at + 2) - 1);
            send(server, &new, "warm").1
        });
        send(server, &user(KNOWN), "warm");
        let name = match latency {
            Some(latency) => format!("after {} s", latency.as_secs_f64()),
            None => "never".to_owned(),
        };
        between.directory.set(match latency {
            Some(Duration::ZERO) => Fault::Pass,
            Some(latency) => Fault::Latency(*latency),
            None => Fault::Blackhole,
        });
        let mut known = Row {
            directory: name.clone(),
            people: KNOWN_PEOPLE,
            met: Vec::new(),
        };
        let first = FOR_EACH_ROW * (at + 1);
        let people: Vec<String> = (first..first + unknown).map(user).collect();
        let nobody: Vec<String> = (0..unknown)
            .map(|n| format!("nobody-{at}-{n}@{}", lab::DOMAIN))
            .collect();
        let (found, absent) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let found = send_to_all(server, &people);
                (found, send_to_all(server, &nobody))
            });
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(seconds) || !beside.is_finished() {
                known.met.push(send(server, &user(KNOWN), "known"));
                std::thread::sleep(Duration::from_millis(20));
            }
            beside.join().expect("sent")
        });
        let rows = [
            known,
            Row {
                directory: name.clone(),
                people: "people not known yet",
                met: found,
            },
            Row {
                directory: name,
                people: "addresses that nobody has",
                met: absent,
            },
        ];
        rows.iter().for_each(Row::print);
        let is_in_time = latency.is_some_and(|latency| latency < TIMEOUT);
        for row in rows
            .iter()
            .filter(|row| is_in_time || row.people == KNOWN_PEOPLE)
        {
            assert_eq!(row.accepted(), row.met.len(), "to {}", row.people);
        }
    }
}
