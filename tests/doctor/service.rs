//! What the superuser reads and the service's user does not. systemd does not run here: a program
//! that prints what systemctl(1) printed on a machine where it does says what the unit is like;
//! files, users and modes are real.

use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::Plant::{Config, Main, Master};
use super::lab::{run, set_mode, write};
use super::{House, changed, names, with_line};

/// The unit of the package, as `systemctl show` prints it, with another user.
const UNIT: &str = "\
LoadState=loaded
ActiveState=active
SubState=running
Result=success
User=postfix
Group=postfix
SupplementaryGroups=
ExecStart={ path=/usr/bin/copyist ; argv[]=/usr/bin/copyist run --config DIR/copyist.toml ; ignore_errors=no }
ProtectHome=yes
ProtectSystem=strict
PrivateTmp=no
InaccessiblePaths=
ReadWritePaths=DIR/state
ReadOnlyPaths=
StateDirectory=
RuntimeDirectory=
CacheDirectory=
LogsDirectory=
";

/// A right configuration whose service is such a unit.
fn house(unit: &str) -> House {
    let house = House::milter();
    std::fs::create_dir(house.path("bin")).expect("made");
    program(&house, "systemctl", unit);
    program(&house, "journalctl", "");
    set_mode(house.directory.path(), 0o755);
    let id = std::fs::metadata("/var/lib/postfix").expect("Postfix is installed");
    let id = std::os::unix::fs::MetadataExt::uid(&id);
    for path in ["state", "state/lock"] {
        chown(house.path(path), Some(id), None).expect("the tests run as root");
    }
    house
}

/// A program that prints this.
fn program(house: &House, name: &str, prints: &str) {
    let prints = house.filled(prints);
    let path = house.path("bin").join(name);
    write(&path, format!("#!/bin/sh\ncat <<'END'\n{prints}END\n"));
    set_mode(&path, 0o755);
}

/// The one finding, and that `check` says the same.
#[track_caller]
fn only(house: &House, name: &str) -> (String, String) {
    let (found, _) = house.findings();
    assert_eq!(names(&found), [name], "{found:#?}");
    let text = |key: &str| found[0][key].as_str().expect("a text").to_owned();
    (text("seen"), text("fix"))
}

#[test]
fn files_closed_to_the_services_user_are_found() {
    let mut house = house(UNIT);
    assert_eq!(names(&house.findings().0), [""; 0]);
    assert!(house.run("check", &[]).status.success());
    for path in ["people.ldif", "copyist.toml"] {
        set_mode(&house.path(path), 0o600);
        let (seen, fix) = only(&house, "file-unreadable");
        assert!(seen.contains("is closed to the user postfix"), "{seen}");
        let check = house.run("check", &[]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(check.status.code(), Some(1), "{said}");
        assert!(said.contains("FAILED service"), "{said}");
        assert!(house.follow(&fix), "{fix}");
        assert_eq!(names(&house.findings().0), [""; 0]);
        assert!(house.run("check", &[]).status.success());
    }
    set_mode(house.directory.path(), 0o700);
    let (found, _) = house.findings();
    assert_eq!(names(&found), ["file-unreadable"; 2], "{found:#?}");
    assert!(house.follow(found[0]["fix"].as_str().expect("a text")));
    assert_eq!(names(&house.findings().0), [""; 0]);
    chown(house.path("state/lock"), Some(0), None).expect("the tests run as root");
    let (seen, fix) = only(&house, "state-dir");
    assert!(seen.contains("belongs to the user root"), "{seen}");
    assert!(house.follow(&fix), "{fix}");
    assert_eq!(names(&house.findings().0), [""; 0]);
}

#[test]
fn what_the_unit_hides_or_keeps_from_writing_is_found() {
    for (from, to, name, wanted) in [
        (
            "InaccessiblePaths=",
            "InaccessiblePaths=-DIR/people.ldif",
            "file-unreadable",
            "InaccessiblePaths=DIR/people.ldif in its unit",
        ),
        (
            "ReadWritePaths=DIR/state",
            "ReadWritePaths=",
            "state-dir-read-only",
            "ProtectSystem=strict in its unit",
        ),
    ] {
        let house = house(&changed(UNIT, from, to));
        let (seen, fix) = only(&house, name);
        assert!(seen.contains(&house.filled(wanted)), "{seen}");
        let remedy = match name {
            "file-unreadable" => "/etc/copyist/people.ldif, and set directory.urls",
            _ => "ReadWritePaths=DIR/state\\n",
        };
        assert!(fix.contains(&house.filled(remedy)), "{fix}");
    }
    let house = house(&changed(UNIT, "--config DIR", "--config /nowhere"));
    set_mode(&house.path("people.ldif"), 0o600);
    let (found, _) = house.findings();
    assert_eq!(
        names(&found),
        ["file-unreadable"],
        "by the owner of state_dir: {found:#?}"
    );
}

#[test]
fn a_failed_unit_is_shown_with_its_last_error() {
    let failed = changed(UNIT, "ActiveState=active", "ActiveState=failed");
    let mut house = house(&changed(&failed, "Result=success", "Result=exit-code"));
    let error = "copyist: cannot listen on inet:127.0.0.1:1: Permission denied\n";
    program(&house, "journalctl", error);
    house.config = house.config.replace(&house.filled("HOOK"), "1");
    house.main = house.main.replace(&house.filled("HOOK"), "1");
    house.save();
    let (seen, fix) = only(&house, "not-running");
    assert!(
        seen.contains(&format!("the unit is failed (exit-code): {}", error.trim())),
        "{seen}"
    );
    assert!(fix.starts_with("journalctl -u copyist -p err"), "{fix}");
}

#[test]
fn a_socket_for_a_chrooted_smtpd_is_one_for_all_services() {
    // cleanup(8) is not chrooted, and asks as well.
    let mut house = House::milter();
    house.plant(Config("inet:127.0.0.1:HOOK", "unix:DIR/milter.sock"));
    house.plant(Main("smtpd_milters = unix:DIR/milter.sock"));
    house.plant(Master("smtp inet n - n", "smtp inet n - y"));
    std::fs::create_dir(house.path("bin")).expect("made");
    program(&house, "systemctl", "");
    let (_, fix) = only(&house, "socket-outside-chroot");
    let (line, command) = fix.split_once(" in [hook.milter], and: ").expect("both");
    let path = std::env::var("PATH").expect("it has one");
    let path = format!("{}:{path}", house.path("bin").display());
    run(Command::new("sh").args(["-c", command]).env("PATH", path));
    house.age();
    house.config = with_line(&house.config, line, "hook.milter");
    write(&house.path("copyist.toml"), &house.config);
    let (seen, _) = only(&house, "not-running");
    assert!(seen.contains("spool/copyist/milter.sock"), "{seen}");
    let _socket = UnixListener::bind(house.path("spool/copyist/milter.sock")).expect("a socket");
    assert_eq!(names(&house.findings().0), [""; 0]);
    // A list without it gets the same path.
    house.plant(Main("smtpd_milters ="));
    let (found, _) = house.findings();
    let fix = found[0]["fix"].as_str().expect("a text");
    assert!(fix.contains("unix:copyist/milter.sock"), "{found:#?}");
}
