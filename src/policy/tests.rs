//! Claims about the plan and the guard.

use std::sync::Arc;

use crate::directory::{Entry, Lookup, Objects, Outage, ResolvedAddress, Target, TargetError};
use crate::identity::{AddressRules, IdentityAnswers, IdentityQuery, Owners, Person};
use crate::mail::{Address, Certificate, Client, Envelope, Recipient};

use super::*;

fn address(text: &str) -> Address {
    Address::parse(text).expect("a valid address")
}

fn rules() -> Rules {
    let of = |name: &str| DirectionRules {
        journal_what: Default::default(),
        journal: Vec::new(),
        journal_attributes: vec!["extensionAttribute10".into()],
        ndr: Some(address(&format!("{name}ndr@corp.example"))),
        format: Format::Report,
    };
    Rules {
        organization: Organization {
            names: Arc::new(AddressRules {
                domains: vec!["corp.example".parse().expect("a domain")],
                ..AddressRules::default()
            }),
            trusted_networks: vec!["10.0.0.0/8".parse().expect("a network")],
            ..Organization::default()
        },
        inbound: of("in"),
        outbound: of("out"),
        internal: of("internal"),
        ..Rules::default()
    }
}

fn envelope(client: &str, sender: &str, recipients: &[&str]) -> Envelope {
    Envelope {
        sender: Some(address(sender)),
        recipients: recipients
            .iter()
            .map(|text| Recipient::new(address(text)))
            .collect(),
        client: Client {
            ip: Some(client.parse().expect("an IP address")),
            ..Client::default()
        },
        ..Envelope::default()
    }
}

const OUTSIDE: &str = "192.0.2.1";
const INSIDE: &str = "10.1.1.1";

fn found(values: &[&str]) -> Lookup<Objects> {
    let values = values.iter().map(ToString::to_string).collect();
    let entry = Entry::new("uid=x", [("extensionAttribute10".to_owned(), values)]);
    Lookup::Found([Arc::new(entry)].into())
}

fn down() -> Lookup<Objects> {
    Lookup::Unavailable(Outage::new("down"))
}

/// The answers about these addresses, as sender and as recipient.
fn people<const N: usize>(answers: [(&str, Lookup<Objects>); N]) -> IdentityAnswers {
    let answers = answers.into_iter().flat_map(|(text, answer)| {
        let answer = match answer {
            Lookup::Found(objects) => Lookup::Found(Arc::new(Owners {
                people: vec![Person {
                    address: address(text),
                    objects,
                    group: None,
                }],
                ..Owners::default()
            })),
            Lookup::Absent => Lookup::Absent,
            Lookup::Unavailable(outage) => Lookup::Unavailable(outage),
        };
        [(recipient(text), answer.clone()), (sender(text), answer)]
    });
    answers.collect()
}

fn recipient(text: &str) -> IdentityQuery {
    IdentityQuery::Recipient {
        address: address(text),
        mta: None,
    }
}

fn sender(text: &str) -> IdentityQuery {
    IdentityQuery::Sender {
        address: address(text),
        mta: None,
    }
}

fn plan(
    envelope: &Envelope,
    people: &IdentityAnswers,
    resolved: &ResolvedTargets,
    rules: &Rules,
) -> Result<Plan, PlanError> {
    PlanBuilder::new(&Context::new(envelope, rules), people).build(resolved)
}

fn targets(plan: &Plan) -> Vec<String> {
    plan.copies
        .iter()
        .flat_map(|copy| copy.targets.iter().map(|(target, _)| target.to_string()))
        .collect()
}

#[test]
fn direction_comes_from_the_connection_not_from_mail_from() {
    let spoofed = envelope(OUTSIDE, "boss@corp.example", &["dan@corp.example"]);
    let decided = plan(
        &spoofed,
        &people([("dan@corp.example", Lookup::Absent)]),
        &ResolvedTargets::new(),
        &rules(),
    )
    .expect("decided");
    assert_eq!(decided.distinct_directions(), [Direction::Inbound]);
    assert!(!decided.from_us);
}

#[test]
fn one_message_can_have_two_directions() {
    let envelope = envelope(
        INSIDE,
        "ana@corp.example",
        &["dan@corp.example", "x@else.test"],
    );
    assert_eq!(
        Context::new(&envelope, &rules()).queries(),
        [
            recipient("dan@corp.example"),
            recipient("x@else.test"),
            sender("ana@corp.example")
        ]
    );
    let found = people([
        ("ana@corp.example", Lookup::Absent),
        ("dan@corp.example", Lookup::Absent),
        ("x@else.test", Lookup::Absent),
    ]);
    let decided = plan(&envelope, &found, &ResolvedTargets::new(), &rules()).expect("decided");
    assert_eq!(
        decided.distinct_directions(),
        [Direction::Outbound, Direction::Internal]
    );
    assert!(decided.is_empty());
}

#[test]
fn an_authenticated_user_is_internal_from_any_client() {
    let mut roaming = envelope(OUTSIDE, "sales@corp.example", &["x@else.test"]);
    roaming.client.user = Some("ana".into());
    assert!(ClientTrust::of(&roaming, &rules()).from_us);
    assert!(
        Context::new(&roaming, &rules())
            .queries()
            .contains(&IdentityQuery::AuthUser("ana".into()))
    );
}

#[test]
fn a_relayed_outsider_is_journaled_as_inbound() {
    let relayed = envelope(OUTSIDE, "a@else.test", &["b@other.test"]);
    assert_eq!(
        Context::new(&relayed, &rules()).queries(),
        [recipient("b@other.test")]
    );
}

#[test]
fn nothing_is_asked_where_settings_alone_decide() {
    let mut rules = rules();
    rules.inbound.journal_attributes.clear();
    rules
        .inbound
        .journal
        .push(Target::Smtp(address("all@corp.example")));
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    assert!(Context::new(&envelope, &rules).queries().is_empty());
    let decided = plan(
        &envelope,
        &IdentityAnswers::default(),
        &ResolvedTargets::new(),
        &rules,
    )
    .expect("decided");
    assert_eq!(targets(&decided), ["all@corp.example"]);
}

#[test]
fn a_target_named_twice_gets_one_copy_with_both_reasons() {
    let mut rules = rules();
    rules
        .inbound
        .journal
        .push(Target::Smtp(address("J@corp.example")));
    let envelope = envelope(
        OUTSIDE,
        "a@else.test",
        &["dan@corp.example", "eve@corp.example"],
    );
    let found = people([
        ("dan@corp.example", found(&["smtp:j@corp.example"])),
        (
            "eve@corp.example",
            found(&["j@corp.example", "k@corp.example"]),
        ),
    ]);
    let decided = plan(&envelope, &found, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(decided.copies.len(), 1);
    assert_eq!(targets(&decided), ["J@corp.example", "k@corp.example"]);
    assert_eq!(decided.copies[0].targets[0].1.len(), 3);
}

#[test]
fn one_target_in_two_directions_is_one_copy_of_the_first() {
    let mut rules = rules();
    rules
        .outbound
        .journal
        .push(Target::Smtp(address("j@corp.example")));
    rules
        .internal
        .journal
        .push(Target::Smtp(address("j@corp.example")));
    let envelope = envelope(
        INSIDE,
        "ana@corp.example",
        &["dan@corp.example", "x@else.test"],
    );
    let found = people([
        ("ana@corp.example", Lookup::Absent),
        ("dan@corp.example", Lookup::Absent),
        ("x@else.test", Lookup::Absent),
    ]);
    let decided = plan(&envelope, &found, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(decided.copies.len(), 1);
    assert_eq!(decided.copies[0].ndr, address("outndr@corp.example"));
    assert_eq!(decided.copies[0].targets.len(), 1);
}

#[test]
fn directions_with_different_ndr_addresses_get_a_copy_each() {
    let envelope = envelope(
        INSIDE,
        "ana@corp.example",
        &["dan@corp.example", "x@else.test"],
    );
    let found = people([
        ("ana@corp.example", Lookup::Absent),
        ("dan@corp.example", found(&["in@corp.example"])),
        ("x@else.test", found(&["out@corp.example"])),
    ]);
    let decided = plan(&envelope, &found, &ResolvedTargets::new(), &rules()).expect("decided");
    assert_eq!(decided.copies.len(), 2);
}

#[test]
fn outbound_reads_whose_object_the_settings_say() {
    let envelope = envelope(INSIDE, "ana@corp.example", &["x@else.test"]);
    let mut rules = rules();
    let asked = |rules: &Rules| Context::new(&envelope, rules).queries();
    assert_eq!(asked(&rules).len(), 2);
    rules.outbound_attribute_of = AttributeOf::Sender;
    assert_eq!(asked(&rules), [sender("ana@corp.example")]);
    rules.outbound_attribute_of = AttributeOf::Recipient;
    assert_eq!(asked(&rules), [recipient("x@else.test")]);
}

#[test]
fn an_outage_is_not_an_absence() {
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    let mut rules = rules();
    let silent = people([("dan@corp.example", down())]);
    assert!(plan(&envelope, &silent, &ResolvedTargets::new(), &rules).is_err());
    assert!(
        plan(
            &envelope,
            &IdentityAnswers::default(),
            &ResolvedTargets::new(),
            &rules
        )
        .is_err()
    );

    rules.on_directory_failure = OnFailure::Fallback;
    assert!(
        plan(&envelope, &silent, &ResolvedTargets::new(), &rules).is_err(),
        "no fallback address is no fallback"
    );
    rules.fallback_journal = Some(address("fallback@corp.example"));
    assert_eq!(
        targets(&plan(&envelope, &silent, &ResolvedTargets::new(), &rules).expect("decided")),
        ["fallback@corp.example"]
    );

    rules.on_directory_failure = OnFailure::Accept;
    let decided = plan(&envelope, &silent, &ResolvedTargets::new(), &rules).expect("decided");
    assert!(decided.is_empty());
    assert_eq!(decided.skipped_lookups, ["dan@corp.example"]);
}

#[test]
fn a_malformed_value_goes_to_the_fallback_or_is_reported() {
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    let mut rules = rules();
    let found = people([(
        "dan@corp.example",
        found(&["nobody", " ", "CN=all,DC=x", "ok@corp.example"]),
    )]);
    let named = Target::parse("CN=all,DC=x").expect("a target");
    assert_eq!(
        PlanBuilder::new(&Context::new(&envelope, &rules), &found).targets(),
        std::slice::from_ref(&named),
        "addresses need no directory"
    );
    let nowhere = ResolvedTargets::from([(
        named.clone(),
        Ok(Err(TargetError::NoSuchObject(named.to_string()))),
    )]);
    let decided = plan(&envelope, &found, &nowhere, &rules).expect("decided");
    assert_eq!(targets(&decided), ["ok@corp.example"]);
    assert_eq!(
        decided
            .invalid_targets
            .iter()
            .map(|trouble| trouble.value.as_str())
            .collect::<Vec<_>>(),
        ["nobody", "CN=all,DC=x"]
    );
    assert!(
        decided.invalid_targets[0]
            .to_string()
            .contains("extensionAttribute10 of uid=x is \"nobody\"")
    );

    rules.fallback_journal = Some(address("fallback@corp.example"));
    let decided = plan(&envelope, &found, &nowhere, &rules).expect("decided");
    assert!(decided.invalid_targets.is_empty());
    assert_eq!(
        targets(&decided),
        ["fallback@corp.example", "ok@corp.example"]
    );
}

#[test]
fn the_directory_decides_about_a_target_that_names_an_object() {
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    let rules = rules();
    let found = people([("dan@corp.example", found(&["CN=all,DC=x"]))]);
    let named = Target::parse("CN=all,DC=x").expect("a target");
    let reached = ResolvedAddress {
        address: address("ana@corp.example"),
        path: Arc::new(["CN=all,DC=x".into(), "uid=ana".into()]),
    };
    let resolved = ResolvedTargets::from([(named.clone(), Ok(Ok(Arc::new(vec![reached].into()))))]);
    let decided = plan(&envelope, &found, &resolved, &rules).expect("decided");
    assert_eq!(targets(&decided), ["ana@corp.example"]);
    let reason = decided.copies[0].targets[0].1[0].to_string();
    assert!(
        reason.ends_with("CN=all,DC=x through CN=all,DC=x > uid=ana"),
        "{reason}"
    );
    // An outage is no "nobody", and neither is a question that was not put.
    let down = ResolvedTargets::from([(named, Err(Outage::new("down")))]);
    for resolved in [down, ResolvedTargets::new()] {
        let undecided = plan(&envelope, &found, &resolved, &rules).expect_err("deferred");
        assert_eq!(undecided.subject, "CN=all,DC=x");
    }
}

#[test]
fn two_objects_for_one_address_are_both_obeyed() {
    let object = |dn: &str, value: &str| {
        Arc::new(Entry::new(
            dn,
            [("extensionAttribute10".to_owned(), vec![value.to_owned()])],
        ))
    };
    let both = Lookup::Found(
        [
            object("uid=a", "a@corp.example"),
            object("uid=b", "b@corp.example"),
        ]
        .into(),
    );
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    let decided = plan(
        &envelope,
        &people([("dan@corp.example", both)]),
        &ResolvedTargets::new(),
        &rules(),
    )
    .expect("decided");
    assert_eq!(targets(&decided), ["a@corp.example", "b@corp.example"]);
}

#[test]
fn the_guard_rejects_outsiders_and_waits_for_our_own_proof() {
    let mut rules = rules();
    rules
        .inbound
        .journal
        .push(Target::Smtp(address("j@corp.example")));
    let stranger = address("a@else.test");
    let ndr = address("inndr@corp.example");
    // Of recipients that are guarded mailboxes.
    let judge = |from_us, sender: Option<&Address>, recipient: &str, rules: &Rules| {
        let client = ClientTrust {
            from_us,
            may_relay: from_us,
            is_trusted: from_us,
            is_authenticated: false,
        };
        match is_guarding(client, sender, rules) {
            true => admission(client, sender, &address(recipient), rules),
            false => Admission::Allowed,
        }
    };
    assert_eq!(
        judge(false, Some(&stranger), "J@Corp.example", &rules),
        Admission::Rejected
    );
    assert_eq!(
        judge(false, Some(&stranger), "inndr@corp.example", &rules),
        Admission::Rejected
    );
    // A null reverse path says nothing of where mail comes from; our own relay's bounces must
    // arrive.
    assert_eq!(
        judge(true, None, "j@corp.example", &rules),
        Admission::Rejected
    );
    assert_eq!(
        judge(true, None, "inndr@corp.example", &rules),
        Admission::Allowed
    );
    assert_eq!(
        judge(false, Some(&ndr), "j@corp.example", &rules),
        Admission::Provisional
    );
    assert_eq!(
        judge(false, None, "inndr@corp.example", &rules),
        Admission::Provisional
    );
    assert_eq!(
        judge(false, None, "j@corp.example", &rules),
        Admission::Rejected
    );
    assert_eq!(
        judge(true, Some(&stranger), "j@corp.example", &rules),
        Admission::Allowed
    );
    rules.journal_guard = Guard::Everyone;
    assert_eq!(
        judge(true, Some(&stranger), "j@corp.example", &rules),
        Admission::Rejected
    );
    rules.journal_guard = Guard::Off;
    assert_eq!(
        judge(false, Some(&stranger), "j@corp.example", &rules),
        Admission::Allowed
    );
}

#[test]
fn a_copy_has_no_more_targets_than_every_relay_takes_at_once() {
    let envelope = envelope(OUTSIDE, "a@else.test", &["dan@corp.example"]);
    let named = Target::parse("CN=all,DC=x").expect("a target");
    let reached: Vec<ResolvedAddress> = (0..250)
        .map(|n| ResolvedAddress {
            address: address(&format!("u{n}@corp.example")),
            path: Arc::new([]),
        })
        .collect();
    let resolved = ResolvedTargets::from([(named, Ok(Ok(Arc::new(reached.into()))))]);
    let found = people([("dan@corp.example", found(&["CN=all,DC=x"]))]);
    let decided = plan(&envelope, &found, &resolved, &rules()).expect("decided");
    let sizes: Vec<usize> = decided.copies.iter().map(|c| c.targets.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let mut distinct = targets(&decided);
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 250);
}

/// An object that exempts its person, with a journal attribute.
fn exempt(value: &str) -> Arc<Entry> {
    Arc::new(Entry::new(
        "uid=exempt",
        [
            (
                "extensionAttribute10".to_owned(),
                vec!["j@else.test".to_owned()],
            ),
            ("exempt".to_owned(), vec![value.to_owned()]),
        ],
    ))
}

fn with_exemptions() -> Rules {
    let mut rules = rules();
    rules.exempt_attribute = Some("exempt".into());
    rules.internal.journal = vec![Target::parse("all@else.test").expect("a target")];
    rules
}

#[test]
fn an_exempt_person_causes_no_copy_and_others_still_do() {
    let rules = with_exemptions();
    let both = envelope(INSIDE, "ana@corp.example", &["dan@corp.example"]);
    let decide = |ana: Lookup<Objects>, dan: Lookup<Objects>| {
        let people = people([("ana@corp.example", ana), ("dan@corp.example", dan)]);
        plan(&both, &people, &ResolvedTargets::new(), &rules).expect("decided")
    };
    let free = || Lookup::Found([exempt("TRUE")].into());
    let decided = decide(free(), found(&["d@else.test"]));
    assert_eq!(targets(&decided), ["all@else.test", "d@else.test"]);
    assert_eq!(
        decided.exempt,
        [(address("ana@corp.example"), "uid=exempt".into())]
    );
    assert_eq!(targets(&decide(free(), Lookup::Absent)), ["all@else.test"]);
    let decided = decide(free(), free());
    assert!(decided.is_empty() && decided.exempt.len() == 2);
}

#[test]
fn an_unclear_sender_is_never_exempt() {
    let rules = with_exemptions();
    let both = envelope(INSIDE, "ana@corp.example", &["ana@corp.example"]);
    let mut group = exempt("TRUE").as_ref().clone();
    group.inherited = true;
    for objects in [
        vec![exempt("FALSE")],
        vec![exempt("yes")],
        vec![exempt("")],
        // Of two objects with the same address one says nothing.
        vec![exempt("TRUE"), exempt("FALSE")],
        // A group does not exempt its members.
        vec![exempt("FALSE"), Arc::new(group)],
    ] {
        let people = people([("ana@corp.example", Lookup::Found(objects.into()))]);
        let decided = plan(&both, &people, &ResolvedTargets::new(), &rules).expect("decided");
        assert_eq!(targets(&decided), ["all@else.test", "j@else.test"]);
        assert!(decided.exempt.is_empty());
    }
    // A login that is not exempt speaks for a reverse path that is.
    let mut forged = envelope(INSIDE, "ana@corp.example", &["x@else.test"]);
    forged.client.user = Some("eve@corp.example".into());
    let people = people([
        ("ana@corp.example", Lookup::Found([exempt("TRUE")].into())),
        ("eve@corp.example", found(&["e@else.test"])),
        ("x@else.test", Lookup::Absent),
    ]);
    let login = IdentityQuery::AuthUser("eve@corp.example".into());
    let eve = people.get(&sender("eve@corp.example"));
    let people: IdentityAnswers = (people.iter())
        .map(|(question, answer)| (question.clone(), answer.clone()))
        .chain([(login, eve.clone())])
        .collect();
    let mut rules = rules;
    rules.outbound.journal = vec![Target::parse("all@else.test").expect("a target")];
    let decided = plan(&forged, &people, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(targets(&decided), ["all@else.test", "e@else.test"]);
}

#[test]
fn a_target_outside_the_journal_domains_goes_to_the_fallback() {
    let mut rules = Rules {
        journal_domains: vec!["*.archive.example".parse().expect("a domain")],
        ..rules()
    };
    let to = envelope(OUTSIDE, "a@elsewhere.test", &["dan@corp.example"]);
    let values = [
        "j@x.archive.example",
        "thief@elsewhere.test",
        "j@archive.example",
    ];
    let people = people([("dan@corp.example", found(&values))]);
    let decided = plan(&to, &people, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(targets(&decided), ["j@x.archive.example"]);
    let told: Vec<&str> = decided
        .invalid_targets
        .iter()
        .map(|t| t.value.as_str())
        .collect();
    assert_eq!(told, values[1..]);
    assert_eq!(
        decided.outside_targets.len(),
        2,
        "{:?}",
        decided.outside_targets
    );
    rules.fallback_journal = Some(address("all@x.archive.example"));
    let decided = plan(&to, &people, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(
        targets(&decided),
        ["all@x.archive.example", "j@x.archive.example"]
    );
    assert!(decided.invalid_targets.is_empty() && decided.outside_targets.len() == 2);
    // What a group or an object leads to, too.
    let dn = "cn=group,dc=b";
    let target = Target::parse(dn).expect("a target");
    let reached = |text: &str| ResolvedAddress {
        address: address(text),
        path: [dn.to_owned()].into(),
    };
    let both = vec![
        reached("k@x.archive.example"),
        reached("thief@elsewhere.test"),
    ];
    let resolved = ResolvedTargets::from([(target, Ok(Ok(Arc::new(both.into()))))]);
    let people = self::people([("dan@corp.example", found(&[dn]))]);
    let decided = plan(&to, &people, &resolved, &rules).expect("decided");
    assert_eq!(
        targets(&decided),
        ["all@x.archive.example", "k@x.archive.example"]
    );
}

#[test]
fn permission_to_relay_does_not_make_a_client_internal() {
    let mut rules = rules();
    rules.organization.gateways = vec!["10.9.0.0/16".parse().expect("a network")];
    rules.organization.trusted_certificates = vec![Certificate {
        subject: "notebook".into(),
        issuer: String::new(),
    }];
    let to = ["dan@corp.example", "x@else.test"];
    let of = |client: &str, sender: &str| {
        let envelope = envelope(client, sender, &to);
        let context = Context::new(&envelope, &rules);
        let of = |at: usize| context.directions[at];
        (of(0), of(1))
    };
    use Direction::{Inbound, Internal, Outbound};
    assert_eq!(of(INSIDE, "ana@corp.example"), (Internal, Outbound));
    assert_eq!(of(INSIDE, "a@else.test"), (Inbound, Outbound));
    assert_eq!(of("10.9.1.1", "ana@corp.example"), (Inbound, Inbound));
    assert_eq!(of(OUTSIDE, "ana@corp.example"), (Inbound, Inbound));
    let mut holder = envelope(OUTSIDE, "a@else.test", &to);
    holder.client.certificate = Some(Certificate {
        subject: "NoteBook".into(),
        issuer: "Corp CA".into(),
    });
    assert!(ClientTrust::of(&holder, &rules).from_us);
    assert!(
        Context::new(&holder, &rules)
            .senders
            .contains(&IdentityQuery::AuthUser("NoteBook".into()))
    );
}

#[test]
fn an_author_named_by_a_trusted_client_only_adds_copies() {
    let mut message = envelope(
        INSIDE,
        "ana@private.test",
        &["dan@corp.example", "x@else.test"],
    );
    let unknown = [
        ("dan@corp.example", Lookup::Absent),
        ("x@else.test", Lookup::Absent),
        ("ana@private.test", Lookup::Absent),
    ];
    let nobody = people(unknown.clone());
    assert!(Context::new(&message, &rules()).needs_authors(&nobody));
    let decided = plan(&message, &nobody, &ResolvedTargets::new(), &rules()).expect("decided");
    assert!(decided.is_unidentified && decided.is_empty());
    message.header_authors = vec![address("ana@corp.example")];
    let [dan, x, private] = unknown;
    let found = people([
        dan,
        x,
        private,
        ("ana@corp.example", found(&["j@corp.example"])),
    ]);
    let decided = plan(&message, &found, &ResolvedTargets::new(), &rules()).expect("decided");
    assert_eq!(targets(&decided), ["j@corp.example"]);
    assert!(!decided.is_unidentified);
    assert_eq!(
        decided.distinct_directions(),
        [Direction::Inbound, Direction::Outbound]
    );
    let outsider = envelope(OUTSIDE, "ana@private.test", &["dan@corp.example"]);
    assert!(!Context::new(&outsider, &rules()).needs_authors(&found));
}

#[test]
fn an_unknown_authenticated_user_goes_to_the_fallback() {
    let mut message = envelope(OUTSIDE, "printer@corp.example", &["x@else.test"]);
    message.client.user = Some("printer".into());
    let answers = [
        recipient("x@else.test"),
        sender("printer@corp.example"),
        IdentityQuery::AuthUser("printer".into()),
    ];
    let nobody: IdentityAnswers = answers
        .into_iter()
        .map(|one| (one, Lookup::Absent))
        .collect();
    let mut rules = rules();
    let decided = plan(&message, &nobody, &ResolvedTargets::new(), &rules).expect("decided");
    assert!(decided.is_unidentified && decided.is_empty());
    rules.fallback_journal = Some(address("fallback@corp.example"));
    let decided = plan(&message, &nobody, &ResolvedTargets::new(), &rules).expect("decided");
    assert_eq!(targets(&decided), ["fallback@corp.example"]);
}

#[test]
fn a_group_names_the_members_that_cause_a_copy() {
    let message = envelope(OUTSIDE, "a@else.test", &["sales@corp.example"]);
    let member = |name: &str, values: &[&str]| {
        let Lookup::Found(objects) = found(values) else {
            unreachable!("it is found");
        };
        Person {
            address: address(name),
            objects,
            group: Some(address("sales@corp.example")),
        }
    };
    let owners = Owners {
        people: vec![
            member("dan@corp.example", &["j@corp.example"]),
            member("eve@corp.example", &[]),
        ],
        ..Owners::default()
    };
    let answer = Lookup::Found(Arc::new(owners));
    let people: IdentityAnswers = [(recipient("sales@corp.example"), answer)]
        .into_iter()
        .collect();
    let decided = plan(&message, &people, &ResolvedTargets::new(), &rules()).expect("decided");
    let expanded = decided.copies[0].expanded();
    assert_eq!(
        expanded,
        [(&address("dan@corp.example"), &address("sales@corp.example"))]
    );
}
