//! The cost of journaling, beside the BCC maps used for it today; how fast a long queue drains; the
//! cost of the idle service.
//!
//! Everything must come through; the figures are printed and not judged: `cargo test --test proofs
//! -- --nocapture`. `tests/proof/speed` runs the long form with the optimized binary. It sets
//! these: `MESSAGES` in a round, `ROUNDS`, `WAITING` (items of the queue to drain), `IDLE` (seconds
//! to look at), `MIMEDEFANG` (with that beside it, and texts).

use crate::lab;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use copyist::journal::{Item, ItemId, Kind};
use copyist::mail::{Address, BodyKind, Content};
use copyist::policy::Direction;
use copyist::spool::{Settings, Spool, Submission};
use lab::{
    Copyist, DirectoryServer, Log, Postfix, PostfixOptions, Program, Slapd, SmtpSink, every_third,
    free_port, setting, smtp_source, user,
};

/// Connections of the load at a time.
const SESSIONS: usize = 20;
/// Bytes of a message's body.
const SIZE: usize = 10_240;
/// Until a round has come through.
const PATIENCE: Duration = Duration::from_secs(600);

/// A Postfix before a sink, and how it makes copies.
struct Way {
    name: &'static str,
    postfix: Postfix,
    sink: SmtpSink,
    /// Whether those who are journaled are.
    copies: bool,
    rates: Vec<f64>,
    copyist: Option<Copyist>,
    /// Other programs that it needs.
    _others: Vec<Program>,
}

/// The text that MIMEDefang and Copyist append when they are compared.
const TEXT: &str = "This message is kept by Example Ltd. for ten years.";

impl Way {
    /// Nobody makes copies.
    fn plain() -> Way {
        Way::build("Postfix alone", SmtpSink::start(), None, Vec::new())
    }

    /// BCC maps: each recipient is looked up in the directory, and gets a second recipient.
    fn bcc_maps(directory: &Slapd, file: &std::path::Path) -> Way {
        let access = directory.access();
        let map = format!(
            "server_host = {}\nsearch_base = {}\nversion = 3\nbind = yes\nbind_dn = {}\nbind_pw = {}\n\
             query_filter = (mail=%s)\nresult_attribute = extensionAttribute10\n",
            access.url,
            directory.base(),
            access.bind_dn.expect("the lab's servers have an account"),
            access.password
        );
        lab::write(file, map);
        lab::set_mode(file, 0o644);
        let sink = SmtpSink::start();
        let maps = format!("recipient_bcc_maps = ldap:{}", file.display());
        let extra = vec![maps, apart(&sink)];
        let way = Way::build("Postfix with LDAP BCC maps", sink, None, extra);
        Way {
            copies: true,
            ..way
        }
    }

    /// A filter in Perl that adds recipients and a text. It has all journal addresses in a table,
    /// and asks nobody.
    fn mimedefang(files: &std::path::Path) -> Way {
        let (rules, filter, spool) = (
            files.join("rules"),
            files.join("filter"),
            files.join("spool"),
        );
        let journaled = (0..1000).filter_map(|number| Some((number, every_third(number)?)));
        let table: String = journaled
            .map(|(number, to)| format!("'{}' => '{to}',\n", user(number)))
            .collect();
        let text = format!(
            "my %journal = (\n{table});\nsub filter_end {{\n    my ($entity) = @_;\n    append_text_boilerplate($entity, '{TEXT}', 0);\n    \
             foreach my $to (@Recipients) {{\n        (my $key = lc $to) =~ s/^<|>$//g;\n        \
             add_recipient($journal{{$key}}) if $journal{{$key}};\n    }}\n}}\n1;\n"
        );
        lab::write(&rules, text);
        lab::set_mode(&rules, 0o644);
        let program = format!(
            "#!/bin/sh\nexec mimedefang.pl -f {} \"$@\"\n",
            rules.display()
        );
        lab::write(&filter, program);
        lab::set_mode(&filter, 0o755);
        std::fs::create_dir(&spool).expect("it is new");
        let mut owner = Command::new("chown");
        lab::run(owner.arg("defang:defang").arg(&spool));
        let tool = |name: &str| {
            let mut command = Command::new(lab::need(name, "mimedefang"));
            command.args(["-D", "-U", "defang", "-z"]).arg(&spool);
            command
        };
        let (port, socket) = (free_port(), spool.join("workers"));
        let mut workers = tool("mimedefang-multiplexor");
        workers.args(["-m", "20", "-x", "20", "-w", "0", "-q", "50", "-f"]);
        workers.arg(&filter).arg("-s").arg(&socket);
        let mut milter = tool("mimedefang");
        milter.args(["-q", "-X", "-p", &format!("inet:{port}@127.0.0.1"), "-m"]);
        milter.arg(&socket);
        let workers = Program::start("mimedefang-multiplexor", &mut workers, &Log::default());
        lab::wait("its socket is there", PATIENCE, || socket.exists());
        let milter = Program::start("mimedefang", &mut milter, &Log::default());
        lab::wait_for_listener(port);
        let sink = SmtpSink::start();
        let extra = vec![apart(&sink)];
        let milter_at = Some(format!("inet:127.0.0.1:{port}"));
        let way = Way::build(
            "Postfix with MIMEDefang, copies and text",
            sink,
            milter_at,
            extra,
        );
        Way {
            copies: true,
            _others: vec![milter, workers],
            ..way
        }
    }

    /// A Postfix that hands everything to Copyist, which puts a text under each message or none.
    fn copyist(directory: &Slapd, text: Option<&str>) -> Way {
        let sink = SmtpSink::start();
        let milter = format!("inet:127.0.0.1:{}", free_port());
        let config = config(
            &format!("[directory]\n{}", directory.settings()),
            &milter,
            sink.address(),
            "off",
        );
        let (name, config) = match text {
            None => ("Postfix with Copyist, reports", config),
            Some(text) => (
                "Postfix with Copyist, reports and text",
                config.replace(
                    "[inbound]\n",
                    &format!("[inbound]\nappend = {{ text = \"{text}\" }}\n"),
                ),
            ),
        };
        let copyist = Copyist::start(&config);
        let way = Way::build(name, sink, Some(milter), Vec::new());
        Way {
            copies: true,
            copyist: Some(copyist),
            ..way
        }
    }

    fn build(
        name: &'static str,
        sink: SmtpSink,
        milter: Option<String>,
        extra: Vec<String>,
    ) -> Way {
        let postfix = Postfix::start(&PostfixOptions {
            milter,
            deliver_to: sink.address(),
            extra,
        });
        Way {
            name,
            postfix,
            sink,
            copies: false,
            rates: Vec::new(),
            copyist: None,
            _others: Vec::new(),
        }
    }

    /// A third of the messages goes to somebody who is journaled. Counted until the last copy is
    /// with the sink.
    fn play(&mut self, messages: usize) {
        let each = messages / 3;
        let copies = if self.copies { each } else { 0 };
        let all = self.sink.count() + 3 * each + copies;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..3 {
                let server = self.postfix.smtp_addr();
                scope.spawn(move || load(server, each, (SESSIONS + number) / 3, &user(number)));
            }
        });
        self.sink.wait_for(all, PATIENCE);
        self.rates
            .push(3.0 * each as f64 / begun.elapsed().as_secs_f64());
        lab::wait("the queue is empty", PATIENCE, || {
            self.postfix.queue_length() == 0
                && self.copyist.as_ref().is_none_or(|it| it.queued() == 0)
        });
    }
}

/// An archive is another server than the mailboxes. Named otherwise it is one, and gets a
/// transaction of its own.
fn apart(sink: &SmtpSink) -> String {
    format!(
        "transport_maps = inline:{{ archive.test=smtp:[localhost]:{} }}",
        sink.address().port()
    )
}

fn load(server: SocketAddr, messages: usize, sessions: usize, to: &str) {
    let (messages, sessions) = (messages.to_string(), sessions.to_string());
    let size = SIZE.to_string();
    let arguments = [
        "-s",
        &sessions,
        "-m",
        &messages,
        "-l",
        &size,
        "-f",
        "a@elsewhere.test",
        "-t",
        to,
    ];
    let load = smtp_source(server, &arguments);
    assert!(load.output.status.success(), "{:?}", load.output);
}

fn config(directory: &str, milter: &str, relay: SocketAddr, admin: &str) -> String {
    format!(
        "[organization]\ndomains = [\"example.test\"]\ntrusted_networks = []\n{directory}\n\
         [inbound]\njournal_attribute = \"extensionAttribute10\"\njournal_ndr = \"ndr@example.test\"\n\
         [hook.milter]\nlisten = [\"{milter}\"]\n[relay]\nhost = \"{relay}\"\ntls = \"none\"\nconnections = {}\n\
         [admin]\nlisten = \"{admin}\"\n",
        setting("CONNECTIONS", 8)
    )
}

fn median(rates: &[f64]) -> f64 {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
fn postfix_is_measured_alone_with_bcc_maps_and_with_copyist() {
    let _alone = crate::alone();
    let (messages, rounds) = (setting("MESSAGES", 150), setting("ROUNDS", 1));
    let directory = Slapd::start(1000);
    let files = lab::open_directory();
    let mut ways = vec![
        Way::plain(),
        Way::bcc_maps(&directory, &files.path().join("bcc.cf")),
        Way::copyist(&directory, None),
    ];
    if setting("MIMEDEFANG", 0) != 0 {
        ways.push(Way::mimedefang(files.path()));
        ways.push(Way::copyist(&directory, Some(TEXT)));
    }
    for round in 0..rounds {
        for way in &mut ways {
            way.play(messages);
        }
        println!("{} of {rounds} rounds", round + 1);
    }
    let beside = median(&ways[1].rates);
    for way in &ways {
        let rate = median(&way.rates);
        println!(
            "{:<40} {rate:6.0} messages/s  {:.2}",
            way.name,
            rate / beside
        );
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("it is one")
}

/// Items in the state directory of a service that does not run.
async fn fill(state_dir: &std::path::Path, items: usize) {
    let spool = Spool::open(&Settings::new(state_dir)).expect("it is new");
    let original = Content::from(Bytes::from("x".repeat(78) + "\r\n").repeat(SIZE / 80));
    let sessions = (0..200).map(|session| {
        let (spool, original) = (spool.clone(), original.clone());
        tokio::spawn(async move {
            for number in (session..items).step_by(200) {
                let submission = Submission {
                    original: original.clone(),
                    items: vec![report(number)],
                };
                let committed = spool.commit("Q", SystemTime::now(), vec![submission]).await;
                committed.expect("the disk has room");
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.expect("it does not panic");
    }
}

fn report(number: usize) -> Item {
    let letters = (0..16).rev().map(|digit| {
        let value = (number >> (digit * 4) & 15) as u8;
        char::from(b'a' + value)
    });
    let prefix = format!(
        "From: <ndr@example.test>\r\nTo: <journal@archive.test>\r\nMessage-ID: <{number}@copyist.test>\r\n\
         Subject: a report\r\n\r\n"
    );
    Item {
        id: ItemId::parse(&letters.collect::<String>()).expect("it is one"),
        kind: Kind::Report,
        direction: Direction::Inbound,
        sender: Some(address("ndr@example.test")),
        targets: vec![address("journal@archive.test")],
        ndr: Some(address("ndr@example.test")),
        message_id: format!("<{number}@copyist.test>"),
        envelope_id: number.to_string(),
        subject: "a report".into(),
        reasons: vec!["a reason".into()],
        prefix: prefix.into(),
        suffix: Bytes::from_static(b"the end\r\n"),
        body: BodyKind::SevenBit,
        smtputf8: false,
        dsn: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_drains() {
    let _alone = crate::alone();
    let items: usize = setting("WAITING", 500);
    let sink = SmtpSink::start();
    let milter = format!("inet:127.0.0.1:{}", free_port());
    let mut copyist = Copyist::install(&config(
        "[directory]\nurls = [\"ldif:people.ldif\"]",
        &milter,
        sink.address(),
        "off",
    ));
    let people = "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@example.test\n";
    lab::write(&copyist.config_file().with_file_name("people.ldif"), people);
    std::fs::create_dir(copyist.state_dir()).expect("it is new");
    lab::set_mode(&copyist.state_dir(), 0o700);
    fill(&copyist.state_dir(), items).await;
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        copyist.restart();
        println!(
            "ready {:?} after its start with {items} items waiting",
            begun.elapsed()
        );
        let begun = Instant::now();
        sink.wait_for(items, PATIENCE);
        let took = begun.elapsed();
        lab::wait("the queue is empty", PATIENCE, || copyist.queued() == 0);
        println!(
            "{items} items delivered in {took:?}: {:.0} a second",
            items as f64 / took.as_secs_f64()
        );
        assert_eq!(sink.count(), items, "each once");
    })
    .await
    .expect("it does not panic");
}

#[test]
fn it_starts_and_idles() {
    let _alone = crate::alone();
    let idle = Duration::from_secs(setting("IDLE", 1));
    let sink = SmtpSink::start();
    let directory = Slapd::start(10);
    let port = free_port();
    let mut copyist = Copyist::install(&config(
        &format!("[directory]\n{}", directory.settings()),
        &format!("inet:127.0.0.1:{port}"),
        sink.address(),
        &format!("127.0.0.1:{}", free_port()),
    ));
    let mut starts: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            copyist.restart_unheard(port);
            begun.elapsed()
        })
        .collect();
    starts.sort();
    println!(
        "from its start to the first connection: {:?} (median of five)",
        starts[2]
    );
    // The directory is connected to, and its changes are followed.
    std::thread::sleep(idle);
    let before = (switches(&copyist), ticks(&copyist));
    std::thread::sleep(idle);
    let after = (switches(&copyist), ticks(&copyist));
    println!(
        "idle for {idle:?}: {} kB resident, of them {} kB its own; {} switches to it, {} hundredths of a second of processor",
        copyist.status("VmRSS"),
        copyist.status("RssAnon"),
        after.0 - before.0,
        after.1 - before.1
    );
}

/// How often one of its threads began to wait or was made to.
fn switches(copyist: &Copyist) -> u64 {
    let tasks = format!("/proc/{}/task", copyist.id());
    let tasks = std::fs::read_dir(tasks).expect("copyist runs");
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .map(|status| {
            let counts = status.lines().filter_map(|line| {
                let (name, count) = line.split_once(':')?;
                name.ends_with("_ctxt_switches")
                    .then(|| count.trim().parse::<u64>().ok())?
            });
            counts.sum::<u64>()
        })
        .sum()
}

/// Processor time that it used, in the system's ticks.
fn ticks(copyist: &Copyist) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", copyist.id()));
    let stat = stat.expect("copyist runs");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    // utime and stime, fields 14 and 15 of proc(5).
    let number = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
    number(14) + number(15)
}
