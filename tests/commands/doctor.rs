//! `copyist doctor` on real Postfix configurations: correct ones have no findings; with each
//! planted problem it finds exactly that one, and its fix works when run as printed.
//!
//! Postfix's own postconf(1) reads the files. The machine's own mail system is not used.

use crate::lab;
mod service;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use lab::{
    Certificates, DirectoryServer, Postfix, PostfixOptions, Slapd, SmtpSink, need, set_mode, write,
};
use serde_json::Value;
use tempfile::TempDir;

use Plant::{Config, Main, Master, Mode};

/// The main.cf of every Postfix here.
const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = DIR/spool
myhostname = mx.corp.example
mydestination = $myhostname, localhost
virtual_mailbox_domains = corp.example
inet_interfaces = all
mynetworks = 127.0.0.0/8 [::1]/128 10.0.0.0/8
message_size_limit = 50000000
mailbox_size_limit = 0
recipient_delimiter = +
alias_maps =
mail_owner = USER
";

const MILTER_MAIN: &str = "\
smtpd_milters = inet:127.0.0.1:HOOK
non_smtpd_milters = $smtpd_milters
milter_default_action = tempfail
";

const SERVICES: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
smtp unix - - n - - smtp
virtual unix - n n - - virtual
";

const MILTER_MASTER: &str = "\
smtp inet n - n - - smtpd
submission inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=yes
";

const BEFORE_MASTER: &str = "\
smtp inet n - n - 20 smtpd
  -o smtpd_proxy_filter=127.0.0.1:HOOK
127.0.0.1:10026 inet n - n - - smtpd
  -o smtpd_proxy_filter=
  -o smtpd_authorized_xforward_hosts=127.0.0.0/8
";

const AFTER_MAIN: &str = "\
content_filter = copyist:[127.0.0.1]:HOOK
";

const AFTER_MASTER: &str = "\
smtp inet n - n - - smtpd
copyist unix - - n - 20 smtp
  -o smtp_send_xforward_command=yes
  -o disable_mime_output_conversion=yes
127.0.0.1:10026 inet n - n - - smtpd
  -o content_filter=
  -o receive_override_options=no_unknown_recipient_checks,no_header_body_checks
  -o smtpd_authorized_xforward_hosts=127.0.0.0/8
";

const COPYIST: &str = "\
state_dir = \"DIR/state\"
[organization]
domains = [\"corp.example\"]
local_domains = [\"mx.corp.example\"]
default_domain = \"mx.corp.example\"
trusted_networks = [\"127.0.0.0/8\", \"::1/128\", \"10.0.0.0/8\"]
gateways = [\"10.0.0.25\"]
hostname = \"copyist.corp.example\"
[directory]
urls = \"ldif:people.ldif\"
recipient_delimiter = \"+\"
[inbound]
journal_attribute = \"extensionAttribute10\"
journal_ndr = \"ndr@corp.example\"
[outbound]
journal_attribute = \"extensionAttribute10\"
journal_ndr = \"ndr@corp.example\"
[relay]
host = \"192.0.2.1:25\"
[spool]
min_free = \"1MiB\"
min_free_inodes = 1
[admin]
listen = \"off\"
";

const MILTER: &str = "[hook.milter]\nlisten = [\"inet:127.0.0.1:HOOK\"]\n";

const DOOR: &str = "[[hook.smtp]]\nlisten = \"127.0.0.1:HOOK\"\nnext_hop = \"127.0.0.1:10026\"\n";

/// A change to a correct configuration.
#[derive(Clone, Copy)]
enum Plant {
    /// A line added to main.cf, which overrides earlier ones.
    Main(&'static str),
    /// A replacement in master.cf.
    Master(&'static str, &'static str),
    /// A replacement in copyist.toml.
    Config(&'static str, &'static str),
    /// The mode of a file or directory.
    Mode(&'static str, u32),
}

/// Configurations of Postfix and Copyist in their own directory, with a process that listens on
/// Copyist's address.
struct Installation {
    directory: TempDir,
    main: String,
    master: String,
    config: String,
    hook: TcpListener,
    _socket: UnixListener,
    /// The next hop, if `hook` is an SMTP listener.
    _milter: Option<TcpListener>,
}

/// Returns a listener and its port.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

impl Installation {
    fn new(main: &[&str], master: &[&str], config: &[&str]) -> Installation {
        let (hook, port) = listener();
        let port = port.to_string();
        // On a disk, because memory is a finding of its own, and accessible to all users, unlike a
        // home directory.
        let directory = TempDir::new_in("/var/tmp").expect("a directory");
        let path = directory.path().display().to_string();
        let socket = UnixListener::bind(directory.path().join("milter.sock")).expect("a socket");
        let user = Command::new("id").arg("-un").output().expect("coreutils");
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        let filled = |texts: &[&str]| {
            let text = texts.concat().replace("HOOK", &port);
            text.replace("DIR", &path).replace("USER", &user)
        };
        let site = Installation {
            main: filled(main),
            master: filled(master),
            config: filled(config),
            directory,
            hook,
            _socket: socket,
            _milter: None,
        };
        for directory in ["state", "spool"] {
            std::fs::create_dir(site.path(directory)).expect("made");
            set_mode(&site.path(directory), 0o700);
        }
        // This process listens instead of the service.
        let service = std::process::id().to_string();
        write(&site.path("state/lock"), service);
        write(&site.path("people.ldif"), "");
        std::fs::create_dir(site.path("plain")).expect("made");
        write(&site.path("plain/main.cf"), "compatibility_level = 3.6\n");
        write(&site.path("aliases"), "sales: dan\n");
        write(&site.path("mailname"), "corp.example\n");
        write(&site.path("mine"), "mine.example x\n");
        let aliases = "alias.example x\nsales@alias.example dan@corp.example\narchive@alias.example journal@corp.example\nemma.fox dan\n";
        write(&site.path("virtual"), aliases);
        site.save();
        site
    }

    fn milter() -> Installation {
        Installation::new(
            &[MAIN, MILTER_MAIN],
            &[MILTER_MASTER, SERVICES],
            &[COPYIST, MILTER],
        )
    }

    /// sendmail(1) bypasses the proxy, so Copyist is also its milter.
    fn before_queue() -> Installation {
        let (milter, port) = listener();
        let main = format!("non_smtpd_milters = inet:127.0.0.1:{port}\n");
        let config = format!("[hook.milter]\nlisten = [\"inet:127.0.0.1:{port}\"]\n");
        let config = [COPYIST, &config, DOOR];
        let mut site = Installation::new(&[MAIN, &main], &[BEFORE_MASTER, SERVICES], &config);
        site._milter = Some(milter);
        site
    }

    fn after_queue() -> Installation {
        Installation::new(
            &[MAIN, AFTER_MAIN],
            &[AFTER_MASTER, SERVICES],
            &[
                COPYIST,
                "[hook.milter]\nlisten = []\n",
                DOOR,
                "mode = \"after-queue\"\n",
            ],
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn save(&self) {
        write(&self.path("main.cf"), &self.main);
        write(&self.path("master.cf"), &self.master);
        write(&self.path("copyist.toml"), &self.config);
        self.age();
    }

    /// Makes Postfix's files older than two seconds: its programs wait for newer ones to settle.
    fn age(&self) {
        for name in ["main.cf", "master.cf"] {
            let file = File::options().write(true).open(self.path(name));
            let minute = SystemTime::now() - Duration::from_secs(60);
            file.and_then(|file| file.set_modified(minute))
                .expect("it was just written");
        }
    }

    fn filled(&self, text: &str) -> String {
        let hook = self.hook.local_addr().expect("it is bound").port();
        let directory = self.directory.path().display().to_string();
        text.replace("HOOK", &hook.to_string())
            .replace("DIR", &directory)
    }

    fn plant(&mut self, plant: Plant) {
        match plant {
            Main(line) => self.main = format!("{}{}\n", self.main, self.filled(line)),
            Master(from, to) => {
                self.master = changed(&self.master, &self.filled(from), &self.filled(to));
            }
            Config(from, to) => {
                self.config = changed(&self.config, &self.filled(from), &self.filled(to));
            }
            Mode(name, mode) => return set_mode(&self.path(name), mode),
        }
        self.save();
    }

    fn doctor(&self, more: &[&str]) -> Output {
        need("postconf", "postfix");
        let directory = self.directory.path().display().to_string();
        self.run("doctor", &[&["--postfix", &directory], more].concat())
    }

    /// Runs a command of the binary with this configuration.
    fn run(&self, command: &str, more: &[&str]) -> Output {
        let name = command;
        let mut command = Command::new(env!("CARGO_BIN_EXE_copyist"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("COPYIST__") {
                command.env_remove(name);
            }
        }
        // Programs that this machine lacks, replaced by the test.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.arg(name).arg("--config");
        let command = command.arg(self.path("copyist.toml")).args(more);
        command
            .output()
            .expect("the binary was built for this test")
    }

    /// Runs a finding's fix exactly as printed; returns false if it cannot be run.
    fn follow(&mut self, fix: &str) -> bool {
        const COMMANDS: [&str; 6] = [
            "postconf ",
            "chmod ",
            "chgrp ",
            "chown ",
            "postalias ",
            "postmap ",
        ];
        if COMMANDS.iter().any(|command| fix.starts_with(command)) {
            let directory = self.directory.path();
            assert!(
                fix.contains(&directory.display().to_string()),
                "of another: {fix}"
            );
            let mut shell = Command::new("sh");
            // A command without an instance must not touch the machine's own. Some reject root as
            // the owner.
            let instance = match fix.starts_with("postconf ") {
                true => directory.to_owned(),
                false => self.path("plain"),
            };
            shell.args(["-c", fix]).env("MAIL_CONFIG", instance);
            let ran = shell.output().expect("a shell");
            assert!(ran.status.success(), "{fix}: {ran:?}");
            self.age();
            return true;
        }
        let Some((line, rest)) = fix.split_once(" in [") else {
            return false;
        };
        let Some((table, rest)) = rest.split_once(']').filter(|_| !rest.starts_with('[')) else {
            return false;
        };
        if table == "hook.milter" {
            // This needs a restart of the service.
            return false;
        }
        // A value that only the administrator knows.
        let line = line.strip_prefix("if so: ").unwrap_or(line);
        let line = &line.replace("ADDRESS", "192.168.0.25");
        self.config = with_line(&self.config, line, table);
        self.save();
        match rest.split_once("and: ") {
            Some((_, command)) => self.follow(command),
            None => true,
        }
    }

    fn findings(&self) -> (Vec<Value>, Option<i32>) {
        self.findings_of(&["--json"])
    }

    /// Returns the names of all findings with --online.
    fn online(&self) -> Vec<String> {
        let (found, _) = self.findings_of(&["--json", "--online"]);
        let name = |finding: &Value| finding["name"].as_str().expect("a text").to_owned();
        found.iter().map(name).collect()
    }

    fn findings_of(&self, arguments: &[&str]) -> (Vec<Value>, Option<i32>) {
        let output = self.doctor(arguments);
        let said: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {output:?}"));
        let mut findings = said["findings"].as_array().expect("a list").clone();
        // Depends on this machine's clock.
        findings.retain(|finding| finding["name"] != "clock-unsynchronized");
        (findings, output.status.code())
    }
}

fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in\n{text}");
    text.replacen(from, to, 1)
}

/// Returns a configuration with a line set in a table.
fn with_line(config: &str, line: &str, table: &str) -> String {
    let key = line.split(" = ").next().expect("a key");
    let header = format!("[{table}]");
    let mut lines: Vec<&str> = Vec::new();
    let (mut is_here, mut is_done) = (false, false);
    for old in config.lines() {
        if old.starts_with('[') {
            is_here = old == header;
        }
        if is_here && old.starts_with(&format!("{key} =")) {
            continue;
        }
        lines.push(old);
        if is_here && old == header {
            lines.push(line);
            is_done = true;
        }
    }
    if !is_done {
        lines.extend([header.as_str(), line]);
    }
    lines.join("\n") + "\n"
}

/// One planted problem per row: the finding, its severity, and the changes.
type Mistake = (&'static str, &'static str, &'static [Plant]);

/// Plants each problem alone in a correct configuration: exactly that is found, and its command, if
/// any, fixes it.
fn each_is_found_and_nothing_else(right: fn() -> Installation, mistakes: &[Mistake]) {
    let mut faults = Vec::new();
    for (name, severity, plants) in mistakes {
        let mut site = right();
        plants.iter().for_each(|plant| site.plant(*plant));
        let (found, status) = site.findings();
        let fine = match found.as_slice() {
            [one] => one["name"] == *name && one["severity"] == *severity,
            _ => false,
        };
        let expected = if *severity == "hint" { 0 } else { 1 };
        if !fine || status != Some(expected) {
            faults.push(format!(
                "{name} ({severity}), status {status:?}: {found:#?}"
            ));
            continue;
        }
        let fix = found[0]["fix"].as_str().expect("a text");
        if site.follow(fix) {
            let (left, status) = site.findings();
            if !left.is_empty() || status != Some(0) {
                faults.push(format!("{name}: {fix}: leaves {left:#?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_said_of_right_configurations() {
    for (kind, right) in [
        ("milter", Installation::milter as fn() -> Installation),
        ("before the queue", Installation::before_queue),
        ("behind the queue", Installation::after_queue),
    ] {
        let site = right();
        let (found, status) = site.findings();
        assert!(found.is_empty(), "{kind}: {found:#?}");
        assert_eq!(status, Some(0), "{kind}");
        let output = site.doctor(&[]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("no problems found") || said.contains("clock-unsynchronized"),
            "{said}"
        );
    }
}

#[test]
fn harmless_settings_cause_no_findings() {
    let cases: &[(&str, &[Plant])] = &[
        (
            "the listener that reports go to, with room for them",
            &[
                Config("192.0.2.1:25", "127.0.0.1:10027"),
                Main("message_size_limit = 51000000"),
                Master(
                    "submission inet n - n - - smtpd\n",
                    "127.0.0.1:10027 inet n - n - - smtpd\n  -o smtpd_milters=\nsubmission inet n - n - - smtpd\n  -o message_size_limit=50000000\n",
                ),
                Master(
                    "smtp inet n - n - - smtpd\n",
                    "smtp inet n - n - - smtpd\n  -o message_size_limit=50000000\n",
                ),
            ],
        ),
        (
            "the port that another filter comes back to",
            &[
                Main("content_filter = amavis:[127.0.0.1]:10024"),
                Master(
                    "submission inet",
                    "amavis unix - - n - 2 lmtp\n127.0.0.1:10025 inet n - n - - smtpd\n  -o content_filter=\n  -o receive_override_options=no_milters\nsubmission inet",
                ),
            ],
        ),
        (
            "postscreen in front of smtpd",
            &[Master(
                "smtp inet n - n - - smtpd\n",
                "smtp inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n",
            )],
        ),
        (
            "a service that is not there",
            &[
                Main("master_service_disable = 2525/inet"),
                Master(
                    "submission inet",
                    "2525 inet n - n - - smtpd\n  -o smtpd_milters=\nsubmission inet",
                ),
            ],
        ),
        (
            "nobody who may use sendmail(1)",
            &[
                Main("non_smtpd_milters ="),
                Main("authorized_submit_users ="),
            ],
        ),
        (
            "another milter beside Copyist, and settings of its own",
            &[Main(
                "smtpd_milters = { inet:127.0.0.1:HOOK, command_timeout = 40s }, unix:opendkim/opendkim.sock",
            )],
        ),
        (
            "another spelling of the same",
            &[Main("smtpd_milters = inet:localhost:HOOK")],
        ),
        (
            "a wider limit of Copyist's",
            &[Main("message_size_limit = 1073741824")],
        ),
    ];
    let mut faults = Vec::new();
    for (what, plants) in cases {
        let mut site = Installation::milter();
        plants.iter().for_each(|plant| site.plant(*plant));
        let (found, status) = site.findings();
        if !found.is_empty() || status != Some(0) {
            faults.push(format!("{what}: {found:#?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_route_round_the_milter_is_found() {
    each_is_found_and_nothing_else(
        Installation::milter,
        &[
            (
                "smtpd-milters-missing",
                "error",
                &[
                    Main("smtpd_milters ="),
                    Main("non_smtpd_milters = inet:127.0.0.1:HOOK"),
                ],
            ),
            (
                "smtpd-milters-missing",
                "error",
                &[
                    Main("smtpd_milters = unix:opendkim/opendkim.sock"),
                    Main("non_smtpd_milters = inet:127.0.0.1:HOOK"),
                ],
            ),
            (
                "milter-elsewhere",
                "error",
                &[
                    Main("smtpd_milters = inet:127.0.0.1:1"),
                    Main("non_smtpd_milters = inet:127.0.0.1:HOOK"),
                ],
            ),
            (
                "milter-elsewhere",
                "error",
                &[Main("non_smtpd_milters = unix:/run/copyist/other.sock")],
            ),
            (
                "non-smtpd-milters-missing",
                "error",
                &[Main("non_smtpd_milters =")],
            ),
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "  -o smtpd_sasl_auth_enable=yes\n",
                    "  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_milters=\n",
                )],
            ),
            // The list becomes empty through a parameter that it uses.
            (
                "listener-unhooked",
                "error",
                &[
                    Main("ours = inet:127.0.0.1:HOOK"),
                    Main("smtpd_milters = $ours"),
                    Master("  -o smtpd_sasl_auth_enable=yes\n", "  -o ours=\n"),
                ],
            ),
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "submission inet",
                    "2525 inet n - n - - smtpd\n  -o smtpd_milters=inet:127.0.0.1:1\nsubmission inet",
                )],
            ),
            // Local programs use SMTP, too.
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "submission inet",
                    "127.0.0.1:2525 inet n - n - - smtpd\n  -o smtpd_milters=\nsubmission inet",
                )],
            ),
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "smtp inet n - n - - smtpd\n",
                    "smtp inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n  -o smtpd_milters=\n",
                )],
            ),
            (
                "no-milters",
                "error",
                &[Master(
                    "  -o smtpd_sasl_auth_enable=yes\n",
                    "  -o receive_override_options=no_unknown_recipient_checks,no_milters\n",
                )],
            ),
            (
                "no-milters",
                "error",
                &[Master(
                    "pickup unix n - n 60 1 pickup\n",
                    "pickup unix n - n 60 1 pickup\n  -o receive_override_options=no_milters\n",
                )],
            ),
            (
                "cleanup-unhooked",
                "error",
                &[Master(
                    "cleanup unix n - n - 0 cleanup\n",
                    "cleanup unix n - n - 0 cleanup\n  -o non_smtpd_milters=\n",
                )],
            ),
            (
                "cleanup-unhooked",
                "error",
                &[Master(
                    "pickup unix n - n 60 1 pickup\n",
                    "pickup unix n - n 60 1 pickup\n  -o cleanup_service_name=plain\nplain unix n - n - 0 cleanup\n  -o non_smtpd_milters=\n",
                )],
            ),
            (
                "cleanup-unhooked",
                "error",
                &[Master(
                    "submission inet",
                    "628 inet n - n - - qmqpd\n  -o cleanup_service_name=plain\nplain unix n - n - 0 cleanup\n  -o non_smtpd_milters=\nsubmission inet",
                )],
            ),
            (
                "proxy-hides-message",
                "error",
                &[Master(
                    "smtp inet n - n - - smtpd\n",
                    "smtp inet n - n - - smtpd\n  -o smtpd_proxy_filter=127.0.0.1:10024\n",
                )],
            ),
            (
                "milter-maps",
                "warning",
                &[Main("smtpd_milter_maps = inline:{192.0.2.7=DISABLE}")],
            ),
            (
                "hooked-twice",
                "warning",
                &[
                    Main("content_filter = amavis:[127.0.0.1]:10024"),
                    Master(
                        "submission inet",
                        "amavis unix - - n - 2 lmtp\n127.0.0.1:10025 inet n - n - - smtpd\n  -o content_filter=\nsubmission inet",
                    ),
                ],
            ),
            (
                "unused-parameter",
                "warning",
                &[Main("smtpd_milter = inet:127.0.0.1:HOOK")],
            ),
        ],
    );
}

#[test]
fn each_wrong_setting_of_the_milter_is_found() {
    each_is_found_and_nothing_else(
        Installation::milter,
        &[
            (
                "milter-default-action",
                "error",
                &[Main("milter_default_action = accept")],
            ),
            (
                "milter-default-action",
                "error",
                &[Main("milter_default_action = quarantine")],
            ),
            (
                "milter-default-action",
                "error",
                &[
                    Main("smtpd_milters = { inet:127.0.0.1:HOOK, default_action = accept }"),
                    Main("non_smtpd_milters = inet:127.0.0.1:HOOK"),
                ],
            ),
            (
                "milter-default-action",
                "error",
                &[Master(
                    "  -o smtpd_sasl_auth_enable=yes\n",
                    "  -o milter_default_action=accept\n",
                )],
            ),
            (
                "milter-reject",
                "warning",
                &[Main("milter_default_action = reject")],
            ),
            ("milter-protocol", "warning", &[Main("milter_protocol = 2")]),
            (
                "milter-timeout",
                "warning",
                &[Main("milter_content_timeout = 10s")],
            ),
            (
                "milter-timeout",
                "warning",
                &[Main("milter_connect_timeout = 1s")],
            ),
            (
                "milter-timeout",
                "warning",
                &[
                    Main("milter_command_timeout = 3s"),
                    Config(
                        "urls = \"ldif:people.ldif\"",
                        "urls = \"ldap://192.0.2.1\"\nbase = \"dc=corp,dc=example\"",
                    ),
                ],
            ),
            (
                "milter-macros",
                "error",
                &[Main(
                    "milter_mail_macros = i {mail_addr} {mail_host} {mail_mailer}",
                )],
            ),
            (
                "milter-macros",
                "error",
                &[Main("milter_rcpt_macros = i {rcpt_host} {rcpt_mailer}")],
            ),
            (
                "milter-after-signer",
                "warning",
                &[
                    Main(
                        "smtpd_milters = inet:127.0.0.1:8892, unix:opendkim/opendkim.sock, inet:127.0.0.1:HOOK",
                    ),
                    Main("non_smtpd_milters = inet:127.0.0.1:HOOK"),
                    Config("[relay]", "append = { text = \"Corp\" }\n[relay]"),
                ],
            ),
            (
                "socket-outside-chroot",
                "warning",
                &[
                    Config("inet:127.0.0.1:HOOK", "unix:DIR/milter.sock"),
                    Main("smtpd_milters = unix:DIR/milter.sock"),
                    Master("smtp inet n - n", "smtp inet n - y"),
                ],
            ),
            (
                "socket-unreachable",
                "warning",
                &[
                    Config("inet:127.0.0.1:HOOK", "unix:DIR/milter.sock"),
                    Main("smtpd_milters = unix:DIR/milter.sock"),
                    Mode("milter.sock", 0o400),
                ],
            ),
            (
                "milter-connections",
                "warning",
                &[Main("default_process_limit = 600")],
            ),
        ],
    );
}

#[test]
fn differences_in_trusted_clients_and_extra_copies_are_found() {
    each_is_found_and_nothing_else(
        Installation::milter,
        &[
            (
                "mynetworks-untrusted",
                "error",
                &[Main(
                    "mynetworks = 127.0.0.0/8 [::1]/128 10.0.0.0/8 192.168.0.0/16",
                )],
            ),
            (
                "domain-unknown",
                "error",
                &[Main("relay_domains = branch.example")],
            ),
            (
                "domain-unknown",
                "error",
                &[Main("virtual_alias_domains = old.example")],
            ),
            (
                "recipient-delimiter",
                "error",
                &[Config("recipient_delimiter = \"+\"\n", "")],
            ),
            (
                "trusts-everybody",
                "error",
                &[
                    Config("\"10.0.0.0/8\"", "\"0.0.0.0/0\""),
                    Main("mynetworks = 127.0.0.0/8 [::1]/128"),
                ],
            ),
            (
                "always-bcc",
                "warning",
                &[Main("always_bcc = archive@corp.example")],
            ),
            (
                "always-bcc",
                "warning",
                &[Master(
                    "cleanup unix n - n - 0 cleanup\n",
                    "cleanup unix n - n - 0 cleanup\n  -o always_bcc=archive@corp.example\n",
                )],
            ),
            (
                "bcc-maps",
                "hint",
                &[Main("recipient_bcc_maps = hash:/etc/postfix/bcc")],
            ),
            (
                "bcc-maps",
                "hint",
                &[Main("sender_bcc_maps = hash:/etc/postfix/bcc")],
            ),
            (
                "message-size-limit",
                "warning",
                &[Main("message_size_limit = 0")],
            ),
            (
                "message-size-limit",
                "warning",
                &[Config(
                    "[admin]",
                    "[limits]\nmessage_size = \"10MiB\"\n[admin]",
                )],
            ),
            // Reports go to the port for incoming mail.
            (
                "report-size-limit",
                "warning",
                &[Config("192.0.2.1:25", "127.0.0.1:25")],
            ),
            (
                "report-size-limit",
                "warning",
                &[
                    Config("192.0.2.1:25", "127.0.0.1:10027"),
                    Master(
                        "submission inet",
                        "127.0.0.1:10027 inet n - n - - smtpd\nsubmission inet",
                    ),
                ],
            ),
            (
                "journal-mailbox-limit",
                "warning",
                &[
                    Main("mailbox_size_limit = 60000000"),
                    Main("mydestination = $myhostname, localhost, corp.example"),
                    Main("virtual_mailbox_domains ="),
                    Config(
                        "[\"mx.corp.example\"]",
                        "[\"mx.corp.example\", \"corp.example\"]",
                    ),
                    Config(
                        "[outbound]",
                        "journal = \"archive@corp.example\"\n[outbound]",
                    ),
                ],
            ),
            (
                "bounces-unhooked",
                "hint",
                &[Config(
                    "[relay]",
                    "journal = \"archive@corp.example\"\n[relay]",
                )],
            ),
            (
                "notices-hooked",
                "hint",
                &[Main("internal_mail_filter_classes = bounce, notify")],
            ),
            ("soft-bounce", "hint", &[Main("soft_bounce = yes")]),
        ],
    );
}

#[test]
fn each_mistake_around_a_listener_before_the_queue_is_found() {
    each_is_found_and_nothing_else(
        Installation::before_queue,
        &[
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "  -o smtpd_proxy_filter=127.0.0.1:HOOK\n",
                    "  -o syslog_name=postfix/in\n",
                )],
            ),
            (
                "listener-unhooked",
                "error",
                &[Master("127.0.0.1:10026 inet", "10026 inet")],
            ),
            (
                "filter-elsewhere",
                "error",
                &[Master(
                    "smtpd_proxy_filter=127.0.0.1:HOOK",
                    "smtpd_proxy_filter=127.0.0.1:1",
                )],
            ),
            (
                "filter-mode",
                "warning",
                &[Config(
                    "next_hop = \"127.0.0.1:10026\"\n",
                    "next_hop = \"127.0.0.1:10026\"\nmode = \"after-queue\"\n",
                )],
            ),
            (
                "filter-loop",
                "warning",
                &[Master(
                    "  -o smtpd_proxy_filter=\n",
                    "  -o smtpd_proxy_filter=127.0.0.1:HOOK\n",
                )],
            ),
            (
                "login-unseen",
                "error",
                &[Master(
                    "  -o smtpd_proxy_filter=127.0.0.1:HOOK\n",
                    "  -o smtpd_proxy_filter=127.0.0.1:HOOK\n  -o smtpd_sasl_auth_enable=yes\n",
                )],
            ),
            (
                "non-smtpd-milters-missing",
                "error",
                &[Main("non_smtpd_milters =")],
            ),
        ],
    );
}

#[test]
fn each_mistake_around_a_listener_behind_the_queue_is_found() {
    each_is_found_and_nothing_else(
        Installation::after_queue,
        &[
            (
                "listener-unhooked",
                "error",
                &[Master(
                    "127.0.0.1:10026 inet",
                    "submission inet n - n - - smtpd\n  -o content_filter=\n127.0.0.1:10026 inet",
                )],
            ),
            (
                "xforward-missing",
                "error",
                &[Master("  -o smtp_send_xforward_command=yes\n", "")],
            ),
            (
                "mime-conversion",
                "warning",
                &[Master("  -o disable_mime_output_conversion=yes\n", "")],
            ),
            (
                "filter-transport-missing",
                "warning",
                &[Master("copyist unix", "journal unix")],
            ),
            (
                "filter-mode",
                "warning",
                &[Config("mode = \"after-queue\"\n", "")],
            ),
            (
                "filter-loop",
                "warning",
                &[Master("  -o content_filter=\n", "")],
            ),
            (
                "hooked-twice",
                "warning",
                &[
                    Main("smtpd_milters = unix:DIR/milter.sock"),
                    Config("listen = []", "listen = [\"unix:DIR/milter.sock\"]"),
                    Master(
                        "  -o content_filter=\n",
                        "  -o content_filter=\n  -o smtpd_milters=\n",
                    ),
                ],
            ),
        ],
    );
}

#[test]
fn a_milter_port_by_default_is_to_be_written() {
    let mut site = Installation::milter();
    let port = site.hook.local_addr().expect("it is bound").port();
    site.main = site.main.replace(&format!(":{port}"), ":8891");
    site.plant(Config("listen = [\"inet:127.0.0.1:HOOK\"]\n", ""));
    let (found, _) = site.findings();
    let rest: Vec<Value> = found
        .iter()
        .filter(|one| one["name"] != "milter-port-default")
        .cloned()
        .collect();
    let [finding] = found
        .iter()
        .filter(|one| !rest.contains(one))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(finding["severity"], "warning");
    let check = site.run("check", &[]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.contains(
            "warning: hook.milter.listen is not set: add listen = [\"inet:127.0.0.1:8891\"]"
        ),
        "{check}"
    );

    let fix = finding["fix"].as_str().expect("a text");
    let line = fix.strip_suffix(" in [hook.milter]").expect(fix);
    site.config = with_line(&site.config, line, "hook.milter");
    site.save();
    assert_eq!(site.findings().0, rest, "it means what it meant before");
}

#[test]
fn another_program_in_copyist_s_place_is_named() {
    let (milter, before, other) = (
        Installation::milter(),
        Installation::before_queue(),
        SmtpSink::start(),
    );
    for mut site in [milter, before] {
        let port = site.hook.local_addr().expect("it is bound").port();
        let (old, new) = (format!(":{port}"), format!(":{}", other.address().port()));
        for text in [&mut site.main, &mut site.master, &mut site.config] {
            *text = text.replace(&old, &new);
        }
        site.save();
        let (found, status) = site.findings();
        assert_eq!((names(&found), status), (vec!["port-taken"], Some(1)));
        let seen = found[0]["seen"].as_str().expect("a text");
        assert!(seen.starts_with("smtp-sink (process "), "{seen}");
    }
}

#[test]
fn each_mistake_on_this_machine_is_found() {
    each_is_found_and_nothing_else(
        Installation::milter,
        &[
            ("state-dir", "error", &[Mode("state", 0o755)]),
            ("config-writable", "error", &[Mode("copyist.toml", 0o666)]),
            (
                "disk-space",
                "warning",
                &[Config("min_free = \"1MiB\"", "min_free = \"1000000GiB\"")],
            ),
            (
                "disk-inodes",
                "warning",
                &[Config(
                    "min_free_inodes = 1",
                    "min_free_inodes = 1000000000000",
                )],
            ),
            (
                "not-running",
                "warning",
                &[Config(
                    "listen = [\"inet:127.0.0.1:HOOK\"]",
                    "listen = [\"inet:127.0.0.1:HOOK\", \"inet:127.0.0.1:1\"]",
                )],
            ),
        ],
    );
}

#[test]
fn a_listener_certificate_is_reported_before_and_after_expiry() {
    let mut site = Installation::before_queue();
    let certificates = Certificates::make(site.directory.path());
    set_mode(&certificates.key(), 0o600);
    let next_hop = "next_hop = \"127.0.0.1:10026\"\n";
    site.plant(Config(
        next_hop,
        "next_hop = \"127.0.0.1:10026\"\ntls = \"starttls\"\ncert_file = \"leaf.pem\"\nkey_file = \"leaf.key\"\n",
    ));
    let names = || -> Vec<String> {
        let (found, _) = site.findings();
        found.iter().map(|one| one["name"].to_string()).collect()
    };
    assert_eq!(names(), ["\"certificate-expires\""], "it lasts two days");
    certificates.expire();
    assert_eq!(names(), ["\"certificate-expired\""]);
    certificates.prolong();
    assert!(names().is_empty());
}

/// A correct configuration with a real directory and a relay.
fn with_peers(slapd: &Slapd, relay: SocketAddr) -> Installation {
    let mut site = Installation::milter();
    let urls = slapd.settings();
    site.config = changed(&site.config, "urls = \"ldif:people.ldif\"\n", &urls);
    site.config = changed(&site.config, "192.0.2.1:25", &relay.to_string());
    site.save();
    site
}

#[test]
fn the_directory_is_asked_online_and_only_then() {
    let mut slapd = Slapd::start(5);
    let relay = SmtpSink::start();
    let mut site = with_peers(&slapd, relay.address());
    assert!(site.online().is_empty(), "{:?}", site.online());
    slapd.show_that_nothing_is_indexed_but("userPrincipalName,extensionAttribute10,mail");
    assert_eq!(site.online(), ["directory-index"]);
    let (found, _) = site.findings_of(&["--json", "--online"]);
    let seen = &found[0]["seen"];
    assert_eq!(seen, "has no equality index of proxyAddresses");
    slapd.show_that_nothing_is_indexed_but(
        "userPrincipalName,extensionAttribute10,mail,proxyAddresses",
    );
    assert!(site.online().is_empty());
    site.plant(Config(
        "[outbound]",
        "journal = \"cn=nobody,dc=example,dc=test\"\n[outbound]",
    ));
    assert_eq!(site.online(), ["journal-target"]);
    slapd.stop();
    assert_eq!(site.online(), ["directory-unreachable"]);
    assert!(site.findings().0.is_empty(), "nobody is asked");
}

#[test]
fn the_relay_is_probed_online_and_missing_features_named() {
    let slapd = Slapd::start(5);
    let mut relay = SmtpSink::start();
    let site = with_peers(&slapd, relay.address());
    for (options, expected) in [
        (&[][..], &[][..]),
        (&["-8"], &["relay-lacks-8bitmime"]),
        (&["-N"], &["relay-lacks-dsn"]),
        // Two journal addresses, and the NDR address of inbound and of outbound mail.
        (&["-f", "RCPT"], &["relay-refuses"; 4]),
    ] {
        relay.stop();
        relay.restart_with(options);
        assert_eq!(site.online(), expected, "{options:?}");
    }
    relay.stop();
    assert_eq!(site.online(), ["relay-unreachable"]);
}

#[test]
fn a_relay_size_limit_without_room_for_reports_is_found() {
    let slapd = Slapd::start(5);
    let sink = SmtpSink::start();
    let relay = Postfix::start(&PostfixOptions {
        milter: None,
        deliver_to: sink.address(),
        extra: vec!["message_size_limit = 50000000".into()],
    });
    let mut site = with_peers(&slapd, relay.smtp_addr());
    assert_eq!(site.online(), ["relay-size-limit"]);
    site.plant(Main("message_size_limit = 40000000"));
    assert!(site.online().is_empty(), "{:?}", site.online());
}

#[test]
fn every_finding_is_a_line_with_its_fix_and_a_final_summary() {
    let mut site = Installation::milter();
    site.plant(Main("non_smtpd_milters ="));
    site.plant(Main("soft_bounce = yes"));
    let output = site.doctor(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("error   non-smtpd-milters-missing: ")
            && lines[0].contains("main.cf non_smtpd_milters: is empty: "),
        "{said}"
    );
    assert!(lines[1].starts_with("        fix: postconf -c "), "{said}");
    assert!(said.contains("\nhint    soft-bounce: "), "{said}");
    let sum = String::from_utf8_lossy(&output.stderr);
    assert!(sum.starts_with("copyist: 1 error, "), "{sum}");
}

#[test]
fn unreadable_files_and_invalid_settings_fail_differently() {
    let mut site = Installation::milter();
    let nowhere = site.path("nowhere").display().to_string();
    let output = site.doctor(&["--postfix", &nowhere]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nowhere/main.cf"), "{said}");
    site.plant(Config("[relay]", "[relais]"));
    assert_eq!(site.doctor(&[]).status.code(), Some(2));
}

#[test]
fn a_public_report_port_must_pass_copyist() {
    let mut site = Installation::milter();
    for plant in [
        Config("192.0.2.1:25", "127.0.0.1:10027"),
        Main("message_size_limit = 51000000"),
        Master(
            "submission inet n - n - - smtpd\n",
            "10027 inet n - n - - smtpd\n  -o smtpd_milters=\nsubmission inet n - n - - smtpd\n  -o message_size_limit=50000000\n",
        ),
        Master(
            "smtp inet n - n - - smtpd\n",
            "smtp inet n - n - - smtpd\n  -o message_size_limit=50000000\n",
        ),
    ] {
        site.plant(plant);
    }
    let (found, status) = site.findings();
    let names: Vec<&Value> = found.iter().map(|finding| &finding["name"]).collect();
    assert_eq!(names, ["listener-unhooked"], "{found:#?}");
    assert_eq!(status, Some(1));
}

#[test]
fn a_small_public_port_for_reports_is_replaced() {
    let mut site = Installation::milter();
    site.plant(Config("192.0.2.1:25", "127.0.0.1:10027"));
    let port = "10027 inet n - n - - smtpd\nsubmission inet n - n - - smtpd\n";
    site.plant(Master("submission inet n - n - - smtpd\n", port));
    let (found, _) = site.findings();
    assert_eq!(names(&found), ["report-size-limit"], "{found:#?}");
    assert!(site.follow(found[0]["fix"].as_str().expect("a text")));
    let (found, status) = site.findings();
    assert_eq!((names(&found), status), (vec![], Some(0)), "{found:#?}");
}

/// Returns the names of findings.
fn names(found: &[Value]) -> Vec<&str> {
    let all = found.iter();
    all.map(|one| one["name"].as_str().expect("a text"))
        .collect()
}

#[test]
fn names_maps_and_clients_outside_identity_are_found() {
    each_is_found_and_nothing_else(
        Installation::milter,
        &[
            (
                "local-domains",
                "error",
                &[Main("mydestination = $myhostname, localhost, old.example")],
            ),
            // User names and aliases are mailboxes in a domain of the organization, too.
            (
                "local-domains",
                "error",
                &[
                    Main("mydestination = $myhostname, localhost, corp.example"),
                    Main("virtual_mailbox_domains ="),
                ],
            ),
            (
                "local-domains",
                "error",
                &[Main("mydestination = texthash:DIR/mine, localhost")],
            ),
            (
                "local-domains",
                "error",
                &[Main("inet_interfaces = 127.0.0.1, 192.0.2.7, [fd00::7]")],
            ),
            (
                "local-domains",
                "error",
                &[Main("proxy_interfaces = 192.0.2.8")],
            ),
            (
                "default-domain",
                "error",
                &[Main("myorigin = corp.example")],
            ),
            (
                "default-domain",
                "error",
                &[Main("myorigin = DIR/mailname")],
            ),
            (
                "domain-unknown",
                "error",
                &[Main("relay_domains = texthash:DIR/mine")],
            ),
            (
                "domain-unknown",
                "error",
                &[
                    Main("virtual_alias_maps = texthash:DIR/virtual"),
                    Config(
                        "[directory]",
                        "[organization.address_maps]\nvirtual_alias_maps = [\"texthash:DIR/virtual\"]\n[directory]",
                    ),
                ],
            ),
            (
                "address-maps",
                "error",
                &[Main("alias_maps = inline:{sales=dan}")],
            ),
            (
                "address-maps",
                "error",
                &[Main(
                    "virtual_alias_maps = proxy:inline:{sales@corp.example=dan@corp.example}, inline:{{a@corp.example = b@corp.example, c@corp.example}}",
                )],
            ),
            (
                "address-maps",
                "error",
                &[Main(
                    "canonical_maps = inline:{dan@corp.example=dan.fox@corp.example}",
                )],
            ),
            (
                "address-maps",
                "error",
                &[Main(
                    "sender_canonical_maps = inline:{dan@corp.example=dan.fox@corp.example}",
                )],
            ),
            (
                "address-maps",
                "error",
                &[Main(
                    "recipient_canonical_maps = inline:{dan@corp.example=dan.fox@corp.example}",
                )],
            ),
            (
                "address-maps",
                "error",
                &[Master(
                    "cleanup unix n - n - 0 cleanup\n",
                    "cleanup unix n - n - 0 cleanup\n  -o virtual_alias_maps=texthash:DIR/mine\n",
                )],
            ),
            (
                "address-maps-unused",
                "hint",
                &[Config(
                    "[directory]",
                    "[organization.address_maps]\nalias_maps = [\"inline:{a=b}\"]\n[directory]",
                )],
            ),
            (
                "address-maps-not-covered",
                "error",
                &[
                    Main("virtual_alias_maps = pcre:/etc/postfix/virtual"),
                    Main("virtual_alias_domains ="),
                ],
            ),
            (
                "domains-in-table",
                "hint",
                &[Main("relay_domains = proxy:mysql:/etc/postfix/domains.cf")],
            ),
            (
                "address-maps-not-covered",
                "error",
                &[Main(
                    "canonical_maps = proxy:mysql:/etc/postfix/canonical.cf",
                )],
            ),
            (
                "address-maps-not-covered",
                "error",
                &[Main("alias_maps = ldap:people")],
            ),
            (
                "address-maps-not-covered",
                "error",
                &[Main("masquerade_domains = corp.example")],
            ),
            (
                "address-map-unreadable",
                "error",
                &[
                    Main("alias_maps = hash:DIR/aliases"),
                    Config(
                        "[directory]",
                        "[organization.address_maps]\nalias_maps = [\"hash:DIR/aliases\"]\n[directory]",
                    ),
                ],
            ),
            (
                "mynetworks-untrusted",
                "error",
                &[Master(
                    "  -o smtpd_sasl_auth_enable=yes\n",
                    "  -o mynetworks=192.168.0.0/16\n",
                )],
            ),
            (
                "mynetworks-unread",
                "hint",
                &[Main("mynetworks = 127.0.0.0/8 cidr:/etc/postfix/networks")],
            ),
            (
                "mynetworks-unread",
                "hint",
                &[Main("mynetworks = 127.0.0.0/8 !10.0.0.1 10.0.0.0/8")],
            ),
            (
                "gateways-asked",
                "hint",
                &[
                    Config("\"10.0.0.0/8\"", "\"192.168.0.0/24\""),
                    Config("gateways = [\"10.0.0.25\"]\n", ""),
                    Main("mynetworks = 127.0.0.0/8 192.168.0.0/24"),
                ],
            ),
            // Wide, and the known gateway is elsewhere.
            (
                "gateways-asked",
                "hint",
                &[
                    Config("\"10.0.0.0/8\"", "\"192.0.0.0/8\""),
                    Main("mynetworks = 127.0.0.0/8"),
                ],
            ),
            (
                "gateway-loopback",
                "error",
                &[Config("[\"10.0.0.25\"]", "[\"10.0.0.25\", \"127.0.0.1\"]")],
            ),
            (
                "gateway-loopback",
                "error",
                &[Config("[\"10.0.0.25\"]", "[\"10.0.0.25\", \"::/0\"]")],
            ),
            (
                "certificates-untrusted",
                "warning",
                &[
                    Main("smtpd_tls_CAfile = DIR/ca.pem"),
                    Main(
                        "smtpd_relay_restrictions = permit_mynetworks permit_tls_clientcerts defer_unauth_destination",
                    ),
                ],
            ),
            (
                "certificates-untrusted",
                "warning",
                &[
                    Main("smtpd_tls_CAfile = DIR/ca.pem"),
                    Master(
                        "  -o smtpd_sasl_auth_enable=yes\n",
                        "  -o smtpd_client_restrictions=permit_tls_all_clientcerts,reject\n",
                    ),
                ],
            ),
            (
                "certificates-untrusted",
                "warning",
                &[
                    Main("smtpd_tls_CAfile = DIR/ca.pem"),
                    Main("smtpd_client_restrictions = check_ccert_access hash:/etc/postfix/ccert"),
                ],
            ),
            (
                "certificates-unverified",
                "warning",
                &[
                    Main("smtpd_client_restrictions = permit_tls_clientcerts"),
                    Config(
                        "[directory]",
                        "trusted_certificates = [\"notebook\"]\n[directory]",
                    ),
                ],
            ),
            (
                "milter-macros",
                "error",
                &[
                    Main("milter_helo_macros ="),
                    Config(
                        "[directory]",
                        "trusted_certificates = [\"notebook\"]\n[directory]",
                    ),
                ],
            ),
            (
                "logins-unknown",
                "warning",
                &[Config("[directory]", "[directory]\nlogin_attributes = []")],
            ),
            (
                "mailbox-unguarded",
                "warning",
                &[Config("ndr@corp.example", "postmaster@corp.example")],
            ),
            (
                "mailbox-unguarded",
                "warning",
                &[Config(
                    "[outbound]",
                    "journal = [\"abuse@mx.corp.example\"]\n[outbound]",
                )],
            ),
            (
                "outbound-listener-open",
                "error",
                &[
                    Config("listen = [", "outbound = ["),
                    Config("[hook.milter]", "[hook.milter]\nlisten = []"),
                    Master("smtp inet n - n - - smtpd\n", ""),
                ],
            ),
        ],
    );
}

#[test]
fn addresses_covered_by_identity_cause_no_findings() {
    let cases: &[(&str, &[Plant])] = &[
        (
            "a network of gateways alone",
            &[
                Main("mynetworks = 127.0.0.0/8 192.0.2.0/28"),
                Config("\"10.0.0.25\"", "\"192.0.2.0/28\""),
                Config(", \"10.0.0.0/8\"", ""),
            ],
        ),
        (
            "networks that nobody may relay from",
            &[
                Main("mynetworks = 127.0.0.0/8 203.0.113.0/24"),
                Main(
                    "smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination",
                ),
            ],
        ),
        (
            "aliases where nothing is delivered to local users",
            &[
                Main("mydestination ="),
                Main("alias_maps = hash:/etc/aliases"),
            ],
        ),
        (
            "Postfix's own default of alias_maps",
            &[
                Main("alias_maps = texthash:DIR/mine, nis:mail.aliases"),
                Config(
                    "[directory]",
                    "[organization.address_maps]\nalias_maps = [\"texthash:DIR/mine\"]\n[directory]",
                ),
            ],
        ),
        (
            "a map with and without proxymap",
            &[
                Main("virtual_alias_maps = proxy:texthash:DIR/mine"),
                Config(
                    "[directory]",
                    "[organization.address_maps]\nvirtual_alias_maps = [\"texthash:DIR/mine\"]\n[directory]",
                ),
                Config(
                    "domains = [\"corp.example\"]",
                    "domains = [\"corp.example\", \"mine.example\"]",
                ),
            ],
        ),
        (
            "an outbound listener where everybody has to log in",
            &[
                Config("listen = [", "outbound = ["),
                Config("[hook.milter]", "[hook.milter]\nlisten = []"),
                Master("smtp inet n - n - - smtpd\n", ""),
                Master(
                    "  -o smtpd_sasl_auth_enable=yes\n",
                    "  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n",
                ),
            ],
        ),
    ];
    let mut faults = Vec::new();
    for (what, plants) in cases {
        let mut site = Installation::milter();
        plants.iter().for_each(|plant| site.plant(*plant));
        let (found, status) = site.findings();
        if !found.is_empty() || status != Some(0) {
            faults.push(format!("{what}: {found:#?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_hook_after_rewriting_needs_only_local_delivery_maps() {
    let mut site = Installation::after_queue();
    site.plant(Main("virtual_alias_domains ="));
    site.plant(Main("virtual_alias_maps = pcre:/etc/postfix/virtual"));
    site.plant(Main("masquerade_domains = corp.example"));
    let (found, _) = site.findings();
    assert!(found.is_empty(), "{found:#?}");
    site.plant(Main("alias_maps = inline:{sales=dan}"));
    assert_eq!(names(&site.findings().0), ["address-maps"]);
    site.plant(Main("alias_maps ="));
    site.plant(Main("receive_override_options = no_address_mappings"));
    let (found, _) = site.findings();
    assert_eq!(
        names(&found),
        ["address-maps-not-covered", "address-maps-not-covered"]
    );
}

/// Debian's configuration for an Internet site, with typical additions.
const DEBIAN: &str = "\
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
compatibility_level = 3.6
queue_directory = DIR/spool
mail_owner = USER
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated permit_tls_clientcerts defer_unauth_destination
myhostname = mx1.corp.example
alias_maps = hash:DIR/aliases
alias_database = hash:DIR/aliases
myorigin = DIR/mailname
mydestination = $myhostname, old.example, mx1, localhost.corp.example, , localhost
relayhost =
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128 192.168.0.0/16
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = all
message_size_limit = 50000000
virtual_alias_maps = texthash:DIR/virtual, proxy:inline:{a@corp.example=b@corp.example}
virtual_mailbox_domains = corp.example, texthash:DIR/mine
sender_canonical_maps = inline:{dan@corp.example=dan.fox@corp.example}
proxy_interfaces = 192.0.2.8
smtpd_sasl_auth_enable = yes
smtpd_tls_CAfile = DIR/ca.pem
";

#[test]
fn a_default_debian_site_is_covered_after_the_advised_fixes() {
    let config = COPYIST
        .replace("local_domains = [\"mx.corp.example\"]\n", "")
        .replace("default_domain = \"mx.corp.example\"\n", "")
        .replace("gateways = [\"10.0.0.25\"]\n", "")
        .replace(", \"10.0.0.0/8\"", "")
        .replace("recipient_delimiter = \"+\"\n", "login_attributes = []\n")
        .replace("domains = [", "domains = [\"head.example\", ")
        .replace("ndr@", "postmaster@")
        .replace("[inbound]", "[inbound]\njournal = \"journal@corp.example\"");
    let mut site = Installation::new(
        &[DEBIAN, MILTER_MAIN],
        &[MILTER_MASTER, SERVICES],
        &[&config, MILTER],
    );
    let (first, status) = site.findings();
    assert_eq!(status, Some(1));
    for name in [
        "local-domains",
        "default-domain",
        "domain-unknown",
        "recipient-delimiter",
        "address-maps",
        "mynetworks-untrusted",
        "certificates-untrusted",
        "logins-unknown",
        "mailbox-unguarded",
    ] {
        assert!(names(&first).contains(&name), "{name}: {first:#?}");
    }
    // One fix at a time, as an administrator does.
    for round in 0.. {
        let (found, status) = site.findings();
        let Some(first) = found.first() else {
            assert_eq!(status, Some(0));
            break;
        };
        assert!(round < 40, "there is no end: {found:#?}");
        let fix = first["fix"].as_str().expect("a text");
        assert!(site.follow(fix), "nothing to do: {first:#?}");
    }
    let wanted = [
        "local_domains = [\"mx1.corp.example\", \"old.example\", \"mx1\", \"localhost.corp.example\", \"[192.0.2.8]\"]",
        "default_domain = \"corp.example\"",
        "domains = [\"head.example\", \"corp.example\", \"alias.example\", \"mine.example\"]",
        "alias_maps = [\"hash:DIR/aliases\"]",
        "virtual_alias_maps = [\"texthash:DIR/virtual\", \"inline:{a@corp.example=b@corp.example}\"]",
        "trusted_networks = [\"127.0.0.0/8\", \"::1/128\", \"192.168.0.0/16\"]",
        "gateways = [\"192.168.0.25\"]",
    ];
    for line in wanted {
        let line = site.filled(line);
        assert!(site.config.contains(&line), "{line}:\n{}", site.config);
    }
    let dan = "dn: uid=dan,dc=corp\nuid: dan\nmail: dan@corp.example\nextensionAttribute10: journal@corp.example\n";
    write(&site.path("people.ldif"), dan);
    // The guard rejects external mail, also from the gateway and with a forged sender.
    for client in ["203.0.113.9", "192.168.0.25"] {
        for sender in ["x@elsewhere.example", "dan@corp.example", "<>"] {
            let mut asked = vec!["--json", "--client", client, "--from", sender, "--to"];
            let recipients = [
                "journal",
                "journal@mx1",
                "journal@[192.0.2.8]",
                "journal+x@corp.example",
                "archive@alias.example",
            ];
            asked.extend(recipients);
            let said = site.run("explain", &asked);
            let said: Value = serde_json::from_slice(&said.stdout)
                .unwrap_or_else(|error| panic!("no JSON ({error}): {said:?}"));
            let all = said["recipients"].as_array().expect("a list");
            assert_eq!(all.len(), recipients.len());
            let is_guarded = |one: &Value| one["guard"] == "guarded";
            assert!(all.iter().all(is_guarded), "{asked:?}: {said:#}");
        }
    }
}

/// Serves these metrics.
fn metrics(said: &'static str) -> SocketAddr {
    use std::io::{Read, Write};
    let (listener, port) = listener();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 1000];
            let read = stream.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET /metrics "));
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{said}").expect("it reads");
        }
    });
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn senders_that_the_service_does_not_know_are_a_finding() {
    let slapd = Slapd::start(5);
    let relay = SmtpSink::start();
    let mut site = with_peers(&slapd, relay.address());
    let admin = metrics("x 3\ncopyist_messages_unidentified_total 0\n").to_string();
    site.config = changed(
        &site.config,
        "listen = \"off\"",
        &format!("listen = \"{admin}\""),
    );
    site.save();
    assert!(site.online().is_empty(), "{:?}", site.online());
    let other = metrics("x 3\ncopyist_messages_unidentified_total 2\n").to_string();
    site.config = changed(&site.config, &admin, &other);
    site.save();
    assert_eq!(site.online(), ["senders-unidentified"]);
    // The server is gone.
    site.config = changed(&site.config, &other, "127.0.0.1:1");
    site.save();
    assert!(site.online().is_empty(), "{:?}", site.online());
}

#[test]
fn open_and_unknown_journal_mailboxes_are_found_online() {
    let slapd = Slapd::start_with(5, |user| {
        Some(match user {
            1 => lab::user(3),
            _ => "journal@archive.test".into(),
        })
    });
    let relay = SmtpSink::start();
    let mut site = with_peers(&slapd, relay.address());
    let (found, status) = site.findings_of(&["--json", "--online"]);
    assert_eq!(names(&found), ["journal-mailbox-unguarded"], "{found:#?}");
    assert_eq!(status, Some(0));
    let seen = found[0]["seen"].as_str().expect("a text");
    assert!(
        seen.contains(&slapd.user_dn(3)) && seen.contains("extensionAttribute10"),
        "{seen}"
    );
    assert!(site.follow(found[0]["fix"].as_str().expect("a text")));
    assert!(site.online().is_empty(), "{:?}", site.online());
    slapd.limit_long_answers(2);
    let (found, _) = site.findings_of(&["--json", "--online"]);
    let incomplete = found.iter().find(|one| one["name"] == "guard-incomplete");
    let fix = incomplete.unwrap_or_else(|| panic!("{found:#?}"))["fix"].as_str();
    let wanted = "olcLimits: dn.exact=\"cn=agent,dc=example,dc=test\" size.prtotal=unlimited";
    assert!(fix.expect("a text").contains(wanted), "{fix:?}");
}

#[test]
fn journal_values_that_lead_nowhere_good_are_found_online() {
    let relay = SmtpSink::start();
    let found = |value: fn(usize) -> String, plants: &[Plant]| {
        let slapd = Slapd::start_with(5, |user| Some(value(user)));
        let mut site = with_peers(&slapd, relay.address());
        plants.iter().for_each(|plant| site.plant(*plant));
        let (found, _) = site.findings_of(&["--json", "--online"]);
        found
    };
    let journal = |_| "journal@archive.test".to_owned();
    let bad = found(|_| "the journal".into(), &[]);
    assert_eq!(names(&bad), ["journal-value"], "{bad:#?}");
    let seen = bad[0]["seen"].as_str().expect("a text");
    assert!(seen.contains("extensionAttribute10 of "), "{seen}");
    assert!(seen.contains("\"the journal\""), "{seen}");
    let same = found(|_| "ndr@corp.example".into(), &[]);
    assert_eq!(names(&same), ["ndr-to-journal"; 2], "{same:#?}");
    let nobody = "[directory]\naddress_attributes = [\"mailAlternateAddress\"]";
    let nobody = found(journal, &[Config("[directory]", nobody)]);
    assert!(names(&nobody).contains(&"people-missing"), "{nobody:#?}");
    let person = format!("journal_ndr = \"{}\"", lab::user(3));
    let person = Config("journal_ndr = \"ndr@corp.example\"", person.leak());
    let closed = found(journal, &[person]);
    assert_eq!(names(&closed), ["person-closed"], "{closed:#?}");
}

#[test]
fn an_invalid_map_is_found_online() {
    let slapd = Slapd::start(5);
    let relay = SmtpSink::start();
    let mut site = with_peers(&slapd, relay.address());
    write(&site.path("aliases.db"), "no database");
    site.plant(Main("alias_maps = hash:DIR/aliases"));
    site.plant(Config(
        "[directory]",
        "[organization.address_maps]\nalias_maps = [\"hash:DIR/aliases\"]\n[directory]",
    ));
    assert!(site.findings().0.is_empty());
    assert_eq!(site.online(), ["address-map-unreadable"]);
    std::fs::remove_file(site.path("aliases.db")).expect("it is there");
    assert_eq!(site.online(), ["address-map-unreadable"]);
}
