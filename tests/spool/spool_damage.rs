//! Damage that nobody asked for: bits that flip, files that are cut off. It may cost a delivery,
//! but nobody gets what was never written, nothing is removed for it, and it is always reported.

use crate::{lab, spool};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use copyist::spool::{Action, OpenError, Spool, SpoolError};
use lab::postmaster;
use spool::{Dice, Orders, id, items, settings};

/// How often a bit is flipped.
fn flips() -> usize {
    let set = std::env::var("COPYIST_PROOF_FLIPS").ok();
    set.map_or(200, |n| n.parse().expect("a number"))
}

const MESSAGES: usize = 8;

/// A spool with [`MESSAGES`] messages, closed in order, so that all is in the database.
async fn filled(directory: &Path) {
    let spool = Spool::open(&settings(directory)).expect("opened");
    for n in 0..MESSAGES {
        spool::commit(&spool, n).await.expect("committed");
    }
    drop(spool);
    // The thread that writes closes the last connection, and SQLite removes the log then.
    let log = directory.join("spool/spool.db-wal");
    let deadline = std::time::Instant::now() + lab::PATIENCE;
    while log.exists() {
        assert!(
            std::time::Instant::now() < deadline,
            "the spool is not closed"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    lab::run(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
}

fn flip(file: &Path, dice: &mut Dice) -> String {
    let mut bytes = std::fs::read(file).expect("it is there");
    let (place, bit) = (dice.roll(bytes.len()), dice.roll(8));
    bytes[place] ^= 1 << bit;
    std::fs::write(file, bytes).expect("written");
    format!("bit {bit} of byte {place} of {}", file.display())
}

fn body_file(directory: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(directory.join("spool/bodies")).expect("a directory");
    files.next().expect("a file").expect("an entry").path()
}

#[tokio::test]
async fn a_damaged_body_file_is_set_aside_until_it_is_restored() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(&settings(directory.path())).expect("opened");
    spool::commit(&spool, 0).await.expect("committed");
    let file = body_file(directory.path());
    let whole = std::fs::read(&file).expect("readable");
    let cut_off = (0..whole.len())
        .step_by(4_093)
        .map(|length| whole[..length].to_vec());
    let mut dice = Dice(1);
    let flipped = (0..flips()).map(|_| {
        let mut bytes = whole.clone();
        let place = dice.roll(bytes.len());
        bytes[place] ^= 1 << dice.roll(8);
        bytes
    });
    let mut found = 0;
    for damaged in cut_off.chain(flipped.collect::<Vec<_>>()) {
        std::fs::write(&file, damaged).expect("written");
        match spool.load(&id(0, 0)).await {
            Err(SpoolError::SetAside { .. }) => found += 1,
            other => panic!("{other:?}"),
        }
        assert!(
            spool
                .claim(SystemTime::now(), 10)
                .await
                .expect("read")
                .is_empty()
        );
        std::fs::write(&file, &whole).expect("restored");
        assert!(
            spool
                .operate(&postmaster(), Action::Retry, &id(0, 0), SystemTime::now())
                .await
                .expect("it takes changes")
        );
        let loaded = spool.load(&id(0, 0)).await.expect("it is whole again");
        assert_eq!(loaded.original.read().expect("readable"), items(0)[0].1);
    }
    println!("{found} of {found} damaged body files were set aside");
}

/// Outcomes of opening damaged spools.
#[derive(Debug, Default)]
struct OpenOutcomes {
    unopened: usize,
    set_aside: usize,
    unread: usize,
    unharmed: usize,
}

/// Opens a damaged spool and asks it for everything that was committed.
async fn ask(directory: &Path, what: &str, may_lack: bool, fates: &mut OpenOutcomes) {
    let spool = match Spool::open(&settings(directory)) {
        Ok(spool) => spool,
        Err(OpenError::Damaged { cause: said, .. }) => {
            assert!(!said.is_empty());
            fates.unopened += 1;
            return;
        }
        Err(OpenError::Database { .. } | OpenError::Format { .. }) => {
            fates.unopened += 1;
            return;
        }
        Err(other) => panic!("{what}: {other}"),
    };
    let (mut reported, mut unknown) = (0, 0);
    let mut well = Vec::new();
    for n in 0..MESSAGES {
        for (k, (item, original)) in items(n).into_iter().enumerate() {
            match spool.load(&item.id).await {
                Ok(loaded) => {
                    assert_eq!(format!("{:?}", loaded.item), format!("{item:?}"), "{what}");
                    assert_eq!(loaded.waiting, item.targets, "{what}");
                    assert_eq!(
                        loaded.original.read().ok(),
                        Some(original),
                        "{what}: item {k} of {n}"
                    );
                    well.push(item.id);
                }
                Err(SpoolError::SetAside { .. }) => {
                    fates.set_aside += 1;
                    reported += 1;
                }
                Err(SpoolError::Unknown(_)) => unknown += 1,
                Err(error @ (SpoolError::Read(_) | SpoolError::Commit(_))) => {
                    // A thread that panicked would say one of these.
                    let said = error.to_string();
                    assert!(
                        !said.contains("panic") && !said.contains("has ended"),
                        "{what}: {said}"
                    );
                    fates.unread += 1;
                    reported += 1;
                }
            }
        }
    }
    if may_lack {
        // What stands before the damaged place is there.
        fates.unharmed += usize::from(!well.is_empty());
        return;
    }
    if unknown > 0 {
        let dead = spool.depth().await.map_or(0, |depth| depth.dead);
        assert!(dead >= 1, "{what}: an item is gone, and nobody says so");
    }
    // What can be delivered is also tried.
    let far = SystemTime::now() + Duration::from_secs(1 << 40);
    if let Ok(due) = spool.claim(far, 1000).await {
        let lacks = well.iter().find(|id| !due.contains(id));
        assert!(
            lacks.is_none() || reported > 0,
            "{what}: {lacks:?} is never tried"
        );
    }
    if reported == 0 && unknown == 0 {
        fates.unharmed += 1;
    }
}

#[tokio::test]
async fn a_bit_flipped_in_the_database_delivers_nothing_false() {
    let (root, mut dice, mut fates) = (
        tempfile::tempdir().expect("a directory"),
        Dice(2),
        OpenOutcomes::default(),
    );
    let whole = root.path().join("whole");
    filled(&whole).await;
    for n in 0..flips() {
        let damaged = root.path().join(n.to_string());
        copy(&whole, &damaged);
        let what = flip(&damaged.join("spool/spool.db"), &mut dice);
        let bodies = |directory: &Path| {
            std::fs::read_dir(directory.join("spool/bodies"))
                .expect("a directory")
                .count()
        };
        ask(&damaged, &what, false, &mut fates).await;
        assert_eq!(
            bodies(&damaged),
            bodies(&whole),
            "{what}: a body file was removed"
        );
    }
    println!("{} bits flipped in the database: {fates:?}", flips());
    assert!(
        fates.unopened > 0 && fates.unharmed > 0 && fates.set_aside > 0,
        "{fates:?}"
    );
}

#[tokio::test]
async fn a_bit_flipped_in_the_wal_delivers_nothing_false() {
    let (root, mut dice, mut fates) = (
        tempfile::tempdir().expect("a directory"),
        Dice(3),
        OpenOutcomes::default(),
    );
    let whole = root.path().join("whole");
    let orders = Orders {
        directory: whole.clone(),
        book: root.path().join("book"),
        tasks: 1,
        messages: 2,
        waits: true,
        ..Orders::default()
    };
    let mut worker = spool::start(&orders, &[]);
    worker.until("pid");
    worker.go();
    worker.until("ready");
    worker.go();
    worker.until("done");
    worker.kill();
    for n in 0..flips() / 4 {
        let damaged = root.path().join(n.to_string());
        copy(&whole, &damaged);
        let what = flip(&damaged.join("spool/spool.db-wal"), &mut dice);
        // To SQLite a damaged place in the log is its end.
        ask(&damaged, &what, true, &mut fates).await;
    }
    println!("{} bits flipped in the log: {fates:?}", flips() / 4);
    assert!(fates.unharmed > 0, "nothing was ever read: {fates:?}");
}

#[tokio::test]
async fn an_invalid_database_is_reported_with_the_fix() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path()).await;
    let file = directory.path().join("spool/spool.db");
    let whole = std::fs::read(&file).expect("readable");
    for (from, to) in [(0, 100), (100, 4096), (4096, 20_000)] {
        let mut damaged = whole.clone();
        damaged[from..to].fill(b'x');
        std::fs::write(&file, damaged).expect("written");
        let error = Spool::open(&settings(directory.path()))
            .err()
            .expect("it is damaged");
        let said = error.to_string();
        assert!(
            said.contains("spool.db is damaged") && said.contains(".recover"),
            "{said}"
        );
    }
    std::fs::write(&file, whole).expect("restored");
    let spool = Spool::open(&settings(directory.path())).expect("nothing was changed meanwhile");
    assert!(spool.load(&id(0, 0)).await.is_ok());
}
