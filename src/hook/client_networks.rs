//! Client networks: the addresses that may connect to a listener.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks whose hosts may connect to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientNetworks(Vec<IpNet>);

/// Loopback networks.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

impl ClientNetworks {
    /// Creates a list of these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> ClientNetworks {
        ClientNetworks(networks.into_iter().collect())
    }

    /// Whether a client with this address may connect. An IPv4-mapped IPv6 address counts as its
    /// IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whether only loopback addresses may connect.
    pub fn is_local_only(&self) -> bool {
        let is_local = |network: &IpNet| LOOPBACK.iter().any(|own| own.contains(network));
        self.0.iter().all(is_local)
    }
}

impl Default for ClientNetworks {
    /// Returns the loopback networks.
    fn default() -> ClientNetworks {
        ClientNetworks::new(LOOPBACK)
    }
}

/// The peer of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectedPeer {
    /// A host, by TCP.
    Ip(IpAddr),
    /// A local process of this user, by a Unix socket.
    Uid(u32),
}

impl fmt::Display for ConnectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectedPeer::Ip(ip) => write!(f, "{}", ip.to_canonical()),
            ConnectedPeer::Uid(id) => write!(f, "user {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(networks: &[&str]) -> ClientNetworks {
        ClientNetworks::new(networks.iter().map(|text| text.parse().expect(text)))
    }

    #[test]
    fn an_ipv4_address_is_one_in_ipv6_as_well() {
        let clients = clients(&["10.0.0.0/8", "2001:db8::/32"]);
        for (ip, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("::ffff:192.0.2.1", false),
            ("::1", false),
        ] {
            assert_eq!(clients.contains(ip.parse().expect(ip)), expected, "{ip}");
        }
    }

    #[test]
    fn only_loopback_networks_are_local() {
        assert!(ClientNetworks::default().is_local_only());
        assert!(clients(&[]).is_local_only());
        assert!(clients(&["127.0.0.1/32"]).is_local_only());
        for network in ["0.0.0.0/0", "::/0", "10.0.0.1/32", "126.0.0.0/7"] {
            assert!(!clients(&[network]).is_local_only(), "{network}");
        }
    }
}
