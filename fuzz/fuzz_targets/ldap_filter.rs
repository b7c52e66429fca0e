//! Addresses that strangers name, in filters. Addresses are separated by LF. Must hold: a filter is
//! what it is meant to be, whatever stands in an address: read again it has the attributes that we
//! ask and the values that were asked for.

#![no_main]

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use copyist::directory::Entry;
use copyist::directory::fuzzing::Questions;
use copyist::mail::Address;
use libfuzzer_sys::fuzz_target;

static QUESTIONS: LazyLock<Questions> = LazyLock::new(|| {
    let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Questions::new(&names(&["mail", "proxyAddresses"]), &names(&["journal"])).expect("sound")
});

/// The terms of `(a=v)` or `(|(a=v)…)`, values unescaped (RFC 4515 section 3).
fn terms(filter: &str) -> Vec<(String, String)> {
    let inner = match filter.strip_prefix("(|") {
        Some(rest) => rest.strip_suffix(')').expect("closed"),
        None => filter,
    };
    let mut terms = Vec::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let end = rest.find(')').expect("closed");
        let term = rest[..end].strip_prefix('(').expect("opened");
        let (name, value) = term.split_once('=').expect("an equality");
        assert!(!value.contains(['(', '*', '\0']), "{value:?} is no value");
        let mut bytes = Vec::new();
        let mut left = value.as_bytes();
        while let Some((byte, more)) = left.split_first() {
            left = more;
            match byte {
                b'\\' => {
                    let hex = std::str::from_utf8(&left[..2]).expect("two digits");
                    bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
                    left = &left[2..];
                }
                other => bytes.push(*other),
            }
        }
        terms.push((name.to_owned(), String::from_utf8(bytes).expect("UTF-8")));
        rest = &rest[end + 1..];
    }
    terms
}

/// The ways in which a directory may hold an address.
fn spellings(address: &Address) -> BTreeSet<String> {
    let written = address.to_string().to_lowercase();
    let at = written.rfind('@').expect("a domain");
    let key = address.key();
    let locals = [&written[..at], &key[..key.len() - address.domain().len() - 1]];
    let domains = [Some(address.domain().to_owned()), address.unicode_domain()];
    domains
        .iter()
        .flatten()
        .flat_map(|domain| locals.map(|local| format!("{local}@{domain}")))
        .collect()
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let asked: Vec<Address> = text.split('\n').filter_map(|line| Address::parse(line).ok()).collect();
    if !asked.is_empty() {
        let filter = QUESTIONS.lookup_filter(&asked);
        assert!(ldap3::parse_filter(&filter).is_ok(), "{filter:?}");
        let found: BTreeSet<(String, String)> = terms(&filter).into_iter().collect();
        let all = asked.iter().flat_map(spellings);
        let meant: BTreeSet<(String, String)> = all
            .flat_map(|value| {
                let proxy = ("proxyAddresses".to_owned(), format!("smtp:{value}"));
                [("mail".to_owned(), value), proxy]
            })
            .collect();
        assert_eq!(found, meant);
    }
    // A name that an object of the directory has.
    let owner = Arc::new(Entry::new(text.as_ref(), []));
    let sought = asked.first().cloned();
    let sought = sought.unwrap_or_else(|| Address::parse("j@corp.example").expect("sound"));
    let filter = QUESTIONS.journal_filter(&sought, &[owner]).expect("one");
    assert!(ldap3::parse_filter(&filter).is_ok(), "{filter:?}");
    for (name, _) in terms(&filter) {
        assert_eq!(name, "journal");
    }
});
