//! Client identity: the address and name a client has, or declares by XCLIENT, XFORWARD or the
//! PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};

use crate::mail::{Client, Side};

/// Identity of the client of a connection, and of the client it forwards for.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientIdentity {
    /// The client of the connection, as connected or as declared by XCLIENT or the PROXY protocol.
    base: Client,
    /// The client declared by XFORWARD, for one transaction.
    forwarded: Option<Client>,
    /// The queue ID of the message at the previous server, by XFORWARD.
    queue_id: String,
}

impl ClientIdentity {
    pub(super) fn new(ip: IpAddr, side: Option<Side>) -> ClientIdentity {
        let base = Client {
            ip: Some(ip.to_canonical()),
            side,
            ..Client::default()
        };
        ClientIdentity {
            base,
            ..ClientIdentity::default()
        }
    }

    /// Returns the client that sends the message.
    pub(super) fn client(&self) -> &Client {
        self.forwarded.as_ref().unwrap_or(&self.base)
    }

    /// Returns the queue ID at the previous server; empty if unknown.
    pub(super) fn queue_id(&self) -> &str {
        &self.queue_id
    }

    /// Returns the address of the connection's client, if known.
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

    /// Applies XCLIENT: the attributes replace the client of the connection.
    pub(super) fn apply_xclient(&mut self, attributes: &[(String, String)]) {
        self.forwarded = None;
        for (name, value) in attributes {
            match name.as_str() {
                "LOGIN" => self.base.user = (!value.is_empty()).then(|| value.clone()),
                _ => apply(&mut self.base, name, value),
            }
        }
    }

    /// Applies XFORWARD: the attributes describe the client of the next message.
    pub(super) fn apply_xforward(&mut self, attributes: &[(String, String)]) {
        let side = self.base.side;
        let client = self.forwarded.get_or_insert_with(|| Client {
            side,
            ..Client::default()
        });
        for (name, value) in attributes {
            match name.as_str() {
                "IDENT" => self.queue_id = value.clone(),
                // Postfix reports SOURCE=LOCAL for all clients in local_header_rewrite_clients,
                // which is about header rewriting; their address counts. A message without an
                // address originated on that server.
                "SOURCE" if value.eq_ignore_ascii_case("LOCAL") => {
                    client.ip.get_or_insert(IpAddr::V4(Ipv4Addr::LOCALHOST));
                }
                _ => apply(client, name, value),
            }
        }
    }

    /// Forgets the XFORWARD attributes at the end of a transaction.
    pub(super) fn end_transaction(&mut self) {
        self.forwarded = None;
        self.queue_id.clear();
    }

    /// Whether XFORWARD declared a client.
    pub(super) fn has_forwarded_client(&self) -> bool {
        self.forwarded.is_some()
    }
}

fn apply(client: &mut Client, name: &str, value: &str) {
    match name {
        "NAME" => client.name = value.to_owned(),
        "HELO" => client.helo = value.to_owned(),
        "ADDR" => {
            // Postfix writes IPv6 addresses as address literals.
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
    fn forwarded_attributes_apply_to_one_message() {
        let mut identity = ClientIdentity::new([127, 0, 0, 1].into(), None);
        identity.apply_xforward(&said(&[("ADDR", "IPv6:2001:db8::1"), ("NAME", "mx")]));
        identity.apply_xforward(&said(&[("IDENT", "4ABC"), ("SOURCE", "REMOTE")]));
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
    fn an_unavailable_client_address_stays_unknown() {
        let mut identity = ClientIdentity::new([127, 0, 0, 1].into(), None);
        identity.apply_xforward(&said(&[("ADDR", ""), ("SOURCE", "REMOTE")]));
        assert_eq!(identity.client().ip, None);
        identity.apply_xforward(&said(&[("SOURCE", "LOCAL")]));
        assert_eq!(identity.client().ip, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_local_client_with_an_address_is_judged_by_it() {
        let mut identity = ClientIdentity::new([127, 0, 0, 1].into(), None);
        identity.apply_xforward(&said(&[("ADDR", "192.0.2.1"), ("SOURCE", "LOCAL")]));
        assert_eq!(identity.client().ip, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn another_client_may_have_logged_in() {
        let mut identity = ClientIdentity::new([127, 0, 0, 1].into(), Some(Side::Internal));
        identity.apply_xclient(&said(&[("ADDR", "192.0.2.1"), ("LOGIN", "alice")]));
        let client = identity.client();
        assert_eq!(client.user.as_deref(), Some("alice"));
        assert_eq!(
            (client.ip, client.side),
            (Some([192, 0, 2, 1].into()), Some(Side::Internal))
        );
        identity.apply_xclient(&said(&[("LOGIN", "")]));
        assert_eq!(identity.client().user, None);
    }
}
