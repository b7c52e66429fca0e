//! Delivery to a relay that goes wrong: nothing counts as delivered that was not, nothing is lost,
//! and a connection whose replies may be out of step is never used again.

use crate::{bench, faulty};
use std::sync::Arc;
use std::time::Duration;

use copyist::deliver::{Login, RelaySettings, Tls};
use copyist::secret::Secret;
use tokio::sync::Notify;

use bench::{AT_ONCE, Bench, ONCE, id, item, patiently, prefix, relay};
use faulty::{Act, FaultyRelay};

const USUAL: &[&str] = &["PIPELINING", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];

/// An act at the first step that begins so, on the first connection only.
fn first(step: &'static str, act: Act) -> impl Fn(usize, &str) -> Option<Act> {
    move |number, said| (number == 0 && said.starts_with(step)).then(|| act.clone())
}

/// A fault at one step of the first connection: the item waits, that connection is not used again,
/// and the second attempt brings the same Message-ID. Gives how often the relay has got the
/// message.
async fn survives(step: &'static str, act: Act, timeout: Duration) -> usize {
    let faulty = FaultyRelay::start(USUAL, first(step, act)).await;
    let settings = RelaySettings {
        timeout,
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, AT_ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    let last = *seen.of(0).last().expect("it was connected to");
    // These are said together.
    let together = ["MAIL", "RCPT", "DATA"];
    let begun = together.iter().position(|verb| *verb == step);
    let behind = &together[begun.unwrap_or(together.len())..];
    assert!(
        last.starts_with(step) || behind.iter().any(|verb| last.starts_with(verb)),
        "after {step} came {last}: {:?}",
        seen.steps
    );
    assert!(seen.of(1).contains(&"."), "{:?}", seen.steps);
    for message in &seen.messages {
        assert_eq!(message, (prefix(1) + "x\r\n").as_bytes());
    }
    seen.messages.len()
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_reply_lost_after_the_dot_is_retried_on_a_new_connection() {
    assert_eq!(survives(".", Act::Close, LONG).await, 2);
}

#[tokio::test]
async fn only_a_250_to_the_data_is_a_delivery() {
    assert_eq!(survives(".", Act::Say("354 go on\r\n"), LONG).await, 2);
    assert_eq!(
        survives(".", Act::Say("251 somebody else\r\n"), LONG).await,
        2
    );
}

#[tokio::test]
async fn a_relay_that_never_answers_times_out_and_is_disconnected() {
    for step in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."] {
        let got = survives(step, Act::Hang, SHORT).await;
        assert_eq!(got, if step == "." { 2 } else { 1 }, "{step}");
    }
}

#[tokio::test]
async fn a_relay_that_hangs_up_is_tried_again() {
    for step in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"] {
        assert_eq!(survives(step, Act::Close, LONG).await, 1, "{step}");
    }
}

#[tokio::test]
async fn a_relay_that_says_421_is_left_and_tried_again() {
    for step in ["MAIL", "RCPT", "DATA", "."] {
        let act = Act::Say("421 4.3.2 closing\r\n");
        survives(step, act, LONG).await;
    }
}

#[tokio::test]
async fn nonsense_is_not_a_reply() {
    for step in ["MAIL", "RCPT", "DATA", "."] {
        survives(step, Act::Say("hello there\r\n"), LONG).await;
        survives(step, Act::Say("250-broken off\r\n354 \r\n"), LONG).await;
    }
}

#[tokio::test]
async fn an_ehlo_answer_that_lettre_panics_on_is_read() {
    let act = Act::Say("250-relay\r\n250-  \r\n250 SIZE\r\n");
    let faulty = FaultyRelay::start(USUAL, first("EHLO", act)).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    assert!(
        seen.of(0).iter().any(|step| step.contains("SIZE=")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_354_does_not_accept_a_sender_or_recipient() {
    for step in ["MAIL", "RCPT"] {
        assert_eq!(
            survives(step, Act::Say("354 go on\r\n"), LONG).await,
            1,
            "{step}"
        );
    }
}

#[tokio::test]
async fn a_reply_too_many_puts_nothing_out_of_step() {
    // The second 250 would be taken for the answer to the next command, and so on to the one after
    // the data.
    for step in ["EHLO", "MAIL", "RCPT"] {
        let twice = match step {
            "EHLO" => "250 one\r\n250 two\r\n",
            _ => "250 2.0.0 one\r\n250 2.0.0 two\r\n",
        };
        let script = move |number, said: &str| match said {
            _ if number > 0 => None,
            "." => Some(Act::Say("451 4.0.0 not kept\r\n")),
            _ => said.starts_with(step).then_some(Act::Say(twice)),
        };
        let faulty = FaultyRelay::start(&[], script).await;
        let bench = Bench::start(relay(faulty.address()), AT_ONCE);
        bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
        bench.until_queue_is_empty().await;
        let seen = faulty.seen();
        assert!(seen.of(1).contains(&"."), "{step}: {:?}", seen.steps);
    }
}

#[tokio::test]
async fn a_relay_without_extensions_gets_plain_single_commands() {
    let faulty = FaultyRelay::start(&[], |_, _| None).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench
        .enqueue(item(1, &["a@c.test", "b@c.test"]), "x\r\n")
        .await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    assert_eq!(seen.longest_batch, 1, "{:?}", seen.steps);
    assert!(
        seen.of(0).contains(&"MAIL FROM:<bounces@c.test>"),
        "{:?}",
        seen.steps
    );
    assert!(
        seen.of(0).contains(&"RCPT TO:<a@c.test>"),
        "{:?}",
        seen.steps
    );
}

#[tokio::test]
async fn a_relay_with_pipelining_gets_the_envelope_at_once() {
    let faulty = FaultyRelay::start(USUAL, |_, _| None).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench
        .enqueue(item(1, &["a@c.test", "b@c.test"]), "x\r\n")
        .await;
    bench.until_queue_is_empty().await;
    assert_eq!(faulty.seen().longest_batch, 4);
}

#[tokio::test]
async fn many_recipients_are_sent_in_batches_before_the_data() {
    let faulty = FaultyRelay::start(USUAL, |_, said| {
        said.contains("no@").then_some(Act::Say("550 5.1.1 no\r\n"))
    })
    .await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    let many: Vec<String> = (0..120).map(|n| format!("r{n}@c.test")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("no@c.test");
    bench.enqueue(item(1, &many), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    // The message, and the NDR about the one who was refused.
    assert_eq!(seen.messages.len(), 2);
    assert!(seen.longest_batch <= 51, "{}", seen.longest_batch);
    let accepted = |step: &&(usize, String)| step.1.starts_with("RCPT TO:<r");
    assert_eq!(seen.steps.iter().filter(accepted).count(), 120);
}

#[tokio::test]
async fn a_354_without_accepted_recipients_sends_no_message() {
    let script = |number, said: &str| match said {
        _ if number > 0 => None,
        "DATA" => Some(Act::Say("354 go on\r\n")),
        _ => said.contains("no@").then_some(Act::Say("550 5.1.1 no\r\n")),
    };
    let faulty = FaultyRelay::start(USUAL, script).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["no@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    assert_eq!(seen.of(0).last(), Some(&"DATA"), "{:?}", seen.steps);
    assert_eq!(seen.messages.len(), 1, "the NDR");
    assert!(seen.of(1).contains(&"."), "{:?}", seen.steps);
}

#[tokio::test]
async fn a_report_over_the_announced_size_becomes_a_dead_letter() {
    let faulty = FaultyRelay::start(&["SIZE 1000"], |_, _| None).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench
        .enqueue(item(1, &["a@c.test"]), vec![b'x'; 1001])
        .await;
    // The NDR has the whole report in it and is larger still.
    let listed = bench
        .until("a dead letter", |listed| {
            listed
                .iter()
                .any(|item| item.targets[0].state.name() == "dead")
        })
        .await;
    assert_eq!((listed.len(), listed[0].kind.name()), (1, "ndr"));
    let said = listed[0].targets[0].last_reply.clone().unwrap_or_default();
    assert!(said.contains("the relay's limit of 1000"), "{said}");
    assert!(faulty.seen().messages.is_empty());
}

#[tokio::test]
async fn a_password_is_not_sent_in_the_clear() {
    let faulty = FaultyRelay::start(&["AUTH PLAIN LOGIN"], |_, _| None).await;
    let settings = RelaySettings {
        // Reaches this machine, and does not look like it.
        host: "0.0.0.0".into(),
        login: Some(Login {
            username: "u".into(),
            password: Secret::new("secret"),
        }),
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    let said = bench
        .until("it was tried", |listed| {
            listed[0].targets[0].last_reply.is_some()
        })
        .await[0]
        .targets[0]
        .last_reply
        .clone();
    assert!(said.is_some_and(|said| said.contains("is not encrypted")));
    let seen = faulty.seen();
    assert!(
        seen.steps.iter().all(|(_, step)| !step.contains("AUTH")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn data_injected_before_tls_is_ignored() {
    // As many yeses as a delivery asks for, in front of a handshake that is none.
    let injected =
        "220 go\r\n250 ehlo\r\n250 ehlo\r\n250 mail\r\n250 rcpt\r\n354 data\r\n250 kept\r\n";
    let faulty = FaultyRelay::start(&["STARTTLS"], first("STARTTLS", Act::Say(injected))).await;
    let settings = RelaySettings {
        tls: Tls::Required,
        timeout: SHORT,
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    let (listed, said) = bench
        .until("it was tried", |listed| {
            listed[0].targets[0].last_reply.is_some()
        })
        .await
        .pop()
        .map(|item| (item.targets.len(), item.targets[0].last_reply.clone()))
        .expect("listed");
    assert_eq!(listed, 1, "{said:?}");
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_a_failure() {
    let script = |number, said: &str| match said {
        "." if number == 0 => Some(Act::SayAndClose("250 2.0.0 kept\r\n")),
        _ if said.contains("later@") => Some(Act::Say("451 4.0.0 later\r\n")),
        _ => None,
    };
    let faulty = FaultyRelay::start(USUAL, script).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    bench
        .enqueue(item(2, &["a@c.test", "later@c.test"]), "x\r\n")
        .await;
    let (item, _) = bench.until_tried(2).await;
    let states: Vec<_> = item
        .targets
        .iter()
        .map(|target| target.state.name())
        .collect();
    assert_eq!((item.attempts, states), (1, vec!["delivered", "waiting"]));
    assert_eq!(faulty.seen().messages.len(), 2);
}

#[tokio::test]
async fn a_connection_in_order_is_used_for_the_next_item() {
    let script = |_, said: &str| said.contains("no@").then_some(Act::Say("550 5.1.1 no\r\n"));
    let faulty = FaultyRelay::start(USUAL, script).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    for n in 1..=3 {
        // Refused wholly, in part, not at all.
        let targets = &["no@c.test", "a@c.test"][usize::from(n == 3)..usize::from(n > 1) + 1];
        bench.enqueue(item(n, targets), "x\r\n").await;
        bench.until_queue_is_empty().await;
    }
    let seen = faulty.seen();
    assert!(
        seen.steps.iter().all(|(number, _)| *number == 0),
        "{:?}",
        seen.steps
    );
    // Two reports, and the NDRs about the two refusals.
    assert_eq!(seen.messages.len(), 4);
}

#[tokio::test]
async fn shutdown_finishes_deliveries_and_starts_none() {
    let go_on = Arc::new(Notify::new());
    let faulty = FaultyRelay::start(USUAL, first(".", Act::After(go_on.clone()))).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    faulty
        .until("the data is there", |seen| !seen.messages.is_empty())
        .await;
    bench.enqueue(item(2, &["a@c.test"]), "x\r\n").await;
    bench.stop.cancel();
    go_on.notify_one();
    let (spool, _dir) = patiently("it stops", bench.stopped()).await;
    assert!(spool.show(&id(1)).await.expect("read").is_none());
    assert!(spool.show(&id(2)).await.expect("read").is_some());
    assert_eq!(faulty.seen().messages.len(), 1);
}

/// More than one piece of a body file.
fn large() -> Vec<u8> {
    b"..\r\nline after line\r\n".repeat(40_000)
}

#[tokio::test]
async fn a_message_in_a_file_is_sent_byte_for_byte_without_loading_it() {
    let faulty = FaultyRelay::start(USUAL, |_, _| None).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), large()).await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    let stuffed = String::from_utf8(large())
        .expect("ASCII")
        .replace("..\r\n", "...\r\n");
    assert_eq!(seen.messages.len(), 1);
    assert!(seen.messages[0] == (prefix(1) + &stuffed).as_bytes());
    // It goes with its last item, whose row goes first.
    let gone = async {
        while !bench.body_files().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently("the file goes", gone).await;
}

#[tokio::test]
async fn a_truncated_body_file_is_never_delivered_as_half_a_message() {
    let go_on = Arc::new(Notify::new());
    let faulty = FaultyRelay::start(USUAL, first("DATA", Act::After(go_on.clone()))).await;
    let bench = Bench::start(relay(faulty.address()), AT_ONCE);
    bench.enqueue(item(1, &["a@c.test"]), large()).await;
    faulty
        .until("the data is asked for", |seen| seen.of(0).contains(&"DATA"))
        .await;
    let files = bench.body_files();
    let file = std::fs::OpenOptions::new().write(true).open(&files[0]);
    file.and_then(|file| file.set_len(500_000))
        .expect("cut off");
    go_on.notify_one();
    // It is read again before the next attempt, and then it is known.
    let aside = bench
        .until("it is set aside", |listed| {
            listed.iter().any(|item| item.set_aside.is_some())
        })
        .await;
    assert_eq!(aside.len(), 1);
    assert!(faulty.seen().messages.is_empty());
    assert_eq!(bench.body_files(), files, "what is left of it is kept");
}

#[tokio::test]
async fn starttls_in_lower_case_is_used() {
    let script = |_, said: &str| {
        said.starts_with("STARTTLS")
            .then_some(Act::SayAndClose("454 4.7.0 not now\r\n"))
    };
    let faulty = FaultyRelay::start(&["starttls"], script).await;
    // With a password there is no other way.
    let settings = RelaySettings {
        tls: Tls::Opportunistic,
        login: Some(Login {
            username: "u".into(),
            password: Secret::new("p"),
        }),
        ..relay(faulty.address())
    };
    let bench = Bench::start(settings, ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    let seen = faulty
        .until("it is asked to encrypt", |seen| {
            seen.of(0).contains(&"STARTTLS")
        })
        .await;
    assert!(seen.messages.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_reply_too_many_ends_a_kept_connection() {
    let script = |number, said: &str| match (number, said) {
        (0, ".") => Some(Act::Say("250 2.0.0 kept\r\n250 2.0.0 again\r\n")),
        _ => said.contains("no@").then_some(Act::Say("554 5.7.1 no\r\n")),
    };
    let faulty = FaultyRelay::start(USUAL, script).await;
    let bench = Bench::start(relay(faulty.address()), ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    bench.enqueue(item(2, &["no@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    let seen = faulty.seen();
    let begun_again = seen.of(0).last() == Some(&".");
    assert!(begun_again, "{:?}", seen.steps);
    assert_eq!(seen.messages.len(), 2, "the report and the NDR");
}

/// The reply too many comes whenever it likes, and whoever believes it takes each reply for the
/// answer to the command after the one it belongs to.
#[tokio::test]
async fn a_surplus_late_reply_neither_rejects_nor_delivers() {
    for offers in [&[] as &[&str], USUAL] {
        let go_on = Arc::new(Notify::new());
        let again = go_on.clone();
        let script = move |number, said: &str| match (number, said) {
            (0, ".") => Some(Act::SayMore("250 2.0.0 again\r\n", again.clone())),
            _ => said.contains("no@").then_some(Act::Say("554 5.7.1 no\r\n")),
        };
        let faulty = FaultyRelay::start(offers, script).await;
        let bench = Bench::start(relay(faulty.address()), AT_ONCE);
        bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
        bench.until_queue_is_empty().await;
        go_on.notify_one();
        bench
            .enqueue(item(2, &["no@c.test", "a@c.test"]), "x\r\n")
            .await;
        bench.until_queue_is_empty().await;
        let messages = faulty.seen().messages;
        let texts = messages.iter().map(|text| String::from_utf8_lossy(text));
        let texts: Vec<_> = texts.map(std::borrow::Cow::into_owned).collect();
        let ndrs: Vec<_> = texts
            .iter()
            .filter(|text| text.contains("Status:"))
            .collect();
        assert!(texts.iter().any(|text| text.starts_with(&prefix(2))));
        assert_eq!(ndrs.len(), 1, "{texts:#?}");
        assert!(!ndrs[0].contains("rfc822; a@c.test"), "{}", ndrs[0]);
    }
}

#[tokio::test]
async fn a_relay_that_takes_a_message_before_its_end_has_not_taken_it() {
    let early = Act::Say("354 go on\r\n250 2.0.0 kept\r\n");
    let faulty = FaultyRelay::start(USUAL, first("DATA", early)).await;
    let bench = Bench::start(relay(faulty.address()), AT_ONCE);
    bench.enqueue(item(1, &["a@c.test"]), "x\r\n").await;
    bench.until_queue_is_empty().await;
    assert!(faulty.seen().of(1).contains(&"."));
}
