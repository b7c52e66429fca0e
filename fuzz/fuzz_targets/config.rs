//! The configuration file and, after 0xff, environment variables `NAME=value`, separated by LF.
//! Must hold: settings, or mistakes that can be told.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = copyist_fuzz::scratch("config");
    directory.join("copyist.toml")
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0xff);
    let (text, variables) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    std::fs::write(&*FILE, text).expect("written");
    let variables = variables.split(|byte| *byte == b'\n').filter_map(|line| {
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((owned(&line[..equals]), owned(&line[equals + 1..])))
    });
    match copyist::config::load_with(&FILE, variables) {
        Ok(settings) => drop(format!("{settings:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
