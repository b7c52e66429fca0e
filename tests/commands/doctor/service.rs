//! Files that root can read and the service's user cannot. systemd does not run here: a program
//! prints recorded output of systemctl(1); files, users and modes are real.

use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::Plant::{Config, Main, Master};
use super::lab::{run, set_mode, write};
use super::{Installation, changed, names, with_line};

/// The package's unit as printed by `systemctl show`, with another user.
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

/// A correct configuration with such a unit.
fn site(unit: &str) -> Installation {
    let site = Installation::milter();
    std::fs::create_dir(site.path("bin")).expect("made");
    program(&site, "systemctl", unit);
    program(&site, "journalctl", "");
    set_mode(site.directory.path(), 0o755);
    let id = std::fs::metadata("/var/lib/postfix").expect("Postfix is installed");
    let id = std::os::unix::fs::MetadataExt::uid(&id);
    for path in ["state", "state/lock"] {
        chown(site.path(path), Some(id), None).expect("the tests run as root");
    }
    site
}

/// Creates a program that prints a text.
fn program(site: &Installation, name: &str, prints: &str) {
    let prints = site.filled(prints);
    let path = site.path("bin").join(name);
    write(&path, format!("#!/bin/sh\ncat <<'END'\n{prints}END\n"));
    set_mode(&path, 0o755);
}

/// Returns the only finding, which `check` reports, too.
#[track_caller]
fn only(site: &Installation, name: &str) -> (String, String) {
    let (found, _) = site.findings();
    assert_eq!(names(&found), [name], "{found:#?}");
    let text = |key: &str| found[0][key].as_str().expect("a text").to_owned();
    (text("seen"), text("fix"))
}

#[test]
fn files_closed_to_the_services_user_are_found() {
    let mut site = site(UNIT);
    assert_eq!(names(&site.findings().0), [""; 0]);
    assert!(site.run("check", &[]).status.success());
    for path in ["people.ldif", "copyist.toml"] {
        set_mode(&site.path(path), 0o600);
        let (seen, fix) = only(&site, "file-unreadable");
        assert!(seen.contains("is closed to the user postfix"), "{seen}");
        let check = site.run("check", &[]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(check.status.code(), Some(1), "{said}");
        assert!(said.contains("FAILED service"), "{said}");
        assert!(site.follow(&fix), "{fix}");
        assert_eq!(names(&site.findings().0), [""; 0]);
        assert!(site.run("check", &[]).status.success());
    }
    set_mode(site.directory.path(), 0o700);
    let (found, _) = site.findings();
    assert_eq!(names(&found), ["file-unreadable"; 2], "{found:#?}");
    assert!(site.follow(found[0]["fix"].as_str().expect("a text")));
    assert_eq!(names(&site.findings().0), [""; 0]);
    chown(site.path("state/lock"), Some(0), None).expect("the tests run as root");
    let (seen, fix) = only(&site, "state-dir");
    assert!(seen.contains("belongs to user root"), "{seen}");
    assert!(site.follow(&fix), "{fix}");
    assert_eq!(names(&site.findings().0), [""; 0]);
}

#[test]
fn paths_hidden_or_read_only_in_the_unit_are_found() {
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
        let site = site(&changed(UNIT, from, to));
        let (seen, fix) = only(&site, name);
        assert!(seen.contains(&site.filled(wanted)), "{seen}");
        let remedy = match name {
            "file-unreadable" => "/etc/copyist/people.ldif, and set directory.urls",
            _ => "ReadWritePaths=DIR/state\\n",
        };
        assert!(fix.contains(&site.filled(remedy)), "{fix}");
    }
    let site = site(&changed(UNIT, "--config DIR", "--config /nowhere"));
    set_mode(&site.path("people.ldif"), 0o600);
    let (found, _) = site.findings();
    assert_eq!(
        names(&found),
        ["file-unreadable"],
        "by the owner of state_dir: {found:#?}"
    );
}

#[test]
fn a_failed_unit_is_shown_with_its_last_error() {
    let failed = changed(UNIT, "ActiveState=active", "ActiveState=failed");
    let mut site = site(&changed(&failed, "Result=success", "Result=exit-code"));
    let error = "copyist: cannot listen on inet:127.0.0.1:1: Permission denied\n";
    program(&site, "journalctl", error);
    site.config = site.config.replace(&site.filled("HOOK"), "1");
    site.main = site.main.replace(&site.filled("HOOK"), "1");
    site.save();
    let (seen, fix) = only(&site, "not-running");
    assert!(
        seen.contains(&format!("the unit is failed (exit-code): {}", error.trim())),
        "{seen}"
    );
    assert!(fix.starts_with("journalctl -u copyist -p err"), "{fix}");
}

#[test]
fn a_socket_for_a_chrooted_smtpd_is_one_for_all_services() {
    // cleanup(8) is not chrooted and connects, too.
    let mut site = Installation::milter();
    site.plant(Config("inet:127.0.0.1:HOOK", "unix:DIR/milter.sock"));
    site.plant(Main("smtpd_milters = unix:DIR/milter.sock"));
    site.plant(Master("smtp inet n - n", "smtp inet n - y"));
    std::fs::create_dir(site.path("bin")).expect("made");
    program(&site, "systemctl", "");
    let (_, fix) = only(&site, "socket-outside-chroot");
    let (line, command) = fix.split_once(" in [hook.milter], and: ").expect("both");
    let path = std::env::var("PATH").expect("it has one");
    let path = format!("{}:{path}", site.path("bin").display());
    run(Command::new("sh").args(["-c", command]).env("PATH", path));
    site.age();
    site.config = with_line(&site.config, line, "hook.milter");
    write(&site.path("copyist.toml"), &site.config);
    let (seen, _) = only(&site, "not-running");
    assert!(seen.contains("spool/copyist/milter.sock"), "{seen}");
    let _socket = UnixListener::bind(site.path("spool/copyist/milter.sock")).expect("a socket");
    assert_eq!(names(&site.findings().0), [""; 0]);
    // A list without Copyist gets the same path.
    site.plant(Main("smtpd_milters ="));
    let (found, _) = site.findings();
    let fix = found[0]["fix"].as_str().expect("a text");
    assert!(fix.contains("unix:copyist/milter.sock"), "{found:#?}");
}
