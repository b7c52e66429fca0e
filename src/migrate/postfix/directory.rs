//! An LDAP table of Postfix → `[directory]`.

use super::ldap::{LdapTable, addresses_in};
use crate::migrate::Site;
use crate::migrate::draft::Draft;
use crate::migrate::sections::base;

impl LdapTable {
    /// Writes `[directory]`.
    pub(super) fn section(&self, draft: &mut Draft, site: &Site) {
        let file = &self.described_in;
        draft.section("directory");
        draft.comment(&format!("From {file}."));
        let (urls, odd) = self.urls();
        for server in odd {
            draft.no_equivalent(&format!(
                "{server:?} in server_host of {file} is not a valid server."
            ));
        }
        let is_tls = self.is_yes("start_tls") || urls.iter().any(|url| url.starts_with("ldaps:"));
        match urls.is_empty() {
            true => {
                draft.fill_in("directory.urls", "the LDAP servers.");
                draft.set("urls", vec![format!("ldaps://dc1.{}", site.main_domain())]);
            }
            false => {
                if self.parameter("server_host").is_none() {
                    draft.comment("server_host is not set, so it is this machine:");
                }
                draft.set("urls", urls.clone());
            }
        }
        if self.is_yes("start_tls") && !urls.iter().any(|url| url.starts_with("ldaps:")) {
            draft.set("starttls", true);
        }
        self.tls(draft, is_tls);
        self.bind(draft);
        let searched = self
            .parameter("search_base")
            .filter(|base| !base.contains('%'));
        match site.base.as_deref().or(searched) {
            Some(base) => draft.set("base", base),
            None => {
                let seen = self
                    .parameter("search_base")
                    .map_or("is not set".into(), |base| format!("is {base:?}"));
                draft.fill_in(
                    "directory.base",
                    &format!("the base of all searches; search_base in {file} {seen}."),
                );
                draft.set("base", base(site).as_ref());
            }
        }
        self.filter(draft);
        let timeout = self.parameter("timeout").and_then(|text| text.parse().ok());
        if let Some(seconds @ 1..=3600_u32) = timeout {
            draft.set("timeout", format!("{seconds}s"));
        }
        self.rest(draft);
    }

    fn tls(&self, draft: &mut Draft, is_tls: bool) {
        match self.ca_file() {
            Some(file) if self.can_read_ca => draft.set("ca_file", file),
            Some(file) => {
                draft.fill_in(
                    "directory.ca_file",
                    "tls_ca_cert_file, which is not readable here. Make it readable for the service.",
                );
                draft.suggest("ca_file", file);
            }
            None => {}
        }
        if is_tls && !self.is_yes("tls_require_cert") {
            draft.note(
                "Postfix did not verify the LDAP server's certificate (tls_require_cert). Copyist does, with ca_file or \
                 the system's certificates.",
            );
        }
    }

    fn bind(&self, draft: &mut Draft) {
        let file = &self.described_in;
        match self
            .parameter("bind")
            .unwrap_or("yes")
            .to_ascii_lowercase()
            .as_str()
        {
            "no" | "none" => return,
            "sasl" => {
                draft.no_equivalent(&format!(
                    "bind = sasl in {file}: Copyist binds with name and password, or by Kerberos (gssapi = true, in a \
                     build with the feature gssapi). FILL IN one of them."
                ));
                return;
            }
            _ => {}
        }
        let Some(dn) = self.parameter("bind_dn") else {
            return;
        };
        let fill_in = "write the account's password, bind_pw in FILE, to a separate file, then uncomment these lines.";
        draft.fill_in(
            "directory.bind_password_file",
            &fill_in.replace("FILE", file),
        );
        if self.has_password {
            draft.example("install -m 640 -g copyist /dev/null /etc/copyist/ldap.password");
            draft.example(&format!(
                "sed -n 's/^bind_pw[[:space:]]*=[[:space:]]*//p' {file} > /etc/copyist/ldap.password"
            ));
        }
        draft.suggest("bind_dn", dn);
        draft.suggest("bind_password_file", "/etc/copyist/ldap.password");
    }

    fn filter(&self, draft: &mut Draft) {
        let Some(filter) = self.parameter("query_filter") else {
            return;
        };
        let (attributes, odd) = addresses_in(filter);
        if !attributes.is_empty() {
            draft.comment(&format!("From query_filter = {filter}"));
            draft.set("address_attributes", attributes);
        }
        for part in odd {
            draft.no_equivalent(&format!(
                "({part}) in query_filter of {}: Copyist finds people only by their addresses.",
                self.described_in
            ));
        }
    }

    fn rest(&self, draft: &mut Draft) {
        let file = &self.described_in;
        for name in ["result_format", "result_filter"] {
            if let Some(format) = self.parameter(name).filter(|format| *format != "%s") {
                draft.no_equivalent(&format!(
                    "{name} = {format} in {file} derives the journal address from the attribute's value. In Copyist the \
                     value is the journal address: store whole addresses in the attribute."
                ));
            }
        }
        for name in ["leaf_result_attribute", "terminal_result_attribute"] {
            if let Some(value) = self.parameter(name) {
                draft.no_equivalent(&format!(
                    "{name} = {value} in {file}: a journal attribute that names an object leads to its proxyAddresses, \
                     mail or targetAddress, or to its members."
                ));
            }
        }
        for (name, defaults) in [
            ("scope", &["sub"][..]),
            ("dereference", &["0"]),
            ("chase_referrals", &["0", "no"]),
        ] {
            if let Some(value) = self
                .parameter(name)
                .filter(|value| !defaults.contains(value))
            {
                draft.no_equivalent(&format!(
                    "{name} = {value} in {file}: Copyist searches the whole subtree below its base, once."
                ));
            }
        }
        for name in ["domain", "tls_ca_cert_dir", "tls_cert"] {
            if let Some(value) = self.parameter(name) {
                draft.no_equivalent(&format!("{name} = {value} in {file}."));
            }
        }
        if self.parameter("version") == Some("2") {
            draft.note(&format!(
                "{file} sets LDAP version 2; Copyist supports only version 3."
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the section and the remarks for a table's file.
    fn written(text: &str) -> (String, String) {
        let table = LdapTable::read("/etc/postfix/bcc.cf", text);
        let mut draft = Draft::default();
        let site = Site {
            domains: vec!["example.test".into()],
            ..Site::default()
        };
        table.section(&mut draft, &site);
        let proposal = draft.finish();
        let remarks: Vec<String> = proposal.remarks.iter().map(ToString::to_string).collect();
        (proposal.config, remarks.join("\n"))
    }

    #[test]
    fn servers_in_every_spelling_become_urls() {
        for (text, urls) in [
            (
                "server_host = dc1, dc2:1389",
                "[\"ldap://dc1\", \"ldap://dc2:1389\"]",
            ),
            (
                "server_host = dc1\nserver_port = 3268",
                "[\"ldap://dc1:3268\"]",
            ),
            (
                "server_host = ldaps://dc1:636/\n  ldapi://%2Frun%2Fldapi",
                "[\"ldaps://dc1:636\", \"ldapi://%2Frun%2Fldapi\"]",
            ),
            ("", "[\"ldap://localhost\"]"),
        ] {
            let (config, _) = written(text);
            assert!(
                config.contains(&format!("urls = {urls}\n")),
                "{text}: {config}"
            );
        }
    }

    #[test]
    fn the_filter_becomes_address_attributes() {
        let (config, remarks) = written(
            "query_filter = (&(objectClass=person)(|(mail=%s)(proxyAddresses=smtp:%s)(uid=%u)))\n",
        );
        assert!(
            config.contains("address_attributes = [\"mail\", \"proxyAddresses\"]"),
            "{config}"
        );
        assert!(
            remarks.contains("no equivalent: (objectClass=person)"),
            "{remarks}"
        );
        assert!(remarks.contains("no equivalent: (uid=%u)"), "{remarks}");
    }

    #[test]
    fn the_password_is_left_out_and_its_file_named() {
        let text = "bind = yes\nbind_dn = cn=postfix,dc=example,dc=test\nbind_pw = s3cret";
        let (config, remarks) = written(text);
        let table = format!("{:?}", LdapTable::read("x", text));
        for said in [&config, &remarks, &table] {
            assert!(!said.contains("s3cret"), "{said}");
        }
        assert!(
            config.contains("# bind_dn = \"cn=postfix,dc=example,dc=test\"\n"),
            "{config}"
        );
        assert!(
            config.contains("/etc/postfix/bcc.cf > /etc/copyist/ldap.password"),
            "{config}"
        );
        assert!(
            remarks.contains("fill in: directory.bind_password_file"),
            "{remarks}"
        );
    }

    #[test]
    fn result_attributes_become_journal_attributes() {
        let attributes = |text| LdapTable::read("x", text).journal_attributes();
        assert_eq!(
            attributes("result_attribute = a, b\nspecial_result_attribute = c"),
            ["a", "b", "c"]
        );
        assert_eq!(attributes("search_base = x"), ["maildrop"]);
        assert_eq!(
            attributes("result_attribute =\nspecial_result_attribute = c"),
            ["c"]
        );
    }

    #[test]
    fn settings_without_an_equivalent_are_remarked() {
        let (_, remarks) = written(
            "result_format = %u@archive.test\nscope = one\ndomain = example.test\nbind = sasl\nversion = 2\nstart_tls = yes\nsearch_base = dc=%d",
        );
        for part in [
            "result_format",
            "scope = one",
            "domain = example.test",
            "bind = sasl",
            "version 2",
            "tls_require_cert",
            "search_base",
        ] {
            assert!(remarks.contains(part), "{part:?} is missing in\n{remarks}");
        }
        let (_, remarks) = written(
            "search_base = dc=example,dc=test\nscope = sub\nchase_referrals = 0\nresult_format = %s",
        );
        assert_eq!(remarks, "");
    }
}
