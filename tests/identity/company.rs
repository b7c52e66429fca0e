//! A whole company: whatever Postfix makes of an address by aliases, canonical maps, groups and
//! forwarding, those have a copy whose mail it is, and nobody else.
//!
//! Company, maps and mail are made at random. Postfix delivers; an independent program,
//! `company/judge.py`, reads its log and the directory and says who must have a copy of what. It
//! shares nothing with the library.

use crate::lab;
mod generated;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use generated::{Company, DOMAINS, From, LOCAL, MAIN, Mail, Size};
use lab::{
    Chance, Client, Copyist, DirectoryServer, INSIDE, OUTSIDE, PATIENCE, Postfix, PostfixOptions,
    Report, SendOutcome, Slapd, SmtpSink, free_port, need, wait,
};

/// Clients that send at a time.
const CLIENTS: usize = 4;

/// The postmaster's maps, in files that Postfix and Copyist read.
struct Maps {
    directory: tempfile::TempDir,
}

impl Maps {
    fn new(company: &Company, slapd: &Slapd) -> Maps {
        let maps = Maps {
            directory: lab::open_directory(),
        };
        lab::write(&maps.path("main.cf"), "compatibility_level = 3.6\n");
        lab::write(&maps.path("master.cf"), "");
        for (name, text) in [
            ("aliases", &company.aliases),
            ("from_directory", &company.from_directory),
            ("sender_canonical", &company.sender_canonical),
            ("recipient_canonical", &company.recipient_canonical),
            ("canonical", &company.canonical),
            ("local_aliases", &company.local_aliases),
        ] {
            lab::write(&maps.path(name), text);
            let program = match name {
                "local_aliases" => "postalias",
                _ => "postmap",
            };
            lab::run(
                Command::new(need(program, "postfix"))
                    .arg("-c")
                    .arg(maps.directory.path())
                    .arg(maps.name(name)),
            );
        }
        let access = slapd.access();
        lab::write(
            &maps.path("groups.cf"),
            format!(
                "version = 3\nserver_host = {}\nsearch_base = {}\nbind = yes\nbind_dn = {}\nbind_pw = {}\ntimeout = 30\n\
                 domain = {MAIN}\nquery_filter = (&(|(mail=%s)(proxyAddresses=smtp:%s))\
                 (|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)))\n\
                 result_attribute =\nleaf_result_attribute = mail\nspecial_result_attribute = member, uniqueMember\n",
                slapd.url(),
                slapd.base(),
                access.bind_dn.expect("an account"),
                access.password,
            ),
        );
        maps
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As main.cf names it.
    fn name(&self, name: &str) -> String {
        format!("hash:{}", self.path(name).display())
    }
}

/// Everything that takes part. Dropped from the top: who asks before who answers.
struct Site {
    postfix: Postfix,
    copyist: Copyist,
    relay: SmtpSink,
    _maps: Maps,
    _slapd: Slapd,
}

impl Site {
    fn start(company: &Company) -> Site {
        let slapd = Slapd::start_with(0, |_| None);
        slapd.show_everything();
        slapd.modify(&company.ldif);
        let maps = Maps::new(company, &slapd);
        let relay = SmtpSink::start_keeping();
        let milter = format!("inet:127.0.0.1:{}", free_port());
        let sides = ["inbound", "outbound", "internal"].map(|side| {
            let mut name = side.to_owned();
            name[..1].make_ascii_uppercase();
            format!(
                "[{side}]\njournal = \"all-{side}@archive.test\"\njournal_attribute = \"copyist{name}Journal\"\n\
                 journal_ndr = \"ndr@{MAIN}\"\n"
            )
        });
        // postmap(1) reads Postfix's settings, of which this machine may have none.
        let settings_of_postfix = maps.directory.path().display().to_string();
        let environment = vec![("MAIL_CONFIG".to_owned(), settings_of_postfix)];
        let copyist = Copyist::start_in(
            environment,
            &format!(
                "[organization]\ndomains = {DOMAINS:?}\nsame_domains = [[\"{MAIN}\", \"sister.test\"]]\n\
             local_domains = [\"{LOCAL}\", \"localhost\"]\ntrusted_networks = [\"127.0.0.2/32\"]\n\
             [organization.address_maps]\nvirtual_alias_maps = [{:?}]\nalias_maps = [{:?}]\n\
             sender_canonical_maps = [{:?}]\nrecipient_canonical_maps = [{:?}]\ncanonical_maps = [{:?}]\n\
             [directory]\n{}recipient_delimiter = \"+\"\ntimeout = \"10s\"\ngroup_limit = 1000\n\
             journal_exempt_attribute = \"extensionAttribute11\"\nfallback_journal = \"fallback@archive.test\"\n\
             {}[hook.milter]\nlisten = [\"{milter}\"]\n[relay]\nhost = \"{}\"\ntls = \"none\"\n[admin]\nlisten = \"off\"\n",
                maps.name("aliases"),
                maps.name("local_aliases"),
                maps.name("sender_canonical"),
                maps.name("recipient_canonical"),
                maps.name("canonical"),
                slapd.settings(),
                sides.concat(),
                relay.address(),
            ),
        );
        let list = |setting: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| maps.name(name)).collect();
            format!("{setting} = {}", names.join(", "))
        };
        let extra = vec![
            format!("myorigin = {MAIN}"),
            format!("mydestination = {LOCAL}, localhost"),
            "recipient_delimiter = +".to_owned(),
            "local_recipient_maps =".to_owned(),
            "smtpd_reject_unlisted_recipient = no".to_owned(),
            "smtpd_authorized_xclient_hosts = 127.0.0.0/8".to_owned(),
            "mailbox_size_limit = 0".to_owned(),
            // Nobody is there to have it: the log says who would.
            "relayhost =".to_owned(),
            "default_transport = discard:".to_owned(),
            "mailbox_transport = discard:".to_owned(),
            "virtual_alias_expansion_limit = 1000000".to_owned(),
            format!(
                "{}, ldap:{}",
                list("virtual_alias_maps", &["aliases", "from_directory"]),
                maps.path("groups.cf").display()
            ),
            list("sender_canonical_maps", &["sender_canonical"]),
            list("recipient_canonical_maps", &["recipient_canonical"]),
            list("canonical_maps", &["canonical"]),
            list("alias_maps", &["local_aliases"]),
        ];
        let postfix = Postfix::start_with(
            &PostfixOptions {
                milter: Some(milter),
                deliver_to: SocketAddr::from(([127, 0, 0, 1], 9)),
                extra,
            },
            "local unix - n n - - local\ndiscard unix - - n - - discard",
        );
        Site {
            postfix,
            copyist,
            relay,
            _maps: maps,
            _slapd: slapd,
        }
    }

    /// Sends a message; gives its queue ID.
    fn send(&self, id: &str, mail: &Mail) -> String {
        let from = match mail.from {
            From::Inside => INSIDE,
            From::Outside | From::Login(_) => OUTSIDE,
        };
        // The first mail to a large group waits until the group is read.
        for _ in 0..20 {
            let mut client = Client::connect_from(from, self.postfix.smtp_addr());
            // Postfix writes tens of thousands of recipients into its queue before it answers.
            client.set_patience(PATIENCE * 5);
            if let From::Login(login) = &mail.from {
                let reply = client.say(&format!("XCLIENT ADDR=127.0.0.1 LOGIN={login}"));
                assert!(reply.code < 400, "{reply:?}");
                client.say("EHLO client.test");
            }
            let recipients: Vec<&str> = mail.recipients.iter().map(String::as_str).collect();
            let content = format!(
                "From: <{}>\r\nTo: undisclosed-recipients:;\r\nSubject: {id}\r\nMessage-ID: {id}\r\n\r\nx\r\n",
                mail.author
            );
            let reply = match client.try_message(&mail.sender, &recipients, &content) {
                SendOutcome::Answered(reply) => reply,
                lost => panic!("{id} {mail:?}: {lost:?}\n{}", tail(&self.postfix.log())),
            };
            if reply.code == 250 {
                let (_, queue_id) = reply.text.rsplit_once(' ').expect("a queue ID");
                return queue_id.to_owned();
            }
            assert!(
                reply.code == 451
                    && mail
                        .recipients
                        .iter()
                        .any(|to| to.starts_with("everybody@")),
                "{id} {mail:?}: {reply:?}\n{}",
                self.copyist.log()
            );
        }
        panic!("{id} {mail:?} is never taken\n{}", self.copyist.log());
    }

    /// Sends everything, in any order; gives the queue IDs.
    fn send_all(&self, all: &[Mail]) -> Vec<String> {
        let next = AtomicUsize::new(0);
        let mut sent: Vec<(usize, String)> = std::thread::scope(|scope| {
            let clients = (0..CLIENTS).map(|_| {
                scope.spawn(|| {
                    let mut sent = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let Some(mail) = all.get(n) else { return sent };
                        sent.push((n, self.send(&id(n), mail)));
                    }
                })
            });
            let clients: Vec<_> = clients.collect();
            let sent = clients
                .into_iter()
                .map(|client| client.join().expect("it sends"));
            sent.flatten().collect()
        });
        sent.sort_unstable();
        sent.into_iter().map(|(_, queue_id)| queue_id).collect()
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn id(n: usize) -> String {
    format!("<{n}@company.test>")
}

/// The journal addresses of each message, with the people because of whom.
type Copies = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Has the independent program say who must have a copy of what.
fn judged(company: &Company, queue_ids: &[String], log: &str) -> Copies {
    let mail = company.mail.iter().zip(queue_ids).enumerate();
    let mail: Vec<serde_json::Value> = mail
        .map(|(n, (mail, queue_id))| {
            let (client, login) = match &mail.from {
                From::Outside => ("outside", ""),
                From::Inside => ("inside", ""),
                From::Login(login) => ("login", login.as_str()),
            };
            serde_json::json!({
                "id": id(n), "queue_id": queue_id, "client": client, "login": login, "sender": mail.sender,
                "author": mail.author, "recipients": mail.recipients,
            })
        })
        .collect();
    let given = serde_json::json!({
        "ldif": company.ldif, "log": log, "mail": mail, "domains": DOMAINS, "local": [LOCAL, "localhost"],
        "default": MAIN, "same": [MAIN, "sister.test"], "delimiter": "+",
    });
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/identity/company/judge.py");
    let mut judge = Command::new(need("python3", "python3"))
        .arg("-I")
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = judge.stdin.take().expect("it was piped");
    let writing = std::thread::spawn(move || input.write_all(given.to_string().as_bytes()));
    let output = judge.wait_with_output().expect("it is ours");
    writing.join().expect("it writes").expect("it reads it all");
    assert!(output.status.success(), "the judge fails");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        said["wrong"],
        serde_json::json!([]),
        "the log is not as it should be"
    );
    serde_json::from_value(said["copies"].clone()).expect("copies")
}

/// The reports that Copyist made of a message.
#[derive(Default)]
struct JournaledMessage {
    journals: BTreeSet<String>,
    /// Members of groups that its reports name, each with the group and the journal addresses of
    /// the report.
    expanded: Vec<(String, String, Vec<String>)>,
}

fn made_copies(relay: &SmtpSink) -> BTreeMap<String, JournaledMessage> {
    let mut all: BTreeMap<String, JournaledMessage> = BTreeMap::new();
    for text in relay.messages() {
        let report = Report::read(&text);
        assert!(report.is_whole, "{text}");
        let made = all.entry(report.about.clone()).or_default();
        for line in ["To", "Cc", "Bcc", "Recipient"] {
            for value in report.field(line) {
                if let Some((member, group)) = value.split_once(", Expanded: ") {
                    let (member, group) = (member.to_lowercase(), group.to_lowercase());
                    made.expanded
                        .push((member, group, report.recipients.clone()));
                }
            }
        }
        for journal in report.recipients {
            assert!(
                made.journals.insert(journal.clone()),
                "{} has two copies of {}",
                journal,
                report.about
            );
        }
    }
    all
}

#[test]
fn exactly_the_people_concerned_have_a_copy() {
    let messages = lab::setting("COPYIST_PROOF_COMPANY", 600);
    let size = Size {
        messages,
        everybody: lab::setting(
            "COPYIST_PROOF_EVERYBODY",
            if messages < 5000 { 5000 } else { 50_000 },
        ),
    };
    let chance = Chance::from_environment();
    let begun = Instant::now();
    let company = Company::new(chance, &size);
    let site = Site::start(&company);
    let started = begun.elapsed();
    let queue_ids = site.send_all(&company.mail);
    let sent = begun.elapsed();
    let patience = PATIENCE + Duration::from_millis(100) * u32::try_from(messages).expect("small");
    wait("an empty queue of Postfix", patience, || {
        site.postfix.queue_length() == 0
    });
    wait("an empty queue of Copyist", patience, || {
        site.copyist.queued() == 0
    });
    let delivered = begun.elapsed();
    let expected = judged(&company, &queue_ids, &site.postfix.log());
    let made = made_copies(&site.relay);
    let mut faults = Vec::new();
    let (mut copies, mut by_person, mut members) = (0, 0, 0);
    let nothing = JournaledMessage::default();
    for (n, mail) in company.mail.iter().enumerate() {
        let (expected, made) = (&expected[&id(n)], made.get(&id(n)).unwrap_or(&nothing));
        copies += made.journals.len();
        by_person += expected
            .values()
            .filter(|people| !people.is_empty())
            .count();
        members += made.expanded.len();
        let wanted: BTreeSet<String> = expected.keys().cloned().collect();
        let missing: Vec<_> = expected
            .iter()
            .filter(|(journal, _)| !made.journals.contains(*journal))
            .collect();
        let extra: Vec<_> = made.journals.difference(&wanted).collect();
        // A membership may be hidden: those alone are named because of whom a report is made.
        let strangers: Vec<_> = made
            .expanded
            .iter()
            .filter(|(member, _, journals)| {
                let is_reason = |journal| {
                    let people: Option<&BTreeSet<String>> = expected.get(journal);
                    people.is_some_and(|people| people.contains(member))
                };
                !journals.iter().any(is_reason)
            })
            .collect();
        if !(missing.is_empty() && extra.is_empty() && strangers.is_empty()) {
            faults.push(format!(
                "{} {mail:?}\n  missing {missing:?}\n  extra {extra:?}\n  named without a reason {strangers:?}\n  delivered to {}",
                id(n),
                delivered_to(&site.postfix.log(), &queue_ids[n]),
            ));
        }
    }
    println!(
        "{} messages: {copies} copies, {by_person} of them because of people; {members} members of groups named; \
         up after {started:?}, sent after {sent:?}, delivered after {delivered:?}, judged after {:?}",
        company.mail.len(),
        begun.elapsed()
    );
    assert!(
        faults.is_empty(),
        "{} of {} messages have other copies than they must:\n{}",
        faults.len(),
        company.mail.len(),
        faults[..faults.len().min(12)].join("\n")
    );
    assert!(by_person > messages / 2 && members > messages / 20);
}

/// The log's lines about a message's recipients, short, for whoever looks for a fault.
fn delivered_to(log: &str, queue_id: &str) -> String {
    let needle = format!(": {queue_id}: to=<");
    let lines = log.lines().filter_map(|line| {
        let (_, to) = line.split_once(&needle)?;
        let how = to.split_once("status=").map_or("", |(_, how)| how);
        Some(format!("<{} {how}", to.split(", relay").next()?))
    });
    lines.take(30).collect::<Vec<_>>().join("; ")
}
