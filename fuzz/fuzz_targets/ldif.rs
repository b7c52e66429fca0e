//! LDIF. Must hold: an error that names a line of the text, or entries that say the same when they
//! are written again.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use copyist::directory::fuzzing::ldif;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let entries = match ldif(bytes) {
        Ok(entries) => entries,
        Err(error) => {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&error.line), "{error}");
            return;
        }
    };
    let mut written = String::from("version: 1\n");
    for entry in &entries {
        written.push_str(&format!("\ndn:: {}\n", STANDARD.encode(&entry.dn)));
        for (name, values) in entry.attributes() {
            for value in values {
                written.push_str(&format!("{name}:: {}\n", STANDARD.encode(value)));
            }
        }
    }
    let again = ldif(written.as_bytes()).expect("what we wrote can be read");
    assert_eq!(again, entries);
});
