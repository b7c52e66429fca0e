//! What would become of a message from here to there, and why. Nothing is sent.

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Kind, notice, page};
use super::words::Foreign;
use crate::admin::Watched;
use crate::admin::guard::Visitor;
use crate::identity::parse_path;
use crate::mail::Envelope;
use crate::survey::{self, Explanation};

/// Recipients of one question: each may be several questions to the directory.
const MOST: usize = 50;

/// What is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct Question {
    from: String,
    to: String,
    client: String,
    user: String,
}

impl Question {
    /// The envelope that is asked about; `None` where nothing is.
    fn envelope(&self, default_domain: &str) -> Result<Option<Envelope>, String> {
        let to = paths(&self.to);
        if to.is_empty() {
            return Ok(None);
        }
        if to.len() > MOST {
            return Err(format!(
                "These are more than {MOST} recipients; copyist explain takes any number."
            ));
        }
        let address = |text: &str| {
            parse_path(text, default_domain).map_err(|error| format!("{text}: {error}"))
        };
        let sender = match self.from.trim() {
            "" | "<>" => None,
            text => Some(address(text)?),
        };
        let client = match self.client.trim() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| format!("{text} is no IP address"))?,
            ),
        };
        let user = Some(self.user.trim()).filter(|user| !user.is_empty());
        let to = to.into_iter().map(address).collect::<Result<_, _>>()?;
        Ok(Some(survey::envelope(
            sender,
            to,
            client,
            user.map(str::to_owned),
        )))
    }
}

/// Recipients with commas, blanks or line breaks between them; those in quotes are part of an
/// address.
fn paths(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let parts = text.split(|c: char| {
        is_quoted ^= c == '"';
        !is_quoted && (c == ',' || c.is_ascii_whitespace())
    });
    parts.filter(|part| !part.is_empty()).collect()
}

pub(in crate::admin) async fn show(
    State(watched): State<Watched>,
    Extension(visitor): Extension<Visitor>,
    Query(question): Query<Question>,
) -> Response {
    let pipeline = watched.pipeline.load_full();
    let default_domain = pipeline.identities.names().default_domain();
    let answer = match question.envelope(default_domain.unwrap_or("localhost")) {
        Err(mistake) => notice(Kind::Look, &html! { (Foreign(&mistake)) }),
        Ok(None) => html! {},
        Ok(Some(envelope)) => {
            let explained = survey::explain(
                &envelope,
                &pipeline.identities,
                &pipeline.guarded,
                &pipeline.rules,
                &pipeline.text,
            );
            answer(&explained.await)
        }
    };
    let content = html! {
        h1 { "Explain" }
        p { "Who would get a copy of a message, and why. Nothing is sent." }
        form.question method="get" action="/explain" {
            div {
                label for="from" { "From" }
                input id="from" name="from" value=(question.from) autocomplete="off" spellcheck="false" aria-describedby="from-hint";
                p id="from-hint" { "The envelope sender; empty for the null reverse path of a bounce." }
            }
            div {
                label for="to" { "To" }
                textarea id="to" name="to" rows="2" required autocomplete="off" spellcheck="false" aria-describedby="to-hint" { (question.to) }
                p id="to-hint" { "The envelope recipients as in RCPT TO, with spaces, commas or line breaks between them." }
            }
            div {
                label for="client" { "Client" }
                input id="client" name="client" value=(question.client) autocomplete="off" placeholder="192.0.2.1" aria-describedby="client-hint";
                p id="client-hint" { "The IP address that the message comes from." }
            }
            div {
                label for="user" { "Authenticated as" }
                input id="user" name="user" value=(question.user) autocomplete="off" spellcheck="false" aria-describedby="user-hint";
                p id="user-hint" { "The login; empty if the client did not authenticate." }
            }
            button { "Explain" }
        }
        (answer)
    };
    page(&visitor, "/explain", "Explain", &content)
}

fn answer(said: &Explanation) -> Markup {
    html! {
        section id="answer" aria-labelledby="what" {
            h2 id="what" { "Answer" }
            p {
                "The sender is "
                @if said.sender_is_ours { "inside" } @else { "outside" } ": " (said.because) "."
            }
            @if said.is_unidentified { (notice(Kind::Look, &html! { "The sender is not identified: no object of the directory is found by reverse path or login. No copy is made because of the sender." })) }
            @if let Some(why) = &said.deferred { (notice(Kind::Fault, &html! { "The message would be deferred with 451: " (Foreign(why)) })) }
            @if let Some(why) = &said.text_failure { (notice(Kind::Look, &html! { "No text is put in: " (Foreign(why)) })) }
            @for trouble in &said.troubles { (notice(Kind::Look, &html! { "Not usable: " (Foreign(trouble)) })) }
            (copies(said))
            (recipients(said))
            (objects(said))
        }
    }
}

fn copies(said: &Explanation) -> Markup {
    html! {
        h3 { "Journaled" }
        @if said.copies.is_empty() && said.deferred.is_none() { p { "Nothing is journaled." } }
        @for copy in &said.copies {
            p { "One " (copy.format) " (" (copy.direction) "), sent from " (Foreign(&copy.ndr.to_string())) ", which gets its NDRs:" }
            table.cards {
                thead { tr { th scope="col" { "Journal address" } th scope="col" { "Because of" } } }
                tbody {
                    @for target in &copy.targets {
                        tr {
                            th scope="row" { (Foreign(&target.address.to_string())) }
                            td data-label="Because of" { div { @for reason in &target.reasons { div { (Foreign(reason)) } } } }
                        }
                    }
                }
            }
        }
        @for (person, dn) in &said.exempt {
            p { (Foreign(&person.to_string())) " is exempt by " (Foreign(dn)) "." }
        }
    }
}

fn recipients(said: &Explanation) -> Markup {
    html! {
        h3 { "Recipients" }
        table.cards {
            thead { tr { th scope="col" { "Recipient" } th scope="col" { "Direction" } th scope="col" { "Journal guard" } th scope="col" { "Texts" } } }
            tbody {
                @for recipient in &said.recipients {
                    tr {
                        th scope="row" { (Foreign(&recipient.address.to_string())) }
                        td data-label="Direction" { (recipient.direction) }
                        td data-label="Journal guard" {
                            @match recipient.guard {
                                "guarded" => "refused with 550: a guarded mailbox",
                                "provisional" => "guarded: passes only as a report of ours or a bounce of one",
                                "unavailable" => "deferred with 451: the guarded mailboxes are not known",
                                _ => "lets it in",
                            }
                            @if let Some(outage) = &recipient.guard_outage { " (" (Foreign(outage)) ")" }
                            @if let Some(name) = &recipient.guarded_as { " (" (Foreign(name)) ")" }
                        }
                        td data-label="Texts" {
                            div {
                                @for (end, text) in [("before", &recipient.prepend), ("after", &recipient.append)] {
                                    @if let Some(text) = text {
                                        div.about { (end) " the body" }
                                        @for line in text.trim().lines() { div { (Foreign(line)) } }
                                    }
                                }
                                @if recipient.prepend.is_none() && recipient.append.is_none() { "none" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn objects(said: &Explanation) -> Markup {
    html! {
        h3 { "Directory" }
        table.cards {
            thead { tr { th scope="col" { "Address" } th scope="col" { "Answer" } th scope="col" { "Objects" } } }
            tbody {
                @for object in &said.objects {
                    tr {
                        th scope="row" { (Foreign(&object.address)) }
                        td data-label="Answer" { (object.answer) }
                        td data-label="Objects" {
                            div {
                                @if let Some(outage) = &object.outage { div { (Foreign(outage)) } }
                                @for dn in &object.dns { div { (Foreign(dn)) } }
                                @for step in &object.steps { div.about { (Foreign(&step.name)) ": " (Foreign(&step.outcome)) } }
                                @for further in &object.reached { div.about { "goes on to " (Foreign(&further.to_string())) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
