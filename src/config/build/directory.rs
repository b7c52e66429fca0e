//! The section `[directory]`.

use super::Build;
use crate::config::files;
use crate::config::parse;
use crate::config::problem::ErrorReported;
use crate::directory::{
    Bind, CacheSettings, Inheritance, LdapSettings, Settings, Source, TargetSettings,
};
use crate::policy::{Direction, Rules};
use crate::text;

impl Build<'_> {
    pub(super) fn directory(
        &mut self,
        rules: &Result<Rules, ErrorReported>,
        text: &Result<text::Settings, ErrorReported>,
    ) -> Result<Settings, ErrorReported> {
        let raw = &self.raw.directory;
        let source = self.source();
        let address_attributes = self.address_attributes();
        let login_attributes = self.each(
            "directory.login_attributes",
            &raw.login_attributes,
            parse::attribute,
        );
        let imceaex_domain = self.optional(
            "directory.imceaex_domain",
            &raw.imceaex_domain,
            parse::domain,
        );
        let cache = self.cache();
        let places = self.each(
            "directory.inherit_from",
            &raw.inherit_from,
            parse::inheritance,
        );
        let rules = rules.as_ref().map_err(|reported| *reported)?;
        let text = text.as_ref().map_err(|reported| *reported)?;
        let mut further: Vec<String> = rules.exempt_attribute.iter().cloned().collect();
        further.extend(text.attributes());
        Ok(Settings {
            source: source?,
            address_attributes: address_attributes?,
            journal_attributes: journal_attributes(rules),
            login_attributes: login_attributes?,
            further_attributes: further,
            exempt_attribute: rules.exempt_attribute.clone(),
            inheritance: places?
                .into_iter()
                .fold(Inheritance::default(), |all, one| Inheritance {
                    groups: all.groups || one.groups,
                    containers: all.containers || one.containers,
                }),
            targets: TargetSettings {
                expand_groups: raw.expand_groups.into(),
                group_limit: usize::try_from(raw.group_limit.get()).unwrap_or(usize::MAX),
                imceaex_domain: imceaex_domain?,
            },
            cache: cache?,
        })
    }

    fn address_attributes(&mut self) -> Result<Vec<String>, ErrorReported> {
        const KEY: &str = "directory.address_attributes";
        let words = &self.raw.directory.address_attributes;
        if words.0.is_empty() {
            return Err(self.report_missing(KEY, KEY, "people are found by their addresses"));
        }
        self.each(KEY, words, parse::attribute)
    }

    fn cache(&mut self) -> Result<CacheSettings, ErrorReported> {
        let raw = &self.raw.directory.cache;
        let ttl = self.parsed("directory.cache.ttl", &raw.ttl, parse::duration);
        let negative_ttl = self.parsed(
            "directory.cache.negative_ttl",
            &raw.negative_ttl,
            parse::duration,
        );
        let max_stale = self.parsed("directory.cache.max_stale", &raw.max_stale, parse::duration);
        Ok(CacheSettings {
            ttl: ttl?,
            negative_ttl: negative_ttl?,
            max_stale: max_stale?,
            capacity: raw.capacity.get(),
        })
    }

    fn source(&mut self) -> Result<Source, ErrorReported> {
        const KEY: &str = "directory.urls";
        let urls = &self.raw.directory.urls;
        match urls.0.as_slice() {
            [only] if let Some(file) = ldif_file(only) => {
                let path = self.path(file);
                files::check_readable(&path)
                    .map_err(|error| self.bad_file(KEY, only, &path, &error))?;
                Ok(Source::Ldif(path))
            }
            _ => self.ldap().map(Source::Ldap),
        }
    }

    fn ldap(&mut self) -> Result<LdapSettings, ErrorReported> {
        let raw = &self.raw.directory;
        let urls = self.ldap_urls();
        let ca_file = self.ca_file("directory.ca_file", &raw.ca_file);
        let bind = self.account(
            ("directory.bind_dn", &raw.bind_dn),
            ("directory.bind_password_file", &raw.bind_password_file),
        );
        self.check_gssapi()?;
        let timeout = self.parsed("directory.timeout", &raw.timeout, parse::nonzero_duration);
        let base = raw.base.clone().ok_or_else(|| {
            let why = "searches need a base";
            self.report_missing("directory.base", "directory", why)
        });
        let canary = self.optional("directory.canary", &raw.canary, parse::address);
        let bind = bind?.map(|(dn, password)| Bind { dn, password });
        Ok(LdapSettings {
            urls: urls?,
            starttls: raw.starttls,
            ca_file: ca_file?,
            bind,
            gssapi: raw.gssapi,
            base: base?.trim().to_owned(),
            timeout: timeout?,
            watch: raw.watch.into(),
            canary: canary?,
        })
    }

    fn check_gssapi(&mut self) -> Result<(), ErrorReported> {
        const KEY: &str = "directory.gssapi";
        let raw = &self.raw.directory;
        let (why, remedy) = match (raw.gssapi, cfg!(feature = "gssapi"), &raw.bind_dn) {
            (false, ..) | (true, true, None) => return Ok(()),
            (true, false, _) => (
                "needs a build with this feature",
                "build with cargo build --release --features gssapi, or set bind_dn and bind_password_file",
            ),
            (true, true, Some(_)) => (
                "conflicts with directory.bind_dn",
                "set gssapi = false, or remove bind_dn",
            ),
        };
        Err(self
            .problems
            .report_invalid_with(KEY, Some("true"), why, Some(remedy.into())))
    }

    fn ldap_urls(&mut self) -> Result<Vec<String>, ErrorReported> {
        const KEY: &str = "directory.urls";
        let raw = &self.raw.directory;
        if raw.urls.0.is_empty() {
            let why = "Copyist looks people up on LDAP servers or in a file (ldif:FILE)";
            return Err(self.report_missing(KEY, "directory", why));
        }
        let urls = self.each(KEY, &raw.urls, |text| match ldif_file(text) {
            Some(_) => Err("must be the only URL: a file cannot be combined with servers"),
            None => parse::ldap_url(text),
        })?;
        if raw.starttls && urls.iter().any(|url| url.starts_with("ldaps:")) {
            return Err(self.problems.report_invalid_with(
                "directory.starttls",
                Some("true"),
                "conflicts with an ldaps:// URL, which uses TLS from the start",
                Some("set starttls = false, or use ldap:// in directory.urls".into()),
            ));
        }
        Ok(urls)
    }
}

/// Returns `FILE` of `ldif:FILE`.
fn ldif_file(url: &str) -> Option<&str> {
    url.trim()
        .strip_prefix("ldif:")
        .filter(|file| !file.is_empty())
}

/// Returns the journal attributes of all directions, each once.
fn journal_attributes(rules: &Rules) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for direction in Direction::ALL {
        for name in &rules.of(direction).journal_attributes {
            if !all.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                all.push(name.clone());
            }
        }
    }
    all
}
