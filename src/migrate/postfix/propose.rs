//! Postfix's settings → the text of a configuration.

use super::plan::Plan;
use super::{Postfix, map};
use crate::config::parse;
use crate::migrate::draft::Draft;
use crate::migrate::sections::base;
use crate::migrate::{Proposal, Site};

/// The most people listed in the configuration itself.
const LISTED: usize = 20;

/// A configuration and a directory that replace Postfix's BCC parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostfixProposal {
    /// The configuration.
    pub proposal: Proposal,
    /// The people in text tables, as a directory in LDIF.
    pub ldif: String,
}

/// Proposes a configuration that replaces Postfix's BCC parameters.
pub fn propose(postfix: &Postfix, site: &Site) -> PostfixProposal {
    let (site, known, tables) = postfix.site(site);
    let plan = Plan::new(postfix, &site);
    let mut draft = Draft::default();
    head(&mut draft, postfix, &plan);
    draft.organization(&site, known);
    for table in tables {
        draft.fill_in(
            "organization.domains",
            &format!("add the domains of {table}, which is not read."),
        );
    }
    networks(&mut draft, postfix);
    match (postfix.ldap(), site.directory_urls.is_empty()) {
        (Some(ldap), true) => ldap.section(&mut draft, &site),
        _ => draft.directory(&site),
    }
    if let Some(delimiter) = postfix.parameter("recipient_delimiter") {
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
    PostfixProposal {
        proposal: draft.finish(),
        ldif: plan.people.ldif(&base(&site)),
    }
}

fn head(draft: &mut Draft, postfix: &Postfix, plan: &Plan<'_>) {
    draft.head("Copyist's settings, proposed by copyist import-postfix in place of Postfix's BCC parameters.");
    draft.comment("\nWhen the result is correct, start Copyist, connect Postfix to it, and stop the BCC copies:");
    let milter = |name: &str| match postfix.parameter(name) {
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
        .filter(|name| postfix.parameter(name).is_some())
        .collect();
    match set.is_empty() {
        true => draft.note("always_bcc, sender_bcc_maps and recipient_bcc_maps are not set: there is nothing to translate."),
        false => draft.example(&format!("postconf -X {}", set.join(" "))),
    }
    for text in &plan.odd {
        draft.gap();
        draft.no_equivalent(text);
    }
    if plan.has_both_roles() {
        draft.gap();
        draft.note(
            "For internal mail Copyist reads the attributes of both sender and recipients, so it may send copies that \
             Postfix did not.",
        );
    }
    if plan.reads_attributes() {
        draft.gap();
        draft.note(
            "All values apply, whereas Postfix used only the first table's, with the most specific key first. External \
             mail to journal addresses is rejected: if copies go to people's own mailboxes, set \
             journal_guard = \"off\" in [organization].",
        );
    }
}

fn networks(draft: &mut Draft, postfix: &Postfix) {
    let Some(written) = postfix.parameter("mynetworks") else {
        return;
    };
    let (sound, odd): (Vec<&str>, Vec<&str>) = map::words(written)
        .into_iter()
        .partition(|word| parse::network(&strip_brackets(word)).is_ok());
    if !sound.is_empty() {
        draft.comment(
            "From mynetworks: clients that send as the organization without authenticating.",
        );
        let networks: Vec<String> = sound.into_iter().map(strip_brackets).collect();
        draft.set("trusted_networks", networks);
    }
    for word in odd {
        draft.no_equivalent(&format!("{word} in mynetworks is not a network."));
    }
}

/// Removes the brackets of `[::1]/128`, as Postfix writes `::1/128`.
fn strip_brackets(network: &str) -> String {
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
            "the text tables name {} addresses, whose objects need these attributes (copyist schema prints definitions \
             for the directory). Or run copyist import-postfix --ldif FILE to write a directory of them, and use it: \
             urls = [\"ldif:FILE\"].",
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
