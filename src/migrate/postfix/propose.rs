//! What Postfix is set to → the text of a configuration.

use super::plan::Plan;
use super::{Postfix, map};
use crate::config::parse;
use crate::migrate::draft::Draft;
use crate::migrate::sections::base;
use crate::migrate::{Proposal, Site};

/// How many people are listed in the configuration itself.
const LISTED: usize = 20;

/// What comes of Postfix's BCC parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// A configuration that does what they did.
    pub proposal: Proposal,
    /// The people whom the tables of text name, as a directory in LDIF.
    pub ldif: String,
}

/// Proposes a configuration that does what Postfix's BCC parameters did.
pub fn propose(postfix: &Postfix, site: &Site) -> Proposed {
    let (site, known, tables) = postfix.site(site);
    let plan = Plan::of(postfix, &site);
    let mut draft = Draft::default();
    head(&mut draft, postfix, &plan);
    draft.organization(&site, known);
    for table in tables {
        draft.fill_in(
            "organization.domains",
            &format!("add the domains of {table}, which is not read here."),
        );
    }
    networks(&mut draft, postfix);
    match (postfix.ldap(), site.directory_urls.is_empty()) {
        (Some(ldap), true) => ldap.section(&mut draft, &site),
        _ => draft.directory(&site),
    }
    if let Some(delimiter) = postfix.given("recipient_delimiter") {
        match parse::delimiters(delimiter) {
            Ok(delimiter) => draft.set("recipient_delimiter", delimiter),
            Err(problem) => {
                draft.no_equivalent(&format!("recipient_delimiter = {delimiter} {problem}."));
            }
        }
    }
    list_people(&mut draft, &plan, site.has_file());
    for (direction, section) in plan.sections() {
        draft.direction(direction, &section);
    }
    draft.hook_and_relay(&site);
    Proposed {
        proposal: draft.finish(),
        ldif: plan.people.ldif(&base(&site)),
    }
}

fn head(draft: &mut Draft, postfix: &Postfix, plan: &Plan<'_>) {
    draft.head("Copyist's settings, proposed by copyist import-postfix in place of Postfix's BCC parameters.");
    draft.comment("\nWhen that is as it should be, start Copyist, let Postfix ask it, and end the BCC copies:");
    let milter = |name: &str| match postfix.given(name) {
        Some(others) => format!("'{name} = {others}, inet:127.0.0.1:8725'"),
        None => format!("'{name} = inet:127.0.0.1:8725'"),
    };
    draft.example(&format!(
        "postconf -e {} {} milter_default_action=tempfail",
        milter("smtpd_milters"),
        milter("non_smtpd_milters")
    ));
    let set = ["always_bcc", "sender_bcc_maps", "recipient_bcc_maps"];
    let set: Vec<&str> = set
        .into_iter()
        .filter(|name| postfix.given(name).is_some())
        .collect();
    match set.is_empty() {
        true => draft.note("None of always_bcc, sender_bcc_maps and recipient_bcc_maps is set: there is nothing to translate."),
        false => draft.example(&format!("postconf -X {}", set.join(" "))),
    }
    for text in &plan.odd {
        draft.gap();
        draft.no_equivalent(text);
    }
    if plan.tells_sides_apart() {
        draft.gap();
        draft.note(
            "Of mail inside the organization Copyist reads the attributes of sender and recipients alike, so it may make \
             copies there that Postfix did not.",
        );
    }
    if plan.reads_attributes() {
        draft.gap();
        draft.note(
            "All values that are found count, where Postfix took the first table's and tried the most exact key first. Mail \
             from outside to journal addresses is refused: where copies go to people's own mailboxes, write \
             journal_guard = \"off\" in [organization].",
        );
    }
}

fn networks(draft: &mut Draft, postfix: &Postfix) {
    let Some(written) = postfix.given("mynetworks") else {
        return;
    };
    let (sound, odd): (Vec<&str>, Vec<&str>) = map::words(written)
        .into_iter()
        .partition(|word| parse::network(&unbracketed(word)).is_ok());
    if !sound.is_empty() {
        draft
            .comment("From mynetworks: whose clients send as the organization without logging in.");
        let networks: Vec<String> = sound.into_iter().map(unbracketed).collect();
        draft.set("trusted_networks", networks);
    }
    for word in odd {
        draft.no_equivalent(&format!("{word} in mynetworks is no network."));
    }
}

/// Postfix writes `[::1]/128` for `::1/128`.
fn unbracketed(network: &str) -> String {
    network.replacen('[', "", 1).replacen(']', "", 1)
}

fn list_people(draft: &mut Draft, plan: &Plan<'_>, is_file: bool) {
    let people = &plan.people.people;
    if people.is_empty() || is_file {
        return;
    }
    draft.gap();
    draft.fill_in(
        "directory",
        &format!(
            "the tables of text name {} addresses, whose objects need these attributes (copyist schema prints them for \
             directories that have none). Or let copyist import-postfix --ldif FILE write a directory of them, and use \
             that: urls = [\"ldif:FILE\"].",
            people.len()
        ),
    );
    for (address, person) in people.iter().take(LISTED) {
        for (attribute, values) in person.attributes() {
            for value in values {
                draft.example(&format!("{address}   {attribute}: {value}"));
            }
        }
    }
    if people.len() > LISTED {
        draft.example(&format!(
            "and {} more, which --ldif lists",
            people.len() - LISTED
        ));
    }
}
