//! Whose mailbox an address is: whatever a real Postfix makes of it, Copyist makes of it, too.
//!
//! Each spelling goes through a Postfix that is set as Debian sets it, with Copyist as its milter,
//! before its queue and behind it. What Postfix hands on says who the mail was delivered to, and so
//! who must have a report.

use crate::lab;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lab::{
    Client, Copyist, DOMAIN, DirectoryServer, INSIDE, OUTSIDE, PATIENCE, Postfix, PostfixOptions,
    Report, SmtpSink, free_port, message, user, wait,
};

/// Journaled to `journal-3@archive.test`.
const DAN: usize = 3;
/// Journaled to `journal-6@archive.test`; her login name is `u00006`, which is no address of hers.
const EMMA: usize = 6;
/// A journal mailbox that an attribute of somebody names.
const JOURNAL: usize = 9;
/// Journaled to nobody.
const EVE: usize = 5;

on_both_directories! {
    every_spelling_is_read_as_postfix_reads_it_by_the_milter,
    every_spelling_is_read_as_postfix_reads_it_before_the_queue,
    every_spelling_is_read_as_postfix_reads_it_behind_the_queue,
    every_spelling_is_read_as_a_postfix_at_its_defaults_reads_it,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Milter,
    BeforeQueue,
    BehindQueue,
}

/// How Postfix is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setup {
    /// As Debian's package writes it: our domain is local, with address extensions.
    Debian,
    /// At its defaults: our domain is one of virtual mailboxes, and only login names are local.
    Defaults,
}

impl Setup {
    fn lines(self, sink: u16) -> Vec<String> {
        let transport = format!("smtp:[127.0.0.1]:{sink}");
        let inline = |all: Vec<String>| {
            let pairs: Vec<String> = all.iter().map(|name| format!("{name}={name}")).collect();
            format!("inline:{{ {} }}", pairs.join(", "))
        };
        let logins = (0..12).map(|n| format!("u{n:05}")).collect();
        match self {
            Setup::Debian => vec![
                format!("mydestination = $myhostname, {DOMAIN}, localhost.{DOMAIN}, , localhost"),
                "recipient_delimiter = +".to_owned(),
                format!("local_recipient_maps = {}", inline(known())),
                // What local(8) would deliver goes to the sink, as it was resolved.
                format!("local_transport = {transport}"),
            ],
            Setup::Defaults => {
                let mailboxes = known().into_iter().filter(|name| name != "u00006");
                let mailboxes = mailboxes.map(|name| format!("{name}@{DOMAIN}")).collect();
                vec![
                    format!("mydestination = $myhostname, localhost.{DOMAIN}, localhost"),
                    "myorigin = $myhostname".to_owned(),
                    format!("virtual_mailbox_domains = {DOMAIN}"),
                    format!("virtual_mailbox_maps = {}", inline(mailboxes)),
                    format!("virtual_transport = {transport}"),
                    format!("local_recipient_maps = {}", inline(logins)),
                    format!("local_transport = {transport}"),
                ]
            }
        }
    }

    /// The `[organization]` settings that `doctor` proposes for it.
    fn organization(self) -> String {
        match self {
            Setup::Debian => format!(
                "local_domains = [\"{DOMAIN}\", \"mx.{DOMAIN}\", \"localhost.{DOMAIN}\", \"[192.0.2.1]\"]\n"
            ),
            Setup::Defaults => format!(
                "local_domains = [\"mx.{DOMAIN}\", \"localhost.{DOMAIN}\", \"[192.0.2.1]\"]\ndefault_domain = \"mx.{DOMAIN}\"\n"
            ),
        }
    }

    fn delimiter(self) -> &'static str {
        match self {
            Setup::Debian => "recipient_delimiter = \"+\"\n",
            Setup::Defaults => "",
        }
    }

    /// Whose mailbox an address is that Postfix delivers itself.
    fn owner(self, address: &str) -> Option<usize> {
        let (local, domain) = address.rsplit_once('@')?;
        let domain = domain.trim_end_matches('.');
        let is_ours = domain == DOMAIN;
        let names = [
            format!("mx.{DOMAIN}"),
            format!("localhost.{DOMAIN}"),
            "localhost".to_owned(),
            "[127.0.0.1]".to_owned(),
            "[192.0.2.1]".to_owned(),
        ];
        let is_local = names.iter().any(|name| name == domain);
        let known = match self {
            Setup::Debian => is_ours || is_local,
            Setup::Defaults => {
                is_ours && local != "u00006"
                    || is_local && local.starts_with('u') && !local.starts_with("user")
            }
        };
        let is_extended = self == Setup::Defaults && local.contains('+');
        person(address).filter(|_| known && !is_extended)
    }
}

/// A directory, Copyist and Postfix. Dropped from the top: who asks before who answers.
struct Site<D> {
    postfix: Postfix,
    copyist: Copyist,
    mail: SmtpSink,
    relay: SmtpSink,
    submission: SocketAddr,
    _directory: D,
}

impl<D: DirectoryServer> Site<D> {
    fn start(place: Place, setup: Setup) -> Site<D> {
        let directory = D::start(12);
        directory.modify(&format!(
            "dn: {}\nchangetype: modify\nreplace: mail\nmail: emma.fox@{DOMAIN}\n-\n\
             replace: userPrincipalName\nuserPrincipalName: emma.fox@{DOMAIN}\n-\n\
             replace: proxyAddresses\nproxyAddresses: SMTP:emma.fox@{DOMAIN}\n",
            directory.user_dn(EMMA)
        ));
        directory.set_journal(JOURNAL, None);
        directory.set_journal(0, Some(&user(JOURNAL)));
        let (mail, relay) = (SmtpSink::start_keeping(), SmtpSink::start_keeping());
        let (ours, again) = (free_port(), free_port());
        let mut extra = setup.lines(mail.address().port());
        extra.extend([
            "proxy_interfaces = 192.0.2.1".to_owned(),
            "smtputf8_enable = yes".to_owned(),
            "smtpd_authorized_xclient_hosts = 127.0.0.0/8".to_owned(),
            "mynetworks = 127.0.0.0/8 198.51.100.7".to_owned(),
        ]);
        let mut services = String::new();
        let milter = (place == Place::Milter).then(|| format!("inet:127.0.0.1:{ours}"));
        if place == Place::BehindQueue {
            extra.extend([
                format!("content_filter = smtp:[127.0.0.1]:{ours}"),
                "smtp_send_xforward_command = yes".to_owned(),
            ]);
            services = format!(
                "127.0.0.1:{again} inet n - n - - smtpd\n  -o content_filter=\n  -o smtpd_authorized_xforward_hosts=127.0.0.0/8"
            );
        }
        let postfix = Postfix::start_with(
            &PostfixOptions {
                milter,
                deliver_to: mail.address(),
                extra,
            },
            &services,
        );
        let (hook, submission) = match place {
            Place::Milter => (
                format!("[hook.milter]\nlisten = [\"inet:127.0.0.1:{ours}\"]\n"),
                postfix.smtp_addr(),
            ),
            Place::BeforeQueue => (
                format!(
                    "[hook.milter]\nlisten = []\n[[hook.smtp]]\nlisten = \"127.0.0.1:{ours}\"\nnext_hop = \"{}\"\n",
                    postfix.smtp_addr()
                ),
                SocketAddr::from(([127, 0, 0, 1], ours)),
            ),
            Place::BehindQueue => (
                format!(
                    "[hook.milter]\nlisten = []\n[[hook.smtp]]\nlisten = \"127.0.0.1:{ours}\"\nmode = \"after-queue\"\nnext_hop = \"127.0.0.1:{again}\"\n"
                ),
                postfix.smtp_addr(),
            ),
        };
        let sides = ["inbound", "outbound", "internal"].map(|side| {
            format!("[{side}]\njournal_attribute = \"extensionAttribute10\"\njournal_ndr = \"ndr@{DOMAIN}\"\n")
        });
        let copyist = Copyist::start(&format!(
            "[organization]\ndomains = [\"{DOMAIN}\"]\ntrusted_networks = [\"127.0.0.2/32\"]\n\
             {}\
             journal_mailboxes = [\"{}\"]\n\
             [directory]\n{}{}timeout = \"10s\"\n{}{hook}\
             [relay]\nhost = \"{}\"\ntls = \"none\"\n[admin]\nlisten = \"off\"\n",
            setup.organization(),
            user(JOURNAL),
            directory.settings(),
            setup.delimiter(),
            sides.concat(),
            relay.address(),
        ));
        Site {
            postfix,
            copyist,
            mail,
            relay,
            submission,
            _directory: directory,
        }
    }

    /// The reply to RCPT, and to the message if it came to that.
    fn send(
        &self,
        from: IpAddr,
        login: Option<&str>,
        sender: &str,
        to: &str,
        id: &str,
    ) -> (u16, String) {
        let mut client = Client::connect_from(from, self.submission);
        if let Some(login) = login {
            let reply = client.say(&format!("XCLIENT ADDR=198.51.100.7 LOGIN={login}"));
            assert!(reply.code < 400, "{reply:?}");
            client.say("EHLO client.test");
        }
        let utf8 = if to.is_ascii() && sender.is_ascii() {
            ""
        } else {
            " SMTPUTF8"
        };
        for command in [
            format!("MAIL FROM:<{sender}>{utf8}"),
            format!("RCPT TO:<{to}>"),
            "DATA".to_owned(),
        ] {
            let reply = client.say(&command);
            if reply.code >= 400 {
                return (reply.code, reply.text);
            }
        }
        let reply = client.content(&message(id, "x"));
        (reply.code, reply.text)
    }

    /// The addresses that each message was delivered to, by its Message-ID.
    fn deliveries(&self, count: usize) -> BTreeMap<String, Vec<String>> {
        // Behind a queue a rejection waits in the queue for another attempt.
        wait("the end of all deliveries", PATIENCE, || {
            self.mail.count() + self.postfix.deferred() == count
        });
        let all = self.mail.messages().into_iter().map(|text| {
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: "));
            let to = text.lines().filter_map(|line| {
                let args = line.strip_prefix("X-Rcpt-Args: ")?;
                Some(args.split_once('<')?.1.split_once('>')?.0.to_lowercase())
            });
            (id.unwrap_or_default().to_owned(), to.collect())
        });
        all.collect()
    }

    /// The journal addresses that each message has reports at.
    fn reports(&self) -> BTreeMap<String, BTreeSet<String>> {
        wait("an empty queue", PATIENCE, || self.copyist.queued() == 0);
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for text in self.relay.messages() {
            let report = Report::read(&text);
            all.entry(report.about.clone())
                .or_default()
                .extend(report.recipients);
        }
        all
    }
}

/// The local parts that Postfix delivers to.
fn known() -> Vec<String> {
    let mut all: Vec<String> = (0..12)
        .flat_map(|n| [format!("u{n:05}"), format!("user.{n}")])
        .collect();
    all.push("emma.fox".to_owned());
    all
}

/// Returns the person behind a delivered address, by the mailbox that Postfix delivered to.
fn person(delivered: &str) -> Option<usize> {
    let local = delivered.split('@').next()?.trim_matches('"');
    let local = local.split('+').next()?;
    if local == "emma.fox" {
        return Some(EMMA);
    }
    let number = local.strip_prefix("user.").or(local.strip_prefix('u'))?;
    number.parse().ok()
}

/// Ways to write a mailbox with these two local parts at our domain.
fn spellings(short: &str, long: &str) -> Vec<String> {
    let d = DOMAIN;
    let upper = d.to_uppercase();
    let mut all: Vec<String> = Vec::new();
    for local in [
        short.to_owned(),
        short.to_uppercase(),
        long.to_owned(),
        long.to_uppercase(),
    ] {
        for domain in [
            d.to_owned(),
            upper.clone(),
            "Example.tEST".to_owned(),
            format!("{d}."),
            format!("mx.{d}"),
            format!("MX.{upper}"),
            format!("localhost.{d}"),
            "localhost".to_owned(),
            "LocalHost".to_owned(),
            "localhost.".to_owned(),
            "[127.0.0.1]".to_owned(),
            "[192.0.2.1]".to_owned(),
        ] {
            all.push(format!("{local}@{domain}"));
        }
        for form in [
            format!("\"{local}\"@{d}"),
            format!("\"{local}\"@localhost"),
            format!("{local}+x@{d}"),
            format!("{local}+x+y@{d}"),
            format!("{local}+@{d}"),
            format!("{local}+x@localhost"),
            format!("{local}+x@[192.0.2.1]"),
            format!("{local}%{d}@{d}"),
            format!("{local}%{d}@localhost"),
            format!("{local}%localhost@{d}"),
            format!("{local}%{d}%localhost@mx.{d}"),
            format!("{local}%{d}"),
            format!("{d}!{local}"),
            format!("{d}!{local}@{d}"),
            format!("localhost!{local}@mx.{d}"),
            format!("localhost!{d}!{local}"),
            format!("{local}@{d}@{d}"),
            format!("\"{local}@{d}\"@{d}"),
            format!("\"{local}@{d}\"@localhost"),
            format!("\"{local}%{d}\"@{d}"),
            format!("\"{local}@{d}\""),
            format!("@relay.test:{local}@{d}"),
            format!("@a.test,@b.test:{local}@localhost"),
            format!("@localhost:{local}@{d}"),
            format!("@{d}:{local}%{d}@{d}"),
            local.clone(),
            format!("{local}@"),
            format!(" {local}@{d}"),
            format!("{local}@{d} "),
            format!("{local} @{d}"),
            format!("(x){local}@{d}"),
            format!("{local}(x)@{d}"),
            format!("{local}@{d}(x)"),
            format!("{local}@(x){d}"),
            format!("<{local}@{d}>"),
        ] {
            all.push(form);
        }
    }
    for local in [short, long] {
        let (start, end) = local.split_at(local.len() - 1);
        for form in [
            format!("{start}\\{end}@{d}"),
            format!("\"{start}\\{end}\"@{d}"),
            format!("\"{start}\"{end}@{d}"),
            format!("{start}\"{end}\"@{d}"),
            format!("{local}@else.test"),
            format!("{local}%else.test@{d}"),
            format!("else.test!{local}@{d}"),
            format!("prvs=0123456789={local}@{d}"),
            format!("SRS0=AAAA=BB=else.test={local}@{d}"),
            format!("x{local}@{d}"),
            format!("{local}x@{d}"),
            format!("{local}-x@{d}"),
            format!("{local}@sub.{d}"),
            format!("{local}@[198.51.100.99]"),
            format!("{local}@{d}.test"),
        ] {
            all.push(form);
        }
    }
    all
}

fn every_spelling_is_read_as_postfix_reads_it_by_the_milter<D: DirectoryServer>() {
    read_alike::<D>(Place::Milter, Setup::Debian);
}

fn every_spelling_is_read_as_postfix_reads_it_before_the_queue<D: DirectoryServer>() {
    read_alike::<D>(Place::BeforeQueue, Setup::Debian);
}

fn every_spelling_is_read_as_postfix_reads_it_behind_the_queue<D: DirectoryServer>() {
    read_alike::<D>(Place::BehindQueue, Setup::Debian);
}

fn every_spelling_is_read_as_a_postfix_at_its_defaults_reads_it<D: DirectoryServer>() {
    read_alike::<D>(Place::Milter, Setup::Defaults);
    read_alike::<D>(Place::BeforeQueue, Setup::Defaults);
}

/// One message of the table: who must have a report of it is told by where it was delivered, or by
/// who sent it.
struct SentMessage {
    id: String,
    what: String,
    sender: Option<usize>,
}

fn read_alike<D: DirectoryServer>(place: Place, setup: Setup) {
    let site = Site::<D>::start(place, setup);
    let mut sent = Vec::new();
    let mut faults: Vec<String> = Vec::new();
    let mut number = 0;
    let mut next = || {
        number += 1;
        format!("<identity-{number}@elsewhere.test>")
    };
    // A person, a person with a login name, and somebody whom nobody may cut off.
    for (short, long) in [
        (user(DAN), format!("user.{DAN}")),
        ("u00006@".to_owned(), "emma.fox".to_owned()),
        (user(EVE), format!("user.{EVE}")),
    ] {
        let short = short.split('@').next().unwrap_or_default();
        for to in spellings(short, &long) {
            let id = next();
            let (code, text) = site.send(OUTSIDE, None, "a@elsewhere.test", &to, &id);
            if code == 250 {
                sent.push(SentMessage {
                    id,
                    what: format!("to {to}"),
                    sender: None,
                });
            } else if text.contains("5.1.1")
                && text.contains("User unknown")
                && !text.contains(" in ")
            {
                faults.push(format!("{to} was rejected by the guard: {code} {text}"));
            }
        }
    }
    let recipients = sent.len();
    // The journal mailbox, from outside.
    let journal = user(JOURNAL);
    let short = journal.split('@').next().unwrap_or_default();
    let mut guarded = 0;
    for to in spellings(short, &format!("user.{JOURNAL}")) {
        let id = next();
        let (code, text) = site.send(OUTSIDE, None, "a@elsewhere.test", &to, &id);
        match code {
            250 => sent.push(SentMessage {
                id,
                what: format!("to the journal by {to}"),
                sender: None,
            }),
            _ => guarded += usize::from(text.contains("User unknown")),
        }
    }
    // A sender, and a login.
    let senders = match place {
        Place::Milter | Place::BeforeQueue => vec![
            None,
            Some("u00003"),
            Some("EXAMPLE\\u00003"),
            Some("U00003@EXAMPLE"),
        ],
        Place::BehindQueue => vec![None],
    };
    for login in senders {
        let spelled = match login {
            None => spellings("u00003", "user.3"),
            Some(_) => [
                "a@elsewhere.test",
                "",
                "noreply@example.test",
                "u00003@localhost",
            ]
            .map(str::to_owned)
            .into(),
        };
        for from in spelled {
            let id = next();
            let client = if login.is_some() { OUTSIDE } else { INSIDE };
            let (code, text) = site.send(client, login, &from, "buyer@customer.test", &id);
            assert!(
                login.is_none() || code == 250,
                "{login:?} as {from}: {code} {text}"
            );
            if code == 250 {
                // Who a reverse path is, Postfix tells by what it makes of it.
                let sender = login.map(|_| DAN);
                sent.push(SentMessage {
                    id,
                    what: format!("from {from} ({login:?})"),
                    sender,
                });
            }
        }
    }
    let deliveries = site.deliveries(sent.len());
    let reports = site.reports();
    let senders = site.senders();
    for one in &sent {
        let to = deliveries.get(&one.id).cloned().unwrap_or_default();
        let people: Vec<usize> = to
            .iter()
            .filter_map(|address| setup.owner(address))
            .collect();
        if people.contains(&JOURNAL) {
            faults.push(format!("{} reached {to:?}", one.what));
        }
        let is_from = one.what.starts_with("from");
        let author = one
            .sender
            .or_else(|| setup.owner(senders.get(&one.id)?))
            .filter(|_| is_from);
        let wanted: BTreeSet<String> = people
            .iter()
            .chain(&author)
            .filter(|number| [DAN, EMMA].contains(*number))
            .map(|number| format!("journal-{number}@archive.test"))
            .collect();
        let got = reports.get(&one.id).cloned().unwrap_or_default();
        // What Postfix leaves as it is in a reverse path, the next server may read.
        let may_be_dan = is_from && may_be_read_as_dan(&one.what);
        if got != wanted && !(may_be_dan && got.len() == 1 && wanted.is_empty()) {
            faults.push(format!(
                "{} was delivered to {to:?} and has reports at {got:?}",
                one.what
            ));
        }
    }
    println!(
        "{place:?}: {recipients} recipients and {} other messages taken, {guarded} rejected by the guard",
        sent.len() - recipients
    );
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    // Behind the queue the rejected ones wait in it.
    let guarded = guarded + site.postfix.queue_length();
    assert!(recipients > 200 && guarded > 50, "{recipients}, {guarded}");
}

/// Whether a reverse path that Postfix does not rewrite names user 3 by a route or a tag.
fn may_be_read_as_dan(what: &str) -> bool {
    let what = what.to_lowercase();
    let others = [
        "else.test",
        "xu00003",
        "xuser.3",
        "3x@",
        "3-x@",
        "@sub.",
        "198.51.100.99",
        ".test.test",
    ];
    (what.contains("u00003") || what.contains("user.3"))
        && (what.matches('@').count() > 1
            || ["%", "!", "prvs="].iter().any(|sign| what.contains(sign)))
        && !others.iter().any(|other| what.contains(other))
}

impl<D: DirectoryServer> Site<D> {
    /// The reverse path of each message as Postfix handed it on.
    fn senders(&self) -> BTreeMap<String, String> {
        let all = self.mail.messages().into_iter().map(|text| {
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: "));
            let from = text.lines().find_map(|line| {
                let args = line.strip_prefix("X-Mail-Args: ")?;
                Some(args.split_once('<')?.1.split_once('>')?.0.to_lowercase())
            });
            (id.unwrap_or_default().to_owned(), from.unwrap_or_default())
        });
        all.collect()
    }
}
