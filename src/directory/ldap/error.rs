//! LDAP errors, and what they mean for the connection.

use ldap3::LdapResult;

/// Error of a search. Each variant contains a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SearchError {
    /// The connection is lost; the search may be repeated on another.
    #[error("{0}")]
    ConnectionLost(String),
    /// The server cannot answer any search now; another one should be used.
    #[error("{0}")]
    ServerFailed(String),
    /// This search failed; others may succeed.
    #[error("{0}")]
    QueryFailed(String),
    /// The answer did not come in time although the server is alive; nothing is known about the
    /// result.
    #[error("{0}")]
    TimedOut(String),
}

/// Returns the error of a search result; `None` on success.
pub(super) fn check_search_result(
    url: &str,
    base: &str,
    result: &LdapResult,
) -> Option<SearchError> {
    let description = describe_result(result);
    Some(match result.rc {
        0 => return None,
        // A partial result could mean a missing copy.
        3 => SearchError::TimedOut(format!("{url} returned a partial result: {description}")),
        4 | 11 => {
            SearchError::QueryFailed(format!("{url} returned a partial result: {description}"))
        }
        10 => SearchError::ServerFailed(format!(
            "{url} refers base {base:?} to other servers: {description}; use the server with that base (for Active Directory the Global Catalog, port 3269)"
        )),
        32 => SearchError::ServerFailed(format!(
            "{url} has no base {base:?}, or hides it from the account: {description}"
        )),
        1 | 8 | 13 | 48..=53 | 80 => {
            SearchError::ServerFailed(format!("{url} rejected the search: {description}"))
        }
        _ => SearchError::QueryFailed(format!("the search on {url} failed: {description}")),
    })
}

/// Describes why a bind failed.
pub(super) fn describe_bind_error(url: &str, account: &str, result: &LdapResult) -> String {
    let description = describe_result(result);
    match active_directory_reason(&result.text) {
        Some(reason) if result.rc == 49 => {
            format!("{url} rejected the bind as {account:?}: {reason} ({description})")
        }
        // Servers do not tell a wrong password from an unknown name (RFC 4513 section 5.1.3).
        None if result.rc == 49 => format!(
            "{url} rejected the bind as {account:?}: wrong password, or no such account: {description}; check directory.bind_dn and the password"
        ),
        _ => format!("{url} rejected the bind as {account:?}: {description}"),
    }
}

/// Returns name, number and diagnostic text of a result, on one line.
fn describe_result(result: &LdapResult) -> String {
    let name = match result.rc {
        1 => "operationsError",
        2 => "protocolError",
        3 => "timeLimitExceeded",
        4 => "sizeLimitExceeded",
        7 => "authMethodNotSupported",
        8 => "strongerAuthRequired",
        10 => "referral",
        11 => "adminLimitExceeded",
        13 => "confidentialityRequired",
        18 => "inappropriateMatching",
        21 => "invalidAttributeSyntax",
        32 => "noSuchObject",
        34 => "invalidDNSyntax",
        48 => "inappropriateAuthentication",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        80 => "other",
        _ => "LDAP result",
    };
    // Active Directory ends its text with NUL; no text may break our log lines.
    let text: String = result
        .text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    match text.trim() {
        "" => format!("{name} ({})", result.rc),
        text => format!("{name} ({}): {text}", result.rc),
    }
}

/// Explains Active Directory's `data 52e` in the text of invalidCredentials.
fn active_directory_reason(text: &str) -> Option<&'static str> {
    let code = text.split_once("data ")?.1;
    let end = code.find(|c: char| !c.is_ascii_hexdigit());
    Some(match &code[..end.unwrap_or(code.len())] {
        "525" => "no such account",
        "52e" => "wrong password",
        "530" => "logon not permitted at this time",
        "532" => "the password has expired",
        "533" => "the account is disabled",
        "701" => "the account has expired",
        "773" => "the password must be changed first",
        "775" => "the account is locked",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(rc: u32, text: &str) -> LdapResult {
        LdapResult {
            rc,
            matched: String::new(),
            text: text.into(),
            refs: Vec::new(),
            ctrls: Vec::new(),
        }
    }

    #[test]
    fn a_partial_answer_is_an_error_but_keeps_the_server() {
        for rc in [3, 4, 11] {
            let error = check_search_result("ldap://x", "dc=b", &result(rc, ""));
            let is_slow = matches!(error, Some(SearchError::TimedOut(_)));
            assert_eq!(is_slow, rc == 3, "{rc}");
            assert!(
                is_slow || matches!(error, Some(SearchError::QueryFailed(_))),
                "{rc}"
            );
        }
        assert_eq!(
            check_search_result("ldap://x", "dc=b", &result(0, "")),
            None
        );
    }

    #[test]
    fn a_missing_base_and_a_referral_are_outages_that_name_it() {
        for rc in [10, 32] {
            match check_search_result("ldap://x", "dc=b", &result(rc, "")) {
                Some(SearchError::ServerFailed(reason)) => {
                    assert!(reason.contains("dc=b"), "{reason}");
                }
                other => unreachable!("{rc}: {other:?}"),
            }
        }
    }

    #[test]
    fn active_directory_codes_are_put_into_words() {
        let text = "80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext error, data 775, v3839\0";
        let refusal = describe_bind_error("ldap://x", "agent", &result(49, text));
        assert!(refusal.contains("the account is locked"), "{refusal}");
        assert!(!refusal.contains('\0'), "{refusal:?}");
    }
}
