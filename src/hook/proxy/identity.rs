//! On whose behalf a client is connected, as it says by XCLIENT, XFORWARD or the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};

use crate::mail::{Client, Side};

/// Who a client is, and who it speaks for at the moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    /// Who is connected, or said to be by XCLIENT or the PROXY protocol: until the end of the
    /// connection.
    base: Client,
    /// By XFORWARD: until the end of one transaction.
    forwarded: Option<Client>,
    /// The name of the message at the server before, by XFORWARD.
    queue_id: String,
}

impl Identity {
    pub(super) fn new(ip: IpAddr, side: Option<Side>) -> Identity {
        let base = Client {
            ip: Some(ip.to_canonical()),
            side,
            ..Client::default()
        };
        Identity {
            base,
            ..Identity::default()
        }
    }

    /// Who hands the message over.
    pub(super) fn client(&self) -> &Client {
        self.forwarded.as_ref().unwrap_or(&self.base)
    }

    /// The message's name at the server before; empty where that did not say.
    pub(super) fn queue_id(&self) -> &str {
        &self.queue_id
    }

    /// The address of whoever is connected, as far as it is known.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.base.ip
    }

    pub(super) fn set_ip(&mut self, ip: Option<IpAddr>) {
        self.base.ip = ip.map(|ip| ip.to_canonical());
    }

    pub(super) fn set_helo(&mut self, name: &str) {
        self.base.helo = name.to_owned();
    }

    pub(super) fn set_user(&mut self, user: Option<String>) {
        self.base.user = user;
    }

    /// XCLIENT: it is somebody else from now on.
    pub(super) fn become_another(&mut self, attributes: &[(String, String)]) {
        self.forwarded = None;
        for (name, value) in attributes {
            match name.as_str() {
                "LOGIN" => self.base.user = (!value.is_empty()).then(|| value.clone()),
                _ => apply(&mut self.base, name, value),
            }
        }
    }

    /// XFORWARD: the next message comes from somebody else.
    pub(super) fn speak_for(&mut self, attributes: &[(String, String)]) {
        let side = self.base.side;
        let client = self.forwarded.get_or_insert_with(|| Client {
            side,
            ..Client::default()
        });
        for (name, value) in attributes {
            match name.as_str() {
                "IDENT" => self.queue_id = value.clone(),
                // Postfix calls all clients local whose headers it completes
                // (local_header_rewrite_clients): that is about the way of writing, and their
                // address counts. What has none began at that server itself.
                "SOURCE" if value.eq_ignore_ascii_case("LOCAL") => {
                    client.ip.get_or_insert(IpAddr::V4(Ipv4Addr::LOCALHOST));
                }
                _ => apply(client, name, value),
            }
        }
    }

    /// The transaction is over.
    pub(super) fn end_transaction(&mut self) {
        self.forwarded = None;
        self.queue_id.clear();
    }

    /// Whether it is known on whose behalf.
    pub(super) fn is_told(&self) -> bool {
        self.forwarded.is_some()
    }
}

fn apply(client: &mut Client, name: &str, value: &str) {
    match name {
        "NAME" => client.name = value.to_owned(),
        "HELO" => client.helo = value.to_owned(),
        "ADDR" => {
            // Postfix writes an IPv6 address as an address literal.
            let bare = value
                .get(..5)
                .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"))
                .map_or(value, |_| &value[5..]);
            client.ip = bare.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_is_forwarded_holds_for_one_message() {
        let mut identity = Identity::new([127, 0, 0, 1].into(), None);
        identity.speak_for(&said(&[("ADDR", "IPv6:2001:db8::1"), ("NAME", "mx")]));
        identity.speak_for(&said(&[("IDENT", "4ABC"), ("SOURCE", "REMOTE")]));
        let ip: IpAddr = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into();
        assert_eq!(identity.client().ip, Some(ip));
        assert_eq!(
            (identity.client().name.as_str(), identity.queue_id()),
            ("mx", "4ABC")
        );
        identity.end_transaction();
        assert_eq!(identity.client().ip, Some([127, 0, 0, 1].into()));
        assert_eq!(identity.queue_id(), "");
    }

    #[test]
    fn an_address_that_is_not_known_is_nobody_s() {
        let mut identity = Identity::new([127, 0, 0, 1].into(), None);
        identity.speak_for(&said(&[("ADDR", ""), ("SOURCE", "REMOTE")]));
        assert_eq!(identity.client().ip, None);
        identity.speak_for(&said(&[("SOURCE", "LOCAL")]));
        assert_eq!(identity.client().ip, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_local_client_with_an_address_is_judged_by_it() {
        let mut identity = Identity::new([127, 0, 0, 1].into(), None);
        identity.speak_for(&said(&[("ADDR", "192.0.2.1"), ("SOURCE", "LOCAL")]));
        assert_eq!(identity.client().ip, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn another_client_may_have_logged_in() {
        let mut identity = Identity::new([127, 0, 0, 1].into(), Some(Side::Internal));
        identity.become_another(&said(&[("ADDR", "192.0.2.1"), ("LOGIN", "alice")]));
        let client = identity.client();
        assert_eq!(client.user.as_deref(), Some("alice"));
        assert_eq!(
            (client.ip, client.side),
            (Some([192, 0, 2, 1].into()), Some(Side::Internal))
        );
        identity.become_another(&said(&[("LOGIN", "")]));
        assert_eq!(identity.client().user, None);
    }
}
