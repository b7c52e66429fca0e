//! The configuration as an administrator sees it: the commented sample, the schema, error messages.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use copyist::config::{self, ConfigError, Settings};
use copyist::deliver::Tls;
use copyist::hook::{ClientNetworks, ListenerTls, Mode, NextHop, SmtpListener};
use copyist::mail::Side;
use copyist::smtp::BareLineBreaks;

const SAMPLE: &str = include_str!("../../config/copyist.toml");

fn load(text: &str) -> Result<Settings, ConfigError> {
    load_with(text, &[])
}

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("copyist.toml");
    fs::write(&path, text).expect("written");
    config::load_with(&path, environment(variables))
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// The sample with the lines that begin with `marker` in force.
fn uncommented(marker: &str) -> String {
    SAMPLE
        .lines()
        .map(|line| match line.strip_prefix(marker) {
            Some(rest) if is_setting(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

/// `key = …` or `[[section]]`, and no sentence.
fn is_setting(line: &str) -> bool {
    let is_section = line.starts_with("[[") && line.ends_with("]]");
    is_section
        || line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
}

/// All values of a TOML document by their path; what stands in a list of tables by the list's.
fn leaves(text: &str) -> BTreeMap<String, serde_json::Value> {
    fn walk(path: &str, value: serde_json::Value, found: &mut BTreeMap<String, serde_json::Value>) {
        match value {
            serde_json::Value::Object(table) => {
                for (name, value) in table {
                    walk(&format!("{path}.{name}"), value, found);
                }
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                for item in items {
                    walk(path, item, found);
                }
            }
            value => {
                found.insert(path.trim_start_matches('.').to_owned(), value);
            }
        }
    }
    let table: toml::Table = text.parse().expect("TOML");
    let mut found = BTreeMap::new();
    let value = serde_json::to_value(table).expect("JSON can say what TOML can");
    walk("", value, &mut found);
    found
}

/// All keys of the schema with their defaults, if they have one; those in a list of tables by the
/// list's.
fn schema_keys() -> BTreeMap<String, Option<serde_json::Value>> {
    fn walk(
        path: &str,
        schema: &serde_json::Value,
        found: &mut BTreeMap<String, Option<serde_json::Value>>,
    ) {
        let of_items = || schema.pointer("/items/properties");
        let properties = schema.get("properties").or_else(of_items);
        match properties.and_then(|properties| properties.as_object()) {
            Some(properties) => {
                for (name, schema) in properties {
                    walk(&format!("{path}.{name}"), schema, found);
                }
            }
            None => {
                let path = path.trim_start_matches('.').to_owned();
                found.insert(path, schema.get("default").cloned());
            }
        }
    }
    let schema = serde_json::from_str(&config::json_schema()).expect("JSON");
    let mut found = BTreeMap::new();
    walk("", &schema, &mut found);
    found
}

/// The last part of the key of a text: `html_file` of `inbound.append.html_file`.
fn text_key(key: &str) -> Option<&str> {
    let (place, last) = key.rsplit_once('.')?;
    (place.ends_with(".prepend") || place.ends_with(".append")).then_some(last)
}

#[test]
fn the_sample_loads_as_it_is() {
    let settings = load(SAMPLE).expect("the sample is sound");
    assert_eq!(settings.deliver.relay.host, "127.0.0.1");
    assert_eq!(settings.deliver.relay.port, 10027);
    assert_eq!(
        settings.journal.report_from.to_string(),
        "journal@example.com"
    );
    assert!(settings.journal.hostname.contains('.'));
}

#[test]
fn the_defaults_shown_in_the_sample_are_those_of_the_code() {
    let written_out = load(&uncommented("# ")).expect("the defaults are sound");
    let left_out = load(SAMPLE).expect("the sample is sound");
    let shown = |settings: Settings| {
        // Each was loaded from a directory of its own, but names no file in it.
        format!("{settings:#?}")
    };
    assert_eq!(shown(written_out), shown(left_out));

    let mut sample = leaves(&uncommented("# "));
    // A section that may be there several times is an example as a whole; the values in it are the
    // defaults.
    let examples = leaves(&uncommented("## ")).into_iter();
    sample.extend(examples.filter(|(key, _)| key.starts_with("hook.smtp.")));
    let all = schema_keys().into_iter();
    for (key, default) in all.filter(|(key, _)| text_key(key).is_none()) {
        let empty = serde_json::json!([]);
        match default {
            // The sample sets it, since its default will be another.
            Some(_) if key == "hook.milter.listen" => {
                assert!(sample.contains_key(&key));
            }
            Some(default) if default != empty => {
                assert_eq!(sample.get(&key), Some(&default), "{key}");
            }
            _ => {}
        }
    }
}

#[test]
fn the_examples_in_the_sample_would_work() {
    let error = load(&uncommented("## ")).expect_err("the files that it names are not here");
    for problem in error.problems {
        let key = problem.key.as_deref().unwrap_or_default();
        // The user postfix is not on every machine either.
        let of_a_machine = ["_file", "allow_users", "socket_group"];
        assert!(
            of_a_machine.iter().any(|end| key.ends_with(end)),
            "{problem}"
        );
    }
}

#[test]
fn the_sample_and_the_code_know_the_same_keys() {
    let all = uncommented("## ");
    let all = all
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_setting(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect::<String>();
    let sample: Vec<_> = leaves(&all).into_keys().collect();
    let known: Vec<_> = schema_keys().into_keys().collect();
    // A text is written in one of several ways: each way stands somewhere, and no text in all of
    // them.
    let others = |keys: &[String]| -> Vec<String> {
        keys.iter()
            .filter(|key| text_key(key).is_none())
            .cloned()
            .collect()
    };
    let ways = |keys: &[String]| -> BTreeSet<String> {
        keys.iter()
            .filter_map(|key| text_key(key))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(others(&sample), others(&known));
    assert_eq!(ways(&sample), ways(&known));
}

#[test]
fn the_cache_s_defaults_are_the_directory_s() {
    let settings = load(SAMPLE).expect("the sample is sound");
    assert_eq!(
        settings.directory.cache,
        copyist::directory::CacheSettings::default()
    );
}

#[test]
fn the_limits_defaults_are_the_hook_s() {
    let settings = load(SAMPLE).expect("the sample is sound");
    assert_eq!(settings.hook.limits, copyist::hook::Limits::default());
    assert_eq!(settings.hook.access, copyist::hook::AccessList::default());
    assert_eq!(
        settings.hook.socket,
        copyist::hook::UnixSocketSettings::default()
    );
}

#[test]
fn a_password_may_be_a_credential_of_the_service() {
    let credentials = tempfile::tempdir().expect("a directory");
    let file = credentials.path().join("ldap.password");
    fs::write(&file, "geheim\n").expect("written");
    // As systemd makes them.
    fs::set_permissions(&file, Permissions::from_mode(0o400)).expect("set");
    let directory = credentials.path().to_str().expect("UTF-8");
    let text = SAMPLE.replace(
        "## bind_password_file = \"/etc/copyist/ldap.password\"",
        "bind_dn = \"CN=copyist\"\nbind_password_file = \"credential:ldap.password\"",
    );
    let settings = load_with(&text, &[("CREDENTIALS_DIRECTORY", directory)]).expect("sound");
    let copyist::directory::Source::Ldap(ldap) = &settings.directory.source else {
        panic!("the sample has LDAP servers");
    };
    assert!(!format!("{ldap:?}").contains("geheim"));
}

#[test]
fn the_page_of_settings_is_the_code_s_and_has_every_key() {
    let page = config::settings_page();
    let committed = include_str!("../../docs/settings.md");
    assert!(
        page.trim_end() == committed.trim_end(),
        "docs/settings.md is old: copyist schema settings > docs/settings.md"
    );
    for key in schema_keys().keys() {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let heading = table.is_empty() || page.contains(&format!("[{table}]"));
        assert!(heading && page.contains(&format!("| `{name}` |")), "{key}");
    }
}

#[test]
fn the_committed_schema_is_the_code_s() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/copyist.schema.json");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == config::json_schema(),
        "{} is out of date; run: copyist schema config > schemas/copyist.schema.json",
        path.display()
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = load_with(
        SAMPLE,
        &[
            ("COPYIST__RELAY__HOST", "[2001:db8::1]:26"),
            ("COPYIST__RELAY__CONNECTIONS", "3"),
            ("COPYIST__RELAY__TLS", "none"),
            ("COPYIST__DIRECTORY__CACHE__TTL", "7s"),
            ("COPYIST__DIRECTORY__CACHE__CAPACITY", "5000"),
            ("COPYIST__DIRECTORY__BASE", "007"),
            ("COPYIST__DIRECTORY__URLS", "ldap://a.test,ldap://b.test/"),
            ("COPYIST__DIRECTORY__STARTTLS", "true"),
            ("COPYIST__DELIVERY__RETRY__FIRST", "2s"),
            ("COPYIST__ORGANIZATION__DOMAINS", "a.test, *.b.test"),
            ("COPYIST__ORGANIZATION__TRUSTED_NETWORKS", ""),
            ("COPYIST__INBOUND__JOURNAL", "j@a.test"),
            ("COPYIST__INBOUND__JOURNAL_NDR", "ndr@a.test"),
            ("COPYIST__ADMIN__LISTEN", ""),
            ("COPYIST_CONFIG", "ignored"),
            ("HOME", "/"),
        ],
    )
    .expect("sound");
    let relay = &settings.deliver.relay;
    assert_eq!((relay.host.as_str(), relay.port), ("2001:db8::1", 26));
    assert_eq!(relay.connections, 3);
    assert_eq!(relay.tls, Tls::None);
    assert_eq!(settings.directory.cache.ttl.as_secs(), 7);
    assert_eq!(settings.directory.cache.capacity, 5000);
    assert_eq!(settings.deliver.retry.first.as_secs(), 2);
    assert_eq!(settings.deliver.retry.max.as_secs(), 4 * 3600);
    let copyist::directory::Source::Ldap(ldap) = &settings.directory.source else {
        panic!("the sample has LDAP servers");
    };
    assert_eq!(ldap.base, "007");
    assert_eq!(ldap.urls, ["ldap://a.test", "ldap://b.test"]);
    assert!(ldap.starttls);
    let organization = &settings.rules.organization;
    assert_eq!(organization.names.domains.len(), 2);
    assert!(organization.trusted_networks.is_empty());
    assert_eq!(settings.rules.inbound.journal.len(), 1);
    assert_eq!(settings.admin.listen, None);
    assert_eq!(settings.journal.report_from.to_string(), "journal@a.test");
}

#[test]
fn everything_that_can_be_set_arrives() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("people.ldif"), "").expect("written");
    fs::write(at("inbound.rtf"), r"{\rtf1 From {\b outside}, be careful.}").expect("written");
    fs::write(at("password"), "geheim\n").expect("written");
    fs::set_permissions(at("password"), Permissions::from_mode(0o600)).expect("set");
    let text = r#"
        state_dir = "state"
        [organization]
        domains = "Corp.Example"
        hostname = "Mx1"
        journal_guard = "everyone"
        [directory]
        urls = "ldif:people.ldif"
        recipient_delimiter = "+"
        on_failure = "fallback"
        fallback_journal = "smtp:fallback@corp.example"
        [outbound]
        journal_attribute = "extensionAttribute11"
        journal_attribute_of = "sender"
        journal_ndr = "outndr@corp.example"
        format = "copy"
        journal_what = "delivered"
        append = { text = "{{ sender.title }}, {{ sender.displayName }}" }
        [inbound]
        prepend = { rtf_file = "inbound.rtf", once = true }
        [text]
        signed = "wrap"
        on_failure = "defer"
        split_mixed = false
        exempt_attribute = "extensionAttribute13"
        [internal]
        journal_attribute = ["EXTENSIONATTRIBUTE11", "extensionAttribute12"]
        journal_ndr = "ndr@corp.example"
        [hook.milter]
        listen = ["unix:/run/copyist.sock", "inet:8891@127.0.0.1", "inet:0.0.0.0:8892"]
        allow_clients = ["10.0.0.0/8"]
        allow_users = ["root", "102"]
        socket_mode = "0600"
        socket_group = "root"
        [limits]
        connections = 5
        message_size = "50MB"
        header_size = "100KiB"
        recipients = 100
        negotiation_time = "5s"
        idle = "10m"
        message_time = "20m"
        connection_time = "1h"
        [spool]
        min_free = "1GiB"
        min_free_inodes = 0
        allow_remote_fs = true
        [admin]
        listen = "0.0.0.0:8025"
        allow_clients = "192.0.2.1"
        [relay]
        host = "relay.corp.example"
        tls = "implicit"
        username = "copyist"
        password_file = "password"
        helo_name = "[192.0.2.1]"
        [delivery]
        report_from = "reports@corp.example"
    "#;
    fs::write(at("copyist.toml"), text).expect("written");
    let settings = config::load_with(&at("copyist.toml"), []).expect("sound");
    assert_eq!(settings.state_dir, at("state"));
    assert_eq!(settings.spool.state_dir, at("state"));
    assert_eq!(settings.journal.hostname, "mx1");
    assert_eq!(
        settings.journal.report_from.to_string(),
        "reports@corp.example"
    );
    assert_eq!(
        settings.directory.source,
        copyist::directory::Source::Ldif(at("people.ldif"))
    );
    assert_eq!(
        settings.directory.journal_attributes,
        ["extensionAttribute11", "extensionAttribute12"]
    );
    let relay = &settings.deliver.relay;
    assert_eq!(relay.port, 465);
    assert_eq!(relay.helo_name, "[192.0.2.1]");
    let login = relay.login.as_ref().expect("a login");
    assert_eq!(login.password.reveal(), "geheim");
    assert!(!format!("{settings:?}").contains("geheim"));
    assert_eq!(settings.hook.milter.len(), 3);
    let hook = &settings.hook;
    assert!(hook.access.clients.contains([10, 1, 1, 1].into()));
    assert!(!hook.access.clients.contains([127, 0, 0, 1].into()));
    assert_eq!(hook.access.users, [0, 102]);
    assert_eq!((hook.socket.mode, hook.socket.group), (0o600, Some(0)));
    assert_eq!(hook.limits.connections, 5);
    let limits = &hook.limits.connection;
    assert_eq!(
        (limits.message_size, limits.header_size),
        (50_000_000, 102_400)
    );
    assert_eq!(limits.recipients, 100);
    assert_eq!((limits.greeting.as_secs(), limits.idle.as_secs()), (5, 600));
    let times = (
        limits.message_time.as_secs(),
        limits.connection_time.as_secs(),
    );
    assert_eq!(times, (1200, 3600));
    let spool = &settings.spool;
    assert_eq!((spool.min_free, spool.min_free_inodes), (1 << 30, 0));
    assert!(settings.allow_remote_fs);
    assert!(settings.admin.clients.contains([192, 0, 2, 1].into()));
    let rules = &settings.rules;
    assert_eq!(rules.outbound.format, copyist::policy::Format::Copy);
    assert_eq!(
        rules.outbound_attribute_of,
        copyist::policy::AttributeOf::Sender
    );
    assert_eq!(rules.journal_guard, copyist::policy::Guard::Everyone);
    assert_eq!(
        rules.on_directory_failure,
        copyist::policy::OnFailure::Fallback
    );
    assert_eq!(
        rules.outbound.journal_what,
        copyist::policy::JournalWhat::Delivered
    );
    let text = &settings.text;
    let inbound = text.inbound.prepend.as_ref().expect("a text");
    let inbound = inbound.for_sender(&[]).expect("fixed").expect("words");
    assert_eq!(inbound.plain, "From outside, be careful.");
    assert!(inbound.html.contains("<b>outside</b>") && inbound.once.is_some());
    assert_eq!(text.signed, copyist::text::SignedPolicy::Wrap);
    assert_eq!(text.on_failure, copyist::text::OnFailure::Defer);
    assert!(!text.split_mixed && text.internal.append.is_none());
    // What templates name, and what exempts, is read of people's objects.
    assert_eq!(
        settings.directory.further_attributes,
        ["displayName", "extensionAttribute13", "title"]
    );
    let fallback = rules.fallback_journal.as_ref().expect("a fallback");
    assert_eq!(fallback.to_string(), "fallback@corp.example");
}

/// A directory with a configuration of these SMTP listeners, and a certificate with its key.
fn with_listeners(tables: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let pair =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs/smtp-key-world-readable");
    for name in ["mx.pem", "mx.key"] {
        fs::copy(pair.join(name), directory.path().join(name)).expect("copied");
    }
    let key = directory.path().join("mx.key");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("set");
    let path = directory.path().join("copyist.toml");
    fs::write(&path, format!("{SAMPLE}\n{tables}")).expect("written");
    (directory, path)
}

#[test]
fn smtp_listeners_have_the_defaults_that_stand_in_the_sample() {
    let tables = "[[hook.smtp]]\nlisten = '127.0.0.1:25'\nnext_hop = 'mx.example.com'\n\
                  [[hook.smtp]]\nlisten = '[::1]:25'\nnext_hop = '[2001:db8::1]:26'\nmode = 'after-queue'";
    let (_directory, path) = with_listeners(tables);
    let hook = config::load_with(&path, []).expect("sound").hook;
    assert_eq!(hook.milter.len(), 1, "the milter's default stays");
    let [before, after] = hook.smtp.as_slice() else {
        panic!("two listeners: {:?}", hook.smtp);
    };
    let expected = SmtpListener {
        listen: "127.0.0.1:25".parse().expect("an address"),
        next_hop: NextHop {
            host: "mx.example.com".into(),
            port: 25,
            tls: Tls::None,
            ca_file: None,
            timeout: Duration::from_secs(300),
            data_done_timeout: Duration::from_secs(600),
        },
        mode: Mode::BeforeQueue,
        side: None,
        clients: ClientNetworks::default(),
        identity_forwarders: ClientNetworks::default(),
        proxy_protocol: false,
        bare_line_breaks: BareLineBreaks::Reject,
        tls: None,
    };
    assert_eq!(before, &expected);
    let expected = SmtpListener {
        listen: "[::1]:25".parse().expect("an address"),
        next_hop: NextHop {
            host: "2001:db8::1".into(),
            port: 26,
            ..expected.next_hop
        },
        mode: Mode::AfterQueue,
        bare_line_breaks: BareLineBreaks::Normalize,
        ..expected
    };
    assert_eq!(after, &expected);
}

#[test]
fn everything_that_can_be_set_of_an_smtp_listener_arrives() {
    let tables = r#"
        [[hook.smtp]]
        listen = "0.0.0.0:25"
        next_hop = "192.0.2.9"
        mode = "after-queue"
        direction = "inbound"
        allow_clients = ["192.0.2.0/24", "10.0.0.1"]
        allow_xclient = "10.0.0.1"
        proxy_protocol = true
        bare_newline = "reject"
        tls = "starttls"
        cert_file = "mx.pem"
        key_file = "mx.key"
        next_hop_tls = "implicit"
        next_hop_ca_file = "mx.pem"
        next_hop_timeout = "30s"
        next_hop_data_done_timeout = "90s"
        [[hook.smtp]]
        listen = "127.0.0.1:465"
        next_hop = "127.0.0.2:465"
        direction = "outbound"
        bare_newline = "normalize"
        tls = "implicit"
        cert_file = "mx.pem"
        key_file = "credential:mx.key"
    "#;
    let (directory, path) = with_listeners(tables);
    // One listener on all addresses, another on another port; and no milter.
    let text = fs::read_to_string(&path).expect("written");
    let no_milter = text.replace("listen = [\"inet:127.0.0.1:8725\"]", "listen = []");
    assert_ne!(text, no_milter);
    fs::write(&path, no_milter).expect("written");
    let credentials = environment(&[(
        "CREDENTIALS_DIRECTORY",
        directory.path().to_str().expect("UTF-8"),
    )]);
    let hook = config::load_with(&path, credentials).expect("sound").hook;
    assert!(hook.milter.is_empty());
    let at = |name: &str| directory.path().join(name);
    let [inbound, outbound] = hook.smtp.as_slice() else {
        panic!("two listeners: {:?}", hook.smtp);
    };
    let network = |text: &str| text.parse().expect(text);
    let proxy = ClientNetworks::new([network("10.0.0.1/32")]);
    let expected = SmtpListener {
        listen: "0.0.0.0:25".parse().expect("an address"),
        next_hop: NextHop {
            host: "192.0.2.9".into(),
            port: 465,
            tls: Tls::Implicit,
            ca_file: Some(at("mx.pem")),
            timeout: Duration::from_secs(30),
            data_done_timeout: Duration::from_secs(90),
        },
        mode: Mode::AfterQueue,
        side: Some(Side::External),
        clients: ClientNetworks::new([network("192.0.2.0/24"), network("10.0.0.1/32")]),
        identity_forwarders: proxy,
        proxy_protocol: true,
        bare_line_breaks: BareLineBreaks::Reject,
        tls: Some(ListenerTls {
            implicit: false,
            cert_file: at("mx.pem"),
            key_file: at("mx.key"),
        }),
    };
    assert_eq!(inbound, &expected);
    assert_eq!(outbound.side, Some(Side::Internal));
    assert_eq!(outbound.bare_line_breaks, BareLineBreaks::Normalize);
    assert_eq!(
        outbound.tls,
        Some(ListenerTls {
            implicit: true,
            ..expected.tls.expect("set above")
        })
    );
}

#[test]
fn a_sample_that_breaks_off_anywhere_is_loaded_or_explained() {
    let all = uncommented("## ");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("copyist.toml");
    for (end, _) in all.char_indices() {
        // Within comments, one place is as good as another.
        let line = all[..end].rsplit('\n').next().unwrap_or_default();
        if line.starts_with('#') && end % 50 != 0 {
            continue;
        }
        fs::write(&path, &all[..end]).expect("written");
        if let Err(error) = config::load_with(&path, []) {
            assert!(!error.problems.is_empty(), "cut at {end}");
        }
    }
}

/// Each directory of `tests/bad-configs` contains an invalid `copyist.toml`, the message
/// `expected`, optionally `environment` (`NAME=value` lines) and `setup` (`chmod MODE FILE` lines,
/// because git does not store such modes), and other files that the configuration names. `{dir}` is
/// the directory. `UPDATE_EXPECT=1 cargo test --test commands config::` rewrites the messages.
#[test]
fn every_problem_has_location_value_and_fix() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs");
    let mut directories: Vec<PathBuf> = fs::read_dir(&cases)
        .expect("the cases")
        .map(|entry| entry.expect("a case").path())
        .collect();
    directories.sort();
    assert!(directories.len() > 40, "cases are missing");
    let wrong: Vec<String> = directories.iter().filter_map(|case| check(case)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Returns the difference between the actual and the expected message of a case.
fn check(case: &Path) -> Option<String> {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(case).expect("a directory") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    let read = |name: &str| fs::read_to_string(case.join(name)).unwrap_or_default();
    for line in read("setup").lines() {
        let words: Vec<_> = line.split(' ').collect();
        let ["chmod", mode, file] = words.as_slice() else {
            panic!("{}: setup is not understood: {line}", case.display());
        };
        let mode = u32::from_str_radix(mode, 8).expect("an octal mode");
        fs::set_permissions(copy.path().join(file), Permissions::from_mode(mode)).expect("set");
    }
    let variables = read("environment");
    let variables: Vec<_> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let found = match config::load_with(&copy.path().join("copyist.toml"), environment(&variables))
    {
        Ok(_) => "(no problem found)".to_owned(),
        Err(error) => error.to_string(),
    };
    let found = found.replace(&copy.path().display().to_string(), "{dir}");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(case.join("expected"), format!("{}\n", found.trim_end())).expect("written");
    }
    let expected = read("expected");
    (found.trim_end() != expected.trim_end()).then(|| {
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}\n  expected:\n{expected}\n  found:\n{found}\n")
    })
}
