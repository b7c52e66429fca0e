//! Reports of ours that come by again: as they were, changed on the way, long after they were
//! delivered, and sealed by an older version.

use std::time::Duration;

use copyist::directory::Target;
use copyist::policy::Guard;
use copyist::spool::{DeliveryOutcome, DeliveryResult};

use super::*;

const DAY: Duration = Duration::from_secs(86400);

const OFFER: &[u8] = b"From: A <a@elsewhere.test>\r\nSubject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngr\xc3\xbcn\r\n";

/// All mail is journaled: what is not, passed as ours.
async fn journaling(directory: &TempDir) -> Pipeline {
    let mut pipeline = pipeline(directory);
    let mut rules = (*pipeline.ruleset.rules).clone();
    rules.inbound.journal = vec![Target::Smtp(address("archive@corp.example"))];
    rules.internal = rules.inbound.clone();
    rules.outbound = rules.inbound.clone();
    pipeline.ruleset.rules = Arc::new(rules);
    let settings = policy::guard_settings(&pipeline.ruleset.rules);
    let values = pipeline
        .ruleset
        .identities
        .directory()
        .journal_values()
        .borrow()
        .clone();
    let guarded = pipeline
        .ruleset
        .identities
        .guarded_mailboxes(&settings, values.as_deref());
    pipeline
        .services
        .guarded
        .set(guarded.await.expect("a file answers"));
    pipeline
}

/// A report to the archive and to Dan's boss that was made at this time, and its bytes as text.
async fn report(pipeline: &Pipeline, made: SystemTime) -> (ItemId, String) {
    let message = Message::new(Bytes::from_static(OFFER));
    let to = envelope(&["dan@corp.example"]);
    let verdict = pipeline
        .process(&to, &message, &pipeline.begin(), &FullSupport, made)
        .await;
    assert!(verdict.is_ok(), "{verdict:?}");
    let due = pipeline.services.spool.claim(made, 1).await.expect("read");
    let queued = pipeline.services.spool.load(&due[0]).await.expect("loaded");
    let original = queued.original.read().expect("in memory");
    let whole = [&queued.item.prefix[..], &original, &queued.item.suffix].concat();
    (due[0].clone(), String::from_utf8(whole).expect("UTF-8"))
}

/// The relay has taken it.
async fn deliver(pipeline: &Pipeline, id: &ItemId, at: SystemTime) {
    let to = ["archive@corp.example", "boss@corp.example"];
    let result = DeliveryResult {
        outcomes: to
            .map(|to| (address(to), DeliveryOutcome::Delivered))
            .to_vec(),
        next_attempt: at,
        ndr: None,
        ndr_limit: None,
        relay_reached: true,
    };
    pipeline
        .services
        .spool
        .record(id, result, at)
        .await
        .expect("recorded");
    assert_eq!(queued(pipeline).await, 0);
}

/// Where a report comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Inside,
    Outside,
}

/// The code of the answer (250 where it passes) to a report that comes to these at this time, and
/// how many reports it makes.
async fn comes(
    pipeline: &Pipeline,
    from: Origin,
    to: &[&str],
    text: &str,
    at: SystemTime,
) -> (u16, usize) {
    let mut envelope = envelope(to);
    envelope.sender = Some(address("ndr@corp.example"));
    if from == Origin::Inside {
        envelope.client.user = Some("relay".into());
    }
    let mut admitted = pipeline.begin();
    for recipient in to.iter().map(|to| address(to)) {
        match pipeline
            .check_recipient(&envelope, &recipient, None, &mut admitted)
            .await
            .expect("admitted")
        {
            Admission::Allowed => {}
            Admission::Provisional => admitted.provisional.push(recipient),
            Admission::Rejected => panic!("{recipient} is refused"),
        }
    }
    let before = queued(pipeline).await;
    let message = Message::new(Bytes::copy_from_slice(text.as_bytes()));
    let verdict = pipeline
        .process(&envelope, &message, &admitted, &FullSupport, at)
        .await;
    let code = match verdict {
        Ok(_) => 250,
        Err(reply) => reply.code,
    };
    (code, queued(pipeline).await - before)
}

#[tokio::test]
async fn a_report_may_come_again_for_five_days_after_its_delivery() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = journaling(&directory).await;
    let start = SystemTime::now();
    let (id, text) = report(&pipeline, start).await;
    let to = ["boss@corp.example"];
    // Not delivered for a month.
    assert_eq!(
        comes(&pipeline, Origin::Outside, &to, &text, start + 30 * DAY).await,
        (250, 0)
    );
    deliver(&pipeline, &id, start + 30 * DAY).await;
    for (days, outside) in [(31, 250), (34, 250), (36, 550)] {
        let at = start + days * DAY;
        assert_eq!(
            comes(&pipeline, Origin::Outside, &to, &text, at).await,
            (outside, 0),
            "{days}"
        );
        assert_eq!(
            comes(&pipeline, Origin::Inside, &to, &text, at).await,
            (250, 0),
            "{days}"
        );
    }
    // Delivered at once, as most are.
    let (id, text) = report(&pipeline, start).await;
    deliver(&pipeline, &id, start + Duration::from_secs(5)).await;
    for (days, outside) in [(1, 250), (4, 250), (6, 550)] {
        let at = start + days * DAY;
        assert_eq!(
            comes(&pipeline, Origin::Outside, &to, &text, at).await,
            (outside, 0),
            "{days}"
        );
    }
    // Also to a mailbox that is not guarded.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut open = journaling(&elsewhere).await;
    open.ruleset.rules = Arc::new(Rules {
        journal_guard: Guard::Off,
        ..(*pipeline.ruleset.rules).clone()
    });
    let (id, text) = report(&open, start).await;
    deliver(&open, &id, start).await;
    assert_eq!(
        comes(&open, Origin::Outside, &to, &text, start + 4 * DAY).await,
        (250, 0)
    );
    assert_eq!(
        comes(&open, Origin::Outside, &to, &text, start + 6 * DAY).await,
        (550, 0)
    );
}

#[tokio::test]
async fn a_changed_header_passes_and_a_changed_body_only_from_us() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipeline = journaling(&directory).await;
    let now = SystemTime::now();
    let (_, text) = report(&pipeline, now).await;
    let (to, also) = (
        ["boss@corp.example"],
        ["boss@corp.example", "bob@corp.example"],
    );
    let with = |old: &str, new: &str| {
        assert!(text.contains(old), "{old} in {text}");
        text.replacen(old, new, 1)
    };
    let quoted = with(
        "charset=utf-8\r\n\r\ngr\u{fc}n",
        "charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BCn",
    );
    let same = [
        quoted,
        with("Subject: x", "Subject: [list] x"),
        with("\r\nSubject: x", "\r\nSubject: x\r\nSubject: y"),
        with(
            "From: journal@",
            "From: Journal <other@elsewhere.test>\r\nReply-To: journal@",
        ),
        with("; boundary=", ";\r\n\tboundary="),
        format!("Received: from x\r\nX-Spam: no\r\n{text}\r\n\r\n"),
    ];
    for text in &same {
        for from in [Origin::Inside, Origin::Outside] {
            assert_eq!(
                comes(&pipeline, from, &to, text, now).await,
                (250, 0),
                "{from:?} {text}"
            );
        }
    }
    let changed = [with("gr\u{fc}n", "blau"), format!("{text}a footer\r\n")];
    for text in &changed {
        assert_eq!(
            comes(&pipeline, Origin::Inside, &to, text, now).await,
            (250, 0),
            "{text}"
        );
        assert_eq!(
            comes(&pipeline, Origin::Outside, &to, text, now).await,
            (550, 0),
            "{text}"
        );
    }
    // Where the guard is off, it goes on; where others get it as well, it is mail like any other.
    let mut open = pipeline;
    open.ruleset.rules = Arc::new(Rules {
        journal_guard: Guard::Off,
        ..(*open.ruleset.rules).clone()
    });
    assert_eq!(
        comes(&open, Origin::Outside, &to, &changed[0], now).await,
        (250, 0)
    );
    assert_eq!(
        comes(&open, Origin::Outside, &also, &changed[0], now).await,
        (250, 1)
    );
}

#[tokio::test]
async fn seals_of_older_releases_count_while_they_may_be_in_transit() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).expect("made");
    let key = state.join("seal.key");
    std::fs::write(&key, include_str!("../../seals/format-2.key")).expect("written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, private).expect("ours");
    let mut pipeline = journaling(&directory).await;
    let mut rules = (*pipeline.ruleset.rules).clone();
    rules
        .inbound
        .journal
        .push(Target::Smtp(address("branch-journal@corp.example")));
    pipeline.ruleset.rules = Arc::new(rules);
    let settings = policy::guard_settings(&pipeline.ruleset.rules);
    pipeline
        .services
        .guarded
        .set(GuardedMailboxes::of_settings(&settings));
    let author = JournalSettings {
        report_from: address("journal@corp.example"),
        hostname: "mx.corp.example".into(),
    };
    pipeline.ruleset.composer = Composer::new(author, Key::load_or_create(&state).expect("a key"));
    // Written by the version before this one.
    let text = include_str!("../../seals/format-2.eml")
        .replace("\r\n", "\n")
        .replace('\n', "\r\n");
    let to = ["branch-journal@corp.example"];
    let now = SystemTime::now();
    let altered = format!("{text}a footer\r\n");
    for (days, text, from, expected) in [
        (0, &text, Origin::Outside, (250, 0)),
        (4, &text, Origin::Outside, (250, 0)),
        (4, &text, Origin::Inside, (250, 0)),
        (4, &altered, Origin::Inside, (250, 0)),
        (4, &altered, Origin::Outside, (550, 0)),
        (6, &text, Origin::Outside, (550, 0)),
        // Mail like any other.
        (6, &altered, Origin::Inside, (250, 1)),
    ] {
        let came = comes(&pipeline, from, &to, text, now + days * DAY).await;
        assert_eq!(came, expected, "{days} days, {from:?}");
    }
}
