//! The address maps of the MTA: what Postfix makes of an address, and what [`copyist::maps`] makes
//! of it.

use crate::lab;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use copyist::mail::Address;
use copyist::maps::{AddressMaps, Expansion, MapError, NonAddressKind, Settings};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use lab::{Chance, Client, DirectoryServer, OUTSIDE, PATIENCE, Postfix, PostfixOptions, Slapd};

const ORIGIN: &str = "corp.test";

/// A directory with maps, and a main.cf for the programs that build them.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Files {
        let directory = lab::open_directory();
        lab::write(
            &directory.path().join("main.cf"),
            "compatibility_level = 3.6\n",
        );
        lab::write(&directory.path().join("master.cf"), "");
        Files { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        lab::write(&path, text);
        path
    }

    /// Replaces a file as a careful writer does.
    fn replace(&self, name: &str, text: &str) {
        let new = self.write("new", text);
        std::fs::rename(new, self.path(name)).expect("replaced");
    }

    /// Has `postmap` or `postalias` build an index.
    fn index(&self, program: &str, map_type: &str, name: &str) -> String {
        let map = format!("{map_type}:{}", self.path(name).display());
        let build = Command::new(lab::need(program, "postfix"))
            .arg("-c")
            .arg(self.directory.path())
            .arg(&map)
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&build.stderr);
        assert!(build.status.success(), "{program} {map}: {errors}");
        map
    }

    fn settings(&self) -> Settings {
        Settings {
            recipient_delimiter: "+".to_owned(),
            origin: ORIGIN.to_owned(),
            is_local: Arc::new(|domain| domain == ORIGIN || domain == "mx.corp.test"),
            timeout: Duration::from_secs(5),
            config_directory: Some(self.directory.path().to_owned()),
            ..Settings::default()
        }
    }
}

/// Open maps, closed when dropped.
struct OpenMaps {
    maps: AddressMaps,
    stop: CancellationToken,
}

impl OpenMaps {
    fn new(settings: Settings) -> OpenMaps {
        let stop = CancellationToken::new();
        let maps = AddressMaps::open(settings, &TaskTracker::new(), &stop).expect("maps");
        OpenMaps { maps, stop }
    }

    async fn recipients(&self, text: &str) -> String {
        show(self.maps.recipients(&address(text)).await)
    }

    async fn senders(&self, text: &str) -> String {
        show(self.maps.senders(&address(text)).await)
    }

    /// Waits for an answer; the longest wait is that of the lab.
    async fn wait_for(&self, text: &str, expected: &str) {
        let begun = Instant::now();
        loop {
            let answer = self.recipients(text).await;
            if answer == expected {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{text}: {answer}, not {expected}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for OpenMaps {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// An expansion in one line: the addresses, and in braces what else mail goes to.
fn show(expansion: Result<Expansion, MapError>) -> String {
    match expansion {
        Ok(Expansion::Unchanged) => "unchanged".to_owned(),
        Ok(Expansion::Changed { addresses, others }) => {
            let addresses = addresses.iter().map(|mapped| mapped.address.to_string());
            let others = others.iter().map(|other| {
                let what = match other.kind {
                    NonAddressKind::Command => "command",
                    NonAddressKind::File => "file",
                    NonAddressKind::Loop => "loop",
                    NonAddressKind::BadInclude => "include",
                    NonAddressKind::Invalid => "invalid",
                };
                format!("{{{what} {}}}", other.target)
            });
            addresses.chain(others).collect::<Vec<_>>().join(" ")
        }
        Err(MapError::Limit { .. }) => "limit".to_owned(),
        Err(MapError::NoAddress { .. }) => "no address".to_owned(),
        Err(MapError::Unreadable { .. }) => "unreadable".to_owned(),
    }
}

const VIRTUAL: &str = r#"
# Comments and empty lines are nothing.

sales@corp.test     dan@corp.test, emma@corp.test,
                    sales@partner.test
# in between
  more@partner.test
dan@old.test        dan@corp.test
@old.test           @corp.test
@gone.test          catchall@corp.test
bare                dan
info+special@corp.test  special@x.test
info@corp.test      dan@x.test
local+ext           ext@x.test
keep@corp.test      keep@corp.test, copy@x.test
a@loop.test         b@loop.test
b@loop.test         a@loop.test
c@loop.test         c@loop.test
self@nest.test      other@nest.test, self@nest.test
other@nest.test     third@nest.test
"quoted one"@corp.test  dan@x.test
toquoted@corp.test  "John Doe"@x.test, <emma@x.test> (a comment)
MiXeD@Corp.Test     mixed@x.test
spaces@corp.test    a@x.test b@x.test
bang@corp.test      there!dan
percent@corp.test   dan%x.test
müller@corp.test    mueller@x.test
dan@müller.test     dan@x.test
@big.test           big@corp.test
dotted@corp.test    dan@x.test.
postmaster          dan@x.test
"#;

#[tokio::test]
async fn virtual_aliases_are_read_as_postfix_reads_them() {
    let files = Files::new();
    let path = files.write("virtual", VIRTUAL);
    let open = OpenMaps::new(Settings {
        virtual_alias_maps: vec![
            format!("texthash:{}", path.display())
                .parse()
                .expect("a name"),
        ],
        ..files.settings()
    });
    for (recipient, expected) in [
        (
            "sales@corp.test",
            "dan@corp.test emma@corp.test sales@partner.test more@partner.test",
        ),
        (
            "SALES@CORP.TEST",
            "dan@corp.test emma@corp.test sales@partner.test more@partner.test",
        ),
        (
            "sales+x@corp.test",
            "dan+x@corp.test emma+x@corp.test sales+x@partner.test more+x@partner.test",
        ),
        ("nobody@corp.test", "unchanged"),
        ("nobody@elsewhere.test", "unchanged"),
        ("dan@old.test", "dan@corp.test"),
        ("Emma@old.test", "Emma@corp.test"),
        ("emma+tag@old.test", "emma+tag@corp.test"),
        (
            "sales@old.test",
            "dan@corp.test emma@corp.test sales@partner.test more@partner.test",
        ),
        ("who@gone.test", "catchall@corp.test"),
        ("bare@corp.test", "dan@corp.test"),
        ("bare@mx.corp.test", "dan@corp.test"),
        ("bare@elsewhere.test", "unchanged"),
        ("bare+x@corp.test", "dan+x@corp.test"),
        ("info+special@corp.test", "special@x.test"),
        ("info+other@corp.test", "dan+other@x.test"),
        ("local+ext@corp.test", "ext@x.test"),
        ("local@corp.test", "unchanged"),
        ("keep@corp.test", "keep@corp.test copy@x.test"),
        ("keep+1@corp.test", "keep+1@corp.test copy+1@x.test"),
        ("a@loop.test", "limit"),
        ("c@loop.test", "c@loop.test"),
        ("self@nest.test", "third@nest.test self@nest.test"),
        ("\"quoted one\"@corp.test", "dan@x.test"),
        ("\"quoted one+e\"@corp.test", "dan+e@x.test"),
        ("toquoted@corp.test", "\"John Doe\"@x.test emma@x.test"),
        ("mixed@corp.test", "mixed@x.test"),
        ("spaces@corp.test", "a@x.test b@x.test"),
        ("bang@corp.test", "dan@there"),
        ("percent@corp.test", "dan@x.test"),
        ("MÜLLER@corp.test", "mueller@x.test"),
        ("dan@MÜLLER.test", "dan@x.test"),
        // The MTA does not bring one spelling of a domain into the other.
        ("dan@xn--mller-kva.test", "unchanged"),
        ("dotted@corp.test", "dan@x.test"),
        ("postmaster@corp.test", "dan@x.test"),
        ("postmaster+x@corp.test", "dan+x@x.test"),
    ] {
        assert_eq!(open.recipients(recipient).await, expected, "{recipient}");
    }
}

#[tokio::test]
async fn canonical_maps_come_first_and_are_all_that_senders_get() {
    let files = Files::new();
    let map = |text: &str| vec![text.parse().expect("a name")];
    let open = OpenMaps::new(Settings {
        canonical_maps: map(
            "inline:{daniel@corp.test=dan@corp.test, {@alias.test = @corp.test}, {ring@x.test = gnir@x.test}, \
             {gnir@x.test = ring@x.test}, {two@x.test = a@x.test, b@x.test}, login=first.last@corp.test}",
        ),
        sender_canonical_maps: map("inline:{danny@corp.test=daniel@corp.test}"),
        recipient_canonical_maps: map("inline:{dan.d@corp.test=daniel@corp.test}"),
        virtual_alias_maps: map("inline:{{dan@corp.test = dan@mail.test, dora@mail.test}}"),
        ..files.settings()
    });
    for (recipient, expected) in [
        ("daniel@corp.test", "dan@mail.test dora@mail.test"),
        ("dan.d@corp.test", "dan@mail.test dora@mail.test"),
        ("danny@corp.test", "unchanged"),
        ("daniel+x@alias.test", "dan+x@mail.test dora+x@mail.test"),
        // Ten times around, then the last one counts.
        ("ring@x.test", "ring@x.test"),
        ("two@x.test", "a@x.test"),
    ] {
        assert_eq!(open.recipients(recipient).await, expected, "{recipient}");
    }
    for (sender, expected) in [
        ("danny@corp.test", "dan@corp.test"),
        ("daniel@corp.test", "dan@corp.test"),
        ("dan@corp.test", "unchanged"),
        ("dan.d@corp.test", "unchanged"),
        ("login@corp.test", "first.last@corp.test"),
        ("login@elsewhere.test", "unchanged"),
        ("two@x.test", "a@x.test"),
    ] {
        assert_eq!(open.senders(sender).await, expected, "{sender}");
    }
}

const ALIASES: &str = r#"
# aliases(5)
postmaster: root
root:       Dan
dan:        \dan, archive@x.test
sales:      emma, fred@x.test,
            sales-list
sales-list: gina@corp.test, "|/usr/bin/archive --box sales",
            /var/mail/archive
Mixed:      CASE@X.test
"quoted name": emma@x.test
group:      friends: a@x.test, b@x.test;, c@x.test
ring1:      ring2, one@x.test
ring2:      ring1, two@x.test
list:       :include:INCLUDES/members
owner-list: admin@x.test
circle:     :include:INCLUDES/circle
open:       :include:INCLUDES/writable
relative:   :include:members
nested:     :include:INCLUDES/nested, direct@x.test
home:       ~/inbox
info+urgent: urgent@x.test
info:       plain@x.test
owned:      dora, list2
owner-owned: dora
list2:      owned
dollar:     $user, $(x)@x.test
"#;

#[tokio::test]
async fn local_aliases_are_read_as_postfix_reads_them() {
    let files = Files::new();
    let directory = files.directory.path().display().to_string();
    files.write("members", "# members\nhugo@x.test, ida\n\n\"|/bin/x\"\n");
    files.write(
        "circle",
        "circle\n:include:INCLUDES/circle\nout@x.test\n"
            .replace("INCLUDES", &directory)
            .as_str(),
    );
    files.write(
        "nested",
        &format!("first@x.test\n:include:{directory}/members\n"),
    );
    let writable = files.write("writable", "secret@x.test\n");
    lab::set_mode(&writable, 0o666);
    files.write("aliases", &ALIASES.replace("INCLUDES", &directory));
    let indexed = files.index("postalias", "hash", "aliases");
    let rows = [
        (
            "postmaster@corp.test",
            "dan@corp.test archive@x.test".to_owned(),
        ),
        ("dan@corp.test", "dan@corp.test archive@x.test".to_owned()),
        // The extension does not go on.
        (
            "dan+ext@corp.test",
            "dan@corp.test archive@x.test".to_owned(),
        ),
        ("dan@x.test", "unchanged".to_owned()),
        (
            "dan@mx.corp.test",
            "dan@corp.test archive@x.test".to_owned(),
        ),
        (
            "sales@corp.test",
            "emma@corp.test fred@x.test gina@corp.test {command |/usr/bin/archive --box sales} \
             {file /var/mail/archive}"
                .to_owned(),
        ),
        ("mixed@corp.test", "CASE@x.test".to_owned()),
        ("\"Quoted Name\"@corp.test", "emma@x.test".to_owned()),
        ("group@corp.test", "a@x.test b@x.test c@x.test".to_owned()),
        (
            "ring1@corp.test",
            "two@x.test one@x.test {loop ring2@corp.test}".to_owned(),
        ),
        (
            "list@corp.test",
            "hugo@x.test ida@corp.test {command |/bin/x}".to_owned(),
        ),
        (
            "circle@corp.test",
            "out@x.test {loop circle@corp.test}".to_owned(),
        ),
        (
            "open@corp.test",
            format!("{{include :include:{directory}/writable}}"),
        ),
        (
            "relative@corp.test",
            "{include :include:members}".to_owned(),
        ),
        (
            "nested@corp.test",
            "first@x.test hugo@x.test ida@corp.test direct@x.test {command |/bin/x}".to_owned(),
        ),
        ("home@corp.test", "{file ~/inbox}".to_owned()),
        ("info+urgent@corp.test", "urgent@x.test".to_owned()),
        ("info+x@corp.test", "plain@x.test".to_owned()),
        (
            "owned@corp.test",
            "dora@corp.test {loop dora@corp.test} {loop list2@corp.test}".to_owned(),
        ),
        // Nothing is filled in for a dollar sign, and parentheses are a comment.
        ("dollar@corp.test", "$user@corp.test $@x.test".to_owned()),
        ("nobody@corp.test", "unchanged".to_owned()),
    ];
    let text = Settings {
        postmap: "/nonexistent/postmap".into(),
        ..files.settings()
    };
    for settings in [files.settings(), text] {
        let open = OpenMaps::new(Settings {
            alias_maps: vec![indexed.parse().expect("a name")],
            ..settings
        });
        for (recipient, expected) in &rows {
            let found = open.recipients(recipient).await;
            let sorted = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&found), sorted(expected), "{recipient}: {found}");
        }
    }
}

#[tokio::test]
async fn local_addresses_pass_all_maps_and_say_how() {
    let files = Files::new();
    let map = |text: &str| vec![text.parse().expect("a name")];
    let open = OpenMaps::new(Settings {
        canonical_maps: map("inline:{d@corp.test=dan@corp.test}"),
        virtual_alias_maps: map(
            "inline:{{dan@corp.test=team@corp.test, dan@mail.test}, away@x.test=back@y.test}",
        ),
        alias_maps: map("inline:{{team = emma, away@x.test}}"),
        ..files.settings()
    });
    let Ok(Expansion::Changed { addresses, others }) =
        open.maps.recipients(&address("d@corp.test")).await
    else {
        panic!("changed");
    };
    assert!(others.is_empty());
    let steps: Vec<(String, Vec<String>)> = (addresses.iter())
        .map(|mapped| {
            let steps = mapped.steps.iter().map(ToString::to_string);
            (mapped.address.to_string(), steps.collect())
        })
        .collect();
    let steps_of = |of: &str| &steps.iter().find(|(address, _)| address == of).expect(of).1;
    assert_eq!(
        steps_of("emma@corp.test").as_slice(),
        [
            "canonical_maps inline:{d@corp.test=dan@corp.test}: d@corp.test → dan@corp.test",
            "virtual_alias_maps inline:{{dan@corp.test=team@corp.test, dan@mail.test}, away@x.test=back@y.test}: \
             dan@corp.test → team@corp.test",
            "alias_maps inline:{{team = emma, away@x.test}}: team → emma@corp.test",
        ]
    );
    // An alias that leads elsewhere goes through the virtual aliases again.
    assert_eq!(steps_of("back@y.test").len(), 4);
    assert_eq!(steps_of("dan@mail.test").len(), 2);
}

#[tokio::test]
async fn maps_of_maps_are_asked_in_their_way() {
    let files = Files::new();
    let map = |text: &str| vec![text.parse().expect("a name")];
    let open = OpenMaps::new(Settings {
        virtual_alias_maps: map(
            "unionmap:{inline:{a@x.test=b@x.test}, inline:{a@x.test=c@x.test}, \
             pipemap:{inline:{p@x.test=q}, inline:{q=r@x.test}}}",
        ),
        ..files.settings()
    });
    assert_eq!(open.recipients("a@x.test").await, "b@x.test c@x.test");
    assert_eq!(open.recipients("p@x.test").await, "r@x.test");
    assert_eq!(open.recipients("q@x.test").await, "unchanged");
    let status = open.maps.status();
    assert_eq!(status.len(), 4);
    assert!(
        status
            .iter()
            .all(|map| map.problem.is_none() && map.entries == Some(1))
    );
}

#[tokio::test]
async fn an_unreadable_map_is_an_error_only_for_its_own_addresses() {
    let files = Files::new();
    let aliases = format!("texthash:{}", files.path("aliases").display());
    let virtuals = format!("texthash:{}", files.path("virtual").display());
    let open = OpenMaps::new(Settings {
        alias_maps: vec![aliases.parse().expect("a name")],
        virtual_alias_maps: vec!["inline:{hit@corp.test=x@x.test}".parse().expect("a name")],
        ..files.settings()
    });
    // Without the aliases nothing is known of local addresses, and all of others.
    assert_eq!(open.recipients("dan@corp.test").await, "unreadable");
    assert_eq!(open.recipients("dan@x.test").await, "unchanged");
    assert_eq!(open.recipients("hit@corp.test").await, "x@x.test");
    let problem = open.maps.status()[1].problem.clone().expect("a problem");
    assert!(problem.contains("aliases"), "{problem}");
    files.write("aliases", "dan emma\n");
    open.wait_for("dan@corp.test", "emma@corp.test").await;

    let open = OpenMaps::new(Settings {
        virtual_alias_maps: vec![virtuals.parse().expect("a name")],
        ..files.settings()
    });
    assert_eq!(open.recipients("dan@x.test").await, "unreadable");
    files.write("virtual", "dan@x.test emma@x.test\n");
    open.wait_for("dan@x.test", "emma@x.test").await;
    std::fs::remove_file(files.path("virtual")).expect("removed");
    open.wait_for("dan@x.test", "unreadable").await;
    // A directory cannot be read either, not even by root.
    std::fs::create_dir(files.path("virtual")).expect("a directory");
    open.wait_for("dan@x.test", "unreadable").await;
    std::fs::remove_dir(files.path("virtual")).expect("removed");
    files.write("virtual", "dan@x.test fred@x.test\n");
    open.wait_for("dan@x.test", "fred@x.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_go_on_while_maps_are_rebuilt() {
    let files = Files::new();
    let text = |round: usize| {
        (0..2000).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "a{n}@x.test b{round}@x.test");
            text
        })
    };
    files.write("virtual", &text(0));
    let indexed = files.index("postmap", "hash", "virtual");
    files.write("aliases", "dan r0@x.test\n");
    let plain = format!("texthash:{}", files.path("aliases").display());
    let open = OpenMaps::new(Settings {
        virtual_alias_maps: vec![indexed.parse().expect("a name")],
        alias_maps: vec![plain.parse().expect("a name")],
        ..files.settings()
    });
    let (maps, done) = (open.maps.clone(), CancellationToken::new());
    let asked = tokio::spawn({
        let done = done.clone();
        async move {
            let mut lookups = 0_u32;
            while !done.is_cancelled() {
                for text in ["a7@x.test", "a1999@x.test", "dan@corp.test"] {
                    let found = show(maps.recipients(&address(text)).await);
                    assert!(
                        found.starts_with('b') || found.starts_with('r'),
                        "{text}: {found}"
                    );
                    lookups += 1;
                }
                tokio::task::yield_now().await;
            }
            lookups
        }
    });
    for round in 1..=4 {
        files.replace("virtual", &text(round));
        files.index("postmap", "hash", "virtual");
        files.replace("aliases", &format!("dan r{round}@x.test\n"));
        open.wait_for("a7@x.test", &format!("b{round}@x.test"))
            .await;
        open.wait_for("dan@corp.test", &format!("r{round}@x.test"))
            .await;
    }
    done.cancel();
    assert!(asked.await.expect("no wrong answer") > 1000);
}

#[tokio::test]
async fn included_files_are_followed() {
    let files = Files::new();
    files.write("members", "a@x.test\n");
    let alias = format!(
        "inline:{{{{list = :include:{}}}}}",
        files.path("members").display()
    );
    let open = OpenMaps::new(Settings {
        alias_maps: vec![alias.parse().expect("a name")],
        ..files.settings()
    });
    assert_eq!(open.recipients("list@corp.test").await, "a@x.test");
    files.replace("members", "b@x.test\nc@x.test\n");
    open.wait_for("list@corp.test", "b@x.test c@x.test").await;
    std::fs::remove_file(files.path("members")).expect("removed");
    open.wait_for("list@corp.test", "unreadable").await;
    assert_eq!(open.recipients("other@corp.test").await, "unchanged");
}

#[tokio::test]
async fn an_ldap_map_is_asked_as_postfix_asks_it() {
    let mut slapd = Slapd::start(5);
    let members = [slapd.user_dn(1), slapd.user_dn(2)];
    slapd.add_group("team", &members, &[("mail", "team@example.test")]);
    let nested = slapd.add_group("inner", &[slapd.user_dn(3)], &[]);
    slapd.add_group(
        "outer",
        &[nested, slapd.user_dn(4)],
        &[("mail", "outer@example.test")],
    );
    let files = Files::new();
    let access = slapd.access();
    let password = std::fs::read_to_string(slapd.password_file()).expect("a password");
    let common = format!(
        "version = 3\nsearch_base = {}\nbind = yes\nbind_dn = {}\nbind_pw = {}\ntimeout = 5\n",
        slapd.base(),
        access.bind_dn.as_deref().expect("an account"),
        password.trim_end(),
    );
    let map = |name: &str, text: &str| {
        let path = files.write(name, &format!("{common}{text}"));
        vec![format!("ldap:{}", path.display()).parse().expect("a name")]
    };
    let groups = format!(
        "server_host = {}\nquery_filter = (&(objectClass=groupOfNames)(mail=%s))\n\
         result_attribute =\nleaf_result_attribute = mail\nspecial_result_attribute = member\n",
        slapd.url()
    );
    let users = format!(
        "server_host = {}\nstart_tls = yes\ntls_ca_cert_file = {}\nquery_filter = (proxyAddresses=smtp:%u@example.test)\n\
         domain = users.test\nresult_attribute = mail\nresult_format = %u@%D\n",
        slapd.url().replace("127.0.0.1", "localhost"),
        slapd.ca_file().display()
    );
    let limited = format!(
        "server_host = {}\nquery_filter = (proxyAddresses=smtp:user.*)\nresult_attribute = mail\nexpansion_limit = 2\n\
         domain = limited.test\n",
        slapd.url()
    );
    let mut all = map("groups.cf", &groups);
    all.extend(map("users.cf", &users));
    all.extend(map("limited.cf", &limited));
    let postmap = |map: &str, key: &str| {
        let path = files.path(map);
        let output = Command::new(lab::need("postmap", "postfix"))
            .arg("-c")
            .arg(files.directory.path())
            .args(["-q", key])
            .arg(format!("ldap:{}", path.display()))
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    };
    let open = OpenMaps::new(Settings {
        virtual_alias_maps: all,
        ..files.settings()
    });
    for (recipient, map, expected) in [
        (
            "team@example.test",
            "groups.cf",
            "u00001@example.test u00002@example.test",
        ),
        (
            "outer@example.test",
            "groups.cf",
            "u00003@example.test u00004@example.test",
        ),
        ("user.3@users.test", "users.cf", "u00003@users.test"),
        ("nobody@users.test", "users.cf", "unchanged"),
        ("nobody@example.test", "groups.cf", "unchanged"),
        ("a*@example.test", "groups.cf", "unchanged"),
        ("any@limited.test", "limited.cf", "unreadable"),
    ] {
        assert_eq!(open.recipients(recipient).await, expected, "{recipient}");
        // Postfix's own client says the same.
        let theirs = postmap(map, recipient).replace(',', " ");
        let ours = match expected {
            "unchanged" | "unreadable" => "",
            addresses => addresses,
        };
        assert_eq!(theirs, ours, "{recipient}");
    }
    slapd.stop();
    assert_eq!(open.recipients("team@example.test").await, "unreadable");
    let problem = open.maps.status()[0].problem.clone();
    assert!(problem.is_some_and(|problem| problem.contains("cannot connect")));
    slapd.restart();
    open.wait_for(
        "team@example.test",
        "u00001@example.test u00002@example.test",
    )
    .await;
}

/// A postmaster's files, made at random.
struct Office {
    names: Vec<String>,
    chance: Chance,
}

const LOCAL_DOMAINS: [&str; 2] = ["corp.test", "mx.corp.test"];
const OTHER_DOMAINS: [&str; 3] = ["shop.test", "old.test", "far.test"];

impl Office {
    fn new(chance: Chance) -> Office {
        Office {
            names: (0..lab::setting("NAMES", 600))
                .map(|n| format!("u{n}"))
                .collect(),
            chance,
        }
    }

    fn name(&mut self) -> String {
        let at = self.chance.below(self.names.len());
        let name = self.names[at].clone();
        match self.chance.below(20) {
            0 => name.to_uppercase(),
            1 => format!("{name}+x{}", self.chance.below(3)),
            _ => name,
        }
    }

    fn domain(&mut self) -> &'static str {
        match self.chance.below(5) {
            0 | 1 => LOCAL_DOMAINS[self.chance.below(2)],
            n => OTHER_DOMAINS[n - 2],
        }
    }

    fn address(&mut self) -> String {
        format!("{}@{}", self.name(), self.domain())
    }

    fn target(&mut self) -> String {
        match self.chance.below(12) {
            0 | 1 => self.name(),
            2 => format!("\"odd {}\"@{}", self.chance.below(9), self.domain()),
            3 => format!("{}%{}", self.name(), self.domain()),
            4 => format!("Some Body <{}>", self.address()),
            _ => self.address(),
        }
    }

    fn targets(&mut self, most: usize) -> String {
        let number = 1 + self.chance.below(most);
        let targets: Vec<String> = (0..number).map(|_| self.target()).collect();
        targets.join([", ", " , ", ",\n   "][self.chance.below(3)])
    }

    /// Lines of virtual(5) or canonical(5).
    fn map(&mut self, entries: usize, most: usize, domains: bool) -> String {
        let mut text = String::from("# made at random\n");
        for n in 0..entries {
            let key = match self.chance.below(10) {
                0 => self.name(),
                1 if domains && n % 40 == 1 => format!("@{}", OTHER_DOMAINS[1 + n % 2]),
                _ => self.address(),
            };
            let value = match self.chance.below(15) {
                0 => format!("{key}, {}", self.target()),
                1 if domains => format!("@{}", self.domain()),
                _ => self.targets(most),
            };
            let value = match most {
                1 => value.split(", ").next().unwrap_or(&value).to_owned(),
                _ => value,
            };
            let _ = writeln!(text, "{key} {value}");
            if domains && self.chance.below(30) == 0 {
                // A circle, which Postfix defers.
                let (there, back) = (self.address(), self.address());
                let _ = writeln!(text, "{there} {back}\n{back} {there}, {key}");
            }
        }
        text
    }

    /// Lines of aliases(5).
    fn aliases(&mut self, entries: usize, includes: &[PathBuf]) -> String {
        let mut text = String::from("# made at random\npostmaster: u0\n");
        for _ in 0..entries {
            let name = self.name();
            let mut value = self.targets(3);
            match self.chance.below(12) {
                0 => value = format!("\\{name}, {value}"),
                1 => {
                    let file = &includes[self.chance.below(includes.len())];
                    value = format!(":include:{}, {value}", file.display());
                }
                2 => {
                    let _ = writeln!(text, "owner-{name}: {}", self.address());
                }
                3 => value = format!("/dev/null, {value}"),
                4 => {
                    let other = self.name();
                    let _ = writeln!(text, "{other}: {name}, far@far.test");
                    value = format!("{other}, {value}");
                }
                _ => {}
            }
            let _ = writeln!(text, "{name}: {value}");
        }
        text
    }

    /// Lines of an included file.
    fn included(&mut self) -> String {
        let lines = 1 + self.chance.below(4);
        (0..lines).map(|_| format!("{}\n", self.target())).collect()
    }
}

/// Returns the final recipients of a message, from Postfix's log.
fn delivered(
    log: &BTreeMap<String, Vec<(String, String)>>,
    queue_id: &str,
    into: &mut BTreeSet<String>,
) {
    for (to, status) in log.get(queue_id).into_iter().flatten() {
        if let Some(next) = status.strip_prefix("forwarded as ") {
            delivered(log, next, into);
        } else if status == "mailbox" {
            into.insert(mailbox(&address(to)));
        }
    }
}

/// An address, the same for the same user at all local domains: local(8) delivers once to a user.
fn mailbox(address: &Address) -> String {
    match LOCAL_DOMAINS.contains(&address.domain()) {
        true => format!("{}@{ORIGIN}", address.local().to_lowercase()),
        false => address.key().to_owned(),
    }
}

/// Reads deliveries from a log: queue ID to recipients with what became of them.
fn deliveries(log: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut all: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in log.lines() {
        let Some((head, tail)) = line.split_once(": to=<") else {
            continue;
        };
        let Some((_, queue_id)) = head.rsplit_once(": ") else {
            continue;
        };
        let (to, rest) = tail.split_once(">, ").expect("a recipient");
        let status = if let Some((_, next)) = rest.split_once("(forwarded as ") {
            format!("forwarded as {}", next.trim_end_matches(')'))
        } else if head.contains("/discard[") && rest.contains("status=sent") {
            "mailbox".to_owned()
        } else {
            String::new()
        };
        all.entry(queue_id.to_owned())
            .or_default()
            .push((to.to_owned(), status));
    }
    all
}

fn names(files: &Files, list: &[&str]) -> Vec<copyist::maps::MapName> {
    let names = list
        .iter()
        .map(|name| format!("hash:{}", files.path(name).display()));
    names.map(|name| name.parse().expect("a name")).collect()
}

fn compare_with_postfix(seed: Chance, recipients: usize) {
    let mut office = Office::new(seed);
    let files = Files::new();
    let includes: Vec<PathBuf> = (0..10)
        .map(|n| files.write(&format!("include{n}"), &office.included()))
        .collect();
    files.write("virtual", &office.map(300, 3, true));
    files.write("canonical", &office.map(300, 1, false));
    files.write("recipient_canonical", &office.map(300, 1, false));
    files.write("aliases", &office.aliases(300, &includes));
    for name in ["virtual", "canonical", "recipient_canonical"] {
        files.index("postmap", "hash", name);
    }
    files.index("postalias", "hash", "aliases");
    let setting =
        |setting: &str, name: &str| format!("{setting} = hash:{}", files.path(name).display());
    let postfix = Postfix::start_with(
        &PostfixOptions {
            milter: None,
            deliver_to: SocketAddr::from(([127, 0, 0, 1], 9)),
            extra: vec![
                format!("myorigin = {ORIGIN}"),
                format!("mydestination = {}", LOCAL_DOMAINS.join(", ")),
                "recipient_delimiter = +".to_owned(),
                "local_recipient_maps =".to_owned(),
                "mailbox_size_limit = 0".to_owned(),
                "smtpd_reject_unlisted_recipient = no".to_owned(),
                "relayhost =".to_owned(),
                "default_transport = discard:".to_owned(),
                "mailbox_transport = discard:".to_owned(),
                setting("virtual_alias_maps", "virtual"),
                setting("canonical_maps", "canonical"),
                setting("recipient_canonical_maps", "recipient_canonical"),
                setting("alias_maps", "aliases"),
            ],
        },
        "local unix - n n - - local\ndiscard unix - - n - - discard",
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let inside = runtime.enter();
    let open = OpenMaps::new(Settings {
        virtual_alias_maps: names(&files, &["virtual"]),
        canonical_maps: names(&files, &["canonical"]),
        recipient_canonical_maps: names(&files, &["recipient_canonical"]),
        alias_maps: names(&files, &["aliases"]),
        is_local: Arc::new(|domain| LOCAL_DOMAINS.contains(&domain)),
        ..files.settings()
    });
    drop(inside);
    let mut client = Client::connect_from(OUTSIDE, postfix.smtp_addr());
    let mut asked = Vec::new();
    for _ in 0..recipients {
        let recipient = office.address();
        let reply =
            client.send_message("sender@far.test", &[&recipient], "Subject: x\r\n\r\nx\r\n");
        let queue_id = match reply.code {
            250 => reply.text.rsplit_once(' ').map(|(_, id)| id.to_owned()),
            _ => None,
        };
        asked.push((recipient, queue_id, reply.text));
    }
    client.quit();
    let begun = Instant::now();
    while postfix.queue_length() > 0 {
        assert!(
            begun.elapsed() < PATIENCE * 2,
            "the queue does not get empty\n{}",
            postfix.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let log = postfix.log();
    let all = deliveries(&log);
    let (mut changed, mut limits, mut loops) = (0, 0, 0);
    for (recipient, queue_id, reply) in &asked {
        let ours = runtime.block_on(open.maps.recipients(&address(recipient)));
        let Some(queue_id) = queue_id else {
            let is_limit = matches!(ours, Err(MapError::Limit { .. }));
            assert!(
                is_limit && reply.contains("Alias expansion error"),
                "{recipient}: {reply}; {ours:?}"
            );
            limits += 1;
            continue;
        };
        let mut theirs = BTreeSet::new();
        delivered(&all, queue_id, &mut theirs);
        let ours: BTreeSet<String> = match &ours {
            Ok(Expansion::Unchanged) => [mailbox(&address(recipient))].into(),
            Ok(Expansion::Changed { addresses, others }) => {
                changed += 1;
                loops += usize::from(
                    others
                        .iter()
                        .any(|other| other.kind == NonAddressKind::Loop),
                );
                addresses
                    .iter()
                    .map(|mapped| mailbox(&mapped.address))
                    .collect()
            }
            Err(error) => panic!("{recipient}: {error}; Postfix: {theirs:?}"),
        };
        if ours != theirs {
            let lines = log.lines().filter(|line| line.contains(queue_id));
            let lines: Vec<&str> = lines.collect();
            panic!(
                "{recipient}:\nours   {ours:?}\ntheirs {theirs:?}\n{}\n{}",
                lines.join("\n"),
                entries_of(&files, recipient)
            );
        }
    }
    println!("{recipients} recipients: {changed} changed, {limits} limits, {loops} loops");
    assert!(changed > recipients / 4, "the maps are hardly used");
}

/// The lines of all maps that have something to do with an address.
fn entries_of(files: &Files, recipient: &str) -> String {
    let local = recipient
        .split(['@', '+'])
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let mut lines = String::new();
    for name in ["recipient_canonical", "canonical", "virtual", "aliases"] {
        let text = std::fs::read_to_string(files.path(name)).unwrap_or_default();
        for line in text
            .lines()
            .filter(|line| line.to_lowercase().contains(&local))
        {
            let _ = writeln!(lines, "{name}: {line}");
        }
    }
    lines
}

#[test]
fn random_maps_lead_where_postfix_delivers() {
    // Some seeds lead the sender's own address in a circle: the bounces then keep Postfix's queue
    // from getting empty.
    compare_with_postfix(
        Chance::from_environment_or(1_796_075_092),
        lab::setting("RECIPIENTS", 500),
    );
}

#[test]
fn no_maps_cost_nothing_and_change_nothing() {
    let maps = AddressMaps::none();
    assert!(maps.is_empty() && maps.status().is_empty());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(maps.recipients(&address("dan@corp.test")));
    assert_eq!(found, Ok(Expansion::Unchanged));
}
