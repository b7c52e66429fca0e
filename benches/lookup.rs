//! Cost of a person lookup: a cached answer beside a search in the directory, and the
//! memory that it takes.
//!
//! ```text
//! cargo bench --bench lookup                       1,000 people in a slapd that is started for it
//! cargo bench --bench lookup -- --people 1000000   takes some minutes
//! ```
//!
//! With `--json` a line for scripts. Needs `slapd` and `ldap-utils`.

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copyist::directory::{Directory, Lookup};
use copyist::identity::{Identities, IdentityQuery};
use copyist::mail::Address;
use lab::{DirectoryServer, Slapd, user};
use ldap3::{LdapConnAsync, Scope};

/// People asked for at a time, as recipients of one message.
const TOGETHER: usize = 1000;
/// Answers from memory in one round.
const HITS: usize = 200_000;
/// Searches in one round.
const SEARCHES: usize = 2000;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = words.iter().position(|word| word == name)?;
        words.get(place + 1)?.parse::<usize>().ok()
    };
    // `cargo test` builds and runs every bench.
    if !words.iter().any(|word| word == "--bench") {
        println!("cargo bench --bench lookup, see benches/lookup.rs");
        return ExitCode::SUCCESS;
    }
    let people = value("--people").unwrap_or(1000);
    let slapd = tokio::task::block_in_place(|| Slapd::start(people));
    let mut settings = slapd.access().directory();
    // Room for everybody, and more than that: the cache makes room a little early.
    settings.cache.capacity = people as u64 * 5 / 4 + 1000;
    settings.cache.ttl = Duration::from_secs(24 * 3600);
    let directory = Directory::open(settings).expect("the settings are sound");
    let identities = Identities::new(directory.clone(), Arc::default());
    let addresses: Vec<Address> = (0..people)
        .map(|number| Address::parse(&user(number)).expect("it is one"))
        .collect();

    find(&identities, &addresses[..TOGETHER.min(people)]).await;
    let (before, begun) = (resident(), Instant::now());
    let mut last_report = Instant::now();
    for (number, some) in addresses.chunks(TOGETHER).enumerate() {
        find(&identities, some).await;
        if last_report.elapsed() > Duration::from_secs(10) {
            last_report = Instant::now();
            eprintln!("{} of {people} people known", number * TOGETHER);
        }
    }
    let filled = begun.elapsed();
    let megabytes = resident().saturating_sub(before) as f64 * 1024.0 / 1e6;

    let (mut hits, mut searches) = (Vec::new(), Vec::new());
    let (connection, mut ldap) = LdapConnAsync::new(&slapd.access().url)
        .await
        .expect("slapd listens");
    ldap3::drive!(connection);
    let access = slapd.access();
    let account = access.bind_dn.expect("the lab's servers have an account");
    let bound = ldap.simple_bind(&account, &access.password).await;
    bound
        .and_then(ldap3::LdapResult::success)
        .expect("it may enter");
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for number in 0..HITS {
            let one = number * 7919 % people;
            find(&identities, &addresses[one..=one]).await;
        }
        hits.push(begun.elapsed().as_secs_f64() / HITS as f64);
        let begun = Instant::now();
        for number in 0..SEARCHES {
            let filter = format!("(mail={})", user(number * 7919 % people));
            let found = ldap
                .search(
                    slapd.base(),
                    Scope::Subtree,
                    &filter,
                    vec!["extensionAttribute10"],
                )
                .await;
            let (entries, _) = found
                .and_then(ldap3::SearchResult::success)
                .expect("it answers");
            assert_eq!(entries.len(), 1, "{filter}");
        }
        searches.push(begun.elapsed().as_secs_f64() / SEARCHES as f64);
    }
    let (hit, search) = (median(hits), median(searches));
    if words.iter().any(|word| word == "--json") {
        println!(
            r#"{{"people":{people},"hit_ns":{},"search_ns":{},"megabytes":{megabytes},"fill_seconds":{}}}"#,
            hit * 1e9,
            search * 1e9,
            filled.as_secs_f64()
        );
    } else {
        println!(
            "{people} people known after {filled:.1?}, {megabytes:.0} MB more resident; from memory {:.0} ns, by a search {:.0} µs: {:.0} times",
            hit * 1e9,
            search * 1e6,
            search / hit
        );
    }
    directory.close().await;
    ExitCode::SUCCESS
}

/// As a message asks.
async fn find(identities: &Identities, addresses: &[Address]) {
    let asked = addresses.iter().map(|address| IdentityQuery::Recipient {
        address: address.clone(),
        mta: None,
    });
    let asked: Vec<IdentityQuery> = asked.collect();
    let deadline = tokio::time::Instant::now() + identities.directory().max_wait();
    for (question, answer) in identities.find(&asked, deadline).await.iter() {
        assert!(
            matches!(answer, Lookup::Found(_)),
            "{question} is in the directory: {answer:?}"
        );
    }
}

/// Of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    value.and_then(|kib| kib.parse().ok()).expect("a number")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
