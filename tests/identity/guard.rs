//! The journal guard: nobody outside writes to journal mailboxes, and nobody else is cut off.

use crate::lab;
use lab::{
    Copyist, DOMAIN, DirectoryServer, OUTSIDE, PATIENCE, Samba, Site, Slapd, message, user, wait,
};

/// Journaled to `journal-3@archive.test`.
const DAN: usize = 3;
/// A manager: Dan's attribute names her mailbox in these tests.
const MANAGER: usize = 4;

on_both_directories! {
    one_person_s_attribute_does_not_close_another_s_mailbox,
    what_settings_name_is_guarded_under_all_its_names,
}

/// A site with these lines at the top of `[organization]`, and of `[directory]`.
fn site<D: DirectoryServer>(directory: D, organization: &str, lines: &str) -> Site<D> {
    let mut site = Site::<D>::start_with(directory, "5m");
    let config = rewritten(&site.copyist, organization, lines);
    site.copyist.write_config(&config);
    site.copyist.restart();
    site
}

fn rewritten(copyist: &Copyist, organization: &str, lines: &str) -> String {
    let config = std::fs::read_to_string(copyist.config_file()).expect("written");
    let (_, config) = config.split_once('\n').expect("state_dir stands first");
    config
        .replace("[organization]", &format!("[organization]\n{organization}"))
        .replace("[directory]", &format!("[directory]\n{lines}"))
}

/// The reply to an outsider's RCPT.
fn rcpt<D: DirectoryServer>(site: &Site<D>, to: &str) -> u16 {
    let mut client = site.client(OUTSIDE);
    client.say("MAIL FROM:<a@elsewhere.test>");
    client.say(&format!("RCPT TO:<{to}>")).code
}

fn one_person_s_attribute_does_not_close_another_s_mailbox<D: DirectoryServer>() {
    for (organization, code) in [
        ("", 250),
        ("journal_guard_persons = true", 550),
        ("journal_mailboxes = [\"u00004@example.test\"]", 550),
        ("journal_mailboxes = [\"example.test\"]", 550),
        ("journal_mailboxes = [\"@PEOPLE\"]", 550),
        (
            "journal_mailboxes = [\"other@example.test\", \"dc=else,dc=test\"]",
            250,
        ),
    ] {
        let directory = D::start(12);
        directory.set_journal(DAN, Some(&user(MANAGER)));
        directory.enable(MANAGER);
        let people = directory.people_dn();
        let organization = organization.replace("@PEOPLE", &people);
        let site = site(directory, &organization, "");
        for to in [
            user(MANAGER),
            "user.4@example.test".to_owned(),
            "U00004@Example.Test.".to_owned(),
        ] {
            assert_eq!(rcpt(&site, &to), code, "{organization}: {to}");
        }
        // What no object has is a journal mailbox and nothing else.
        assert_eq!(rcpt(&site, "journal-6@archive.test"), 550, "{organization}");
        assert_eq!(rcpt(&site, &user(5)), 250, "{organization}");
        // Her mail arrives, Dan's is journaled to her.
        if code == 250 {
            let warning = "journal copies go to a person's mailbox, which is not guarded";
            assert!(site.copyist.log().contains(warning), "{organization}");
            let id = "<to-dan@elsewhere.test>";
            let reply = site.client(OUTSIDE).send_message(
                "a@elsewhere.test",
                &[&user(DAN)],
                &message(id, "x"),
            );
            assert_eq!(reply.code, 250, "{reply:?}");
            assert_eq!(site.wait_for_report(id).recipients, [user(MANAGER)]);
        }
    }
}

fn what_settings_name_is_guarded_under_all_its_names<D: DirectoryServer>() {
    let directory = D::start(12);
    let group = directory.add_group(
        "keepers",
        &[directory.user_dn(7), directory.user_dn(8)],
        &[],
    );
    let mut site = site(
        directory,
        "",
        &format!("fallback_journal = \"{}\"", user(10)),
    );
    let config = rewritten(&site.copyist, "", "");
    let config = config.replace(
        "[inbound]",
        &format!("[inbound]\njournal = [\"{group}\", \"{}\"]", user(9)),
    );
    let config = config.replace(
        &format!("journal_ndr = \"in-ndr@{DOMAIN}\""),
        &format!("journal_ndr = \"postmaster@{DOMAIN}\""),
    );
    site.copyist.write_config(&config);
    site.copyist.hup();
    wait("the new settings", PATIENCE, || {
        rcpt(&site, &user(7)) == 550
    });
    for guarded in [7, 8, 9, 10] {
        for to in [
            user(guarded),
            format!("user.{guarded}@{DOMAIN}"),
            format!("USER.{guarded}@{DOMAIN}."),
        ] {
            assert_eq!(rcpt(&site, &to), 550, "{to}");
        }
    }
    assert_eq!(rcpt(&site, &user(5)), 250);
    // RFC 5321 section 4.5.1, whatever the settings say.
    for open in [
        "postmaster",
        "Postmaster@example.test",
        "abuse@example.test",
    ] {
        assert_eq!(rcpt(&site, open), 250, "{open}");
    }
}

#[test]
fn a_value_outside_the_journal_domains_guards_nothing() {
    let slapd = Slapd::start(12);
    slapd.set_journal(DAN, Some("shop@partner.test"));
    let site = site(slapd, "", "journal_domains = [\"archive.test\"]");
    assert_eq!(rcpt(&site, "shop@partner.test"), 250);
    assert_eq!(rcpt(&site, "journal-6@archive.test"), 550);
}

#[test]
fn the_last_known_mailboxes_are_guarded_without_a_directory() {
    let mut site = site(Slapd::start(12), "", "");
    assert_eq!(rcpt(&site, "journal-6@archive.test"), 550);
    let kept = site.copyist.state_dir().join("guarded-mailboxes.json");
    wait("the set on disk", PATIENCE, || kept.exists());
    site.directory.stop();
    assert_eq!(rcpt(&site, "journal-6@archive.test"), 550);
    site.copyist.restart();
    assert_eq!(rcpt(&site, "journal-6@archive.test"), 550);
    assert_eq!(
        rcpt(&site, &user(5)),
        250,
        "the plan waits for the directory, not the guard"
    );
    // Without any set, what an attribute may name waits.
    std::fs::remove_file(&kept).expect("it is there");
    site.copyist.restart();
    assert_eq!(rcpt(&site, "journal-6@archive.test"), 451);
}

#[test]
fn a_new_value_guards_at_once() {
    let slapd = Slapd::start(12);
    let site = site(slapd, "", "");
    assert_eq!(rcpt(&site, "new@archive.test"), 250);
    site.directory
        .set_journal(5, Some("New <smtp:new@archive.test>"));
    wait("a guarded mailbox", PATIENCE, || {
        rcpt(&site, "new@archive.test") == 550
    });
}

#[test]
fn an_alias_of_a_journal_mailbox_is_guarded_unless_people_share() {
    let directory = tempfile::tempdir().expect("a directory");
    let map = directory.path().join("virtual");
    lab::write(
        &map,
        "old@example.test journal-6@archive.test\n\
         both@example.test journal-6@archive.test, u00005@example.test\n\
         nested@example.test old@example.test\n\
         dan@old.test u00003@example.test\n\
         @catch.test u00006@example.test\n",
    );
    let mut site = site(Slapd::start(12), "", "");
    let config = rewritten(&site.copyist, "", "");
    let maps = format!(
        "[organization.address_maps]\nvirtual_alias_maps = [\"texthash:{}\"]\n",
        map.display()
    );
    site.copyist.write_config(&(config + &maps));
    site.copyist.restart();
    for (to, code) in [
        ("old@example.test", 550),
        ("nested@example.test", 550),
        ("OLD@example.test.", 550),
        ("both@example.test", 250),
        ("u00005@example.test", 250),
    ] {
        assert_eq!(rcpt(&site, to), code, "{to}");
    }
    for (to, journal) in [
        ("dan@old.test", "journal-3@archive.test"),
        ("anybody@catch.test", "journal-6@archive.test"),
    ] {
        let id = format!("<{to}>");
        let reply =
            site.client(OUTSIDE)
                .send_message("a@elsewhere.test", &[to], &message(&id, "x"));
        assert_eq!(reply.code, 250, "{reply:?}");
        assert_eq!(site.wait_for_report(&id).recipients, [journal], "{to}");
    }
    // A map that cannot be read is not "no alias".
    std::fs::remove_file(&map).expect("it is there");
    wait("the lost map", PATIENCE, || {
        rcpt(&site, "old@example.test") == 451
    });
}

/// The object's own marks decide, not those of the directory's kind.
#[test]
fn a_disabled_active_directory_account_is_only_a_mailbox() {
    let samba = Samba::start(12);
    samba.set_journal(DAN, Some(&user(MANAGER)));
    // ACCOUNTDISABLE and NORMAL_ACCOUNT.
    samba.set_attribute(&samba.user_dn(MANAGER), "userAccountControl", "514");
    let site = site(samba, "", "");
    assert_eq!(rcpt(&site, &user(MANAGER)), 550);
}
