//! The system's clock jumps under the running agent: nothing is given up, nothing waits for a date
//! that is years away.

use crate::lab;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::{Client, DirectoryServer, OUTSIDE, Site, SiteOptions, Slapd, message, user};

/// Where Debian puts it, on whatever machine.
fn libfaketime() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib")
        .expect("every machine has it")
        .find_map(|entry| {
            let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
            library.is_file().then_some(library)
        });
    found.expect("this test needs the Debian package `libfaketime`; `tests/run` installs all that the tests need")
}

/// Makes the agent's clock differ by this from now on.
fn jump(file: &Path, by: &str) {
    let next = file.with_extension("next");
    lab::write(&next, by);
    std::fs::rename(&next, file).expect("the directory is ours");
}

fn send(site: &Site<Slapd>, n: usize) {
    let mut client = Client::connect_from(OUTSIDE, site.postfix.smtp_addr());
    let content = message(&format!("<{n}@elsewhere.test>"), "clock");
    let reply = client.send_message("a@elsewhere.test", &[&user(n * 3)], &content);
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// The time that the agent last wrote into its log, to the year.
fn year(site: &Site<Slapd>, from: usize, of: &str) -> String {
    let line = site.copyist.wait_for_log(from, of);
    line.chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take(4)
        .collect()
}

#[test]
fn clock_jumps_of_days_and_years_delay_and_expire_nothing() {
    let directory = tempfile::tempdir().expect("the system has a temporary directory");
    let clock = directory.path().join("clock");
    jump(&clock, "+0");
    let mut site = Site::<Slapd>::start_as(
        Slapd::start(100),
        SiteOptions {
            environment: vec![
                ("LD_PRELOAD".to_owned(), libfaketime().display().to_string()),
                (
                    "FAKETIME_TIMESTAMP_FILE".to_owned(),
                    clock.display().to_string(),
                ),
                ("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()),
                // As in the kernel: the monotonic clock does not jump.
                ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
                ("DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ],
            ..SiteOptions::default()
        },
    );
    let today = year(&site, 0, "copyist is ready");
    let jumps = ["+1d", "-1d", "+3650d", "-3650d", "+0"];
    let mut n = 0;
    // Each message waits over all jumps that come after it: some for a relay that refuses them for
    // now, some for one that is not there.
    for refuses in [true, false] {
        site.relay.stop();
        if refuses {
            site.relay.restart_with(&["-r", "DATA"]);
        }
        for by in jumps {
            jump(&clock, by);
            let log = site.copyist.log_length();
            send(&site, n);
            n += 1;
            let seen = year(&site, log, "journaled");
            let has_jumped_years = by.contains("3650");
            assert_eq!(
                seen != today,
                has_jumped_years,
                "{by}: the agent's clock says {seen}"
            );
        }
        let queued = site.copyist.queued();
        assert_eq!(queued, jumps.len());
        site.relay.stop();
        site.relay.restart_with(&[]);
        let back = Instant::now();
        lab::wait("everything is delivered", Duration::from_secs(20), || {
            site.copyist.queued() == 0
        });
        println!(
            "{queued} reports delivered {:?} after the relay took them",
            back.elapsed()
        );
    }
    let reports = site.wait_for_reports(n);
    assert_eq!(reports.len(), n, "each came once");
    let listed = site.copyist.command(&["queue", "list", "--dead", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["dead"], 0);
}
