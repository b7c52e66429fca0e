//! RTF as an administrator's file may hold it, and anything else. Must hold: no panic; an error or
//! a text.

#![no_main]

use copyist::text::Disclaimer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(wording) = Disclaimer::from_rtf(bytes, false) {
        let _ = wording.for_sender(&[]);
    }
});
