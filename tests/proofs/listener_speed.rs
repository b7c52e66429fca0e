//! The cost of the SMTP listener: the same load through Copyist, through a forwarder that only
//! copies bytes, and without anything between, one after the other in each round.
//!
//! Every message must come through, with its report where there is to be one. The ratios are
//! printed and not judged: `cargo test --test proofs listener_speed:: -- --nocapture`.
//! `tests/proof/listener` runs the long form; it sets these: `MESSAGES` in a round, and `ROUNDS`.

use crate::lab;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::{
    FaultProxy, ListenerOptions, ListenerSite, Postfix, PostfixOptions, SmtpSink, setting,
    smtp_source,
};

const PEOPLE: &str = "dn: cn=dan,dc=corp\ncn: dan\nmail: dan@corp.example\njournal: journal@archive.test\n\n\
                      dn: cn=eve,dc=corp\ncn: eve\nmail: eve@corp.example\n";
/// Has a journal address.
const DAN: &str = "dan@corp.example";
/// Has none.
const EVE: &str = "eve@corp.example";
/// Connections of the load at a time, as many as Postfix makes to one destination
/// (`default_destination_concurrency_limit`).
const SESSIONS: &str = "20";
/// Bytes of a message's body: what `smtp-source` counts.
const SIZE: &str = "10240";
/// Until a round has come through.
const PATIENCE: Duration = Duration::from_secs(600);

fn agent(next_hop: SocketAddr) -> ListenerSite {
    let options = ListenerOptions {
        listen: None,
        next_hop,
        attributes: ["journal"; 3],
        people: PEOPLE,
        listener: "mode = \"after-queue\"\ndirection = \"inbound\"",
        lines: "",
    };
    ListenerSite::start(SmtpSink::start(), &options)
}

/// A way to the sink at its end.
struct Way {
    name: &'static str,
    /// Where the load goes.
    enters: SocketAddr,
    to: &'static str,
    sink: SmtpSink,
    /// Messages a second, of each round.
    rates: Vec<f64>,
    agent: Option<ListenerSite>,
    /// Held, or it ends.
    _forwarder: Option<FaultProxy>,
    _postfix: Option<Postfix>,
}

/// The program in front of a sink.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Intermediary {
    Nothing,
    Forwarder,
    Copyist,
}

impl Way {
    fn build(
        name: &'static str,
        between: Intermediary,
        to: &'static str,
        is_by_postfix: bool,
    ) -> Way {
        let sink = SmtpSink::start();
        let (mut copyist, mut forwarder) = (None, None);
        let mut enters = match between {
            Intermediary::Nothing => sink.address(),
            Intermediary::Forwarder => forwarder
                .insert(FaultProxy::start(sink.address()))
                .address(),
            Intermediary::Copyist => copyist.insert(agent(sink.address())).address,
        };
        let postfix = is_by_postfix.then(|| {
            let options = PostfixOptions {
                milter: None,
                deliver_to: enters,
                extra: vec!["smtp_send_xforward_command = yes".to_owned()],
            };
            Postfix::start_with(&options, "")
        });
        if let Some(postfix) = &postfix {
            enters = postfix.smtp_addr();
        }
        Way {
            name,
            enters,
            to,
            sink,
            rates: Vec::new(),
            agent: copyist,
            _forwarder: forwarder,
            _postfix: postfix,
        }
    }

    fn play(&mut self, messages: usize) {
        let begun = Instant::now();
        let (before, count) = (self.sink.count(), messages.to_string());
        let load = smtp_source(
            self.enters,
            &[
                "-s",
                SESSIONS,
                "-m",
                &count,
                "-l",
                SIZE,
                "-f",
                "a@elsewhere.test",
                "-t",
                self.to,
            ],
        );
        assert!(
            load.output.status.success(),
            "{}: {:?}",
            self.name,
            load.output
        );
        self.sink.wait_for(before + messages, PATIENCE);
        self.rates
            .push(messages as f64 / begun.elapsed().as_secs_f64());
        if let Some(agent) = &self.agent {
            // Before the next way has its turn.
            lab::wait("the queue is empty", PATIENCE, || {
                agent.copyist.queued() == 0
            });
        }
    }

    fn median(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

/// The ways by turns, so that whatever else the machine does meets all of them; prints each beside
/// the first.
fn compare(what: &str, is_by_postfix: bool) {
    let (messages, rounds) = (setting("MESSAGES", 200), setting("ROUNDS", 1));
    let build = |name, between, to| Way::build(name, between, to, is_by_postfix);
    let mut ways = [
        build("nothing between", Intermediary::Nothing, DAN),
        build("a plain forwarder", Intermediary::Forwarder, DAN),
        build("Copyist, nobody journaled", Intermediary::Copyist, EVE),
        build("Copyist, all journaled", Intermediary::Copyist, DAN),
    ];
    for round in 0..rounds {
        for way in &mut ways {
            way.play(messages);
        }
        println!("{what}: {} of {rounds} rounds", round + 1);
    }
    for way in &ways {
        let (rate, beside) = (way.median(), way.median() / ways[0].median());
        println!("{what} -> {:<26} {rate:6.0}/s  {beside:.2}", way.name);
        assert_eq!(way.sink.count(), messages * rounds, "{}", way.name);
        if let Some(agent) = &way.agent {
            let journaled = if way.to == DAN { messages * rounds } else { 0 };
            assert_eq!(agent.relay.count(), journaled, "{}", way.name);
        }
    }
}

#[test]
fn the_listener_passes_all_mail_of_postfix_and_smtp_source() {
    let _alone = crate::alone();
    compare("Postfix", true);
    compare("smtp-source", false);
}
