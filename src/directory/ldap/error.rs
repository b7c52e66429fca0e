//! What an unwelcome LDAP result means for the connection it came over.

use ldap3::LdapResult;

/// Why a search has no answer. Each holds a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SearchError {
    /// The connection ended or fell silent: the question may be put again on another.
    #[error("{0}")]
    ConnectionLost(String),
    /// The server cannot answer now, whatever is asked: another one should.
    #[error("{0}")]
    ServerFailed(String),
    /// This question has no answer; others may.
    #[error("{0}")]
    QueryFailed(String),
    /// The answer did not come in time, and the server is there: it says nothing about what was
    /// asked.
    #[error("{0}")]
    TimedOut(String),
}

/// The fault in a search result, `None` where it was a success.
pub(super) fn check_search_result(
    url: &str,
    base: &str,
    result: &LdapResult,
) -> Option<SearchError> {
    let says = describe_result(result);
    Some(match result.rc {
        0 => return None,
        // Cut short: what came may be half of the truth, and half is a lost copy.
        3 => SearchError::TimedOut(format!("{url} gave only a part of the answer: {says}")),
        4 | 11 => SearchError::QueryFailed(format!("{url} gave only a part of the answer: {says}")),
        10 => SearchError::ServerFailed(format!(
            "{url} refers to other servers for base {base:?}: {says}; ask the server that holds it (for Active Directory the Global Catalog, port 3269)"
        )),
        32 => SearchError::ServerFailed(format!(
            "{url} has no base {base:?}, or hides it from us: {says}"
        )),
        1 | 8 | 13 | 48..=53 | 80 => {
            SearchError::ServerFailed(format!("{url} refused the search: {says}"))
        }
        _ => SearchError::QueryFailed(format!("{url} could not do the search: {says}")),
    })
}

/// Why a bind failed.
pub(super) fn describe_bind_error(url: &str, who: &str, result: &LdapResult) -> String {
    let says = describe_result(result);
    match active_directory_reason(&result.text) {
        Some(reason) if result.rc == 49 => {
            format!("{url} refused the bind as {who:?}: {reason} ({says})")
        }
        // Servers do not tell a wrong password from an unknown name (RFC 4513 section 5.1.3).
        None if result.rc == 49 => format!(
            "{url} refused the bind as {who:?}: wrong password, or no such account: {says}; check directory.bind_dn and the password"
        ),
        _ => format!("{url} refused the bind as {who:?}: {says}"),
    }
}

/// Name, number and diagnostic text of a result, on one line.
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
    // Active Directory ends its text with NUL; nobody's text may break our log lines.
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

/// What Active Directory means by `data 52e` in the text of invalidCredentials.
fn active_directory_reason(text: &str) -> Option<&'static str> {
    let code = text.split_once("data ")?.1;
    let end = code.find(|c: char| !c.is_ascii_hexdigit());
    Some(match &code[..end.unwrap_or(code.len())] {
        "525" => "there is no such account",
        "52e" => "the password is wrong",
        "530" => "the account may not log on at this time",
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
    fn a_partial_answer_is_no_answer_and_no_reason_to_leave_the_server() {
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
                    assert!(reason.contains("dc=b"), "{reason}")
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
