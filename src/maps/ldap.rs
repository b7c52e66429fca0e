//! Maps in an LDAP directory, as in ldap_table(5).
//!
//! Promises: every lookup has a deadline; exceeded limits and unreadable entries are errors, never
//! an empty answer. Server certificates are always checked, regardless of `tls_require_cert`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ldap3::{
    DerefAliases, Ldap, LdapConnAsync, LdapConnSettings, ResultEntry, Scope, SearchEntry,
    SearchOptions, StdStream,
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::text::parameters;
use super::watched::read_text;
use crate::net::Server;
use crate::secret::Secret;
use crate::tls::{self, explain_certificate_error};

/// Maximum number of addresses of one answer if the map sets no limit: no MTA accepts more.
const MAX_EXPANSION: usize = 100_000;

/// One map: its parameters and its connection.
pub(super) struct LdapTable {
    parameters: Parameters,
    tls: Option<Arc<ClientConfig>>,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    ldap: Ldap,
    _drive: AbortOnDropHandle<()>,
}

/// The parameters of ldap_table(5).
struct Parameters {
    servers: Vec<String>,
    base: Template,
    filter: Template,
    format: Template,
    domains: Vec<String>,
    terminal: Vec<String>,
    leaf: Vec<String>,
    plain: Vec<String>,
    special: Vec<String>,
    scope: Scope,
    bind: Option<(String, Secret)>,
    start_tls: bool,
    ca_file: Option<PathBuf>,
    dereference: DerefAliases,
    timeout: Duration,
    recursion_limit: usize,
    expansion_limit: usize,
    size_limit: usize,
}

/// A template with fields such as `%s`.
#[derive(Debug)]
struct Template {
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TemplateField {
    Whole,
    Local,
    Domain,
    KeyWhole,
    KeyLocal,
    KeyDomain,
    /// A label of the key's domain, counted from its end.
    Label(usize),
}

#[derive(Debug)]
enum TemplatePart {
    Text(String),
    Field(TemplateField),
}

impl Template {
    fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                plain.push(c);
                continue;
            }
            let field = match rest.next() {
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                Some('s') => TemplateField::Whole,
                Some('u') => TemplateField::Local,
                Some('d') => TemplateField::Domain,
                Some('S') => TemplateField::KeyWhole,
                Some('U') => TemplateField::KeyLocal,
                Some('D') => TemplateField::KeyDomain,
                Some(digit @ '1'..='9') => TemplateField::Label(digit as usize - '0' as usize),
                _ => {
                    return Err(format!(
                        "invalid % field in {text:?}; write %% for a percent sign"
                    ));
                }
            };
            parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
            parts.push(TemplatePart::Field(field));
        }
        parts.push(TemplatePart::Text(plain));
        Ok(Template { parts })
    }

    fn is_fixed(&self) -> bool {
        !self
            .parts
            .iter()
            .any(|part| matches!(part, TemplatePart::Field(_)))
    }

    /// Fills in a key, or a value found for a key. `None` if a field has no value.
    fn fill(&self, value: &str, key: &str, quote: impl Fn(&str) -> String) -> Option<String> {
        if value.is_empty() {
            return None;
        }
        let (value_parts, key_parts) = (value.rsplit_once('@'), key.rsplit_once('@'));
        let mut filled = String::new();
        for part in &self.parts {
            let field = match part {
                TemplatePart::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                TemplatePart::Field(field) => *field,
            };
            let text = match field {
                TemplateField::Whole => value,
                TemplateField::KeyWhole => key,
                TemplateField::Local => match value_parts {
                    Some(("", _)) => return None,
                    Some((local, _)) => local,
                    None => value,
                },
                TemplateField::KeyLocal => match key_parts {
                    Some(("", _)) => return None,
                    Some((local, _)) => local,
                    None => key,
                },
                TemplateField::Domain => value_parts.map(|(_, d)| d).filter(|d| !d.is_empty())?,
                TemplateField::KeyDomain => key_parts.map(|(_, d)| d).filter(|d| !d.is_empty())?,
                TemplateField::Label(number) => {
                    let (_, domain) = key_parts?;
                    domain
                        .rsplit('.')
                        .nth(number - 1)
                        .filter(|label| !label.is_empty())?
                }
            };
            filled.push_str(&quote(text));
        }
        Some(filled)
    }
}

/// Quotes for a filter (RFC 4515 section 3).
fn quote_filter(text: &str) -> String {
    ldap3::ldap_escape(text).into_owned()
}

/// Quotes for a DN (RFC 4514 section 2.4).
fn quote_dn(text: &str) -> String {
    ldap3::dn_escape(text).into_owned()
}

fn words(text: &str) -> Vec<String> {
    let words = text.split([',', ' ', '\t', '\n']);
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Parameters {
    fn parse(text: &[u8], max_timeout: Duration) -> Result<Parameters, String> {
        let all = parameters(text);
        let get =
            |name: &str, default: &str| all.get(name).map_or(default, String::as_str).to_owned();
        let number = |name: &str, default: u64| match all.get(name) {
            Some(text) => text
                .trim_end_matches('s')
                .parse::<u64>()
                .map_err(|_| format!("{name} = {text:?} is not a number")),
            None => Ok(default),
        };
        let flag = |name: &str| match all.get(name).map(|text| text.to_lowercase()).as_deref() {
            None | Some("no" | "0" | "false") => Ok(false),
            Some("yes" | "1" | "true") => Ok(true),
            Some(other) => Err(format!("{name} = {other:?} is neither yes nor no")),
        };
        let port = number("server_port", 389)?;
        let servers = words(&get("server_host", "localhost")).into_iter();
        let servers: Vec<String> = servers
            .map(|host| match (host.contains("://"), host.contains(':')) {
                (true, _) => host,
                (false, true) => format!("ldap://{host}"),
                (false, false) => format!("ldap://{host}:{port}"),
            })
            .collect();
        let bind = match get("bind", "yes").to_lowercase().as_str() {
            "no" | "none" => None,
            "yes" | "simple" => Some((get("bind_dn", ""), Secret::new(get("bind_pw", "")))),
            other => {
                return Err(format!("bind = {other} is not supported, only yes and no"));
            }
        };
        // Without a DN it would be an anonymous bind, the default of a connection.
        let bind = bind.filter(|(dn, _)| !dn.is_empty());
        let domains = words(&get("domain", ""));
        if let Some(odd) = domains
            .iter()
            .find(|domain| domain.contains([':', '/', '!']))
        {
            return Err(format!(
                "domain = {odd} is not supported, only domain names"
            ));
        }
        let scope = match get("scope", "sub").to_lowercase().as_str() {
            "one" => Scope::OneLevel,
            "base" => Scope::Base,
            _ => Scope::Subtree,
        };
        let dereference = match number("dereference", 0)? {
            1 => DerefAliases::Searching,
            2 => DerefAliases::Finding,
            3 => DerefAliases::Always,
            _ => DerefAliases::Never,
        };
        if flag("chase_referrals")? {
            return Err("chase_referrals = yes is not supported".to_owned());
        }
        let format = match all.get("result_format") {
            Some(format) => format.clone(),
            None => get("result_filter", "%s"),
        };
        let limit = |number: u64| match number {
            0 => MAX_EXPANSION,
            limit => usize::try_from(limit).unwrap_or(MAX_EXPANSION),
        };
        let expansion_limit = number("expansion_limit", 0)?;
        let seconds = number("timeout", 10)?.max(1);
        let ca_file = Some(get("tls_ca_cert_file", "")).filter(|file| !file.is_empty());
        Ok(Parameters {
            servers,
            base: Template::parse(&get("search_base", ""))?,
            filter: Template::parse(&get("query_filter", "(mailacceptinggeneralid=%s)"))?,
            format: Template::parse(&format)?,
            domains: domains.iter().map(|domain| domain.to_lowercase()).collect(),
            terminal: words(&get("terminal_result_attribute", "")),
            leaf: words(&get("leaf_result_attribute", "")),
            plain: words(&get("result_attribute", "maildrop")),
            special: words(&get("special_result_attribute", "")),
            scope,
            bind,
            start_tls: flag("start_tls")?,
            ca_file: ca_file.map(PathBuf::from),
            dereference,
            timeout: Duration::from_secs(seconds).min(max_timeout),
            recursion_limit: limit(number("recursion_limit", 1000)?),
            expansion_limit: limit(expansion_limit),
            size_limit: limit(number("size_limit", expansion_limit)?),
        })
    }

    fn uses_tls(&self) -> bool {
        self.start_tls || self.servers.iter().any(|url| url.starts_with("ldaps://"))
    }

    fn attributes(&self) -> Vec<String> {
        let all = [&self.terminal, &self.leaf, &self.plain, &self.special];
        all.into_iter().flatten().cloned().collect()
    }
}

/// A search request.
struct Search {
    base: String,
    scope: Scope,
    filter: String,
    attributes: Vec<String>,
}

/// Error of a search.
enum SearchFailure {
    /// The base does not exist.
    NoSuchObject,
    /// The connection is lost.
    Lost(String),
    /// The server rejected the search.
    Rejected(String),
}

impl fmt::Display for SearchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SearchFailure::NoSuchObject => f.write_str("the search base does not exist"),
            SearchFailure::Lost(reason) | SearchFailure::Rejected(reason) => f.write_str(reason),
        }
    }
}

impl LdapTable {
    /// Reads the parameters of a map. Blocks. The timeout of lookups is at most `max_timeout`.
    pub(super) fn read(path: &Path, max_timeout: Duration) -> Result<LdapTable, String> {
        let in_file = |reason: String| format!("{}: {reason}", path.display());
        let parameters = Parameters::parse(&read_text(path)?, max_timeout).map_err(in_file)?;
        let tls = match parameters.uses_tls() {
            true => Some(
                tls::client_config(parameters.ca_file.as_deref())
                    .map_err(|error| in_file(format!("{error} (tls_ca_cert_file)")))?,
            ),
            false => None,
        };
        Ok(LdapTable {
            parameters,
            tls,
            connection: Mutex::new(None),
        })
    }

    /// Returns the values of a key, with commas between them.
    pub(super) async fn look_up(self: &Arc<Self>, key: &str) -> Result<Option<String>, String> {
        let parameters = &self.parameters;
        if !parameters.domains.is_empty() {
            match key.rsplit_once('@') {
                Some((local, domain)) if !local.is_empty() => {
                    if !parameters.domains.iter().any(|known| known == domain) {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
        let Some(base) = parameters.base.fill(key, key, quote_dn) else {
            return Ok(None);
        };
        let Some(filter) = parameters.filter.fill(key, key, quote_filter) else {
            return Ok(None);
        };
        let search = Search {
            base,
            scope: parameters.scope,
            filter,
            attributes: parameters.attributes(),
        };
        let deadline = Instant::now() + parameters.timeout;
        let (table, key) = (Arc::clone(self), key.to_owned());
        // A task of its own, since the library panics on invalid answers.
        let task = tokio::spawn(async move { table.collect_values(search, &key, deadline).await });
        match timeout_at(deadline, AbortOnDropHandle::new(task)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                self.connection.lock().await.take();
                Err("the LDAP server sent an invalid answer".to_owned())
            }
            Err(_) => {
                // A connection being opened is dropped with its task.
                if let Ok(mut connection) = self.connection.try_lock() {
                    connection.take();
                }
                let servers = self.parameters.servers.join(" ");
                Err(format!(
                    "no answer from {servers} within {:?}",
                    parameters.timeout
                ))
            }
        }
    }

    async fn collect_values(
        &self,
        search: Search,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<String>, String> {
        let parameters = &self.parameters;
        let first = self.search(&search, deadline).await;
        let entries = match first {
            Ok(entries) => entries,
            Err(SearchFailure::NoSuchObject) if !parameters.base.is_fixed() => return Ok(None),
            Err(failure) => return Err(failure.to_string()),
        };
        let mut values: Vec<String> = Vec::new();
        let mut pending: Vec<(SearchEntry, usize)> = Vec::new();
        pending.extend(entries.into_iter().rev().map(|entry| (entry, 1)));
        while let Some((entry, depth)) = pending.pop() {
            let has = |names: &[String]| {
                names
                    .iter()
                    .any(|name| values_of(&entry, name).next().is_some())
            };
            let is_terminal = has(&parameters.terminal);
            let is_leaf = is_terminal || !has(&parameters.special);
            let mut wanted: Vec<&String> = Vec::new();
            match is_terminal {
                true => wanted.extend(&parameters.terminal),
                false => {
                    if is_leaf {
                        wanted.extend(&parameters.leaf);
                    }
                    wanted.extend(&parameters.plain);
                }
            }
            for value in wanted.iter().flat_map(|name| values_of(&entry, name)) {
                let Some(value) = parameters.format.fill(&value, key, str::to_owned) else {
                    continue;
                };
                if values.len() == parameters.expansion_limit {
                    return Err(format!(
                        "more than {} values (expansion_limit)",
                        parameters.expansion_limit
                    ));
                }
                values.push(value);
            }
            if is_terminal {
                continue;
            }
            let special = parameters.special.iter();
            let references: Vec<String> =
                special.flat_map(|name| values_of(&entry, name)).collect();
            let mut referenced = Vec::new();
            for reference in references {
                if depth >= parameters.recursion_limit {
                    return Err(format!(
                        "nested deeper than {} (recursion_limit)",
                        parameters.recursion_limit
                    ));
                }
                let Some(search) = self.parse_reference(&reference)? else {
                    continue;
                };
                match self.search(&search, deadline).await {
                    Ok(entries) => {
                        referenced.extend(entries.into_iter().map(|entry| (entry, depth + 1)));
                    }
                    // As for Postfix, a member that does not exist has no address.
                    Err(SearchFailure::NoSuchObject) => {}
                    Err(failure) => return Err(failure.to_string()),
                }
            }
            // The last of them is read first.
            pending.extend(referenced.into_iter().rev());
        }
        Ok((!values.is_empty()).then(|| values.join(",")))
    }

    /// Returns the search for a DN or an LDAP URL; `None` if it requests no attribute of the map.
    fn parse_reference(&self, reference: &str) -> Result<Option<Search>, String> {
        let attributes = self.parameters.attributes();
        let lower = reference.to_ascii_lowercase();
        if !["ldap://", "ldaps://", "ldapi://"]
            .iter()
            .any(|scheme| lower.starts_with(scheme))
        {
            return Ok(Some(Search {
                base: reference.to_owned(),
                scope: Scope::Base,
                filter: "(objectClass=*)".to_owned(),
                attributes,
            }));
        }
        let malformed = || format!("invalid URL {reference:?}");
        let url = url::Url::parse(reference.trim()).map_err(|_| malformed())?;
        let asked = ldap3::get_url_params(&url).map_err(|_| malformed())?;
        let wants_all = asked.attrs.is_empty() || asked.attrs.contains(&"*");
        let attributes: Vec<String> = attributes
            .into_iter()
            .filter(|name| {
                wants_all
                    || asked
                        .attrs
                        .iter()
                        .any(|asked| asked.eq_ignore_ascii_case(name))
            })
            .collect();
        // The library defaults to the scope "sub"; RFC 4516 to "base".
        let has_scope =
            (url.query().unwrap_or("").split('?').nth(1)).is_some_and(|scope| !scope.is_empty());
        Ok((!attributes.is_empty()).then(|| Search {
            base: asked.base.to_string(),
            scope: if has_scope { asked.scope } else { Scope::Base },
            filter: asked.filter.to_string(),
            attributes,
        }))
    }

    async fn search(
        &self,
        search: &Search,
        deadline: Instant,
    ) -> Result<Vec<SearchEntry>, SearchFailure> {
        // A connection that was idle may have been closed by the server.
        match self.search_once(search, deadline).await {
            Err(SearchFailure::Lost(_)) => {}
            answer => return answer,
        }
        self.connection.lock().await.take();
        let answer = self.search_once(search, deadline).await;
        if matches!(answer, Err(SearchFailure::Lost(_))) {
            self.connection.lock().await.take();
        }
        answer
    }

    async fn search_once(
        &self,
        search: &Search,
        deadline: Instant,
    ) -> Result<Vec<SearchEntry>, SearchFailure> {
        let parameters = &self.parameters;
        let mut ldap = self.open_connection().await.map_err(SearchFailure::Lost)?;
        let limit = match parameters.size_limit {
            MAX_EXPANSION => 0,
            limit => i32::try_from(limit).unwrap_or(i32::MAX),
        };
        ldap.with_search_options(
            SearchOptions::new()
                .deref(parameters.dereference)
                .sizelimit(limit),
        );
        let left = deadline.saturating_duration_since(Instant::now());
        ldap.with_timeout(left.max(Duration::from_millis(1)));
        let found = ldap
            .search(
                &search.base,
                search.scope,
                &search.filter,
                search.attributes.clone(),
            )
            .await
            .map_err(|error| match error {
                ldap3::LdapError::FilterParsing => {
                    SearchFailure::Rejected(format!("invalid filter {:?}", search.filter))
                }
                other => SearchFailure::Lost(format!("the LDAP search was interrupted: {other}")),
            })?;
        let (entries, result) = (found.0, found.1);
        match result.rc {
            0 => {}
            32 => return Err(SearchFailure::NoSuchObject),
            4 => {
                return Err(SearchFailure::Rejected(format!(
                    "the search for {} exceeds size_limit",
                    search.filter
                )));
            }
            _ => {
                return Err(SearchFailure::Rejected(format!(
                    "the LDAP server rejected the search: {result}"
                )));
            }
        }
        let is_entry = |entry: &ResultEntry| !entry.is_ref() && !entry.is_intermediate();
        let entries = entries
            .into_iter()
            .filter(is_entry)
            .map(SearchEntry::construct);
        let entries: Vec<SearchEntry> = entries.collect();
        if entries.len() > parameters.size_limit {
            return Err(SearchFailure::Rejected(format!(
                "more than {} entries (size_limit)",
                parameters.size_limit
            )));
        }
        Ok(entries)
    }

    async fn open_connection(&self) -> Result<Ldap, String> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection
            .as_mut()
            .filter(|open| !open._drive.is_finished())
        {
            return Ok(open.ldap.clone());
        }
        let mut last = "server_host names no server".to_owned();
        for url in &self.parameters.servers {
            match self.connect(url).await {
                Ok(open) => {
                    let ldap = open.ldap.clone();
                    *connection = Some(open);
                    return Ok(ldap);
                }
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }

    async fn connect(&self, url: &str) -> Result<Connection, String> {
        let parameters = &self.parameters;
        let share = parameters.timeout / u32::try_from(parameters.servers.len() + 1).unwrap_or(2);
        let mut settings = LdapConnSettings::new()
            .set_starttls(parameters.start_tls)
            .set_conn_timeout(share.max(Duration::from_millis(100)));
        if let Some(tls) = &self.tls {
            settings = settings.set_config(Arc::clone(tls));
        }
        let failed = |reason: String| format!("cannot connect to {url}: {reason}");
        if let Some(server) = Server::from_ldap_url(url) {
            let tcp = server.connect(share).await;
            let tcp = tcp.and_then(TcpStream::into_std);
            let tcp = tcp.map_err(|error| failed(error.to_string()))?;
            settings = settings.set_std_stream(StdStream::Tcp(tcp));
        }
        let opened = LdapConnAsync::with_settings(settings, url).await;
        let (driver, mut ldap) =
            opened.map_err(|error| failed(explain_certificate_error(&error.to_string())))?;
        let drive = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = driver.drive().await;
        }));
        if let Some((dn, password)) = &parameters.bind {
            ldap.with_timeout(parameters.timeout);
            let bound = ldap.simple_bind(dn, password.reveal()).await;
            let result =
                bound.map_err(|error| format!("the bind to {url} was interrupted: {error}"))?;
            if result.rc != 0 {
                return Err(format!("{url} rejected the bind as {dn}: {result}"));
            }
        }
        Ok(Connection {
            ldap,
            _drive: drive,
        })
    }
}

/// Returns the values of an attribute, with options or without. Values that are not text have no
/// address.
fn values_of<'a>(entry: &'a SearchEntry, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let is_named = move |found: &str| {
        let base = found.split(';').next().unwrap_or(found);
        found.eq_ignore_ascii_case(name) || base.eq_ignore_ascii_case(name)
    };
    let attributes: &HashMap<String, Vec<String>> = &entry.attrs;
    let found = attributes.iter().filter(move |(found, _)| is_named(found));
    found.flat_map(|(_, values)| values.iter().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, value: &str, key: &str) -> Option<String> {
        let template = Template::parse(template).expect("a template");
        template.fill(value, key, quote_filter)
    }

    #[test]
    fn keys_are_filled_into_filters() {
        let key = "dan@mail.corp.test";
        for (template, expected) in [
            ("(mail=%s)", Some("(mail=dan@mail.corp.test)")),
            ("(&(uid=%u)(d=%d))", Some("(&(uid=dan)(d=mail.corp.test))")),
            ("%1 %2 %3 %%", Some("test corp mail %")),
            ("%4", None),
        ] {
            assert_eq!(fill(template, key, key).as_deref(), expected, "{template}");
        }
        assert_eq!(fill("%u", "dan", "dan").as_deref(), Some("dan"));
        assert_eq!(fill("%d", "dan", "dan"), None);
        assert_eq!(fill("%u", "@corp.test", "@corp.test"), None);
        assert_eq!(fill("%s", "a*b", "a*b").as_deref(), Some("a\\2ab"));
        assert!(Template::parse("%x").is_err());
    }

    #[test]
    fn results_are_formatted_by_value_and_key() {
        assert_eq!(
            fill("%u@%D", "dan@old.test", "d@new.test").as_deref(),
            Some("dan@new.test")
        );
        assert_eq!(fill("%s@x.test", "", "key"), None);
    }

    #[test]
    fn parameters_have_the_defaults_of_postfix() {
        let max_timeout = Duration::from_secs(5);
        let parsed =
            Parameters::parse(b"server_host = a, ldaps://b\n", max_timeout).expect("parameters");
        assert_eq!(parsed.servers, ["ldap://a:389", "ldaps://b"]);
        assert_eq!(parsed.plain, ["maildrop"]);
        assert_eq!(parsed.timeout, max_timeout);
        assert!(parsed.bind.is_none() && parsed.uses_tls());
    }

    #[test]
    fn parameters_that_are_not_supported_are_named() {
        for (text, name) in [
            ("bind = sasl", "bind"),
            ("domain = hash:/x", "domain"),
            ("chase_referrals = yes", "chase_referrals"),
            ("size_limit = many", "size_limit"),
            ("query_filter = %y", "%y"),
        ] {
            let error = Parameters::parse(text.as_bytes(), Duration::from_secs(5)).map(|_| ());
            assert!(error.is_err_and(|error| error.contains(name)), "{text}");
        }
    }
}
