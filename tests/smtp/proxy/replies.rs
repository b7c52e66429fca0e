//! Answers that nobody asked for: none of them is taken for the answer to something else.

use super::lab::{ServerBehavior, message};
use super::{ProxySite, to_dan};

const MORE: &str = "250 2.0.0 and one more\r\n";

/// Whether a message that the next server refuses is refused, and has no report.
fn refuses(site: &ProxySite, what: &str) {
    // Of the messages before.
    site.agent.reports();
    site.next.be(ServerBehavior::RefusesMessage);
    assert_eq!(
        site.send(&format!("<{what}@elsewhere.test>")),
        550,
        "{what}"
    );
    assert_eq!(site.agent.reports().len(), 0, "{what}");
}

#[test]
fn an_answer_too_many_is_not_taken_for_that_to_the_next_client() {
    let site = ProxySite::start("", "");
    // At once, behind the answer that was waited for.
    site.next.be(ServerBehavior::SaysYesTwice);
    assert_eq!(site.send("<twice@elsewhere.test>"), 250);
    refuses(&site, "after two");
    // While the connection waits for its next client.
    site.next.be(ServerBehavior::Good);
    let mut client = site.client();
    assert_eq!(to_dan(&mut client, "<idle@corp.example>"), 250);
    client.quit();
    let connections = site.next.connections();
    site.next.say(MORE);
    refuses(&site, "after idle");
    assert_eq!(site.next.connections(), connections + 1, "a new one");
}

#[test]
fn an_answer_too_many_ends_the_session_that_it_comes_in() {
    let site = ProxySite::start("", "");
    let mut client = site.client();
    assert_eq!(to_dan(&mut client, "<before@corp.example>"), 250);
    site.next.say(MORE);
    let content = message("<after@corp.example>", "text");
    let sent = client.send_message("a@elsewhere.test", &["dan@corp.example"], &content);
    assert_eq!(sent.code, 421, "{}", sent.text);
    site.agent
        .copyist
        .wait_for_log(0, "sent a reply without a command");
    // Its own farewell is no answer too many.
    let mut client = site.client();
    assert_eq!(to_dan(&mut client, "<again@corp.example>"), 250);
    site.next.say("421 4.3.2 next.test has to go\r\n");
    let content = message("<late@corp.example>", "text");
    let sent = client.send_message("a@elsewhere.test", &["dan@corp.example"], &content);
    assert_eq!(sent.code, 421, "{}", sent.text);
    assert!(sent.text.contains("next.test has to go"), "{}", sent.text);
}

#[test]
fn an_early_reply_is_not_taken_as_the_reply_to_the_message() {
    let site = ProxySite::start("", "");
    site.next.be(ServerBehavior::SaysYesEarly);
    assert_eq!(site.send("<early@elsewhere.test>"), 451);
    assert!(site.next.taken().is_empty(), "its end was not sent");
    assert_eq!(site.agent.reports().len(), 0);
    refuses(&site, "after early");
}
