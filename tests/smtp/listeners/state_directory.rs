//! Demands on the state directory: owner, mode, file system, and free space.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use super::lab::{Copyist, Disk, PATIENCE, SmtpSink, Sshfs, free_port, wait};
use super::{
    config, config_with_relay, connect, install, is_ready, is_served, page, ports, verdict,
};

#[test]
fn low_disk_space_defers_only_journaled_mail_until_freed() {
    let (milter, admin) = (free_port(), free_port());
    let lines = ports(milter, admin, "[spool]\nmin_free = \"20MiB\"");
    let mut copyist = install(&lines);
    let disk = Disk::mount(&copyist.state_dir(), "40m");
    copyist.restart();
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    assert_eq!(verdict(&mut mta, "dan@corp.example", b"before"), "a");
    assert!(is_ready(admin));

    disk.fill("somebody-elses-file", 30);
    // What was free is looked at once a second.
    let low = || page(admin, "/readyz").contains("503");
    let deadline = Instant::now() + PATIENCE;
    while !low() {
        assert!(Instant::now() < deadline, "nobody sees it");
    }
    let reply = verdict(&mut mta, "dan@corp.example", b"low");
    assert!(reply.starts_with("y452 4.3.1 "), "{reply}");
    assert_eq!(verdict(&mut mta, "nobody@corp.example", b"passes"), "a");
    // A large one is written to the disk while it arrives, where there is room; else it is kept in
    // memory.
    let large = vec![b'x'; 900 * 1024];
    assert_eq!(verdict(&mut mta, "nobody@corp.example", &large), "a");
    let reply = verdict(&mut mta, "dan@corp.example", &large);
    assert!(reply.starts_with("y452 4.3.1 "), "{reply}");
    copyist.wait_for_log(0, "keeping it in memory: the disk is nearly full");
    copyist.wait_for_log(0, "less than spool.min_free");
    let metrics = page(admin, "/metrics");
    assert!(metrics.contains("copyist_spool_low 1"), "{metrics}");
    assert!(metrics.contains("copyist_spool_free_bytes "), "{metrics}");

    disk.free("somebody-elses-file");
    while low() {
        assert!(Instant::now() < deadline, "nobody sees the room");
    }
    assert_eq!(verdict(&mut mta, "dan@corp.example", b"after"), "a");
    copyist.wait_for_log(0, "enough space in");
    // A message that would take what is to stay free is deferred while smaller ones are taken.
    let large = vec![b'x'; 60 * 1024];
    disk.fill("somebody-elses-file", 10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = verdict(&mut mta, "dan@corp.example", &large);
        if reply.starts_with("y452 4.3.1") {
            break;
        }
        assert_eq!(reply, "a");
        assert!(Instant::now() < deadline, "it fills the disk");
    }
    copyist.term_and_wait();
}

#[test]
fn a_state_directory_open_to_others_is_rejected_with_the_fix() {
    let copyist = install("[admin]\nlisten = \"off\"\n");
    let state = copyist.state_dir();
    std::fs::create_dir(&state).expect("made");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).expect("set");
    let said = copyist.refusal();
    let expected = format!(
        "{0} is accessible to other users (mode 0755); run: chmod 700 {0}",
        state.display()
    );
    assert!(said.contains(&expected), "{said}");
    std::fs::remove_dir(&state).expect("removed");
    let mut copyist = copyist;
    copyist.write_config(&config(&ports(free_port(), free_port(), "")));
    copyist.restart();
    for (name, mode) in [
        ("", 0o700),
        ("spool", 0o700),
        ("spool/bodies", 0o700),
        ("seal.key", 0o600),
        ("lock", 0o600),
        ("spool/spool.db", 0o600),
        ("spool/spool.db-wal", 0o600),
    ] {
        let found = std::fs::metadata(state.join(name)).expect("made at the start");
        assert_eq!(found.mode() & 0o777, mode, "{name}");
    }
}

/// Debian's user of nothing.
const NOBODY: u32 = 65_534;

#[test]
fn state_owned_by_another_user_is_rejected_with_the_fix() {
    let mut copyist = install(&ports(free_port(), free_port(), ""));
    copyist.restart();
    copyist.term_and_wait();
    let state = copyist.state_dir();
    let give = |path: &Path, to: u32| {
        std::os::unix::fs::chown(path, Some(to), None).expect("tests/run is root");
    };
    for path in [
        state.clone(),
        state.join("spool"),
        state.join("spool/bodies"),
        state.join("spool/spool.db"),
        state.join("seal.key"),
        state.join("lock"),
    ] {
        give(&path, NOBODY);
        let said = copyist.refusal();
        let expected = format!(
            "{0} belongs to user nobody, but the service runs as root; run: chown -R root {0}",
            path.display()
        );
        assert!(said.contains(&expected), "{said}");
        give(&path, 0);
    }
    copyist.restart();
}

#[test]
fn a_remote_state_directory_is_rejected_unless_allowed() {
    let lines = |more: &str| ports(free_port(), free_port(), more);
    let mut copyist = install(&lines(""));
    let state = copyist.state_dir();
    let _mounted = Sshfs::mount(&copyist.config_file().with_file_name("real"), &state);
    let said = copyist.refusal();
    let expected = format!(
        "{} is on a network or FUSE file system (fuse.sshfs)",
        state.display()
    );
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("spool.allow_remote_fs = true"), "{said}");
    copyist.write_config(&config(&lines("[spool]\nallow_remote_fs = true")));
    copyist.restart();
}

#[test]
fn few_inodes_defer_journaled_mail_until_deliveries_free_some() {
    let large = vec![b'x'; 200 * 1024];
    const LEFT: u64 = 40;
    let (milter, admin) = (free_port(), free_port());
    let mut relay = SmtpSink::start();
    relay.stop();
    let spool = format!("[spool]\nmin_free = \"0\"\nmin_free_inodes = {LEFT}");
    let lines = ports(milter, admin, &spool);
    let mut copyist = install(&lines);
    copyist.write_config(&config_with_relay(relay.address().port(), &lines));
    let disk = Disk::mount_of_inodes(&copyist.state_dir(), 100);
    copyist.restart();
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));

    // Each is a file of its own, which nobody takes yet.
    let mut taken = 0;
    let refusal = loop {
        match verdict(&mut mta, "dan@corp.example", &large) {
            reply if reply == "a" => taken += 1,
            reply => break reply,
        }
        assert!(taken < 100, "there are never too few inodes");
    };
    assert!(refusal.starts_with("y452 4.3.1 "), "{refusal}");
    assert!(taken > 20, "{taken}");
    // SQLite may have a file of its own for a moment.
    assert!(disk.free_inodes() + 2 >= LEFT, "{}", disk.free_inodes());
    // What arrives in several pieces would be a file from its beginning; it is kept in memory
    // instead.
    let larger = large.repeat(4);
    assert_eq!(verdict(&mut mta, "nobody@corp.example", &larger), "a");
    let reply = verdict(&mut mta, "dan@corp.example", &larger);
    assert!(reply.starts_with("y452 4.3.1 "), "{reply}");
    copyist.wait_for_log(0, "few inodes are free (spool.min_free_inodes)");

    // Somebody else takes more of them: now small ones wait, too.
    disk.crowd("somebody-else", 10);
    wait("it is seen", PATIENCE, || {
        page(admin, "/readyz").contains("503")
    });
    let reply = verdict(&mut mta, "dan@corp.example", b"low");
    assert!(reply.starts_with("y452 4.3.1 "), "{reply}");
    assert_eq!(verdict(&mut mta, "nobody@corp.example", b"passes"), "a");
    copyist.wait_for_log(0, "inodes are free in");

    // Deliveries need none, and what is delivered gives its own back.
    relay.restart();
    relay.wait_for(taken, PATIENCE);
    wait("there is space again", PATIENCE, || is_ready(admin));
    assert_eq!(verdict(&mut mta, "dan@corp.example", &larger), "a");
    relay.wait_for(taken + 1, PATIENCE);
    disk.disperse("somebody-else");
    wait("the queue is empty", PATIENCE, || copyist.queued() == 0);
    assert_eq!(relay.count(), taken + 1, "each came once");
}

/// Has a service take a message, does something to its state directory, and offers it a second one:
/// that must not be taken, and the service must end, and say why.
fn is_taken_no_more<T>(why: &str, change: impl FnOnce(&Path) -> T) -> Copyist {
    let milter = free_port();
    let mut copyist = install(&ports(milter, free_port(), ""));
    copyist.restart();
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    assert_eq!(verdict(&mut mta, "dan@corp.example", b"before"), "a");
    let _changed = change(&copyist.state_dir());
    let reply = verdict(&mut mta, "dan@corp.example", b"after");
    assert!(reply.starts_with("y451 4.3.0 "), "{reply}");
    copyist.wait_for_log(0, why);
    assert_eq!(copyist.wait_for_end().code(), Some(1));
    copyist
}

#[test]
fn a_database_restored_while_running_ends_the_service() {
    // As a recovery by the book ends, but without the stop that it begins with.
    let mut copyist = is_taken_no_more("spool.db was replaced while it was in use", |state| {
        let spool = state.join("spool");
        std::fs::copy(spool.join("spool.db"), spool.join("recovered.db")).expect("copied");
        std::fs::rename(spool.join("recovered.db"), spool.join("spool.db")).expect("moved");
        std::fs::remove_file(spool.join("spool.db-wal")).expect("removed");
        std::fs::remove_file(spool.join("spool.db-shm")).expect("removed");
    });
    // What is in its place now is what the next process works with.
    copyist.restart();
}

#[test]
fn a_state_directory_lost_while_running_ends_the_service() {
    is_taken_no_more("spool.db was removed while it was in use", |state| {
        std::fs::rename(state, state.with_file_name("elsewhere")).expect("moved");
    });
    is_taken_no_more("spool.db was removed while it was in use", |state| {
        Disk::mount(state, "16m")
    });
    is_taken_no_more("seal.key was replaced while it was in use", |state| {
        std::fs::copy(state.join("seal.key"), state.join("copy")).expect("copied");
        std::fs::rename(state.join("copy"), state.join("seal.key")).expect("moved");
    });
}

#[test]
fn on_a_full_disk_the_service_starts_delivers_and_recovers() {
    let (milter, admin) = (free_port(), free_port());
    let mut relay = SmtpSink::start();
    relay.stop();
    let lines = ports(milter, admin, "[spool]\nmin_free = \"0\"");
    let mut copyist = install(&lines);
    copyist.write_config(&config_with_relay(relay.address().port(), &lines));
    let disk = Disk::mount(&copyist.state_dir(), "40m");
    copyist.restart();
    let large = vec![b'x'; 200 * 1024];
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    for body in [&large[..], b"small"].repeat(10) {
        assert_eq!(verdict(&mut mta, "dan@corp.example", body), "a");
    }
    disk.fill_up("of-somebody-else");
    for is_killed in [true, false] {
        // What an orderly end gives back is taken as well.
        match is_killed {
            true => copyist.kill9(),
            false => assert!(copyist.term_and_wait().success()),
        }
        disk.fill_up(&format!("more-{is_killed}"));
        copyist.restart();
        // What the reserve gave is not for new mail.
        assert!(page(admin, "/readyz").contains("503"));
        let mut mta = connect(milter);
        assert!(is_served(&mut mta));
        let reply = verdict(&mut mta, "dan@corp.example", b"full");
        assert!(reply.starts_with("y452 4.3.1 "), "{reply}");
        assert_eq!(verdict(&mut mta, "nobody@corp.example", b"passes"), "a");
    }
    relay.restart();
    relay.wait_for(20, PATIENCE);
    wait("the queue is empty", PATIENCE, || copyist.queued() == 0);
    for name in ["of-somebody-else", "more-true", "more-false"] {
        disk.free(name);
    }
    wait("there is room", PATIENCE, || is_ready(admin));
    let mut mta = connect(milter);
    assert!(is_served(&mut mta));
    assert_eq!(verdict(&mut mta, "dan@corp.example", b"after"), "a");
    relay.wait_for(21, PATIENCE);
    assert_eq!(relay.count(), 21, "each came once");
    assert!(copyist.state_dir().join("spool/reserve.0").exists());
}
