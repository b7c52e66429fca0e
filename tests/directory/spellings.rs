//! However a journaled person's address is written, whatever a real Postfix takes for it is
//! journaled.

use crate::lab;
use lab::{
    DOMAIN, DirectoryServer, INSIDE, OUTSIDE, Postfix, PostfixOptions, Site, Slapd, free_port,
    message,
};

/// Whose `mail` is `u00003@example.test`, with the aliases below.
const USER: usize = 3;

const ALIASES: [&str; 4] = [
    "smtp:M\u{fc}ller@example.test",
    "smtp:ana maria@example.test",
    "smtp:ana@xn--mller-kva.test",
    "smtp:eva@stra\u{df}e.test",
];

/// Ways to write the address of user 3. What stands for a word of SMTP stands as it is sent,
/// without the outer brackets.
fn spellings() -> Vec<String> {
    let d = DOMAIN;
    let mut all: Vec<String> = Vec::new();
    let mut add = |text: String| all.push(text);
    // Letters.
    for local in ["u00003", "U00003", "user.3", "User.3", "USER.3", "uSeR.3"] {
        for domain in [d, "EXAMPLE.TEST", "Example.Test", "eXaMpLe.tEsT"] {
            add(format!("{local}@{domain}"));
        }
    }
    // A dot at the end.
    add(format!("u00003@{d}."));
    add("U00003@EXAMPLE.TEST.".to_owned());
    // Quotes and escapes.
    for local in [
        "\"u00003\"",
        "\"U00003\"",
        "\"u0000\\3\"",
        "\"\\u\\0\\0\\0\\0\\3\"",
        "\"user.3\"",
        "\"user\".3",
        "user.\"3\"",
        "\"user\".\"3\"",
        "u0000\\3",
        "\"ana maria\"",
        "\"Ana Maria\"",
        "\"ana\\ maria\"",
        "ana\\ maria",
    ] {
        add(format!("{local}@{d}"));
    }
    // Source routes.
    for route in [
        "@relay.test:",
        "@a.test,@b.test:",
        "@relay.test:@a.test:",
        "@example.test:",
        "@[127.0.0.1]:",
    ] {
        add(format!("{route}u00003@{d}"));
        add(format!("{route}USER.3@{d}"));
    }
    // No domain, and the ways of old.
    for text in [
        "u00003",
        "U00003",
        "\"u00003\"",
        "user.3",
        "example.test!u00003",
        "EXAMPLE.TEST!USER.3",
        "u00003%example.test",
        "u00003%example.test@example.test",
        "user.3%EXAMPLE.TEST@example.test",
        "\"u00003%example.test\"@example.test",
        "example.test!u00003@example.test",
        "u00003@example.test@example.test",
        "\"u00003@example.test\"@example.test",
        "\"u00003@example.test\"",
        "@example.test:u00003%example.test@example.test",
    ] {
        add(text.to_owned());
    }
    // Extensions.
    for extension in ["+", "+x", "+x+y", "+u00004", "+\u{fc}", "++"] {
        add(format!("u00003{extension}@{d}"));
        add(format!("user.3{extension}@{d}"));
    }
    add(format!("\"u00003+two words\"@{d}"));
    // Letters beyond ASCII, in both parts, and both forms of a domain.
    for text in [
        "m\u{fc}ller@example.test",
        "M\u{dc}LLER@example.test",
        "\"m\u{fc}ller\"@example.test",
        "ana@m\u{fc}ller.test",
        "ANA@M\u{dc}LLER.TEST",
        "ana@xn--mller-kva.test",
        "Ana@XN--MLLER-KVA.test",
        "eva@stra\u{df}e.test",
        "eva@xn--strae-oqa.test",
        "ana+x@m\u{fc}ller.test",
    ] {
        add(text.to_owned());
    }
    // Spaces that SMTP does not know and many servers overlook.
    for text in [
        " u00003@example.test",
        "u00003@example.test ",
        "u00003 @example.test",
    ] {
        add(text.to_owned());
    }
    // The brackets left out, or doubled.
    add("<u00003@example.test>".to_owned());
    all
}

#[test]
fn whatever_postfix_takes_for_a_journaled_person_is_journaled() {
    let slapd = Slapd::start(10);
    let aliases = ALIASES.map(|alias| format!("proxyAddresses: {alias}\n"));
    slapd.modify(&format!(
        "dn: {}\nchangetype: modify\nadd: proxyAddresses\n{}",
        slapd.user_dn(USER),
        aliases.concat()
    ));
    let milter = format!("inet:127.0.0.1:{}", free_port());
    let mut site = Site::start_on(&milter, slapd, "5m");
    let config = std::fs::read_to_string(site.copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    site.copyist.write_config(
        &config
            .replace(
                "domains = [\"example.test\"]",
                "domains = [\"example.test\", \"m\u{fc}ller.test\", \"xn--strae-oqa.test\"]",
            )
            .replace("[directory]", "[directory]\nrecipient_delimiter = \"+\""),
    );
    site.copyist.restart();
    // As liberal as Postfix can be: it is the final destination, and reads what the ways of old
    // mean.
    let liberal = Postfix::start(&PostfixOptions {
        milter: Some(milter),
        deliver_to: site.mail.address(),
        extra: vec![
            "mydestination = example.test".to_owned(),
            format!("local_transport = smtp:{}", bracketed(&site)),
            "local_recipient_maps =".to_owned(),
            "recipient_delimiter = +".to_owned(),
            "resolve_numeric_domain = yes".to_owned(),
            "strict_rfc821_envelopes = no".to_owned(),
            "smtputf8_enable = yes".to_owned(),
        ],
    });
    let (mut taken, mut refused) = (0, Vec::new());
    for (n, spelling) in spellings().iter().enumerate() {
        let id = format!("<spelling-{n}@elsewhere.test>");
        let at = site.copyist.log_length();
        let mut client = lab::Client::connect_from(OUTSIDE, liberal.smtp_addr());
        client.say("EHLO client.test");
        let utf8 = if spelling.is_ascii() { "" } else { " SMTPUTF8" };
        client.say(&format!("MAIL FROM:<a@elsewhere.test>{utf8}"));
        let reply = client.say(&format!("RCPT TO:<{spelling}>"));
        if reply.code != 250 {
            refused.push(format!("{spelling} ({})", reply.code));
            continue;
        }
        client.say("DATA");
        let reply = client.content(&message(&id, "x"));
        assert_eq!(reply.code, 250, "{spelling}: {reply:?}");
        taken += 1;
        // One line for each message, waited for: none of an earlier one can come after `at`.
        println!("{spelling}");
        site.copyist
            .wait_for_log(at, "to=\"journal-3@archive.test\"");
    }
    println!(
        "{taken} spellings taken and journaled; Postfix refused {}",
        refused.join(", ")
    );
    assert!(taken >= 60, "only {taken} were taken");
    // And the same of what our own people write as their own address.
    for sender in [
        "u00003",
        "example.test!u00003",
        "\"u00003\"@EXAMPLE.test",
        "u00003+x@example.test",
    ] {
        let at = site.copyist.log_length();
        let reply = lab::Client::connect_from(INSIDE, liberal.smtp_addr()).send_message(
            sender,
            &["buyer@customer.test"],
            &message("<out@elsewhere.test>", "x"),
        );
        assert_eq!(reply.code, 250, "{sender}: {reply:?}");
        println!("from {sender}");
        site.copyist.wait_for_log(at, "journal-3@archive.test");
    }
}

fn bracketed(site: &Site<Slapd>) -> String {
    let sink = site.mail.address();
    format!("[{}]:{}", sink.ip(), sink.port())
}
