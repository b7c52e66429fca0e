//! Texts on the way of a message, where no MTA lets a test say it: failures, exemptions, several
//! versions, and that every required copy is made whatever happens to the text.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use copyist::directory::{
    CacheSettings, Directory, Inheritance, Settings, Source, Target, TargetSettings,
};
use copyist::identity::{AddressRules, Identities, SharedGuard};
use copyist::journal::{Composer, Key, Kind, Settings as JournalSettings};
use copyist::mail::{Address, Client, Envelope, Message, Recipient, Reply};
use copyist::pipeline::{
    ChangeSupport, Changes, MemoryBudget, Pipeline, Ruleset, Services, UnidentifiedClients,
};
use copyist::policy::{DirectionRules, Format, JournalWhat, Organization, Rules};
use copyist::spool::{QueuedItem, Settings as SpoolSettings, Spool};
use copyist::text::{self, DirectionTexts, Disclaimer, OnFailure, SignedPolicy};
use tempfile::TempDir;

const PEOPLE: &str = "version: 1\n\ndn: uid=ana\nmail: ana@corp.example\ndisplayName: Ana\nextensionAttribute10: archive@corp.example\n\n\
                      dn: uid=bo\nmail: bo@corp.example\nextensionAttribute13: TRUE\n\n\
                      dn: uid=contact\nmail: quiet@customer.test\nextensionAttribute13: true\n";

/// The changes that a hook supports.
#[derive(Debug, Clone, Copy)]
struct Abilities {
    edit: bool,
    split: bool,
}

impl ChangeSupport for Abilities {
    fn check(&self, _: &Message, changes: &Changes) -> Result<(), String> {
        match (
            self.edit || changes.edited.is_none(),
            self.split || changes.moved.is_empty(),
        ) {
            (true, true) => Ok(()),
            _ => Err("it is not agreed".into()),
        }
    }
}

const ALL: Abilities = Abilities {
    edit: true,
    split: true,
};

const MAIL: &[u8] = b"From: ana@corp.example\r\nMessage-ID: <1@x>\r\n\r\nhello\r\n";

fn names() -> Arc<AddressRules> {
    Arc::new(AddressRules {
        domains: vec!["corp.example".parse().expect("a domain")],
        ..AddressRules::default()
    })
}

fn identities(settings: Settings) -> Identities {
    let directory = Directory::open(settings).expect("the file is fine");
    Identities::new(directory, names())
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

fn wording(plain: &str) -> Option<Disclaimer> {
    Some(Disclaimer::new(Some(plain), None, false).expect("sound"))
}

fn append(plain: &str) -> DirectionTexts {
    DirectionTexts {
        prepend: None,
        append: wording(plain),
    }
}

struct Site {
    pipeline: Pipeline,
    directory: TempDir,
}

fn site(texts: text::Settings, what: JournalWhat) -> Site {
    let directory = tempfile::tempdir().expect("a directory");
    let people = directory.path().join("people.ldif");
    std::fs::write(&people, PEOPLE).expect("written");
    let of = |name: &str| DirectionRules {
        journal: vec![Target::parse(&format!("{name}@archive.test")).expect("a target")],
        journal_attributes: vec!["extensionAttribute10".into()],
        ndr: Some(address(&format!("{name}-ndr@corp.example"))),
        format: Format::Report,
        journal_what: what,
    };
    let pipeline = Pipeline {
        services: Services {
            spool: Spool::open(&SpoolSettings::new(directory.path())).expect("opened"),
            memory: MemoryBudget::default(),
            guarded: SharedGuard::default(),
            unidentified: UnidentifiedClients::default(),
        },
        ruleset: Ruleset {
            identities: identities(Settings {
                source: Source::Ldif(people),
                address_attributes: vec!["mail".into()],
                journal_attributes: vec!["extensionAttribute10".into()],
                login_attributes: Vec::new(),
                further_attributes: texts.attributes(),
                exempt_attribute: None,
                inheritance: Inheritance::default(),
                targets: TargetSettings::default(),
                cache: CacheSettings::default(),
            }),
            rules: Arc::new(Rules {
                organization: Organization {
                    names: names(),
                    trusted_networks: vec!["10.0.0.0/8".parse().expect("a network")],
                    ..Organization::default()
                },
                inbound: of("in"),
                outbound: of("out"),
                internal: of("internal"),
                ..Rules::default()
            }),
            text: Arc::new(texts),
            composer: Composer::new(
                JournalSettings {
                    report_from: address("journal@corp.example"),
                    hostname: "mx.corp.example".into(),
                },
                Key::ephemeral().expect("a key"),
            ),
        },
    };
    Site {
        pipeline,
        directory,
    }
}

fn from_ana(to: &[&str]) -> Envelope {
    let recipient = |text: &&str| Recipient::new(address(text));
    Envelope {
        sender: Some(address("ana@corp.example")),
        recipients: to.iter().map(recipient).collect(),
        client: Client {
            ip: "10.0.0.1".parse().ok(),
            ..Client::default()
        },
        ..Envelope::default()
    }
}

impl Site {
    async fn process(
        &self,
        envelope: &Envelope,
        content: &'static [u8],
        abilities: Abilities,
    ) -> Result<Changes, Reply> {
        let message = Message::new(Bytes::from_static(content));
        let now = SystemTime::now();
        self.pipeline
            .process(envelope, &message, &self.pipeline.begin(), &abilities, now)
            .await
    }

    /// All queued items, oldest first.
    async fn queued(&self) -> Vec<QueuedItem> {
        let mut all = Vec::new();
        for id in self
            .pipeline
            .services
            .spool
            .claim(SystemTime::now(), 100)
            .await
            .expect("read")
        {
            all.push(
                self.pipeline
                    .services
                    .spool
                    .load(&id)
                    .await
                    .expect("loaded"),
            );
            self.pipeline.services.spool.unclaim(&id);
        }
        all
    }
}

fn changes(verdict: Result<Changes, Reply>) -> Changes {
    match verdict {
        Ok(changes) => changes,
        Err(reply) => panic!("refused: {reply}"),
    }
}

fn text_of(changes: &Changes) -> String {
    let edited = changes.edited.as_ref().expect("edited");
    String::from_utf8_lossy(edited.content().beginning()).into_owned()
}

#[tokio::test]
async fn each_recipient_class_gets_its_version_and_its_copies() {
    for what in [JournalWhat::Received, JournalWhat::Delivered] {
        let texts = text::Settings {
            outbound: append("Out, {{ sender.displayName }}"),
            internal: append("Internal"),
            exempt_attribute: Some("extensionAttribute13".into()),
            ..text::Settings::default()
        };
        let site = site(texts, what);
        let to = [
            "cy@corp.example",
            "buyer@customer.test",
            "bo@corp.example",
            "quiet@customer.test",
        ];
        let changes = changes(site.process(&from_ana(&to), MAIL, ALL).await);
        assert!(
            text_of(&changes).ends_with("\r\n\r\nhello\r\nOut, Ana\r\n"),
            "{changes:?}"
        );
        let mut moved = changes.moved.clone();
        moved.sort_unstable();
        assert_eq!(moved, [0, 2, 3]);
        let queued = site.queued().await;
        let versions: Vec<(Vec<String>, String)> = queued
            .iter()
            .filter(|queued| queued.item.kind == Kind::Version)
            .map(|queued| {
                let to = queued
                    .item
                    .targets
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                (
                    to,
                    String::from_utf8_lossy(queued.original.beginning()).into_owned(),
                )
            })
            .collect();
        let original = String::from_utf8_lossy(MAIL).into_owned();
        let of = |to: &str| {
            versions
                .iter()
                .find(|(all, _)| all.iter().any(|one| one == to))
                .expect(to)
        };
        assert_eq!(of("cy@corp.example").1, format!("{original}Internal\r\n"));
        assert_eq!(of("bo@corp.example").1, original);
        assert_eq!(of("quiet@customer.test"), of("bo@corp.example"));
        assert_eq!(versions.len(), 2);
        // Out, internal and the attribute: each address once, in whatever holds it.
        let mut journaled: Vec<String> = Vec::new();
        for queued in queued
            .iter()
            .filter(|queued| queued.item.kind == Kind::Report)
        {
            journaled.extend(queued.item.targets.iter().map(ToString::to_string));
            let expected = match (what, queued.item.direction.name()) {
                (JournalWhat::Received, _) => original.clone(),
                (_, "outbound") => format!("{original}Out, Ana\r\n"),
                _ => format!("{original}Internal\r\n"),
            };
            assert_eq!(
                String::from_utf8_lossy(queued.original.beginning()),
                expected,
                "{what:?}"
            );
        }
        journaled.sort_unstable();
        assert_eq!(
            journaled,
            [
                "archive@corp.example",
                "internal@archive.test",
                "out@archive.test"
            ]
        );
    }
}

#[tokio::test]
async fn without_texts_the_delivered_message_is_copied() {
    let texts = [
        text::Settings::default(),
        text::Settings {
            inbound: append("In"),
            ..text::Settings::default()
        },
        text::Settings {
            outbound: append("{{ sender.nothing }}"),
            ..text::Settings::default()
        },
    ];
    for texts in texts {
        let site = site(texts, JournalWhat::Delivered);
        let changes = changes(
            site.process(
                &from_ana(&["b@customer.test", "cy@corp.example"]),
                MAIL,
                ALL,
            )
            .await,
        );
        assert_eq!(changes, Changes::default());
        let queued = site.queued().await;
        let targets: usize = queued.iter().map(|queued| queued.item.targets.len()).sum();
        assert_eq!(targets, 3);
        assert!(
            queued
                .iter()
                .all(|queued| queued.original.beginning() == MAIL)
        );
    }
}

#[tokio::test]
async fn signed_mail_is_one_version_for_all() {
    let texts = text::Settings {
        outbound: append("Out"),
        ..text::Settings::default()
    };
    let site = site(texts, JournalWhat::Delivered);
    let signed = b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\ny\r\n--s--\r\n";
    let changes = changes(
        site.process(
            &from_ana(&["b@customer.test", "cy@corp.example"]),
            signed,
            ALL,
        )
        .await,
    );
    assert_eq!(changes, Changes::default());
    assert!(
        site.queued()
            .await
            .iter()
            .all(|queued| queued.item.kind == Kind::Report)
    );
}

#[tokio::test]
async fn without_a_split_all_get_the_text_that_goes_outside() {
    let texts = text::Settings {
        outbound: append("Out"),
        split_mixed: false,
        ..text::Settings::default()
    };
    let site = site(texts, JournalWhat::Received);
    let edit_only = Abilities {
        edit: true,
        split: false,
    };
    let to = ["cy@corp.example", "b@customer.test"];
    let changes = changes(site.process(&from_ana(&to), MAIL, edit_only).await);
    assert!(text_of(&changes).ends_with("Out\r\n") && changes.moved.is_empty());
}

#[tokio::test]
async fn a_text_that_fails_costs_no_copy() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}{{ sender.mail }}";
    let cases = [
        // The MTA lets nothing be changed; or takes no recipients away.
        (
            "Out",
            Abilities {
                edit: false,
                split: false,
            },
        ),
        (
            "Out",
            Abilities {
                edit: true,
                split: false,
            },
        ),
        // The template does not end.
        (endless, ALL),
    ];
    for (words, abilities) in cases {
        for on_failure in [OnFailure::Pass, OnFailure::Defer] {
            let texts = text::Settings {
                outbound: append(words),
                on_failure,
                signed: SignedPolicy::Skip,
                ..text::Settings::default()
            };
            let site = site(texts, JournalWhat::Delivered);
            let verdict = site
                .process(
                    &from_ana(&["b@customer.test", "cy@corp.example"]),
                    MAIL,
                    abilities,
                )
                .await;
            match (on_failure, verdict) {
                (OnFailure::Pass, Ok(changes)) => {
                    assert_eq!(changes, Changes::default());
                    let targets: usize = site
                        .queued()
                        .await
                        .iter()
                        .map(|queued| queued.item.targets.len())
                        .sum();
                    assert_eq!(targets, 3, "{abilities:?}");
                }
                (OnFailure::Defer, Err(reply)) => {
                    assert_eq!(reply.code, 451);
                    assert!(site.queued().await.is_empty());
                }
                (_, verdict) => panic!("{verdict:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_version_keeps_its_sender_s_parameters() {
    let texts = text::Settings {
        outbound: append("Out"),
        ..text::Settings::default()
    };
    let site = site(texts, JournalWhat::Received);
    let mut envelope = from_ana(&["b@customer.test", "cy@corp.example", "di@corp.example"]);
    envelope.sender_params = ["SIZE=5", "RET=HDRS", "ENVID=q1"]
        .map(str::to_owned)
        .to_vec();
    envelope.recipients[1].params = vec!["NOTIFY=NEVER".into()];
    envelope.recipients[2].params =
        vec!["notify=success,failure".into(), "ORCPT=rfc822;di@x".into()];
    changes(site.process(&envelope, MAIL, ALL).await);
    let queued = site.queued().await;
    let version = |to: &str| {
        let is_it = |queued: &&QueuedItem| {
            queued.item.kind == Kind::Version && queued.item.targets == [address(to)]
        };
        queued.iter().find(is_it).expect(to).item.clone()
    };
    let (cy, di) = (version("cy@corp.example"), version("di@corp.example"));
    assert_eq!(cy.dsn.sender, ["RET=HDRS", "ENVID=q1"]);
    assert_eq!(cy.dsn.of(&address("cy@corp.example")), ["NOTIFY=NEVER"]);
    // Who wants to hear of no failure does not; nobody else is told, so an operator sees to it.
    assert_eq!(
        (cy.ndr, cy.sender),
        (None, Some(address("ana@corp.example")))
    );
    assert_eq!(
        di.dsn.of(&address("di@corp.example")),
        ["notify=success,failure", "ORCPT=rfc822;di@x"]
    );
    assert_eq!(di.ndr, Some(address("ana@corp.example")));
}

#[tokio::test]
async fn a_recipient_named_twice_gets_one_version() {
    let texts = text::Settings {
        outbound: append("Out"),
        ..text::Settings::default()
    };
    let site = site(texts, JournalWhat::Received);
    let to = [
        "cy@corp.example",
        "b@customer.test",
        "CY@corp.example",
        "cy@corp.example",
    ];
    let changes = changes(site.process(&from_ana(&to), MAIL, ALL).await);
    assert_eq!(changes.moved, [0, 2, 3]);
    let queued = site.queued().await;
    let versions: Vec<&QueuedItem> = queued
        .iter()
        .filter(|o| o.item.kind == Kind::Version)
        .collect();
    assert_eq!(versions.len(), 1);
    assert_eq!(versions[0].item.targets, [address("cy@corp.example")]);
}

#[tokio::test]
async fn a_template_waits_for_no_directory_where_mail_is_to_pass() {
    for on_failure in [OnFailure::Pass, OnFailure::Defer] {
        let texts = text::Settings {
            outbound: append("{{ sender.displayName }}\nOut"),
            on_failure,
            ..text::Settings::default()
        };
        let mut site = site(texts, JournalWhat::Received);
        let rules = Arc::make_mut(&mut site.pipeline.ruleset.rules);
        rules.outbound.journal_attributes.clear();
        std::fs::remove_file(site.directory.path().join("people.ldif")).expect("removed");
        // The file is looked at a few times a second; until it is missed, its content counts.
        for n in 0.. {
            assert!(n < 200, "the missing file is not missed");
            // Somebody whom nothing is known of yet.
            let mut envelope = from_ana(&["b@customer.test"]);
            envelope.sender = Some(address(&format!("n{n}@corp.example")));
            match (on_failure, site.process(&envelope, MAIL, ALL).await) {
                (OnFailure::Pass, Ok(changes)) if changes == Changes::default() => {
                    break;
                }
                (OnFailure::Defer, Err(reply)) if reply.code == 451 => break,
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }
}
