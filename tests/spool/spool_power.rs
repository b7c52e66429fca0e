//! The spool's promise when the power is cut, and the proof that the proof would see it broken.
//!
//! `tests/proof/power-cuts` runs this with more cuts; each series is one line of its table.

use crate::{lab, spool};
use std::time::{SystemTime, UNIX_EPOCH};

use spool::{Figures, FileSystem, Pace, Proof};

/// A number that `tests/proof/power-cuts` sets, or the one for a short run.
fn number(name: &str, short: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(short, |n| {
        n.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {n}"))
    })
}

fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    number("COPYIST_PROOF_SEED", now.as_nanos() as u64)
}

/// Cuts the power again and again: nothing may be lost.
fn cuts(
    name: &str,
    proof: fn(FileSystem, u64) -> Proof,
    kind: FileSystem,
    paces: &[Pace],
    cuts: u64,
) {
    let (seed, cuts) = (seed(), cuts as usize);
    let mut proof = proof(kind, seed);
    for n in 0..cuts {
        proof.cycle(paces[n % paces.len()], &[]);
        if (n + 1) % 50 == 0 {
            println!("{}", proof.figures.row(&format!("… {name}")));
        }
    }
    proof.finish(&[]);
    let figures = &proof.figures;
    println!("{}\n{}", Figures::head(), figures.row(name));
    assert!(figures.lost.is_empty(), "seed {seed}: {:#?}", figures.lost);
    assert_eq!(figures.newest_lost, 0);
    // All of them but those where the spool was emptied and the cut came before the first new
    // promise.
    let newest = figures.newest;
    assert!(
        newest >= cuts * 9 / 10,
        "the newest promise was looked for {newest} times"
    );
    assert!(
        figures.acknowledged >= cuts,
        "{} promises",
        figures.acknowledged
    );
}

#[test]
fn acknowledged_items_survive_power_cuts_on_ext4() {
    let paces = [Pace::Fast, Pace::Slow, Pace::SlowFiles, Pace::Slow];
    cuts(
        "ext4",
        Proof::new,
        FileSystem::Ext4,
        &paces,
        number("COPYIST_PROOF_CUTS", 25),
    );
}

#[test]
fn acknowledged_items_survive_power_cuts_on_xfs() {
    let paces = [Pace::Fast, Pace::Slow, Pace::SlowFiles, Pace::Slow];
    cuts(
        "xfs",
        Proof::new,
        FileSystem::Xfs,
        &paces,
        number("COPYIST_PROOF_XFS", 10),
    );
}

#[test]
fn acknowledged_items_survive_power_cuts_with_bodies_apart() {
    let (paces, count) = (
        [Pace::SlowFiles, Pace::Fast],
        number("COPYIST_PROOF_APART", 10),
    );
    cuts(
        "ext4, bodies apart",
        Proof::with_bodies_apart,
        FileSystem::Ext4,
        &paces,
        count,
    );
}

/// Cuts under strace, which makes syncs do nothing; gives the figures.
fn control(name: &str, mut proof: Proof, pace: Pace, through: impl Fn(&Proof) -> Vec<String>) {
    let cuts = number("COPYIST_PROOF_CONTROLS", 5);
    for _ in 0..cuts {
        let words = through(&proof);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        proof.cycle(pace, &words);
    }
    // The last look cannot open a spool that is gone altogether; it was counted with the cut after
    // it.
    proof.cycle(pace, &[]);
    println!(
        "{}\n{}",
        Figures::head(),
        proof.figures.row(&format!("control: {name}"))
    );
    assert!(
        !proof.figures.lost.is_empty(),
        "{name}, and the proof reports no loss: it is blind"
    );
}

fn strace(options: &[&str]) -> Vec<String> {
    let program = lab::need("strace", "strace").to_string_lossy().into_owned();
    let fixed = ["-f", "-qqq", "-o", "/dev/null"]
        .iter()
        .chain(options)
        .map(|word| (*word).to_owned());
    std::iter::once(program).chain(fixed).collect()
}

#[test]
fn the_proof_reports_loss_without_any_sync() {
    let proof = Proof::new(FileSystem::Ext4, seed());
    control("no sync at all", proof, Pace::Fast, |_| {
        strace(&[
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            "inject=fsync,fdatasync:retval=0",
        ])
    });
}

#[test]
fn the_proof_reports_loss_without_directory_syncs() {
    let proof = Proof::with_bodies_apart(FileSystem::Ext4, seed());
    control(
        "no sync of the directory",
        proof,
        Pace::SlowFiles,
        |proof| {
            let bodies = proof.bodies().to_string_lossy().into_owned();
            strace(&[
                "-e",
                "trace=fsync",
                "-e",
                "inject=fsync:retval=0",
                "-P",
                &bodies,
            ])
        },
    );
}
