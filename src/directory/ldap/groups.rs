//! Objects by name, the groups and containers of an object, and long lists of members.

use std::collections::HashSet;
use std::sync::Arc;

use ldap3::{Scope, ldap_escape};

use super::connection::SearchRequest;
use super::error::SearchError;
use super::{Client, url};
use crate::directory::attributes::{Attributes, parse_range};
use crate::directory::dn;
use crate::directory::entry::Entry;
use crate::directory::source::ObjectName;
use crate::directory::stamp::with_stamp_attributes;

/// Maximum number of members of a dynamic group; more is an outage, never a shorter list.
const MAX_MEMBERS: usize = 100_000;

/// Maximum number of groups of one person.
const MAX_GROUPS: usize = 1000;

impl Client {
    /// Returns the objects with this name, with all their members.
    pub(super) async fn find_named(
        &self,
        name: &ObjectName,
    ) -> Result<Vec<Arc<Entry>>, SearchError> {
        let below_base = || (self.access.base.clone(), Scope::Subtree);
        let ((base, scope), filter) = match name {
            ObjectName::Dn(dn) => (
                (dn::to_portable(dn), Scope::Base),
                "(objectClass=*)".to_owned(),
            ),
            ObjectName::X500(text) => {
                let unusual = self.scan.unusual_values([name.key().as_str()]);
                (below_base(), Attributes::x500_filter(text, &unusual))
            }
            ObjectName::Uid(uid) => (below_base(), format!("(uid={})", ldap_escape(uid))),
            ObjectName::PrimaryGroup(token) => {
                let filter = format!("(primaryGroupID={})", ldap_escape(token));
                (below_base(), filter)
            }
            ObjectName::Url(url) => {
                let (base, scope, filter) = url::parse_search_url(url).ok_or_else(|| {
                    SearchError::QueryFailed(format!(
                        "invalid search URL {url:?}; use one like ldap:///ou=people,dc=example,dc=com??sub?(title=manager)"
                    ))
                })?;
                ((base, scope), filter)
            }
        };
        let mut attributes = self.attributes.named_object_attributes();
        if let ObjectName::Url(_) | ObjectName::PrimaryGroup(_) = name {
            // The matches of a dynamic group are its members; their own members do not matter.
            attributes.retain(|name| !name.starts_with("member"));
        }
        let search = SearchRequest {
            base,
            scope,
            filter,
            attributes,
            limit: MAX_MEMBERS,
            allows_truncation: false,
            allows_missing_base: true,
        };
        let deadline = self.access.deadline();
        let mut whole = Vec::new();
        for entry in self.search(search, deadline).await?.0 {
            whole.push(Arc::new(self.complete_ranges(entry).await?));
        }
        Ok(whole)
    }

    /// Returns the groups with a journal attribute that an object is a direct or indirect member
    /// of.
    pub(super) async fn groups_of(&self, object: &Entry) -> Result<Vec<Arc<Entry>>, SearchError> {
        let Some(journaled) = self.attributes.journaled_filter() else {
            return Ok(Vec::new());
        };
        let deadline = self.access.deadline();
        let features = match self.servers.connection(deadline).await {
            Ok(connection) => connection.features(),
            Err(outage) => return Err(SearchError::ServerFailed(outage.reason.to_string())),
        };
        let search = |filter: String| SearchRequest {
            base: self.access.base.clone(),
            scope: Scope::Subtree,
            filter,
            attributes: with_stamp_attributes(self.attributes.journal().to_vec()),
            limit: MAX_GROUPS,
            allows_truncation: false,
            allows_missing_base: false,
        };
        if features.ranges {
            // LDAP_MATCHING_RULE_IN_CHAIN ([MS-ADTS] section 3.1.1.3.4.4.3): the server follows
            // groups of groups.
            let dn = ldap_escape(object.dn.as_str());
            let filter = format!("(&{journaled}(member:1.2.840.113556.1.4.1941:={dn}))");
            let (found, _) = self.search(search(filter), deadline).await?;
            found
                .iter()
                .try_for_each(|group| self.check_not_hidden(group))?;
            return Ok(found.into_iter().map(Arc::new).collect());
        }
        let mut seen: HashSet<String> = HashSet::new();
        let mut groups = Vec::new();
        let uids = object.values("uid");
        let mut terms: Vec<String> = uids
            .map(|uid| format!("(memberUid={})", ldap_escape(uid)))
            .chain(member_terms(&object.dn))
            .collect();
        while !terms.is_empty() {
            let filter = format!("(|{})", terms.concat());
            let (found, _) = self.search(search(filter), deadline).await?;
            terms.clear();
            for group in found {
                self.check_not_hidden(&group)?;
                if seen.insert(group.dn.to_lowercase()) {
                    terms.extend(member_terms(&group.dn));
                    groups.push(Arc::new(group));
                }
            }
            if groups.len() > MAX_GROUPS {
                let dn = &object.dn;
                return Err(SearchError::QueryFailed(format!(
                    "{dn:?} is a member of more than {MAX_GROUPS} groups"
                )));
            }
        }
        groups.retain(|group| self.attributes.is_journaled(group));
        Ok(groups)
    }

    /// Returns the object with this DN, if it has a journal attribute.
    pub(super) async fn container(&self, dn: &str) -> Result<Option<Arc<Entry>>, SearchError> {
        let search = SearchRequest {
            base: dn.to_owned(),
            scope: Scope::Base,
            filter: "(objectClass=*)".to_owned(),
            attributes: with_stamp_attributes(self.attributes.journal().to_vec()),
            limit: 1,
            allows_truncation: false,
            allows_missing_base: true,
        };
        let deadline = self.access.deadline();
        let (found, _) = self.search(search, deadline).await?;
        found
            .iter()
            .try_for_each(|container| self.check_not_hidden(container))?;
        let journaled = |entry: &Entry| self.attributes.is_journaled(entry);
        Ok(found.into_iter().find(journaled).map(Arc::new))
    }

    /// Checks that no journal attribute of a group or container is hidden.
    fn check_not_hidden(&self, entry: &Entry) -> Result<(), SearchError> {
        match self.access.presence.journal_history().check(entry) {
            Some(outage) => Err(SearchError::QueryFailed(outage.reason.to_string())),
            None => Ok(()),
        }
    }

    /// Completes attributes of which the server sent only the first values (`member;range=0-1499`,
    /// [MS-ADTS] section 3.1.1.3.1.3.3).
    pub(super) async fn complete_ranges(&self, entry: Entry) -> Result<Entry, SearchError> {
        if !entry
            .attributes()
            .any(|(name, _)| parse_range(name).is_some())
        {
            return Ok(entry);
        }
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for (name, values) in entry.attributes() {
            let Some((base, mut last)) = parse_range(name) else {
                all.push((name.to_owned(), values.to_vec()));
                continue;
            };
            all.push((base.to_owned(), values.to_vec()));
            while let Some(end) = last {
                let search = SearchRequest {
                    base: entry.dn.clone(),
                    scope: Scope::Base,
                    filter: "(objectClass=*)".to_owned(),
                    attributes: vec![format!("{base};range={}-*", end + 1)],
                    limit: 1,
                    allows_truncation: false,
                    allows_missing_base: false,
                };
                let deadline = self.access.deadline();
                let (rest, _) = self.search(search, deadline).await?;
                let part = rest
                    .iter()
                    .flat_map(Entry::attributes)
                    .find_map(|(name, values)| {
                        let (_, next) = parse_range(name)
                            .filter(|(named, _)| named.eq_ignore_ascii_case(base))?;
                        Some((next, values.to_vec()))
                    });
                match part {
                    Some((next, values)) if next.is_none_or(|next| next > end) => {
                        last = next;
                        all.push((base.to_owned(), values));
                    }
                    _ => {
                        return Err(SearchError::QueryFailed(format!(
                            "the server returned the values of {base} of {:?} only up to number {end}",
                            entry.dn
                        )));
                    }
                }
            }
        }
        Ok(Entry::new(entry.dn.clone(), all))
    }
}

/// Returns the filter terms by which a group may name a member.
fn member_terms(dn: &str) -> [String; 2] {
    let dn = ldap_escape(dn);
    [format!("(member={dn})"), format!("(uniqueMember={dn})")]
}
