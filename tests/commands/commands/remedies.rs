//! Errors name the key, mode or port, and a command that fixes the problem.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use super::lab::{
    Copyist, DirectoryServer, OUTSIDE, Site, Slapd, need, run, set_mode, user, write,
};
use super::text;

const CONFIG: &str = "\
[organization]
domains = [\"corp.example\"]
[directory]
urls = [\"ldif:people.ldif\"]
[inbound]
journal_attribute = \"journal\"
journal_ndr = \"ndr@corp.example\"
[relay]
host = \"127.0.0.1:1\"
[admin]
listen = \"off\"
[hook.milter]
listen = [\"inet:127.0.0.1:PORT\"]
";

fn install(config: &str) -> Copyist {
    let copyist = Copyist::install(config);
    let people = "dn: cn=dan\nmail: dan@corp.example\njournal: journal@corp.example\n";
    write(&copyist.config_file().with_file_name("people.ldif"), people);
    copyist
}

#[test]
fn a_key_that_stands_twice_is_named_with_both_lines() {
    let twice = CONFIG.replace("host =", "port = 25\nhost = \"a\"\nhost =");
    let said = text(&install(&twice.replace("PORT", "1")).command(&["check"]));
    // The state directory is in the first line.
    let part = "copyist.toml:12:1: duplicate key host, first set in line 11; remove one";
    assert!(said.contains(part), "{said}");
    let twice = CONFIG.to_owned() + "[relay]\ntls = \"none\"\n";
    let said = text(&install(&twice.replace("PORT", "1")).command(&["check"]));
    let part = "duplicate key relay, first set in line 9;";
    assert!(said.contains(part), "{said}");
}

/// Runs `copyist check` as a user other than root.
fn check_as_postfix(copyist: &Copyist) -> Output {
    let mut command = Command::new(need("setpriv", "util-linux"));
    command.args(["--reuid=postfix", "--regid=postfix", "--clear-groups"]);
    command.arg(env!("CARGO_BIN_EXE_copyist"));
    command
        .args(["check", "--config"])
        .arg(copyist.config_file());
    command.output().expect("it was found")
}

#[test]
fn an_unreadable_file_is_reported_with_the_fix() {
    let copyist = install(&CONFIG.replace("PORT", "1"));
    let file = copyist.config_file();
    let people = file.with_file_name("people.ldif");
    let directory = file.parent().expect("it has one");
    set_mode(directory, 0o700);
    set_mode(&file, 0o600);
    set_mode(&people, 0o600);
    // The directory is closed as well: the outermost is reported first.
    for closed in [directory, &file, &people] {
        let said = text(&check_as_postfix(&copyist));
        let mode = closed.metadata().expect("it is there").mode() & 0o777;
        let part = format!(
            "{} has mode {mode:04o}, and this process runs as postfix",
            closed.display()
        );
        assert!(said.contains(&part), "{part:?} is missing in {said}");
        let (_, fix) = said.split_once("run as root: ").expect("a command");
        let fix = fix.lines().next().expect("a line");
        run(Command::new("sh").args(["-c", fix]));
    }
    let checked = check_as_postfix(&copyist);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[test]
fn a_failed_start_reports_the_fix_and_a_severity() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let copyist = install(&CONFIG.replace("PORT", &port));
    let said = copyist.refusal();
    let part = format!("find the process that listens there, as root: ss -ltnp 'sport = :{port}'");
    assert!(
        said.contains(&part) && said.contains("\ncopyist: cannot listen"),
        "{said}"
    );
    // With the journal as standard error, as under systemd.
    let path = copyist.config_file().with_file_name("journal");
    let journal = File::create(&path).expect("made");
    let found = journal.metadata().expect("it is there");
    for (name, start) in [
        (
            format!("{}:{}", found.dev(), found.ino()),
            "<3>copyist: cannot listen",
        ),
        (format!("{}:1", found.dev()), "copyist: cannot listen"),
    ] {
        let mut start_it = Command::new(env!("CARGO_BIN_EXE_copyist"));
        start_it
            .arg("run")
            .arg("--config")
            .arg(copyist.config_file());
        start_it
            .env("JOURNAL_STREAM", name)
            .env("COPYIST_LOG", "off");
        start_it.stderr(journal.try_clone().expect("open"));
        assert!(!start_it.status().expect("it runs").success());
        let said = std::fs::read_to_string(&path).expect("written");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with(start), "{said}");
    }
    let socket = CONFIG.replace("inet:127.0.0.1:PORT", "unix:/nowhere/milter.sock");
    let said = install(&socket).refusal();
    assert!(said.contains("; create the directory /nowhere"), "{said}");
}

#[test]
fn the_exit_status_of_explain_is_the_outcome_of_the_message() {
    let mut site = Site::<Slapd>::start("5m");
    let client = OUTSIDE.to_string();
    let status = |site: &Site<Slapd>, to: &str| {
        let asked = [
            "explain",
            "--from",
            "a@elsewhere.test",
            "--to",
            to,
            "--client",
            &client,
        ];
        site.copyist.command(&asked).status.code()
    };
    assert_eq!(status(&site, &user(3)), Some(0), "it is journaled");
    assert_eq!(status(&site, &user(4)), Some(3), "nothing is journaled");
    assert_eq!(
        status(&site, "journal-3@archive.test"),
        Some(5),
        "a guarded mailbox"
    );
    assert_eq!(status(&site, "\"a"), Some(2), "a wrong question");
    site.directory.stop();
    assert_eq!(status(&site, &user(3)), Some(4), "deferred");
}
