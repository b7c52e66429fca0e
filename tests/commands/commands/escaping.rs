//! External text and directory values in the output of commands.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::lab::{DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Site, Slapd, message, user};
use super::{json, text};

/// A formula, a sequence that clears the terminal, a forged line, and a bidirectional override.
const HOSTILE: &str = "=1+1\u{1b}[2J\u{9b}2J\n  forged: found\u{202e}";

/// Asserts that text is harmless for a terminal, except for its own line breaks.
#[track_caller]
fn assert_harmless(what: &str, shown: &str) {
    let acts = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}');
    assert!(!shown.contains(acts), "{what}: {shown:?}");
    let forged = shown.lines().any(|line| line.starts_with("  forged"));
    assert!(!forged, "{what}: {shown:?}");
}

#[test]
fn outsiders_text_is_escaped_on_terminals() {
    let slapd = Slapd::start(5);
    let hostile = BASE64_STANDARD.encode(HOSTILE);
    let mail = format!("evil@{DOMAIN}");
    let attributes = [("mail", mail.as_str()), ("extensionAttribute10:", &hostile)];
    slapd.add_contact("evil", &attributes);
    let mut site = Site::start_with(slapd, "5m");
    site.relay.stop();
    let content = message("<a@b.test>", "text").replace("Subject: ", "Subject: \u{202e}gpj.");
    let sent = (site.client(OUTSIDE)).send_message("a@b.test", &[&user(3)], &content);
    assert_eq!(sent.code, 250);
    let from = ["explain", "--from", &mail, "--to", "x@elsewhere.test"];
    let client = INSIDE.to_string();
    let explain = [&from[..], &["--client", &client]].concat();
    for (arguments, part) in [
        (&["resolve", &mail][..], "⟨U+001B⟩[2J⟨U+009B⟩2J⟨U+000A⟩"),
        (&["coverage"], "UNRESOLVED"),
        (&["coverage", "--csv"], "'=1+1⟨U+001B⟩"),
        (&explain, "unusable: "),
        (&["queue", "list"], "⟨U+202E⟩gpj."),
        (&["check", "--online"], "directory"),
        (&["resolve", "x\u{1b}@b.test"], "x"),
    ] {
        let shown = text(&site.copyist.command(arguments));
        assert!(shown.contains(part), "{arguments:?}: {shown}");
        assert_harmless(arguments[0], &shown);
    }
    let resolved = site.copyist.command(&["resolve", &mail, "--json"]);
    assert_harmless("JSON", &text(&resolved));
    let value = &json(&resolved)["objects"][0]["journal"][0]["value"];
    assert_eq!(value, HOSTILE, "scripts get it as it is");
    assert_harmless("the log", &site.copyist.log());
}

#[test]
fn members_without_an_address_are_shown() {
    let slapd = Slapd::start(5);
    let silent = slapd.add_contact("silent", &[]);
    let members = [slapd.user_dn(1), silent.clone(), slapd.user_dn(99)];
    let group = slapd.add_group("archives", &members, &[]);
    slapd.set_journal(3, Some(&group));
    let site = Site::start_with(slapd, "5m");
    let shown = text(&site.copyist.command(&["resolve", &group]));
    for part in [
        format!("  {} (via ", user(1)),
        format!("  no address, no copy: {silent}\n"),
        format!("  no address, no copy: {}\n", site.directory.user_dn(99)),
    ] {
        assert!(shown.contains(&part), "{part:?} is missing in\n{shown}");
    }
    let leads_to = json(&site.copyist.command(&["resolve", &group, "--json"]));
    let without = &leads_to["leads_to"]["without_address"];
    assert_eq!(without.as_array().map(Vec::len), Some(2), "{leads_to}");

    let coverage = site.copyist.command(&["coverage", "--problems"]);
    assert!(coverage.status.success(), "{}", text(&coverage));
    let shown = text(&coverage);
    for part in [
        format!("{}: inbound, outbound, internal to ", user(3)),
        format!(", but 2 without an address: {silent}; "),
        "1 with group members without an address".to_owned(),
    ] {
        assert!(shown.contains(&part), "{part:?} is missing in\n{shown}");
    }
    let csv = text(&site.copyist.command(&["coverage", "--csv", "--problems"]));
    assert!(csv.contains("2 without an address"), "{csv}");
}
