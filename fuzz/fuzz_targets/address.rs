//! Addresses in every spelling. Must hold: what was read is one mailbox; written and read again it
//! is the same; no reading of it becomes two. So for values that people write.

#![no_main]

use copyist::mail::Address;
use copyist_fuzz::is_one_mailbox;
use libfuzzer_sys::fuzz_target;

fn check(address: &Address) {
    let written = address.to_string();
    assert!(is_one_mailbox(&written), "{written:?} is not one mailbox");
    let again = Address::parse(&written).expect("what we wrote can be read");
    assert_eq!(&again, address);
    assert_eq!(again.to_string(), written);
    assert_eq!(again.domain(), address.domain());
    let bracketed = Address::parse(&format!("<{written}>")).expect("in brackets, too");
    assert_eq!(&bracketed, address);
    let domain = address.domain();
    assert!(!domain.contains(['@', '<', '>', ' ']), "{domain:?} is no domain");
    assert!(!domain.ends_with('.'), "{domain:?} ends with a dot");
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(address) = Address::parse(&text) {
        check(&address);
        if let Some(person) = address.without_extension("+-") {
            check(&person);
        }
        if let Some(letters) = address.unicode_domain() {
            let other = Address::parse(&format!("x@{letters}")).expect("a domain in letters");
            assert_eq!(other.domain(), address.domain());
        }
    }
    if let Ok(address) = Address::parse_in(&text, "corp.example") {
        check(&address);
    }
    if let Ok(address) = Address::parse_value(&text) {
        check(&address);
        let written = Address::parse_value(&address.to_string()).expect("a value, too");
        assert_eq!(written.key(), address.key());
    }
});
