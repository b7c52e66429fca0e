//! The whole service, behind a Postfix, when the power is cut: what the sender was told "250" for
//! has its report.

use crate::{lab, spool};
use std::collections::HashSet;

use copyist::spool::Spool;
use lab::{Client, DirectoryServer, OUTSIDE, Site, SiteOptions, Slapd, message, user};
use spool::{Dice, FileSystem, Image, settings};

#[tokio::test]
async fn accepted_mail_is_journaled_whenever_the_power_is_cut() {
    let set = std::env::var("COPYIST_PROOF_AGENT").ok();
    let cuts: usize = set.map_or(5, |n| n.parse().expect("a number"));
    let (mut image, mut dice) = (Image::new(FileSystem::Ext4), Dice(4));
    image.mount();
    let state = image.path().join("state");
    let mut site = Site::start_as(
        Slapd::start(1000),
        SiteOptions {
            environment: vec![(
                "COPYIST__STATE_DIR".into(),
                state.to_string_lossy().into_owned(),
            )],
            ..SiteOptions::default()
        },
    );
    // Accepted mail is still queued when the power is cut.
    site.relay.stop();
    let mut accepted = Vec::new();
    for cut in 0..cuts {
        let mut client = Client::connect_from(OUTSIDE, site.postfix.smtp_addr());
        for n in 0..1 + dice.roll(5) {
            // Every third user is journaled; some messages are body files.
            let (id, to) = (
                format!("<{cut}.{n}@elsewhere.test>"),
                user(dice.roll(300) * 3),
            );
            let text = format!("{}\r\n", "x".repeat(70)).repeat(if dice.roll(2) == 0 {
                10
            } else {
                2_500
            });
            let reply =
                client.send_message("a@elsewhere.test", &[&to], &(message(&id, "cut") + &text));
            assert_eq!(reply.code, 250, "{reply:?}");
            accepted.push(id);
        }
        // At once: no later sync helps the newest.
        image.cut();
        site.copyist.kill9();
        image.unmount();
        image.mount();
        site.copyist.restart();
        let spool = Spool::inspect(&settings(&state)).expect("it is there");
        let queued = spool.depth().await.expect("readable").items;
        assert_eq!(
            queued,
            accepted.len() as u64,
            "after cut {cut}, the newest is {:?}",
            accepted.last()
        );
    }
    site.relay.restart();
    let reports = site.wait_for_reports(accepted.len());
    let about: HashSet<&str> = reports.iter().map(|report| report.about.as_str()).collect();
    let newest = accepted.last().expect("something was accepted");
    assert!(
        about.contains(newest.as_str()),
        "the newest is lost: {newest}"
    );
    let lost: Vec<_> = accepted
        .iter()
        .filter(|id| !about.contains(id.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    println!(
        "{} messages accepted under {cuts} power cuts, and all of them journaled",
        accepted.len()
    );
    site.copyist.term_and_wait();
}
