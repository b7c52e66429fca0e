//! The pages in a browser: what is clicked and typed, at the widths of a phone and of a desk, in
//! light and dark, and how long a page takes with a long queue.
//!
//! `tests/proof/pages` runs it with 100,000 items and keeps the screenshots.

use crate::{lab, office};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use copyist::spool::Action;
use lab::{Client, INSIDE, NextHop, OUTSIDE, postmaster};
use office::{Office, OfficeOptions, id};

/// The longest that a page may take, with the binary that is installed.
const LONGEST: Duration = Duration::from_millis(200);
/// How often each is asked for; the shortest counts, since other work on the machine only adds to
/// it.
const TIMES: usize = 9;

#[tokio::test]
async fn every_page_works_in_a_browser() {
    let chromium = lab::need("chromium", "chromium");
    let next_hop = NextHop::start();
    let office = Office::open(OfficeOptions {
        items: lab::setting("PAGES_ITEMS", 300),
        next_hop: Some(next_hop.address()),
        ..OfficeOptions::default()
    })
    .await;
    some_mail(&office);
    let kept = tempfile::tempdir().expect("a directory");
    let out: PathBuf = lab::setting("PAGES_OUT", kept.path().to_owned());
    let token = office.copyist.config_file().with_file_name("token");
    let drive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pages/drive.py");
    let mut driven = Command::new(lab::need("python3", "python3"));
    driven.arg(drive).arg(chromium).arg(office.port.to_string());
    let driven = driven.arg(token).arg(id(3).as_str()).arg(out);
    if std::env::var_os("PAGES_OUT").is_some() {
        driven.arg("keep");
    }
    print!("{}", String::from_utf8_lossy(&lab::run(driven).stdout));
}

/// Mail in each direction, so that there is something to see.
fn some_mail(office: &Office) {
    let mail = "Subject: hello\r\n\r\nhello\r\n";
    let mut outside = Client::connect_from(OUTSIDE, office.smtp);
    let mut inside = Client::connect_from(INSIDE, office.smtp);
    for n in 0..30 {
        let sent = match n % 5 {
            0 => inside.send_message("dan@example.com", &["x@elsewhere.example"], mail),
            1 => inside.send_message("dan@example.com", &["pat@example.com"], mail),
            _ => outside.send_message("x@elsewhere.example", &["dan@example.com"], mail),
        };
        assert_eq!(sent.code, 250, "{sent:?}");
    }
}

#[tokio::test]
async fn pages_stay_fast_with_a_long_queue() {
    let items = lab::setting("PAGES_ITEMS", 300);
    let office = Office::open(OfficeOptions {
        items,
        ..OfficeOptions::default()
    })
    .await;
    assert_eq!(office.press("/coverage").status, 303);
    let (spool, middle) = (office.spool(), items / 2);
    println!("milliseconds of each page with {items} items (least, middle, most of {TIMES})");
    let mut slow = Vec::new();
    for path in [
        "/".to_owned(),
        "/queue".to_owned(),
        "/queue?state=dead".to_owned(),
        "/queue?state=held".to_owned(),
        "/queue?order=oldest".to_owned(),
        format!("/queue?order=oldest&after=0.{middle}.{middle}"),
        "/queue?order=newest".to_owned(),
        "/queue?order=next".to_owned(),
        "/queue?order=attempts".to_owned(),
        "/queue?order=attempts&direction=inbound".to_owned(),
        format!("/queue?text={}", id(middle)),
        "/queue?text=journal-49".to_owned(),
        format!("/queue?in=message&text=4Qx{middle:08}"),
        format!("/queue?in=subject&text=part%20{middle}"),
        "/queue?in=subject&text=nowhere%20at%20all".to_owned(),
        format!("/queue/{}", id(middle)),
        "/explain?from=x@elsewhere.example&to=dan@example.com".to_owned(),
        "/coverage".to_owned(),
        "/settings".to_owned(),
    ] {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            // Something changes in between, as it does where mail flows: nothing is known from the
            // last time.
            assert!(
                spool
                    .operate(&postmaster(), Action::Hold, &id(0), SystemTime::now())
                    .await
                    .expect("written")
            );
            let now = SystemTime::now();
            assert!(
                spool
                    .operate(&postmaster(), Action::Release, &id(0), now)
                    .await
                    .expect("written")
            );
            let begun = Instant::now();
            assert_eq!(office.page(&path).status, 200, "{path}");
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (least, middle, most) = (times[0], times[TIMES / 2], times[TIMES - 1]);
        println!(
            "{:8.1} {:8.1} {:8.1}  {path}",
            ms(least),
            ms(middle),
            ms(most)
        );
        if least > LONGEST {
            slow.push(path);
        }
    }
    assert!(slow.is_empty(), "longer than {LONGEST:?}: {slow:?}");
}
