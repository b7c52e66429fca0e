//! The decision about a hypothetical message, and its reasons. Nothing is sent.

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::format::Untrusted;
use super::layout::{Level, notice, page};
use crate::admin::AppState;
use crate::admin::access::Visitor;
use crate::identity::parse_path;
use crate::mail::Envelope;
use crate::survey::{self, Explanation};

/// The most recipients of one query: each may need several directory lookups.
const MOST: usize = 50;

/// The query.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct ExplainQuery {
    from: String,
    to: String,
    client: String,
    user: String,
}

impl ExplainQuery {
    /// Returns the envelope; `None` for an empty query.
    fn envelope(&self, default_domain: &str) -> Result<Option<Envelope>, String> {
        let to = paths(&self.to);
        if to.is_empty() {
            return Ok(None);
        }
        if to.len() > MOST {
            return Err(format!(
                "More than {MOST} recipients; use copyist explain instead."
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
                    .map_err(|_| format!("{text} is not an IP address"))?,
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

/// Splits recipients at commas, white space and line breaks outside quotes.
fn paths(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let parts = text.split(|c: char| {
        is_quoted ^= c == '"';
        !is_quoted && (c == ',' || c.is_ascii_whitespace())
    });
    parts.filter(|part| !part.is_empty()).collect()
}

pub(in crate::admin) async fn show(
    State(app): State<AppState>,
    Extension(visitor): Extension<Visitor>,
    Query(query): Query<ExplainQuery>,
) -> Response {
    let pipeline = app.pipeline.load_full();
    let default_domain = pipeline.ruleset.identities.names().default_domain();
    let answer = match query.envelope(default_domain.unwrap_or("localhost")) {
        Err(problem) => notice(Level::Warning, &html! { (Untrusted(&problem)) }),
        Ok(None) => html! {},
        Ok(Some(envelope)) => {
            let explained = survey::explain(
                &envelope,
                &pipeline.ruleset.identities,
                &pipeline.services.guarded,
                &pipeline.ruleset.rules,
                &pipeline.ruleset.text,
            );
            answer(&explained.await)
        }
    };
    let content = html! {
        h1 { "Explain" }
        p { "The journal copies of a message, and the reasons. Nothing is sent." }
        form.question method="get" action="/explain" {
            div {
                label for="from" { "From" }
                input id="from" name="from" value=(query.from) autocomplete="off" spellcheck="false" aria-describedby="from-hint";
                p id="from-hint" { "The envelope sender; empty for the null reverse path of a bounce." }
            }
            div {
                label for="to" { "To" }
                textarea id="to" name="to" rows="2" required autocomplete="off" spellcheck="false" aria-describedby="to-hint" { (query.to) }
                p id="to-hint" { "The envelope recipients as in RCPT TO, with spaces, commas or line breaks between them." }
            }
            div {
                label for="client" { "Client" }
                input id="client" name="client" value=(query.client) autocomplete="off" placeholder="192.0.2.1" aria-describedby="client-hint";
                p id="client-hint" { "The IP address of the client." }
            }
            div {
                label for="user" { "Authenticated as" }
                input id="user" name="user" value=(query.user) autocomplete="off" spellcheck="false" aria-describedby="user-hint";
                p id="user-hint" { "The user name; empty if the client did not authenticate." }
            }
            button { "Explain" }
        }
        (answer)
    };
    page(&visitor, "/explain", "Explain", &content)
}

fn answer(explanation: &Explanation) -> Markup {
    html! {
        section id="answer" aria-labelledby="what" {
            h2 id="what" { "Answer" }
            p {
                "The sender "
                @if explanation.from_us { "belongs to the organization" } @else { "is external" } ": " (explanation.because) "."
            }
            @if explanation.is_unidentified { (notice(Level::Warning, &html! { "Sender not identified: no directory object matches the reverse path or user name. No copy is made for the sender." })) }
            @if let Some(why) = &explanation.deferred { (notice(Level::Error, &html! { "The message would be deferred with 451: " (Untrusted(why)) })) }
            @if let Some(why) = &explanation.text_failure { (notice(Level::Warning, &html! { "No text is added: " (Untrusted(why)) })) }
            @for problem in &explanation.troubles { (notice(Level::Warning, &html! { "Unusable: " (Untrusted(problem)) })) }
            (copies(explanation))
            (recipients(explanation))
            (objects(explanation))
        }
    }
}

fn copies(explanation: &Explanation) -> Markup {
    html! {
        h3 { "Journaled" }
        @if explanation.copies.is_empty() && explanation.deferred.is_none() { p { "Nothing is journaled." } }
        @for copy in &explanation.copies {
            p { "One " (copy.format) " (" (copy.direction) "), sent from " (Untrusted(&copy.ndr.to_string())) ", which gets its NDRs:" }
            table.cards {
                thead { tr { th scope="col" { "Journal address" } th scope="col" { "Reasons" } } }
                tbody {
                    @for target in &copy.targets {
                        tr {
                            th scope="row" { (Untrusted(&target.address.to_string())) }
                            td data-label="Reasons" { div { @for reason in &target.reasons { div { (Untrusted(reason)) } } } }
                        }
                    }
                }
            }
        }
        @for (person, dn) in &explanation.exempt {
            p { (Untrusted(&person.to_string())) " is exempt by " (Untrusted(dn)) "." }
        }
    }
}

fn recipients(explanation: &Explanation) -> Markup {
    html! {
        h3 { "Recipients" }
        table.cards {
            thead { tr { th scope="col" { "Recipient" } th scope="col" { "Direction" } th scope="col" { "Journal guard" } th scope="col" { "Texts" } } }
            tbody {
                @for recipient in &explanation.recipients {
                    tr {
                        th scope="row" { (Untrusted(&recipient.address.to_string())) }
                        td data-label="Direction" { (recipient.direction) }
                        td data-label="Journal guard" {
                            @match recipient.guard {
                                "guarded" => "rejected with 550: guarded address",
                                "provisional" => "guarded: accepts only own reports and their bounces",
                                "unavailable" => "deferred with 451: guarded addresses unknown",
                                _ => "accepted",
                            }
                            @if let Some(outage) = &recipient.guard_outage { " (" (Untrusted(outage)) ")" }
                            @if let Some(name) = &recipient.guarded_as { " (" (Untrusted(name)) ")" }
                        }
                        td data-label="Texts" {
                            div {
                                @for (end, text) in [("before", &recipient.prepend), ("after", &recipient.append)] {
                                    @if let Some(text) = text {
                                        div.about { (end) " the body" }
                                        @for line in text.trim().lines() { div { (Untrusted(line)) } }
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

fn objects(explanation: &Explanation) -> Markup {
    html! {
        h3 { "Directory" }
        table.cards {
            thead { tr { th scope="col" { "Address" } th scope="col" { "Answer" } th scope="col" { "Objects" } } }
            tbody {
                @for object in &explanation.objects {
                    tr {
                        th scope="row" { (Untrusted(&object.address)) }
                        td data-label="Answer" { (object.answer) }
                        td data-label="Objects" {
                            div {
                                @if let Some(outage) = &object.outage { div { (Untrusted(outage)) } }
                                @for dn in &object.dns { div { (Untrusted(dn)) } }
                                @for step in &object.steps { div.about { (Untrusted(&step.name)) ": " (Untrusted(&step.outcome)) } }
                                @for further in &object.reached { div.about { "expands to " (Untrusted(&further.to_string())) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
