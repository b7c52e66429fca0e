//! A small disk that is filled and drained again and again, by one process.

use crate::{lab, spool};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use copyist::spool::{CommitError, DeliveryOutcome, DeliveryResult, ListFilter, Spool};
use spool::{Disk, Shape, id, items, settings, shape};

/// Delivers everything, and looks at it. Gives how many items.
async fn drain(spool: &Spool) -> usize {
    let mut drained = 0;
    loop {
        let due = spool.claim(SystemTime::now(), 100).await.expect("readable");
        if due.is_empty() {
            return drained;
        }
        for name in due {
            let loaded = spool.load(&name).await.expect("it is there");
            let n: usize = loaded
                .item
                .envelope_id
                .split('.')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("n.k");
            let k = (0..3).find(|k| id(n, *k) == name).expect("one of three");
            assert_eq!(loaded.original.read().expect("readable"), items(n)[k].1);
            let result = DeliveryResult {
                outcomes: loaded
                    .waiting
                    .into_iter()
                    .map(|to| (to, DeliveryOutcome::Delivered))
                    .collect(),
                next_attempt: UNIX_EPOCH,
                ndr: None,
                relay_reached: true,
                ndr_limit: None,
            };
            spool
                .record(&name, result, SystemTime::now())
                .await
                .expect("written down");
            drained += 1;
        }
    }
}

#[tokio::test]
async fn a_disk_filled_again_and_again_needs_no_restart() {
    let set = std::env::var("COPYIST_PROOF_FILLS").ok();
    let cycles: usize = set.map_or(10, |n| n.parse().expect("a number"));
    let disk = Disk::new("16m");
    let others = disk.path().join("somebody-elses-file");
    let spool = Spool::open(&settings(disk.path())).expect("opened");
    let (mut n, mut filled, mut deferred) = (0, 0, 0);
    for cycle in 0..cycles {
        std::fs::write(&others, vec![0; 2 << 20]).expect("there is room");
        let mut committed = 0;
        // Until small and large messages have been deferred many times.
        let mut refusals = 0;
        while refusals < 20 {
            match spool::commit(&spool, n).await {
                Ok(()) => committed += items(n).len(),
                Err(error) => {
                    // What cannot even be taken in is refused before it is committed.
                    let is_full = matches!(error, CommitError::Full | CommitError::Low { .. })
                        || error.to_string().contains("No space")
                        || error.to_string().contains("nearly full");
                    assert!(is_full, "cycle {cycle}, {n}, {:?}: {error}", shape(n));
                    assert!(error.reply().is_transient());
                    refusals += 1;
                }
            }
            n += 1;
            assert!(committed < 100_000, "the disk is never full");
        }
        assert!(!spool.is_failed());
        deferred += refusals;
        let filter = ListFilter {
            dead_only: false,
            limit: 100_000,
        };
        assert_eq!(spool.list(filter).await.expect("readable").len(), committed);
        std::fs::remove_file(&others).expect("removed");
        assert_eq!(drain(&spool).await, committed, "cycle {cycle}");
        filled += committed;
        let bodies = std::fs::read_dir(disk.path().join("spool/bodies")).expect("a directory");
        assert_eq!(bodies.count(), 0, "cycle {cycle}: body files stay");
    }
    println!(
        "{cycles} times full: {filled} items committed and delivered, {deferred} messages deferred, none lost"
    );
}

/// Takes inodes until none is left; gives how many.
fn take_inodes(crowd: &Path) -> usize {
    std::fs::create_dir(crowd).expect("there is one for it");
    let taken = (0..).take_while(|n| std::fs::write(crowd.join(n.to_string()), "").is_ok());
    taken.count()
}

#[tokio::test]
async fn a_disk_without_inodes_delivers_and_needs_no_restart() {
    let disk = Disk::of_inodes(100);
    let crowd = disk.path().join("somebody-else");
    let spool = Spool::open(&settings(disk.path())).expect("opened");
    let (mut n, mut all, mut deferred) = (0, 0, 0);
    for cycle in 0..10 {
        let mut committed = 0;
        for _ in 0..40 {
            spool::commit(&spool, n).await.expect("there are inodes");
            committed += items(n).len();
            n += 1;
        }
        assert!(take_inodes(&crowd) > 0, "cycle {cycle}");
        let mut refusals = 0;
        for _ in 0..40 {
            match spool::commit(&spool, n).await {
                Ok(()) => {
                    assert_eq!(
                        shape(n),
                        Shape::Small,
                        "cycle {cycle}, {n}: no file is made"
                    );
                    committed += items(n).len();
                }
                Err(error) => {
                    let is_full = matches!(error, CommitError::Full)
                        || error.to_string().contains("No space");
                    assert!(is_full, "cycle {cycle}, {n}, {:?}: {error}", shape(n));
                    assert!(error.reply().is_transient());
                    refusals += 1;
                }
            }
            n += 1;
        }
        assert!(refusals > 0 && !spool.is_failed(), "cycle {cycle}");
        deferred += refusals;
        // While there is still none: what is delivered is written down without one.
        assert_eq!(drain(&spool).await, committed, "cycle {cycle}");
        all += committed;
        std::fs::remove_dir_all(&crowd).expect("removed");
        let bodies = std::fs::read_dir(disk.path().join("spool/bodies")).expect("a directory");
        assert_eq!(bodies.count(), 0, "cycle {cycle}: body files stay");
    }
    println!(
        "10 times no inode: {all} items committed and delivered, {deferred} messages deferred, none lost"
    );
}

#[tokio::test]
async fn a_spool_opens_and_delivers_on_a_full_disk() {
    let disk = Disk::of_inodes(100);
    let spool = Spool::open(&settings(disk.path())).expect("opened");
    let mut committed = 0;
    for n in 0..20 {
        spool::commit(&spool, n).await.expect("there is room");
        committed += items(n).len();
    }
    drop(spool);
    let log = disk.path().join("spool/spool.db-wal");
    lab::wait("its end", lab::PATIENCE, || !log.exists());
    take_room(&disk.path().join("somebody-elses-file"));
    take_inodes(&disk.path().join("somebody-else"));
    let spool = Spool::open(&settings(disk.path())).expect("opened");
    let error = spool::commit(&spool, 20).await.expect_err("no room");
    assert!(matches!(error, CommitError::Low { .. }), "{error}");
    assert_eq!(drain(&spool).await, committed);
    assert!(!spool.is_failed());
}

/// Takes the room that is left to the last block.
fn take_room(path: &Path) {
    let mut file = std::fs::File::create(path).expect("there is an inode for it");
    while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|written| written > 0) {}
}
