//! An exported registry key. Must hold: a configuration that can be loaded, or errors that can be
//! printed.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use copyist::{config, migrate};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = copyist_fuzz::scratch("registry");
    directory.join("copyist.toml")
});

fuzz_target!(|bytes: &[u8]| {
    match migrate::registry("imsext.reg".as_ref(), bytes, &migrate::Site::default()) {
        Ok(proposal) => {
            std::fs::write(&*FILE, &proposal.config).expect("written");
            if let Err(error) = config::load_with(&FILE, []) {
                panic!("{error}\n{}", proposal.config);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
